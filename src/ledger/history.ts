import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { assertBookId, assertId, assertOptions, assertPosition, invalid, shown } from './input.ts';
import { type Instant, isInstant } from './instants.ts';
import { MAIN_BOOK } from './ledger.ts';

/** What history goes by: the order in which the log recorded it, or the dates at which it was effective in the world. */
export type HistoryOrder = 'recorded' | 'effective';

/** An amount of an account, read both ways. */
export interface Figure {
  /** Minor units, positive on the account's normal side. */
  readonly cents: bigint;
  /** Minor units as entries have them: debit positive, credit negative. */
  readonly signedCents: bigint;
}

export interface AccountFacts {
  readonly accountId: string;
  readonly type: string;
  readonly normalSide: 'debit' | 'credit';
  readonly name: string;
  readonly currency: string;
  /** The currency's exponent: how many decimal places a cent amount is printed with. */
  readonly decimalPlaces: number;
}

export interface AccountBalance extends AccountFacts {
  readonly balance: Figure;
  /** How many of the account's entries it is the sum of. */
  readonly entries: bigint;
}

/** Columns of `AccountFacts`, from the account `a`. Join with `FACTS_FROM`. */
export const FACTS = `a.id as "accountId", a.type, t.normal_side as "normalSide", a.name, a.currency, c.decimal_places as "decimalPlaces"`;
export const FACTS_FROM = `payments.accounts a
  join payments.account_types t on t.type = a.type
  join ref.currencies c on c.code = a.currency`;

/**
 * The balance of an account as it was recorded: at or before an instant, at or before a position of the log, or now. An
 * instant is settled once every database transaction that was open then has ended.
 * @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_BOOK_UNKNOWN, LEDGER_INVALID, DB_*
 */
export async function recordedBalance(
  db: Queryable,
  accountId: string,
  options: { bookId?: number; at?: Instant; position?: bigint } = {},
): Promise<AccountBalance> {
  assertOptions(options, 'bookId', 'at', 'position');
  const { bookId = MAIN_BOOK, at, position } = options;
  assertAccount(bookId, accountId);
  assertInstants(at);
  if (position !== undefined) assertPosition(position);
  return getBalance(db, 'payments.recorded_balance($1, payments.try_uuid($2), $3, $4)', [
    bookId,
    accountId,
    at,
    position,
  ]);
}

/**
 * The balance of an account by what was effective in the world at or before an instant, as far as is known now.
 * @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_BOOK_UNKNOWN, LEDGER_INVALID, DB_*
 */
export async function effectiveBalance(
  db: Queryable,
  accountId: string,
  at: Instant,
  options: { bookId?: number } = {},
): Promise<AccountBalance> {
  assertOptions(options, 'bookId');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertAccount(bookId, accountId);
  assertInstant(at);
  return getBalance(db, 'payments.effective_balance($1, payments.try_uuid($2), $3)', [bookId, accountId, at]);
}

async function getBalance(db: Queryable, call: string, values: unknown[]): Promise<AccountBalance> {
  const [row] = await ask<AccountFacts & { cents: string; signedCents: string; entries: string }>(
    db,
    `select ${FACTS}, b.balance_cents::text as cents, b.signed_cents::text as "signedCents", b.entries::text as entries
     from ${call} b
     left join (${FACTS_FROM}) on a.book_id = $1 and a.id = payments.try_uuid($2)`,
    values,
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a question for a balance.');
  const { cents, signedCents, entries, ...facts } = row;
  return { ...facts, balance: { cents: BigInt(cents), signedCents: BigInt(signedCents) }, entries: BigInt(entries) };
}

export interface AccountType {
  readonly type: string;
  /** On which side a balance of such an account reads as positive. */
  readonly normalSide: 'debit' | 'credit';
  readonly description: string;
}

/** The chart of accounts, by name. */
export function listAccountTypes(db: Queryable): Promise<readonly AccountType[]> {
  return ask<AccountType>(
    db,
    'select type, normal_side as "normalSide", description from payments.account_types order by type',
    [],
  );
}

/** @throws AppError LEDGER_INVALID where one is no instant; undefined is none that was given */
export function assertInstants(...instants: readonly (Instant | undefined)[]): void {
  for (const instant of instants) if (instant !== undefined) assertInstant(instant);
}

/** @throws AppError LEDGER_INVALID */
export function assertInstant(instant: Instant): void {
  if (typeof instant === 'string' && isInstant(instant)) return;
  throw invalid(`${shown(instant)} is no instant with its offset, such as 2026-03-31T12:00:00Z.`);
}

/** @throws AppError LEDGER_INVALID */
export function assertOrder(by: HistoryOrder): void {
  if (by === 'recorded' || by === 'effective') return;
  throw invalid(`History goes by recorded or effective, not by ${shown(by)}.`);
}

/** Refuses a book or an account that there cannot be. @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN */
export function assertAccount(bookId: number, accountId: string): void {
  assertBookId(bookId);
  assertId('Account', accountId, 'LEDGER_ACCOUNT_UNKNOWN');
}
