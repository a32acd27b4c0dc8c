import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { assertBookId, assertFields, assertLimit, jsonText } from './input.ts';
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
 * @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_ACCOUNT_IN_USE when it is to be closed and has a balance or holds,
 *   LEDGER_IDEMPOTENCY_CONFLICT, LEDGER_INVALID
 */
export async function changeAccount(
  db: Queryable,
  change: AccountChange,
  options: { bookId?: number } = {},
): Promise<{ status: 'changed' | 'duplicate'; eventPosition: bigint }> {
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  assertFields('A change of an account', change, FIELDS);
  assertLimit('floorCents', change.floorCents);
  assertLimit('ceilingCents', change.ceilingCents);
  const body = jsonText({
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
