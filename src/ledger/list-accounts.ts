import { streamRows } from '../db/cursor.ts';
import type { Tx } from '../db/pool.ts';
import { assertBook } from './books.ts';

export interface Account {
  readonly accountId: string;
  readonly type: string;
  readonly currency: string;
  readonly name: string;
  readonly userId: string | null;
  readonly organizationId: string | null;
  /** Minor units, positive on the normal side of the account's type. */
  readonly balanceCents: bigint;
  /** Less what active holds reserve. */
  readonly availableCents: bigint;
  readonly floorCents: bigint | null;
  readonly ceilingCents: bigint | null;
  readonly decimalPlaces: number;
  readonly entries: bigint;
  readonly status: 'open' | 'frozen' | 'closed';
}

export interface AccountFilter {
  readonly bookId: number;
  readonly userId?: string;
  readonly organizationId?: string;
}

/**
 * The accounts of a book, or of one owner in it, a batch at a time in a database transaction of the caller's.
 * @throws AppError LEDGER_BOOK_UNKNOWN
 */
export async function* listAccounts(tx: Tx, filter: AccountFilter): AsyncGenerator<Account[], void> {
  await assertBook(tx, filter.bookId);
  yield* streamRows<Account>(
    tx,
    `select b.account_id as "accountId", b.type, b.currency, b.name, b.user_id as "userId",
            b.organization_id as "organizationId", b.balance_cents as "balanceCents",
            b.available_cents as "availableCents", b.floor_cents as "floorCents", b.ceiling_cents as "ceilingCents",
            c.decimal_places as "decimalPlaces", b.entries, b.status
     from payments.account_balances b
     join ref.currencies c on c.code = b.currency
     where b.book_id = $1 and ($2::uuid is null or b.user_id = $2) and ($3::uuid is null or b.organization_id = $3)
     order by b.type, b.currency, b.name, b.user_id, b.organization_id`,
    [filter.bookId, filter.userId ?? null, filter.organizationId ?? null],
  );
}
