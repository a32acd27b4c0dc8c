import { z } from 'zod';
import { html } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { bookNames } from '../../ledger/books.ts';
import {
  ENTRIES_LOOKED_AT,
  EVENTS_LOOKED_AT,
  type FoundTransaction,
  findTransactions,
  type TransactionSearch,
  type TransactionsFound,
} from '../../ledger/find-transactions.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { choiceField, filterForm, textField } from '../fields.ts';
import { whatOf } from '../ledger-parts.ts';
import { exported, type List, listOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { instant, linkedId, money } from '../parts.ts';
import { bookNumber, LIST_FIELDS, since, text, until, uuid } from '../query.ts';

/** As the ledger takes them. */
const MAX_REFERENCE = 1_000;

export const transactionsPage = definePage({
  section: 'transactions',
  path: '/transactions',
  query: z.object({
    ...LIST_FIELDS,
    book: bookNumber.optional(),
    id: uuid.optional(),
    key: text(MAX_REFERENCE).optional(),
    reference_type: text(MAX_REFERENCE).optional(),
    reference: text(MAX_REFERENCE).optional(),
    from: since.optional(),
    to: until.optional(),
  }),
  show: async (ask, query) => {
    const list = transactionList(ask, {
      bookId: query.book,
      transactionId: query.id,
      idempotencyKey: query.key,
      referenceType: query.reference_type,
      referenceId: query.reference,
      from: query.from,
      to: query.to,
    });
    if (query.export !== undefined) return exported(list, query.export);
    const [books, rows] = await Promise.all([bookNames(ask.reader), listOf(list, ask, query)]);
    const given = (name: string) => ask.url.searchParams.get(name) ?? undefined;
    return {
      title: 'Transactions',
      body: html`${filterForm([
        textField({ name: 'id', label: 'Transaction’s id', value: query.id }),
        textField({ name: 'reference_type', label: 'Reference, its type', value: query.reference_type }),
        textField({ name: 'reference', label: 'Reference, its id', value: query.reference }),
        textField({ name: 'key', label: 'Idempotency key', value: query.key }),
        textField({ name: 'from', label: 'Recorded from', value: given('from'), placeholder: '2026-03-01' }),
        textField({ name: 'to', label: 'To, included', value: given('to'), placeholder: '2026-03-31' }),
        choiceField({
          name: 'book',
          label: 'Book',
          value: query.book?.toString(),
          choices: books.map(({ bookId, name }) => [bookId.toString(), name]),
        }),
      ])}
${rows}`,
    };
  },
});

const transactionList = ({ reader, view }: Ask, search: TransactionSearch): List<FoundTransaction> => ({
  name: 'Transactions',
  empty:
    'There are no such transactions. Take a condition away: an id, a key and a reference are looked for as they were written, to the letter.',
  columns: [
    { name: 'position', title: 'Position', isNumber: true, text: ({ position }) => position },
    {
      name: 'recorded_at',
      title: 'Recorded',
      text: ({ recordedAt }) => recordedAt,
      cell: ({ recordedAt, effectiveAt }) =>
        html`${instant(recordedAt, view)}${effectiveAt === recordedAt ? '' : html`<div class="faint">effective ${instant(effectiveAt, view)}</div>`}`,
    },
    { name: 'effective_at', text: ({ effectiveAt }) => effectiveAt },
    {
      name: 'description',
      title: 'What',
      text: ({ description }) => description,
      cell: (row) => html`${row.reverses === null ? '' : 'Reversal. '}${whatOf(row)}`,
    },
    {
      name: 'amounts',
      title: 'Amount',
      isNumber: true,
      text: ({ sums }) => sums.map(({ cents, currency }) => `${cents} ${currency}`).join(', '),
      cell: (row) => amountsOf(row, view),
    },
    {
      name: 'entries',
      title: 'Entries',
      isNumber: true,
      text: ({ entries }) => entries,
      cell: ({ entries }) => formatCount(entries, view),
    },
    { name: 'created_by', text: ({ createdBy }) => createdBy },
    { name: 'reference_type', text: ({ referenceType }) => referenceType },
    { name: 'reference_id', text: ({ referenceId }) => referenceId },
    { name: 'idempotency_key', text: ({ idempotencyKey }) => idempotencyKey },
    { name: 'reverses', text: ({ reverses }) => reverses },
    { name: 'book', title: 'Book', isNumber: true, text: ({ bookId }) => bookId },
    {
      name: 'transaction_id',
      title: 'Transaction',
      text: ({ transactionId }) => transactionId,
      cell: ({ bookId, transactionId }) => linkedId(`/transactions/${bookId}/${transactionId}`, transactionId),
    },
  ],
  fetch: async (cursor, limit) => {
    const [position = '', bookId = ''] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER, NUMBER]);
    const after = cursor === undefined ? undefined : { position, bookId };
    const { transactions, next, isCutShort } = await findTransactions(reader, search, { limit, after });
    return {
      rows: transactions,
      next: next === undefined ? undefined : toCursor([next.position, next.bookId]),
      note: noteOf(isCutShort, transactions.length, view),
    };
  },
});

const MOST_CURRENCIES = 3;

/** What it moves in each currency. */
const amountsOf = ({ sums }: FoundTransaction, view: View) =>
  html`${sums.slice(0, MOST_CURRENCIES).map((sum) => html`<div>${money(sum, view)}</div>`)}${sums.length > MOST_CURRENCIES ? html`<div>and ${sums.length - MOST_CURRENCIES} more</div>` : ''}`;

function noteOf(isCutShort: TransactionsFound['isCutShort'], found: number, view: View): string | undefined {
  switch (isCutShort) {
    case 'no':
      return undefined;
    case 'page':
      return `${formatCount(EVENTS_LOOKED_AT, view)} events of the log were looked at for this page, and ${found === 0 ? 'none of them is' : 'these are those that are'} so: no index leads to the others. The next page looks on; a date brings you nearer.`;
    case 'all':
      return `More than ${formatCount(ENTRIES_LOOKED_AT, view)} entries have this reference: not all of their transactions are in this list. Look for another one that has fewer, or for an account that they are on.`;
  }
}
