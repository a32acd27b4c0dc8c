import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import {
  assertBookId,
  assertFields,
  assertId,
  assertLimit,
  assertObject,
  assertOptions,
  assertWhole,
  jsonText,
} from './input.ts';
import { MAIN_BOOK } from './ledger.ts';

export interface AccountChange {
  readonly accountId: string;
  /** Nothing is posted to a frozen or closed account, and nothing held on it; a closed one has no balance either. */
  readonly status?: 'open' | 'frozen' | 'closed';
  /** Minor units, positive on the account type's normal side; null lifts the limit. */
  readonly floorCents?: bigint | null;
  readonly ceilingCents?: bigint | null;
  readonly reason?: string;
  readonly idempotencyKey?: string;
  readonly idempotencyScope?: string;
}

/**
 * Changes an account's limits or state; what is not named stays as it is. A limit may be set beyond which the balance is
 * already: from then on it may only come back.
 * The state of an account is that of its slots too; limits it cannot have where it has slots.
 * @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_ACCOUNT_IN_USE when it is to be closed and has a balance or holds,
 *   LEDGER_SLOTS_REFUSED, LEDGER_IDEMPOTENCY_CONFLICT, LEDGER_INVALID
 */
export async function changeAccount(
  db: Queryable,
  change: AccountChange,
  options: { bookId?: number } = {},
): Promise<{ status: 'changed' | 'duplicate'; eventPosition: bigint }> {
  assertOptions(options, 'bookId');
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  assertFields('A change of an account', change, FIELDS);
  assertLimit('floorCents', change.floorCents);
  assertLimit('ceilingCents', change.ceilingCents);
  const body = jsonText('The change', {
    account_id: change.accountId,
    status: change.status,
    floor_cents: change.floorCents?.toString() ?? change.floorCents,
    ceiling_cents: change.ceilingCents?.toString() ?? change.ceilingCents,
    reason: change.reason,
    idempotency_key: change.idempotencyKey,
    idempotency_scope: change.idempotencyScope,
  });
  const [row] = await ask<{ status: 'changed' | 'duplicate'; event_position: string }>(
    db,
    'select status, event_position::text from payments.change_account($1, $2)',
    [bookId, body],
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a change of an account.');
  return { status: row.status, eventPosition: BigInt(row.event_position) };
}

const FIELDS: ReadonlySet<string> = new Set([
  'accountId',
  'status',
  'floorCents',
  'ceilingCents',
  'reason',
  'idempotencyKey',
  'idempotencyScope',
] satisfies (keyof AccountChange)[]);

export interface SlotsRequest {
  readonly accountId: string;
  /** How many in all, the account itself counted: 2 to 64. */
  readonly slots: number;
  readonly bookId?: number;
}

/**
 * Spreads what is posted to an account over several balances from now on, its slots, so that those who post to it one by
 * one wait for each other less. For an account without floor, ceiling and holds, which it cannot have afterwards either. More
 * may be added later; none is taken away. Asked for no more than there are, it changes nothing.
 * @returns the ids of the accounts that are its slots, itself first
 * @throws AppError LEDGER_SLOTS_REFUSED, LEDGER_ACCOUNT_UNKNOWN, LEDGER_INVALID, LEDGER_BOOK_UNKNOWN, DB_*
 */
export async function addSlots(db: Queryable, request: SlotsRequest): Promise<string[]> {
  assertObject('A request for slots', request, SLOTS_FIELDS);
  const { accountId, slots, bookId = MAIN_BOOK } = request;
  assertBookId(bookId);
  assertId('Account', accountId, 'LEDGER_ACCOUNT_UNKNOWN');
  assertWhole('slots', slots, MIN_SLOTS, MAX_SLOTS);
  const [row] = await ask<{ slots: string[] }>(
    db,
    'select payments.add_slots($1, payments.try_uuid($2), $3)::text[] as slots',
    [bookId, accountId, slots],
  );
  if (row === undefined) throw new AppError('INTERNAL', 'The database answered nothing to a request for slots.');
  return row.slots;
}

// As payments.add_slots has them.
const MIN_SLOTS = 2;
const MAX_SLOTS = 64;
const SLOTS_FIELDS: ReadonlySet<string> = new Set(['accountId', 'slots', 'bookId'] satisfies (keyof SlotsRequest)[]);
