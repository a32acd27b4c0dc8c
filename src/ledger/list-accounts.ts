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
  /** What it is the sum of, itself first, where it has slots and they were asked for. */
  readonly slots?: readonly Slot[];
  readonly status: 'open' | 'frozen' | 'closed';
}

interface Slot {
  readonly accountId: string;
  readonly balanceCents: bigint;
  readonly entries: bigint;
}

export interface AccountFilter {
  readonly bookId: number;
  /** Whether accounts that have slots are listed with them. */
  readonly withSlots?: boolean;
  readonly userId?: string;
  readonly organizationId?: string;
}

/** 64-bit numbers of an array as text. */
interface AccountRow extends Omit<Account, 'slots'> {
  readonly slotRows: readonly (readonly [accountId: string, balanceCents: string, entries: string])[] | null;
}

/**
 * The accounts of a book, or of one owner in it, a batch at a time in a database transaction of the caller's. Slots are no
 * accounts of their own here: an account has what its slots have.
 * @throws AppError LEDGER_BOOK_UNKNOWN
 */
export async function* listAccounts(tx: Tx, filter: AccountFilter): AsyncGenerator<Account[], void> {
  await assertBook(tx, filter.bookId);
  const batches = streamRows<AccountRow>(
    tx,
    `select b.account_id as "accountId", b.type, b.currency, b.name, b.user_id as "userId",
            b.organization_id as "organizationId", b.balance_cents as "balanceCents",
            b.available_cents as "availableCents", b.floor_cents as "floorCents", b.ceiling_cents as "ceilingCents",
            c.decimal_places as "decimalPlaces", b.entries, b.status, case when $4 then (
              select array_agg(array[k.account_id::text, (case t.normal_side when 'debit' then 1 else -1 end * k.balance_cents)::text, k.last_seq::text]
                       order by s.nth)
              from unnest(payments.slots_of(b.book_id, b.account_id)) with ordinality as s (account_id, nth)
              join payments.balances k on k.book_id = b.book_id and k.account_id = s.account_id
              join payments.account_types t on t.type = b.type
              having count(*) > 1
            ) end as "slotRows"
     from payments.account_balances b
     join ref.currencies c on c.code = b.currency
     where b.book_id = $1 and ($2::uuid is null or b.user_id = $2) and ($3::uuid is null or b.organization_id = $3)
     order by b.type, b.currency, b.name, b.user_id, b.organization_id`,
    [filter.bookId, filter.userId ?? null, filter.organizationId ?? null, filter.withSlots === true],
  );
  for await (const batch of batches) yield batch.map(toAccount);
}

function toAccount({ slotRows, ...account }: AccountRow): Account {
  if (slotRows === null) return account;
  const slots = slotRows.map(([accountId, balanceCents, entries]) => ({
    accountId,
    balanceCents: BigInt(balanceCents),
    entries: BigInt(entries),
  }));
  return { ...account, slots };
}
