import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import {
  assertBookId,
  assertCents,
  assertFields,
  assertId,
  assertObject,
  assertOptions,
  assertText,
  assertWhole,
  isoOf,
  jsonText,
} from './input.ts';
import { MAIN_BOOK } from './ledger.ts';

export interface NewHold {
  readonly accountId: string;
  /** Minor units, above 0: how much of the account may be spent by nobody else. */
  readonly amountCents: bigint;
  readonly currency: string;
  /** From then on it reserves nothing; without it, until captured or voided. */
  readonly expiresAt?: Date;
  readonly holdId?: string;
  /** The same key with the same body places once; with another body it is refused. */
  readonly idempotencyKey?: string;
  readonly idempotencyScope?: string;
  readonly referenceType?: string;
  readonly referenceId?: string;
  readonly description?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

export interface HoldOutcome {
  /** `duplicate`: the same request did it before. */
  readonly status: 'placed' | 'voided' | 'duplicate';
  readonly holdId: string;
  readonly eventPosition: bigint;
  readonly state: 'active' | 'captured' | 'voided' | 'expired';
  readonly remainingCents: bigint;
  /** The account's balance less its active holds, positive on its normal side. */
  readonly availableCents: bigint;
}

interface Options {
  readonly bookId?: number;
}

/**
 * Places a hold. It is captured by posting a transaction that names it in `capture`, as often as something remains.
 * @throws AppError LEDGER_FLOOR_PASSED, LEDGER_ACCOUNT_FROZEN, LEDGER_ACCOUNT_UNKNOWN, LEDGER_AMOUNT_INVALID, …
 */
export async function placeHold(db: Queryable, hold: NewHold, options: Options = {}): Promise<HoldOutcome> {
  assertOptions(options, 'bookId');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  assertFields('A hold', hold, FIELDS);
  assertCents('amountCents', hold.amountCents);
  const body = jsonText('The hold', {
    account_id: hold.accountId,
    amount_cents: hold.amountCents.toString(),
    currency: hold.currency,
    expires_at: isoOf('expiresAt', hold.expiresAt),
    hold_id: hold.holdId,
    idempotency_key: hold.idempotencyKey,
    idempotency_scope: hold.idempotencyScope,
    reference_type: hold.referenceType,
    reference_id: hold.referenceId,
    description: hold.description,
    metadata: hold.metadata,
  });
  return askForHold(db, 'payments.place_hold($1, $2)', [bookId, body]);
}

const FIELDS: ReadonlySet<string> = new Set([
  'accountId',
  'amountCents',
  'currency',
  'expiresAt',
  'holdId',
  'idempotencyKey',
  'idempotencyScope',
  'referenceType',
  'referenceId',
  'description',
  'metadata',
] satisfies (keyof NewHold)[]);

/**
 * Releases what is left of a hold. Voiding it again changes nothing.
 * @throws AppError LEDGER_HOLD_UNKNOWN, LEDGER_HOLD_RESOLVED when it was captured or has expired
 */
export async function voidHold(
  db: Queryable,
  hold: { readonly holdId: string; readonly reason?: string },
  options: Options = {},
): Promise<HoldOutcome> {
  assertOptions(options, 'bookId');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  // Not by its fields: what placeHold answered names its hold as well.
  assertObject('A hold', hold);
  assertId('Hold', hold.holdId, 'LEDGER_HOLD_UNKNOWN');
  const reason = hold.reason ?? null;
  if (reason !== null) assertText('reason', reason);
  return askForHold(db, 'payments.void_hold($1, $2, $3)', [bookId, hold.holdId, reason]);
}

/**
 * Writes down which holds have expired, at most `limit` at a time, of accounts that nobody has locked; where all are locked, it
 * waits for one of them. Nothing waits for it: an expired hold reserves nothing from the instant of its expiry on. Once a
 * transaction: a second call may wait out of order, for whom waits for the first.
 * @returns how many
 */
export async function expireHolds(db: Queryable, options: Options & { readonly limit?: number } = {}): Promise<number> {
  assertOptions(options, 'bookId', 'limit');
  const { bookId = MAIN_BOOK, limit = EXPIRY_BATCH } = options;
  assertBookId(bookId);
  assertWhole('limit', limit, 1, MAX_EXPIRY_BATCH);
  const rows = await ask<{ expired: number }>(db, 'select payments.expire_holds($1, $2) as expired', [bookId, limit]);
  return rows[0]?.expired ?? 0;
}

const EXPIRY_BATCH = 1_000;
const MAX_EXPIRY_BATCH = 100_000;

async function askForHold(db: Queryable, call: string, values: unknown[]): Promise<HoldOutcome> {
  const [row] = await ask<{
    status: HoldOutcome['status'];
    hold_id: string;
    event_position: string;
    state: HoldOutcome['state'];
    remaining_cents: string;
    available_cents: string;
  }>(
    db,
    `select status, hold_id, event_position::text, state, remaining_cents::text, available_cents::text from ${call}`,
    values,
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing about a hold.');
  return {
    status: row.status,
    holdId: row.hold_id,
    eventPosition: BigInt(row.event_position),
    state: row.state,
    remainingCents: BigInt(row.remaining_cents),
    availableCents: BigInt(row.available_cents),
  };
}
