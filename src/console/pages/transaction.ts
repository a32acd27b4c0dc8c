import { z } from 'zod';
import { toJson } from '../../db/json-value.ts';
import { AppError } from '../../errors.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { holdsInclusion, type InclusionProof, proveInclusion } from '../../ledger/proof.ts';
import { listSeals, type Seal } from '../../ledger/seals.ts';
import {
  getTransaction,
  type Reversal,
  SHOWN_REVERSALS,
  type TransactionEntry,
  type TransactionName,
  type TransactionStory,
  transactionEntries,
  transactionPayload,
} from '../../ledger/transaction-story.ts';
import { findLedgerMessages, type LedgerMessage } from '../../outbox/ledger-messages.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { kindOfOwner, sides } from '../ledger-parts.ts';
import { type Column, exported, type List, tableOf, withQuery } from '../list.ts';
import { type Ask, definePage, jsonFile } from '../page.ts';
import { badge, cents, copyable, facts, instant, linkedId, money, type Tone } from '../parts.ts';
import { bookNumber, LIST_FIELDS, uuid } from '../query.ts';

const TRANSACTION = { book: bookNumber, id: uuid } as const;
/** More of a transaction are in its file. */
const SHOWN_ENTRIES = 100;
const SHOWN_ACCOUNTS = 12;

export const transactionPage = definePage({
  section: 'transactions',
  path: '/transactions/:book/:id',
  query: z.object({
    ...TRANSACTION,
    export: LIST_FIELDS.export,
    // However many messages there are of its day.
    messages: z.literal('all', { error: 'all' }).optional(),
  }),
  show: async (ask, query) => {
    const { reader, view } = ask;
    const name = { bookId: query.book, transactionId: query.id };
    const story = await getTransaction(reader, name);
    if (query.export !== undefined) return exported(entryList(ask, name), query.export);
    const [entries, proof, announced] = await Promise.all([
      transactionEntries(reader, { ...name, limit: SHOWN_ENTRIES }),
      proofOf(ask, story),
      announcedBy(ask, story, query.messages === 'all'),
    ]);
    return {
      title: story.description?.trim() ? shortened(story.description) : 'Transaction',
      body: html`${headOf(story, view)}
<h2>Accounts</h2>
${tAccounts(entries, story, view)}
<h2>Entries</h2>
${tableOf('Entries', entryColumns(name.bookId, view), entries)}
<p>${story.entries > BigInt(entries.length) ? `The first ${SHOWN_ENTRIES} of ${formatCount(story.entries, view)}. ` : ''}All as <a href="${withQuery(ask.url, { export: 'csv' })}" download>CSV</a> or <a href="${withQuery(ask.url, { export: 'json' })}" download>JSON</a></p>
<h2>Proof that the log has it</h2>
${proof}
<h2>What it announced</h2>
${announced}
<h2>Its event in the log</h2>
${eventOf(story, view)}`,
    };
  },
});

const MOST_TITLE = 120;
const shortened = (title: string): string => (title.length > MOST_TITLE ? `${title.slice(0, MOST_TITLE)}…` : title);

const linkTo = ({ bookId }: Pick<TransactionName, 'bookId'>, transactionId: string): Markup =>
  linkedId(`/transactions/${bookId}/${transactionId}`, transactionId);

function headOf(story: TransactionStory, view: View): Markup {
  const { bookId, referenceType, referenceId, reverses, reversedBy, capture } = story;
  const reference = new URLSearchParams({
    ...(referenceType === null ? {} : { reference_type: referenceType }),
    ...(referenceId === null ? {} : { reference: referenceId }),
  });
  const part = ({ isComplete }: Reversal) => (isComplete ? 'wholly' : 'in part');
  return facts([
    ['Transaction', copyable(story.transactionId)],
    ['Recorded', instant(story.recordedAt, view)],
    ['Effective', instant(story.effectiveAt, view)],
    ['By', story.createdBy],
    ...(reference.size === 0
      ? []
      : [
          [
            'Reference',
            html`<a href="/transactions?${reference.toString()}">${[referenceType, referenceId].filter((each) => each !== null).join(' ')}</a>`,
          ] as const,
        ]),
    ...(reverses === null
      ? []
      : [
          [
            'Reverses',
            html`${linkTo(story, reverses.transactionId)}, of which ${reverses.isComplete ? 'nothing is' : 'something was'} left after it`,
          ] as const,
        ]),
    ...(reversedBy.length === 0
      ? []
      : [
          [
            'Reversed by',
            html`${reversedBy.map((each) => html`<p>${linkTo(story, each.transactionId)} ${part(each)}</p>`)}${reversedBy.length === SHOWN_REVERSALS ? html`<p>There may be more.</p>` : ''}`,
          ] as const,
        ]),
    ...(capture === null
      ? []
      : [
          [
            'Captures',
            html`${money({ ...capture, cents: capture.capturedCents }, view)} of hold ${copyable(capture.holdId)} on ${linkedId(`/accounts/${bookId}/${capture.accountId}`, capture.accountId)}; ${money({ ...capture, cents: capture.remainingCents }, view)} of it were left, and it is ${capture.state} now`,
          ] as const,
        ]),
    ['Book', html`<a href="/books/${bookId}">${bookId}</a>`],
  ]);
}

interface TAccount {
  readonly account: TransactionEntry;
  readonly entries: readonly TransactionEntry[];
}

/** As it is drawn on paper: of each account what it is debited with on the left, what it is credited with on the right. */
function tAccounts(
  entries: readonly TransactionEntry[],
  { bookId, entries: count }: TransactionStory,
  view: View,
): Markup {
  const byAccount = new Map<string, TAccount>();
  for (const entry of entries) {
    const found = byAccount.get(entry.accountId);
    byAccount.set(entry.accountId, { account: found?.account ?? entry, entries: [...(found?.entries ?? []), entry] });
  }
  const all = [...byAccount.values()];
  const isAll = count === BigInt(entries.length);
  const side = (title: string, of: readonly TransactionEntry[]) =>
    html`<div><p class="side">${title}</p>${of.map(({ amountCents, decimalPlaces }) => html`<p>${cents({ cents: amountCents < 0n ? -amountCents : amountCents, decimalPlaces }, view)}</p>`)}</div>`;
  return html`<div class="t-accounts">${all.slice(0, SHOWN_ACCOUNTS).map(
    ({
      account,
      entries: of,
    }) => html`<figure><figcaption><a href="/accounts/${bookId}/${account.accountId}">${account.accountName}</a> <span class="faint">${account.accountType} ${kindOfOwner(account)}, ${account.currency}</span></figcaption>
<div class="t-account">${side(
      'Debit',
      of.filter(({ amountCents }) => amountCents > 0n),
    )}${side(
      'Credit',
      of.filter(({ amountCents }) => amountCents < 0n),
    )}</div></figure>`,
  )}</div>
${all.length > SHOWN_ACCOUNTS || !isAll ? html`<p class="faint">The first ${Math.min(all.length, SHOWN_ACCOUNTS)} accounts${isAll ? ` of ${all.length}` : `, and of the first ${SHOWN_ENTRIES} entries`}.</p>` : ''}`;
}

const entryColumns = (bookId: number, view: View): readonly Column<TransactionEntry>[] => [
  { name: 'entry_id', text: ({ entryId }) => entryId },
  { name: 'account_id', text: ({ accountId }) => accountId },
  {
    name: 'account_name',
    title: 'Account',
    text: ({ accountName }) => accountName,
    cell: ({ accountId, accountName }) => html`<a href="/accounts/${bookId}/${accountId}">${accountName}</a>`,
  },
  {
    name: 'account_type',
    title: 'Type',
    text: ({ accountType }) => accountType,
    cell: (entry) => `${entry.accountType} ${kindOfOwner(entry)}`,
  },
  { name: 'user_id', text: ({ userId }) => userId },
  { name: 'organization_id', text: ({ organizationId }) => organizationId },
  { name: 'currency', title: 'Currency', isShort: true, text: ({ currency }) => currency },
  ...sides<TransactionEntry>(
    ({ amountCents }) => amountCents,
    ({ decimalPlaces }) => decimalPlaces,
    view,
  ),
  { name: 'decimal_places', text: ({ decimalPlaces }) => decimalPlaces },
  {
    name: 'description',
    title: 'What',
    text: ({ description }) => description,
    cell: ({ description }) => shortened(description ?? ''),
  },
  { name: 'metadata', text: ({ metadataJson }) => metadataJson },
];

const entryList = ({ reader, view }: Ask, name: TransactionName): List<TransactionEntry> => ({
  name: `Entries of ${name.transactionId}`,
  empty: 'It has none.',
  columns: entryColumns(name.bookId, view),
  fetch: async (cursor, limit) => {
    const [after] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const rows = await transactionEntries(reader, { ...name, limit, after });
    const last = rows.at(-1);
    return { rows, next: rows.length < limit || last === undefined ? undefined : toCursor([last.entryId]) };
  },
});

/** That it is sealed, and that the log still gives what was sealed; or since when the seal that will have it is awaited. */
async function proofOf({ reader, view }: Ask, { bookId, transactionId }: TransactionStory): Promise<Markup> {
  try {
    const proof = await proveInclusion(reader, bookId, { eventId: transactionId });
    return provenBy(proof, view);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    if (error.code === 'SEAL_BROKEN')
      return html`<div class="verdict bad"><strong>The log no longer gives what was sealed.</strong><p>${error.message}</p></div>`;
    if (error.code !== 'SEAL_EVENT_NOT_SEALED') throw error;
    const [newest] = await listSeals(reader, { bookId, limit: 1 });
    return notSealed(newest, view);
  }
}

const notSealed = (newest: Seal | undefined, view: View): Markup =>
  html`<p class="warn">It is not sealed yet. A worker seals what is new, once a minute unless LIVENTIX_SEAL_INTERVAL_S says otherwise, as soon as no writer of before is at work any more.</p>
<p>${newest === undefined ? 'Nothing of this book is sealed so far. ' : html`The last seal of this book is ${newest.sealNumber.toString()}, of ${instant(newest.sealedAt, view)}. `}To seal now: <code>liventix books seal</code></p>`;

function provenBy(proof: InclusionProof, view: View): Markup {
  const [seal] = proof.seals;
  const { book_id, event_id } = proof.event;
  return html`${facts([
    [
      'Verified',
      holdsInclusion(proof)
        ? badge('the event and its path give the sealed root', 'good')
        : badge('the path does not give the sealed root', 'bad'),
    ],
    ['Leaf', html`${formatCount(proof.leaf_index, view)} of ${formatCount(seal.tree_size, view)}, counted from 0`],
    ['Path', `${proof.path.length} hashes`],
    ['Leaf hash', copyable(proof.leaf_hash)],
    ['Root', copyable(seal.root)],
    [
      'Seal',
      html`${seal.seal_number.toString()}, of hash ${copyable(seal.seal_hash)} (<a href="/books/${book_id}/seals">all seals</a>)`,
    ],
  ])}
<p>Whoever kept that root elsewhere can check without us that this event is in the log as it was: <a href="/transactions/${book_id}/${event_id}/proof" download>the proof</a>, and <code>scripts/check-proof.py</code>.</p>`;
}

/** So much of a day's messages is read without being asked for. */
const MOST_MESSAGES_BYTES = 8 * 1024 * 1024;

async function announcedBy({ reader, url, view }: Ask, story: TransactionStory, isAll: boolean): Promise<Markup> {
  const { announce } = story;
  if (announce === null) return html`<p class="empty">Nothing: it was posted without <code>announce</code>.</p>`;
  const found = await findLedgerMessages(reader, story, isAll ? null : MOST_MESSAGES_BYTES);
  switch (found.kind) {
    case 'gone':
      return html`<p>It announced itself as <code>${announce}</code>. The messages of its day are kept no longer.</p>`;
    case 'too_many':
      return html`<p>It announced itself as <code>${announce}</code>. To find its message, the ${formatCount(found.bytes / 1_048_576n, view)} MiB of messages of its day have to be read: <a href="${withQuery(url, { messages: 'all' })}">read them</a>.</p>`;
    case 'found':
      return found.messages.length === 0
        ? html`<p>It announced itself as <code>${announce}</code>. Its message is not there any more.</p>`
        : tableOf('Messages', messageColumns(view), found.messages);
  }
}

const TONES: Readonly<Record<LedgerMessage['deliveries'][number]['state'], Tone>> = {
  pending: 'plain',
  queued: 'plain',
  delivering: 'plain',
  delivered: 'good',
  dead: 'bad',
};

const messageColumns = (view: View): readonly Column<LedgerMessage>[] => [
  {
    name: 'message_id',
    title: 'Message',
    text: ({ id }) => id,
    cell: ({ id }) => linkedId(`/outbox/messages/${id}`, id),
  },
  { name: 'topic', title: 'Topic', text: ({ topic }) => topic },
  {
    name: 'created_at',
    title: 'Announced',
    text: ({ createdAt }) => createdAt,
    cell: ({ createdAt }) => instant(createdAt, view),
  },
  {
    name: 'deliveries',
    title: 'Deliveries',
    text: () => '',
    cell: ({ deliveries, processedAt }) =>
      deliveries.length > 0
        ? html`${deliveries.map(({ state, count }) => html`${badge(`${count} ${state}`, TONES[state])} `)}`
        : processedAt === null
          ? 'no worker has looked yet'
          : 'none: no endpoint wanted it',
  },
];

function eventOf(story: TransactionStory, view: View): Markup {
  const { bookId, transactionId, payloadText, payloadCharacters } = story;
  const isCut = payloadCharacters > payloadText.length;
  return html`${facts([
    ['Position', copyable(story.position.toString())],
    ['Type', story.type],
    [
      'Idempotency',
      story.idempotencyKey === null
        ? 'no key'
        : html`${copyable(story.idempotencyKey)} in scope ${copyable(story.idempotencyScope ?? '')}`,
    ],
    [
      'Hash of the request',
      story.requestHash === null ? 'none: it was imported, not asked for' : copyable(story.requestHash),
    ],
    ['Leaf hash', copyable(story.leafHash)],
  ])}
<h3>Payload</h3>
${isCut ? html`<p>The first ${formatCount(payloadText.length, view)} of ${formatCount(payloadCharacters, view)} characters.</p>` : ''}
<pre>${payloadText}</pre>
<p><a href="/transactions/${bookId}/${transactionId}/payload" download>Keep the payload</a></p>`;
}

/** The proof as docs/proofs.md describes it. */
export const transactionProofPage = definePage({
  section: 'transactions',
  path: '/transactions/:book/:id/proof',
  query: z.object(TRANSACTION),
  show: async ({ reader }, { book, id }) =>
    jsonFile(`proof-${id}.json`, `${toJson(await proveInclusion(reader, book, { eventId: id }))}\n`),
});

export const transactionPayloadPage = definePage({
  section: 'transactions',
  path: '/transactions/:book/:id/payload',
  query: z.object(TRANSACTION),
  show: async ({ reader }, { book: bookId, id: transactionId }) =>
    jsonFile(`payload-${transactionId}.json`, await transactionPayload(reader, { bookId, transactionId })),
});
