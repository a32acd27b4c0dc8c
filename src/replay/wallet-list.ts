import type { Queryable } from '../db/pool.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { replayedBalance } from './mapping.ts';
import type { ReconciledWallet } from './reconcile.ts';
import { SOURCES, type Source, UNEXPLAINED } from './sources.ts';

/** A wallet beside its books, and which account that is. */
export interface ListedWallet extends ReconciledWallet {
  readonly source: Source['name'];
  /** Null before it has one. */
  readonly accountId: string | null;
}

/** The source of an owner's wallets. */
export const sourceOf = (kind: Source['ownerKind']): Source['name'] =>
  SOURCES.find(({ ownerKind }) => ownerKind === kind)?.name ?? 'wallet_transactions';

/**
 * Wallets of one source beside their books, as `reconcile` finds them, by id; read as whoever may not read the old tables.
 * @param range.ownerId one owner's alone
 * @param range.after only higher ids
 */
export async function listWallets(
  db: Queryable,
  {
    source,
    ownerId,
    after,
    limit,
  }: {
    readonly source: Source['name'];
    readonly ownerId?: string | undefined;
    readonly after?: string | undefined;
    readonly limit: number;
  },
): Promise<readonly ListedWallet[]> {
  const wallets = SOURCES.find(({ name }) => name === source)?.wallets;
  const { rows } = await db.query<Omit<ListedWallet, 'table'>>(
    `select $2 as source, w.wallet_id as "walletId", w.owner_id as "ownerId", r.account_id as "accountId", coalesce(r.mode, 'legacy') as mode,
            w.balance_cents as "balanceCents", w.rows, w.rows_cents as "rowsCents", w.findings,
            case when r.mode = 'ledger' then -b.balance_cents else ${replayedBalance('b', 'w.balance_cents')} end as "ledgerCents",
            d.by_cause as drift, coalesce(a.cents, 0)::bigint as "approvedCents",
            replay.unapproved_cents(
              case when d.unexplained is null and w.unknown_cents = 0 then 0 else replay.unexplained_cents(coalesce(d.unexplained, 0), w.unknown_cents) end,
              a.cents) as "unapprovedCents"
     from console.legacy_wallets($1, $2, $3, $4, $5) w
     left join lateral (
       select x.mode, x.account_id from replay.wallets x where x.wallet_id = w.wallet_id and x.source = $2 and x.book_id = $1 limit 1
     ) r on true
     left join lateral (
       select x.* from payments.balances x where x.account_id = r.account_id and x.book_id = $1 limit 1
     ) b on true
     cross join lateral (
       select coalesce(jsonb_object_agg(x.cause, x.cents) filter (where x.cents <> 0), '{}') as by_cause,
              (sum(x.cents) filter (where x.cause = '${UNEXPLAINED}'))::bigint as unexplained
       from replay.drift x where x.wallet_id = w.wallet_id and x.source = $2 and x.book_id = $1
     ) d
     left join lateral (
       select x.cents from replay.approvals x where x.wallet_id = w.wallet_id and x.source = $2 and x.book_id = $1 limit 1
     ) a on true
     order by w.wallet_id`,
    [MAIN_BOOK, source, ownerId ?? null, after ?? null, limit],
  );
  return rows.map((row) => ({ ...row, table: wallets ?? source }));
}

/** Wallets of an owner that the log knows and the old tables have no more. */
export async function findGoneWallets(
  db: Queryable,
  { source, ownerId, known }: { source: Source['name']; ownerId: string; known: readonly string[] },
): Promise<readonly { readonly walletId: string; readonly accountId: string }[]> {
  const { rows } = await db.query<{ walletId: string; accountId: string }>(
    `select r.wallet_id as "walletId", r.account_id as "accountId" from replay.wallets r
     where r.account_id = replay.wallet_account_id($1, $2, $3) and r.book_id = $1 and r.source = $2 and r.wallet_id <> all ($4)
     order by r.wallet_id`,
    [MAIN_BOOK, source, ownerId, known],
  );
  return rows;
}
