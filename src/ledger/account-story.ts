import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { type AccountFacts, assertAccount, FACTS, FACTS_FROM } from './history.ts';
import type { Instant } from './instants.ts';
import type { Account } from './list-accounts.ts';

/** An account of a book, as it stands; balances are positive on its normal side. */
export interface AccountStory
  extends AccountFacts,
    Pick<
      Account,
      | 'userId'
      | 'organizationId'
      | 'balanceCents'
      | 'availableCents'
      | 'floorCents'
      | 'ceilingCents'
      | 'entries'
      | 'status'
    > {
  readonly bookId: number;
  /** What accounts of its type are for. */
  readonly purpose: string;
  readonly openedAt: Instant;
  /** Of the event that opened it. */
  readonly eventPosition: bigint;
  /** How many balances it is the sum of, its own counted. */
  readonly slots: number;
}

/** A slot is no account of its own: what it has is in the account that it is of. */
export type AccountFound =
  | { readonly kind: 'account'; readonly account: AccountStory }
  | { readonly kind: 'slot'; readonly of: string };

export interface AccountName {
  readonly bookId: number;
  readonly accountId: string;
}

/** @throws AppError LEDGER_ACCOUNT_UNKNOWN, LEDGER_BOOK_UNKNOWN */
export async function getAccount(db: Queryable, { bookId, accountId }: AccountName): Promise<AccountFound> {
  assertAccount(bookId, accountId);
  const [row] = await ask<AccountStory & { slotOf: string | null }>(
    db,
    `select ${FACTS}, a.book_id as "bookId", t.description as purpose, a.user_id as "userId", a.organization_id as "organizationId",
            payments.instant_text(a.created_at) as "openedAt", a.event_position as "eventPosition",
            b.balance_cents as "balanceCents", b.available_cents as "availableCents", b.floor_cents as "floorCents",
            b.ceiling_cents as "ceilingCents", b.entries, b.status,
            (select k.account_id from payments.account_slots k where k.slot_account_id = a.id and k.book_id = a.book_id) as "slotOf",
            cardinality(payments.slots_of(a.book_id, a.id)) as slots
     from ${FACTS_FROM}
     left join lateral (
       select * from payments.account_balances v where v.book_id = a.book_id and v.account_id = a.id offset 0
     ) b on true
     where a.book_id = $1 and a.id = $2::uuid`,
    [bookId, accountId],
  );
  if (row === undefined) {
    throw new AppError('LEDGER_ACCOUNT_UNKNOWN', `Account ${accountId} does not exist in book ${bookId}.`);
  }
  const { slotOf, ...account } = row;
  if (slotOf !== null) return { kind: 'slot', of: slotOf };
  if (account.status === null) {
    throw new AppError(
      'LEDGER_ACCOUNT_UNKNOWN',
      `Account ${accountId} of book ${bookId} has no balance any more: somebody removed it by hand. See: liventix books verify`,
    );
  }
  return { kind: 'account', account };
}

export interface ActiveHold {
  readonly holdId: string;
  readonly amountCents: bigint;
  /** What it reserves still, unless it has expired. */
  readonly remainingCents: bigint;
  readonly createdAt: Instant;
  /** Null: it holds until it is captured or voided. */
  readonly expiresAt: Instant | null;
  /** Reserves nothing any more, and the log does not say so yet. */
  readonly isExpired: boolean;
  readonly createdBy: string;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
  readonly eventPosition: bigint;
}

export type HoldPlace = Pick<ActiveHold, 'expiresAt' | 'eventPosition'>;

/**
 * What is reserved on an account, in the order in which it expires; what never does is last. Reads all active holds of the account.
 * @param after only those that come after this one
 */
export function listActiveHolds(
  db: Queryable,
  { bookId, accountId, limit, after }: AccountName & { limit: number; after?: HoldPlace | undefined },
): Promise<readonly ActiveHold[]> {
  return ask<ActiveHold>(
    db,
    `select h.hold_id as "holdId", h.amount_cents as "amountCents", h.remaining_cents as "remainingCents",
            payments.instant_text(h.created_at) as "createdAt", payments.instant_text(h.expires_at) as "expiresAt",
            coalesce(h.expires_at <= clock_timestamp(), false) as "isExpired", h.created_by as "createdBy",
            h.reference_type as "referenceType", h.reference_id as "referenceId", h.description, h.event_position as "eventPosition"
     from payments.holds h
     where h.book_id = $1 and h.account_id = $2::uuid and h.state = 'active'
       and ($5::bigint is null or coalesce(h.expires_at, 'infinity') >= coalesce($4::timestamptz, 'infinity')
         and (coalesce(h.expires_at, 'infinity'), h.event_position) > (coalesce($4::timestamptz, 'infinity'), $5))
     order by h.expires_at, h.event_position
     limit $3`,
    [bookId, accountId, limit, after?.expiresAt ?? null, after?.eventPosition ?? null],
  );
}

/** A change of an account's limits or state; the first is none: it was opened so. */
export interface ChangeOfAccount {
  readonly seq: bigint;
  readonly changedAt: Instant;
  readonly changedBy: string;
  readonly status: Account['status'];
  readonly floorCents: bigint | null;
  readonly ceilingCents: bigint | null;
  readonly reason: string | null;
  readonly eventPosition: bigint;
}

/** The newest first. @param before only those with a lower number */
export function listAccountChanges(
  db: Queryable,
  { bookId, accountId, limit, before }: AccountName & { limit: number; before?: string | undefined },
): Promise<readonly ChangeOfAccount[]> {
  return ask<ChangeOfAccount>(
    db,
    `select c.change_seq as seq, payments.instant_text(c.changed_at) as "changedAt", c.changed_by as "changedBy", c.status,
            c.floor_cents as "floorCents", c.ceiling_cents as "ceilingCents", c.reason, c.event_position as "eventPosition"
     from payments.account_changes c
     where c.book_id = $1 and c.account_id = $2::uuid and ($4::bigint is null or c.change_seq < $4)
     order by c.account_id desc, c.change_seq desc
     limit $3`,
    [bookId, accountId, limit, before ?? null],
  );
}

export interface RecentEntry {
  readonly entryId: bigint;
  readonly transactionId: string;
  readonly recordedAt: Instant;
  readonly effectiveAt: Instant;
  /** Debit positive. */
  readonly amountCents: bigint;
  readonly referenceType: string | null;
  readonly referenceId: string | null;
  readonly description: string | null;
}

/** The last entries of an account and its slots, the newest first. */
export function recentEntries(
  db: Queryable,
  { bookId, accountId, limit }: AccountName & { limit: number },
): Promise<readonly RecentEntry[]> {
  return ask<RecentEntry>(
    db,
    `select e.id as "entryId", e.transaction_id as "transactionId", payments.instant_text(e.created_at) as "recordedAt",
            payments.instant_text(e.effective_at) as "effectiveAt", e.amount_cents as "amountCents", e.reference_type as "referenceType",
            e.reference_id as "referenceId", e.description
     from unnest(payments.slots_of($1, $2::uuid)) as s (id)
     cross join lateral (
       select * from payments.entries n
       where n.account_id = s.id and n.book_id = $1
       order by n.account_id desc, n.account_seq desc
       limit $3
     ) e
     order by e.id desc
     limit $3`,
    [bookId, accountId, limit],
  );
}
