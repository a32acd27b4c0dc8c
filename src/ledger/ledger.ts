import type { Queryable } from '../db/pool.ts';
import { AppError, ERROR_CODES, type ErrorCode } from '../errors.ts';
import { ask } from './ask.ts';
import {
  assertArray,
  assertBookId,
  assertFields,
  assertLimit,
  assertObject,
  assertOptions,
  invalid,
  joinTexts,
  jsonText,
  shown,
} from './input.ts';
import { type NewReversal, type NewTransaction, refusedText, transactionText } from './transaction-text.ts';

export type { NewEntry, NewReversal, NewTransaction } from './transaction-text.ts';

export const MAIN_BOOK = 1;

export interface NewAccount {
  readonly type: string;
  /** ISO 4217 code, one of `ref.currencies`. */
  readonly currency: string;
  readonly name: string;
  /** At most one owner; with neither, the account is the platform's. */
  readonly userId?: string;
  readonly organizationId?: string;
  /** The balance less active holds may not go below it. Minor units, positive on the account type's normal side. */
  readonly floorCents?: bigint | undefined;
  /** The balance may not go above it. */
  readonly ceilingCents?: bigint | undefined;
}

export type PostOutcome =
  | {
      readonly status: 'posted' | 'duplicate';
      readonly transactionId: string;
      readonly eventPosition: bigint;
      /**
       * Of each entry in turn: its number within its account, and the account's balance after it, debit positive. Where the
       * account has slots, within the slot that the entry was placed in, and of that slot.
       */
      readonly accountSeqs: readonly bigint[];
      readonly balancesAfterCents: readonly bigint[];
    }
  | { readonly status: 'rejected'; readonly code: ErrorCode; readonly message: string };

export type Posted = Extract<PostOutcome, { status: 'posted' | 'duplicate' }>;

export interface PostOptions {
  readonly bookId?: number;
  /**
   * Keeps the call prepared on its connection, which saves a tenth of a single posting. Not behind a pooler that gives every
   * transaction another server (PgBouncer before 1.21, or without max_prepared_statements).
   */
  readonly prepared?: boolean;
}

/**
 * Opens accounts, or finds those that exist already. All or none.
 * @returns their ids, in order
 * @throws AppError LEDGER_INVALID, LEDGER_ACCOUNT_TYPE_UNKNOWN, LEDGER_CURRENCY_UNKNOWN, LEDGER_BOOK_UNKNOWN,
 *   LEDGER_SLOTS_REFUSED for the name of a slot, LEDGER_IDEMPOTENCY_CONFLICT, DB_*
 */
export async function openAccounts(
  db: Queryable,
  accounts: readonly NewAccount[],
  options: { bookId?: number } = {},
): Promise<string[]> {
  const rows = await openOrFindAccounts(db, accounts, options);
  return rows.map((row) => row.accountId);
}

export interface OpenedAccount {
  readonly accountId: string;
  /** False for one that was there. */
  readonly opened: boolean;
}

/** As `openAccounts`, and says of each whether it was there. */
export async function openOrFindAccounts(
  db: Queryable,
  accounts: readonly NewAccount[],
  options: { bookId?: number } = {},
): Promise<readonly OpenedAccount[]> {
  assertOptions(options, 'bookId');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  assertArray('Accounts', accounts);
  return ask<OpenedAccount>(
    db,
    'select account_id as "accountId", opened from payments.open_accounts($1, $2) order by ordinal',
    [bookId, `[${joinTexts(accounts, accountText)}]`],
  );
}

function accountText(account: NewAccount, nth: number): string {
  const what = `Account ${nth + 1} of the list`;
  assertFields(what, account, ACCOUNT_FIELDS);
  assertLimit(`${what}: floorCents`, account.floorCents);
  assertLimit(`${what}: ceilingCents`, account.ceilingCents);
  return jsonText(what, {
    type: account.type,
    currency: account.currency,
    name: account.name,
    user_id: account.userId,
    organization_id: account.organizationId,
    floor_cents: account.floorCents?.toString(),
    ceiling_cents: account.ceilingCents?.toString(),
  });
}

const ACCOUNT_FIELDS: ReadonlySet<string> = new Set([
  'type',
  'currency',
  'name',
  'userId',
  'organizationId',
  'floorCents',
  'ceilingCents',
] satisfies (keyof NewAccount)[]);

/**
 * Posts one transaction: all of its entries or none. With a client inside an open database transaction it joins that
 * one, and is undone with it.
 * @throws AppError with the code that it was refused with: LEDGER_UNBALANCED, LEDGER_ACCOUNT_UNKNOWN, …
 */
export async function post(
  db: Queryable,
  transaction: NewTransaction | NewReversal,
  options: PostOptions = {},
): Promise<Posted> {
  const [outcome] = await postAll(db, [transaction], options);
  if (outcome === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a posting.');
  return orThrow(outcome);
}

/** @throws AppError with the code that it was refused with */
export function orThrow(outcome: PostOutcome): Posted {
  assertObject('An outcome', outcome);
  if (outcome.status === 'rejected') throw new AppError(outcome.code, outcome.message);
  return outcome;
}

/**
 * Posts many transactions in one round trip and one commit. Each stands for itself: a rejected one leaves its
 * neighbours alone, unless they are linked.
 * @returns one outcome per transaction, in order
 * @throws AppError LEDGER_INVALID for more than 10,000 transactions or 50 million characters; LEDGER_BOOK_UNKNOWN, LEDGER_BOOK_FORBIDDEN, DB_*
 */
export async function postAll(
  db: Queryable,
  transactions: readonly (NewTransaction | NewReversal)[],
  options: PostOptions = {},
): Promise<PostOutcome[]> {
  assertArray('Transactions', transactions);
  const faults = new Map<number, AppError>();
  const texts = joinTexts(transactions, (request, nth) => {
    const text = transactionText(request);
    if (typeof text === 'string') return text;
    faults.set(nth, text);
    return refusedText(request);
  });
  const outcomes = await postJson(db, `[${texts}]`, options);
  return outcomes.map((outcome, nth) => {
    const fault = faults.get(nth);
    return fault === undefined ? outcome : { status: 'rejected', code: fault.code, message: fault.message };
  });
}

/**
 * As `postAll`, with the JSON array that `payments.post_transactions` takes: its text reaches the database as it is, so no
 * number in it is rounded on the way.
 * @throws AppError as postAll; DB_FAILED where PostgreSQL cannot read the text as JSON
 */
export async function postJson(db: Queryable, transactions: string, options: PostOptions = {}): Promise<PostOutcome[]> {
  assertOptions(options, 'bookId', 'prepared');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  if (typeof transactions !== 'string')
    throw invalid(`Transactions are given as JSON text, not as ${shown(transactions)}.`);
  const rows = await ask<OutcomeRow>(
    db,
    `select status, transaction_id, event_position::text, code, message, account_seqs::text[], balances_after_cents::text[]
     from payments.post_transactions($1, $2) order by ordinal`,
    [bookId, transactions],
    options.prepared === true ? 'liventix.post' : undefined,
  );
  return rows.map(toOutcome);
}

/** 64-bit numbers as text: what an application's own client makes of int8 is its own affair. */
interface OutcomeRow {
  readonly status: PostOutcome['status'];
  readonly transaction_id: string;
  readonly event_position: string;
  readonly code: string;
  readonly message: string;
  readonly account_seqs: readonly string[];
  readonly balances_after_cents: readonly string[];
}

function toOutcome(row: OutcomeRow): PostOutcome {
  if (row.status === 'rejected') return { status: row.status, code: knownCode(row.code), message: row.message };
  return {
    status: row.status,
    transactionId: row.transaction_id,
    eventPosition: BigInt(row.event_position),
    accountSeqs: row.account_seqs.map(BigInt),
    balancesAfterCents: row.balances_after_cents.map(BigInt),
  };
}

function knownCode(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : 'INTERNAL';
}
