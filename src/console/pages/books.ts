import { z } from 'zod';
import type { Queryable } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, formatMoney, type View } from '../../html/view.ts';
import { type Book, listBooks } from '../../ledger/books.ts';
import { type ClosedPeriod, listPeriods } from '../../ledger/periods.ts';
import { listSeals, type Seal } from '../../ledger/seals.ts';
import { type TrialBalance, trialBalance } from '../../ledger/trial-balance.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { exported, type List, listOf, tableOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { badge, cents, copyable, instant, money } from '../parts.ts';
import { bookNumber, LIST_FIELDS } from '../query.ts';
import { type Read, remembering } from '../remembered.ts';
import { lastVerification, type VerificationInFull } from '../verifications.ts';
import { verifyButton } from './verifications.ts';

interface BookStanding extends Book {
  readonly balances: readonly TrialBalance[];
}

/** Sums over all balances of a book: where there are hundreds of thousands, they are not made for every look. */
type TrialBalances = (bookId: number) => Promise<Read<readonly TrialBalance[]>>;

export const trialBalances = (reader: Queryable): TrialBalances =>
  remembering((bookId) => trialBalance(reader, { bookId }));

/** What finance asks first: do they balance, since when is that known, and by which proof? */
export const booksPage = (balancesOf: TrialBalances) =>
  definePage({
    section: 'books',
    path: '/books',
    query: z.object({}),
    show: async (ask) => {
      const { reader, view } = ask;
      const [books, last] = await Promise.all([listBooks(reader), lastVerification(reader)]);
      const standings: BookStanding[] = [];
      let readAt = new Date();
      for (const book of books) {
        const balances = await balancesOf(book.bookId);
        standings.push({ ...book, balances: balances.value });
        if (balances.readAt < readAt) readAt = balances.readAt;
      }
      const newEvents = last === undefined ? 0n : await eventsSince(reader, last);
      return {
        title: 'Do the books balance?',
        body: html`${verdict(standings, { last, newEvents, view })}
${verifyButton(ask)} <a href="/books/verifications">All verifications</a>
<h2>Books</h2>
<p class="faint">As they were at ${instant(readAt, view)}.</p>
${tableOf(
  'Books',
  [
    {
      name: 'book',
      title: 'Book',
      text: ({ name }) => name,
      cell: (book) => html`<a href="/books/${book.bookId}">${book.name}</a>`,
    },
    { name: 'accounts', title: 'Accounts', isNumber: true, text: ({ accounts }) => formatCount(accounts, view) },
    {
      name: 'sums',
      title: 'Every currency sums to zero',
      text: () => '',
      cell: ({ balances }) => sumsOf(balances, view),
    },
    {
      name: 'opened',
      title: 'Opened',
      text: ({ openedAt }) => openedAt,
      cell: ({ openedAt }) => instant(openedAt, view),
    },
  ],
  standings,
)}`,
      };
    },
  });

function verdict(
  books: readonly BookStanding[],
  { last, newEvents, view }: { last: VerificationInFull | undefined; newEvents: bigint; view: View },
): Markup {
  const broken = books.flatMap(({ balances }) => balances.filter(({ balanceCents }) => balanceCents !== 0n));
  const isFound = last?.state === 'differs';
  if (broken.length > 0 || isFound) {
    return html`<div class="verdict bad"><strong>No: the books do not balance.</strong>
${broken.map(({ currency, balanceCents, decimalPlaces }) => html`<p>${currency} sums to ${formatMoney({ cents: balanceCents, currency, decimalPlaces }, view)}, not to zero.</p>`)}
${isFound ? proof(last, newEvents, view) : ''}<p>What to do: verify now, and follow what it names; post nothing by hand before.</p></div>`;
  }
  if (last === undefined || last.state === 'undecided') {
    return html`<div class="verdict warn"><strong>Every currency sums to zero, and that is all that is known.</strong>
${last === undefined ? html`<p>Nobody has verified the books yet: that recomputes every balance from the log.</p>` : proof(last, newEvents, view)}</div>`;
  }
  return html`<div class="verdict good"><strong>Yes: the books balance.</strong>${proof(last, newEvents, view)}</div>`;
}

/** When it was verified, by whom, and what can be shown for it. */
function proof(last: VerificationInFull, newEvents: bigint, view: View): Markup {
  const found =
    { balances: 'balanced', differs: 'did not balance' }[last.state as string] ?? 'could not all be checked';
  return html`<p>They ${found} when they were last verified as a whole, ${instant(last.begunAt, view)}, for ${last.askedBy}:
<a href="/books/verifications/${last.verificationId.toString()}">what was checked, and the certificate</a>, of SHA-256 ${copyable(last.certificateSha256 ?? '')}.</p>
<p>${newEvents === 0n ? 'Nothing was posted since.' : `Up to ${formatCount(newEvents, view)} events came since. Each of them sums to zero, or the database had refused it.`}</p>`;
}

/** By positions, which may have gaps: at most so many. */
async function eventsSince(db: Queryable, { certificate }: VerificationInFull): Promise<bigint> {
  const { books = [] } = JSON.parse(certificate ?? '{}') as { books?: { lastPosition: number | null }[] };
  const last = Math.max(0, ...books.map(({ lastPosition }) => lastPosition ?? 0));
  const { rows } = await db.query<{ since: bigint }>(
    'select coalesce(max(position), $1::bigint) - $1::bigint as since from payments.events',
    [last],
  );
  return rows[0]?.since ?? 0n;
}

const sumsOf = (balances: readonly TrialBalance[], view: View): Markup => {
  const broken = balances.filter(({ balanceCents }) => balanceCents !== 0n);
  if (broken.length === 0)
    return badge(balances.length === 0 ? 'nothing posted' : 'yes', balances.length === 0 ? 'plain' : 'good');
  return html`${badge('no', 'bad')} ${broken.map(({ balanceCents: sum, currency, decimalPlaces }) => money({ cents: sum, currency, decimalPlaces }, view))}`;
};

export const bookPage = (balancesOf: TrialBalances) =>
  definePage({
    section: 'books',
    path: '/books/:book',
    query: z.object({ book: bookNumber }),
    show: async ({ reader, view }, { book }) => {
      const { value: balances, readAt } = await balancesOf(book);
      const [books, seals, periods] = await Promise.all([
        listBooks(reader),
        listSeals(reader, { bookId: book, limit: 5 }),
        listPeriods(reader, { bookId: book }),
      ]);
      const name = books.find(({ bookId }) => bookId === book)?.name ?? '';
      return {
        title: `${name}: trial balance`,
        body: html`<p class="faint">As it was at ${instant(readAt, view)}. A balance is its debits less its credits: on the credit side it is negative, as revenue is.</p>
${balances.length === 0 ? html`<p class="empty">Nothing was posted in this book yet.</p>` : ''}
${balances.map((balance) => trialBalanceOf(book, balance, view))}
<h2>Seals</h2>
<p class="faint">What a seal covers cannot be changed any more without everybody seeing it who kept its hash.</p>
${seals.length === 0 ? html`<p class="empty">Nothing is sealed yet: a worker seals what is new, once a minute.</p>` : html`${tableOf('Seals', sealColumns(view), seals)}<p><a href="/books/${book}/seals">All seals</a></p>`}
<h2>Closed periods</h2>
${periods.length === 0 ? html`<p class="empty">None yet. To close one: <code>liventix books close</code></p>` : tableOf('Closed periods', periodColumns(view), periods)}`,
      };
    },
  });

function trialBalanceOf(book: number, balance: TrialBalance, view: View): Markup {
  const { currency, decimalPlaces } = balance;
  const figure = (figureCents: bigint) => cents({ cents: figureCents, decimalPlaces }, view);
  const row = (name: Markup | string, accounts: Markup | string, sums: Sums, kind = '') =>
    html`<tr class="${kind}"><td data-is="Type">${name}</td><td class="n" data-is="Accounts">${accounts}</td><td class="n" data-is="Debit">${figure(sums.debitCents)}</td><td class="n" data-is="Credit">${figure(sums.creditCents)}</td><td class="n" data-is="Balance">${figure(sums.balanceCents)}</td></tr>`;
  const drill = (type: string) => `/accounts?book=${book}&type=${encodeURIComponent(type)}&currency=${currency}`;
  return html`<h2>${currency} ${balance.balanceCents === 0n ? badge('sums to zero', 'good') : badge('does not sum to zero', 'bad')}</h2>
<table class="cards" aria-label="Trial balance in ${currency}">
<thead><tr><th scope="col">Type</th><th scope="col" class="n">Accounts</th><th scope="col" class="n">Debit</th><th scope="col" class="n">Credit</th><th scope="col" class="n">Balance</th></tr></thead>
<tbody>${balance.lines.map((line) => row(html`<a href="${drill(line.type)}">${line.type}</a>`, formatCount(line.accounts, view), line))}
${row('total', '', balance, 'total')}
${balance.suspense.map((line) => row(html`suspense: ${line.cause}`, '', line))}</tbody></table>`;
}

type Sums = Pick<TrialBalance, 'debitCents' | 'creditCents' | 'balanceCents'>;

const sealColumns = (view: View) => [
  { name: 'seal', title: 'Seal', isNumber: true, text: ({ sealNumber }: Seal) => sealNumber },
  {
    name: 'sealed_at',
    title: 'Sealed',
    text: ({ sealedAt }: Seal) => sealedAt,
    cell: ({ sealedAt }: Seal) => instant(sealedAt, view),
  },
  {
    name: 'events',
    title: 'New events',
    isNumber: true,
    text: ({ events }: Seal) => events,
    cell: ({ events }: Seal) => formatCount(events, view),
  },
  {
    name: 'tree_size',
    title: 'Events in all',
    isNumber: true,
    text: ({ treeSize }: Seal) => treeSize,
    cell: ({ treeSize }: Seal) => formatCount(treeSize, view),
  },
  { name: 'root', title: 'Root of the tree', text: ({ root }: Seal) => root, cell: ({ root }: Seal) => copyable(root) },
  {
    name: 'seal_hash',
    title: 'Hash of the seal',
    text: ({ sealHash }: Seal) => sealHash,
    cell: ({ sealHash }: Seal) => copyable(sealHash),
  },
  { name: 'previous_seal_hash', text: ({ previousSealHash }: Seal) => previousSealHash },
];

const periodColumns = (view: View) => [
  {
    name: 'from',
    title: 'From',
    text: ({ from }: ClosedPeriod) => from,
    cell: ({ from }: ClosedPeriod) => instant(from, view, 'the beginning'),
  },
  {
    name: 'until',
    title: 'Until',
    text: ({ until }: ClosedPeriod) => until,
    cell: ({ until }: ClosedPeriod) => instant(until, view),
  },
  {
    name: 'closed_at',
    title: 'Closed',
    text: ({ closedAt }: ClosedPeriod) => closedAt,
    cell: ({ closedAt }: ClosedPeriod) => instant(closedAt, view),
  },
  { name: 'closed_by', title: 'By', text: ({ closedBy }: ClosedPeriod) => closedBy },
  {
    name: 'entries',
    title: 'Entries',
    isNumber: true,
    text: ({ entries }: ClosedPeriod) => entries,
    cell: ({ entries }: ClosedPeriod) => formatCount(entries, view),
  },
  {
    name: 'hash',
    title: 'Hash of the certificate',
    text: ({ hash }: ClosedPeriod) => hash,
    cell: ({ hash }: ClosedPeriod) => copyable(hash),
  },
];

export const sealsPage = definePage({
  section: 'books',
  path: '/books/:book/seals',
  query: z.object({ book: bookNumber, ...LIST_FIELDS }),
  show: async (ask, query) => {
    const list = sealList(ask, query.book);
    if (query.export !== undefined) return exported(list, query.export);
    return { title: `Seals of book ${query.book}`, body: await listOf(list, ask, query) };
  },
});

const sealList = ({ reader, view }: Ask, bookId: number): List<Seal> => ({
  name: `Seals of book ${bookId}`,
  columns: sealColumns(view),
  empty: 'Nothing is sealed yet.',
  fetch: async (cursor, limit) => {
    const [before] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const rows = await listSeals(reader, { bookId, limit, before: before === undefined ? undefined : Number(before) });
    const last = rows.at(-1);
    return { rows, next: rows.length < limit || last === undefined ? undefined : toCursor([last.sealNumber]) };
  },
});
