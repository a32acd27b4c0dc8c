import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError, ERROR_CODES, type ErrorCode } from '../errors.ts';

export const MAIN_BOOK = 1;

export interface NewAccount {
  readonly type: string;
  /** ISO 4217 code, one of `ref.currencies`. */
  readonly currency: string;
  readonly name: string;
  /** At most one owner; with neither, the account is the platform's. */
  readonly userId?: string;
  readonly organizationId?: string;
}

export interface NewEntry {
  readonly accountId: string;
  /** Minor units of the currency: debit positive, credit negative, never 0. */
  readonly amountCents: bigint;
  readonly currency: string;
  readonly description?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

export interface NewTransaction {
  readonly entries: readonly NewEntry[];
  readonly transactionId?: string;
  /** The same key with the same body posts once; with another body it is refused. */
  readonly idempotencyKey?: string;
  readonly idempotencyScope?: string;
  /** When it happened in the world; now, when left out. */
  readonly effectiveAt?: Date;
  readonly referenceType?: string;
  readonly referenceId?: string;
  readonly description?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** A topic: the posting announces itself through `public.outbox`, in the same database transaction. */
  readonly announce?: string;
}

export type PostOutcome =
  | { readonly status: 'posted' | 'duplicate'; readonly transactionId: string; readonly eventPosition: bigint }
  | { readonly status: 'rejected'; readonly code: ErrorCode; readonly message: string };

export type Posted = Extract<PostOutcome, { status: 'posted' | 'duplicate' }>;

/**
 * Opens accounts, or finds those that exist already. All or none.
 * @returns their ids, in order
 * @throws AppError LEDGER_INVALID, LEDGER_ACCOUNT_TYPE_UNKNOWN, LEDGER_CURRENCY_UNKNOWN, LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function openAccounts(
  db: Queryable,
  accounts: readonly NewAccount[],
  options: { bookId?: number } = {},
): Promise<string[]> {
  const body = accounts.map((account) => ({
    type: account.type,
    currency: account.currency,
    name: account.name,
    user_id: account.userId,
    organization_id: account.organizationId,
  }));
  const { rows } = await ask<{ account_id: string }>(
    db,
    'select account_id from payments.open_accounts($1, $2) order by ordinal',
    [options.bookId ?? MAIN_BOOK, JSON.stringify(body)],
  );
  return rows.map((row) => row.account_id);
}

/**
 * Posts one transaction: all of its entries or none. With a client inside an open database transaction it joins that
 * one, and is undone with it.
 * @throws AppError with the code that it was refused with: LEDGER_UNBALANCED, LEDGER_ACCOUNT_UNKNOWN, …
 */
export async function post(
  db: Queryable,
  transaction: NewTransaction,
  options: { bookId?: number } = {},
): Promise<Posted> {
  const [outcome] = await postAll(db, [transaction], options);
  if (outcome === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a posting.');
  if (outcome.status === 'rejected') throw new AppError(outcome.code, outcome.message);
  return outcome;
}

/**
 * Posts many transactions in one round trip and one commit. Each stands for itself: a rejected one leaves its
 * neighbours alone.
 * @returns one outcome per transaction, in order
 * @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_AMOUNT_OVERFLOW when a balance would pass 64 bits, DB_*
 */
export async function postAll(
  db: Queryable,
  transactions: readonly NewTransaction[],
  options: { bookId?: number } = {},
): Promise<PostOutcome[]> {
  const { rows } = await ask<{
    status: PostOutcome['status'];
    transaction_id: string;
    event_position: bigint;
    code: string;
    message: string;
  }>(
    db,
    'select status, transaction_id, event_position, code, message from payments.post_transactions($1, $2) order by ordinal',
    [options.bookId ?? MAIN_BOOK, JSON.stringify(transactions.map(toRequest))],
  );
  return rows.map((row) =>
    row.status === 'rejected'
      ? { status: row.status, code: knownCode(row.code), message: row.message }
      : { status: row.status, transactionId: row.transaction_id, eventPosition: row.event_position },
  );
}

// Amounts travel as text: a JSON number loses cents beyond 2^53.
function toRequest(transaction: NewTransaction): Record<string, unknown> {
  return {
    transaction_id: transaction.transactionId,
    idempotency_key: transaction.idempotencyKey,
    idempotency_scope: transaction.idempotencyScope,
    effective_at: transaction.effectiveAt?.toISOString(),
    reference_type: transaction.referenceType,
    reference_id: transaction.referenceId,
    description: transaction.description,
    metadata: transaction.metadata,
    announce: transaction.announce,
    entries: transaction.entries.map((entry) => ({
      account_id: entry.accountId,
      amount_cents: entry.amountCents.toString(),
      currency: entry.currency,
      description: entry.description,
      metadata: entry.metadata,
    })),
  };
}

async function ask<Row extends object>(db: Queryable, sql: string, values: unknown[]): Promise<{ rows: Row[] }> {
  try {
    return await db.query<Row>(sql, values);
  } catch (error) {
    throw toAppError(error);
  }
}

function knownCode(code: string): ErrorCode {
  return code in ERROR_CODES ? (code as ErrorCode) : 'INTERNAL';
}
