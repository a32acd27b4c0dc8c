import { streamRows } from '../db/cursor.ts';
import type { Tx } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { bookUnknown } from './books.ts';
import { BEANCOUNT } from './export-beancount.ts';
import { CSV } from './export-csv.ts';
import {
  accountPath,
  type ExportedAccount,
  type ExportedCurrency,
  type ExportedEntry,
  type ExportedTransaction,
  type JournalFormat,
  NO_METADATA,
  openingPath,
} from './export-format.ts';
import { HLEDGER } from './export-hledger.ts';
import { MAIN_BOOK } from './ledger.ts';

const FORMATS = { hledger: HLEDGER, beancount: BEANCOUNT, csv: CSV } as const satisfies Record<string, JournalFormat>;

export type ExportFormat = keyof typeof FORMATS;
export const EXPORT_FORMATS = Object.keys(FORMATS) as readonly ExportFormat[];

export interface ExportOptions {
  readonly format: ExportFormat;
  readonly bookId?: number;
  /** The first day, in UTC, such as 2026-03-01: what was before it comes in as opening balances. From the beginning, when left out. */
  readonly from?: string | undefined;
  /** The day after the last, in UTC. To the end, when left out. */
  readonly to?: string | undefined;
  /** Told how many entries are written, of how many. */
  readonly onProgress?: (entries: number, total: bigint) => void;
}

/**
 * The journal of a book as text, piece by piece, entries in the order of the log. The transaction of the caller's must be
 * of one snapshot. Every account's balance at `to` is ours: with `from`, each currency begins with one transaction that
 * brings in what every account had before, against `Equity:Opening-Balances`.
 * @throws AppError LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function* exportJournal(tx: Tx, options: ExportOptions): AsyncGenerator<string, void> {
  const { bookId = MAIN_BOOK, from = null, to = null } = options;
  const slice: Slice = { bookId, from, to };
  const format = FORMATS[options.format];
  try {
    const { title, entries: total } = await describeBook(tx, slice);
    const currencies = await currenciesOf(tx, bookId);
    yield format.head(title) + currencies.map(format.currency).join('');
    yield* accounts(tx, slice, format, currencies);
    if (from !== null) yield* openingBalances(tx, { ...slice, from }, format);
    yield* entries(tx, slice, format, (written) => options.onProgress?.(written, total));
  } catch (error) {
    throw toAppError(error);
  }
}

interface Slice {
  readonly bookId: number;
  readonly from: string | null;
  readonly to: string | null;
}

const FIRST_DAY = '0001-01-01';

/** The condition that an entry `e` is of the slice whose book, from and to are the first three parameters. */
const IN_SLICE = `e.book_id = $1
  and ($2::date is null or e.effective_at >= $2::date::timestamp at time zone 'UTC')
  and ($3::date is null or e.effective_at < $3::date::timestamp at time zone 'UTC')`;

/** The day of an instant, within the years that every tool can read; the instant itself is beside it. */
const dayOf = (instant: string) =>
  `to_char(greatest(least(${instant} at time zone 'UTC', '9999-12-31'), '${FIRST_DAY}'), 'YYYY-MM-DD')`;

const textOf = (instant: string) =>
  `coalesce(to_char(${instant} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), ${instant}::text)`;

async function describeBook(tx: Tx, { bookId, from, to }: Slice): Promise<{ title: string; entries: bigint }> {
  const { rows } = await tx.query<{ name: string; position: bigint; entries: bigint }>(
    `select b.name,
            coalesce((select max(v.position) from payments.events v where v.book_id = b.book_id), 0) as position,
            (select count(*) from payments.entries e where ${IN_SLICE}) as entries
     from payments.books b
     where b.book_id = $1`,
    [bookId, from, to],
  );
  const [book] = rows;
  if (book === undefined) throw bookUnknown(bookId);
  const days = `${from === null ? '' : `, from ${from}`}${to === null ? '' : `, before ${to}`}`;
  return {
    title: `Liventix, book ${bookId} (${book.name}), as of event ${book.position}${days}`,
    entries: book.entries,
  };
}

async function currenciesOf(tx: Tx, bookId: number): Promise<ExportedCurrency[]> {
  const { rows } = await tx.query<ExportedCurrency>(
    `select c.code, c.name, c.decimal_places as "decimalPlaces"
     from ref.currencies c
     where exists (select from payments.accounts a where a.book_id = $1 and a.currency = c.code)
     order by c.code`,
    [bookId],
  );
  return rows;
}

/** Columns of an account `a` of type `t` and currency `c`. */
const ACCOUNT_COLUMNS = `a.id as "accountId", a.type, a.currency, a.name, a.user_id as "userId", a.organization_id as "organizationId",
  t.normal_side as "normalSide", c.decimal_places as "decimalPlaces"`;
const ITS_TYPE_AND_CURRENCY = `
  join payments.account_types t on t.type = a.type
  join ref.currencies c on c.code = a.currency`;

interface AccountRow {
  readonly accountId: string;
  readonly type: string;
  readonly currency: string;
  readonly name: string;
  readonly userId: string | null;
  readonly organizationId: string | null;
  readonly normalSide: 'debit' | 'credit';
  readonly decimalPlaces: number;
}

function toAccount(row: AccountRow): ExportedAccount {
  const { accountId, type, currency, name, userId, organizationId } = row;
  return { path: accountPath(row), id: accountId, type, currency, name, userId, organizationId };
}

function openingAccount(currency: string): ExportedAccount {
  const name = 'opening_balances';
  return { path: openingPath(currency), id: null, type: 'equity', currency, name, userId: null, organizationId: null };
}

/** Every account of the book, opened when it was first used: a posting may be dated before its account was opened. */
async function* accounts(
  tx: Tx,
  { bookId, from, to }: Slice,
  format: JournalFormat,
  currencies: readonly ExportedCurrency[],
): AsyncGenerator<string, void> {
  if (from !== null) yield currencies.map(({ code }) => format.account(openingAccount(code), from)).join('');
  const rows = streamRows<AccountRow & { openedOn: string }>(
    tx,
    `select ${ACCOUNT_COLUMNS}, coalesce($2::text, ${dayOf('least(a.created_at, f.effective_at)')}) as "openedOn"
     from payments.accounts a ${ITS_TYPE_AND_CURRENCY}
     left join (
       select e.account_id, min(e.effective_at) as effective_at from payments.entries e where ${IN_SLICE} group by e.account_id
     ) f on f.account_id = a.id
     where a.book_id = $1
     order by a.currency, a.type, a.name, a.user_id, a.organization_id`,
    [bookId, from, to],
  );
  for await (const batch of rows) yield batch.map((row) => format.account(toAccount(row), row.openedOn)).join('');
}

/** One transaction a currency. The balances before any day sum to zero, so what is left for equity is 0 in sound books. */
async function* openingBalances(
  tx: Tx,
  { bookId, from }: Slice & { from: string },
  format: JournalFormat,
): AsyncGenerator<string, void> {
  const rows = streamRows<AccountRow & { balance: string }>(
    tx,
    `select ${ACCOUNT_COLUMNS}, before.cents::text as balance
     from (
       select e.account_id, sum(e.amount_cents) as cents from payments.entries e where ${IN_SLICE} group by e.account_id
     ) before
     join payments.accounts a on a.book_id = $1 and a.id = before.account_id ${ITS_TYPE_AND_CURRENCY}
     where before.cents <> 0
     order by a.currency, a.type, a.name, a.user_id, a.organization_id`,
    [bookId, null, from],
  );
  let open: { transaction: ExportedTransaction; last: AccountRow; sum: bigint } | undefined;
  const close = () =>
    open === undefined
      ? ''
      : format.entry(
          openingEntry(openingAccount(open.last.currency), open.last.decimalPlaces, -open.sum),
          open.transaction,
        );
  for await (const batch of rows) {
    let text = '';
    for (const row of batch) {
      if (open?.last.currency !== row.currency) {
        text += close();
        open = { transaction: openingTransaction(row.currency, from), last: row, sum: 0n };
        text += format.transaction(open.transaction);
      }
      const balance = BigInt(row.balance);
      open.sum += balance;
      text += format.entry(openingEntry(toAccount(row), row.decimalPlaces, balance), open.transaction);
    }
    yield text;
  }
  yield close();
}

function openingTransaction(currency: string, from: string): ExportedTransaction {
  return {
    day: from,
    transactionId: `opening-${currency}`,
    eventPosition: null,
    effectiveAt: `${from}T00:00:00.000000Z`,
    recordedAt: null,
    createdBy: null,
    referenceType: null,
    referenceId: null,
    reverses: null,
    description: `Opening balances, ${currency}`,
    metadata: NO_METADATA,
  };
}

function openingEntry(account: ExportedAccount, decimalPlaces: number, amountCents: bigint): ExportedEntry {
  return {
    account,
    entryId: null,
    amountCents,
    decimalPlaces,
    balanceAfterCents: null,
    description: `Opening balances, ${account.currency}`,
    metadata: NO_METADATA,
  };
}

interface EntryRow extends AccountRow {
  readonly entryId: bigint;
  readonly eventPosition: bigint;
  readonly transactionId: string;
  readonly day: string;
  readonly effectiveAt: string;
  readonly recordedAt: string;
  readonly createdBy: string;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly amountCents: bigint;
  readonly balanceAfterCents: bigint;
  readonly description: string | null;
  readonly metadata: string;
  /** What the transaction says by itself, where its entries may say something of their own; beside the first of them alone. */
  readonly ownDescription: string | null;
  readonly ownMetadata: string | null;
  readonly reverses: string | null;
}

async function* entries(
  tx: Tx,
  { bookId, from, to }: Slice,
  format: JournalFormat,
  onWritten: (entries: number) => void,
): AsyncGenerator<string, void> {
  const rows = streamRows<EntryRow>(
    tx,
    `select ${ACCOUNT_COLUMNS}, e.id as "entryId", e.event_position as "eventPosition",
            e.transaction_id as "transactionId", ${dayOf('e.effective_at')} as day, ${textOf('e.effective_at')} as "effectiveAt",
            ${textOf('e.created_at')} as "recordedAt", e.created_by as "createdBy", e.reference_type as "referenceType",
            e.reference_id as "referenceId", e.amount_cents as "amountCents", e.balance_after_cents as "balanceAfterCents",
            e.description, e.metadata::text as metadata, v.description as "ownDescription", v.metadata as "ownMetadata", v.reverses
     from payments.entries e
     join payments.accounts a on a.book_id = e.book_id and a.id = e.account_id ${ITS_TYPE_AND_CURRENCY}
     left join lateral (
       select v.payload ->> 'description' as description, coalesce(v.payload -> 'metadata', '{}')::text as metadata,
              v.payload ->> 'reverses' as reverses
       from payments.events v
       where v.book_id = e.book_id and v.position = e.event_position
         -- Once a transaction: its payload holds all of its legs.
         and e.id % 1024 = 1
       limit 1
     ) v on true
     where ${IN_SLICE}
     order by e.id`,
    [bookId, from, to],
  );
  let transaction: ExportedTransaction | undefined;
  let written = 0;
  for await (const batch of rows) {
    let text = '';
    for (const row of batch) {
      if (transaction?.transactionId !== row.transactionId) {
        transaction = toTransaction(row);
        text += format.transaction(transaction);
      }
      text += format.entry(toEntry(row), transaction);
    }
    yield text;
    written += batch.length;
    onWritten(written);
  }
}

function toTransaction(row: EntryRow): ExportedTransaction {
  return {
    day: row.day,
    transactionId: row.transactionId,
    eventPosition: row.eventPosition,
    effectiveAt: row.effectiveAt,
    recordedAt: row.recordedAt,
    createdBy: row.createdBy,
    referenceType: row.referenceType,
    referenceId: row.referenceId,
    reverses: row.reverses,
    description: row.ownDescription,
    metadata: row.ownMetadata ?? NO_METADATA,
  };
}

function toEntry(row: EntryRow): ExportedEntry {
  const { entryId, amountCents, decimalPlaces, balanceAfterCents, description, metadata } = row;
  return { account: toAccount(row), entryId, amountCents, decimalPlaces, balanceAfterCents, description, metadata };
}
