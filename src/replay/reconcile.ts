import { streamRows } from '../db/cursor.ts';
import type { Tx } from '../db/pool.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { replayedBalance, unexplainedSql } from './mapping.ts';
import { SOURCES, type Source } from './sources.ts';

/** One wallet of the old tables, and what the books say about it. */
export interface ReconciledWallet {
  readonly table: string;
  readonly walletId: string;
  /** Null for a wallet that nobody owns. */
  readonly ownerId: string | null;
  /** Whose word counts: the old tables' (legacy) or the ledger's. */
  readonly mode: 'legacy' | 'ledger';
  readonly balanceCents: bigint;
  readonly rows: bigint;
  readonly rowsCents: bigint;
  /** What the books have on its account; null where it has none. */
  readonly ledgerCents: bigint | null;
  /** Booked between the wallet and suspense, by cause: its balance beyond its rows. */
  readonly drift: Readonly<Record<string, number>>;
  /** Rows that the flows do not explain, by cause: how many. */
  readonly findings: Readonly<Record<string, number>>;
  /** What somebody has signed for, and how much of what is unexplained nobody has. */
  readonly approvedCents: bigint;
  readonly unapprovedCents: bigint;
}

/** A wallet's standing: nothing to explain, explained or signed for, not explained, or not booked as it is now. */
export type Standing = 'equal' | 'explained' | 'unexplained' | 'open';

export function standingOf(wallet: ReconciledWallet): Standing {
  const { balanceCents, rowsCents, ledgerCents, drift, findings, unapprovedCents } = wallet;
  const booked = Object.values(drift).reduce((sum, cents) => sum + BigInt(cents), 0n);
  if (ledgerCents !== balanceCents || booked !== balanceCents - rowsCents) return 'open';
  if (unapprovedCents > 0n) return 'unexplained';
  return Object.keys(drift).length + Object.keys(findings).length === 0 ? 'equal' : 'explained';
}

/**
 * Every wallet of the old tables beside its books, in one snapshot, a batch at a time. Needs a database transaction that is
 * repeatable read.
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function* reconcile(tx: Tx, bookId: number): AsyncGenerator<ReconciledWallet[], void> {
  const tables = await getLegacyTables(tx);
  for (const source of SOURCES)
    yield* streamRows<ReconciledWallet>(tx, reconcileSql(source, tables), [bookId, source.name]);
}

function reconcileSql(source: Source, tables: LegacyTables): string {
  return `
    with history as (
      select t.wallet_id, count(*) as rows, sum(t.credits_delta)::bigint as cents from ${tables[source.transactions]} t group by t.wallet_id
    ), drift as (
      select d.wallet_id, jsonb_object_agg(d.cause, d.cents) as by_cause
      from replay.drift d where d.book_id = $1 and d.source = $2 and d.cents <> 0 group by d.wallet_id
    ), finding as (
      select c.wallet_id, jsonb_object_agg(c.cause, c.rows) as by_cause
      from (
        select t.wallet_id, f.cause, count(*) as rows
        from replay.findings f join ${tables[source.transactions]} t on t.id = f.legacy_id
        where f.book_id = $1 and f.source = $2 group by t.wallet_id, f.cause
      ) c
      group by c.wallet_id
    ), unexplained as (
      ${unexplainedSql(source, tables)}
    )
    select '${source.wallets}' as "table", w.id as "walletId", w.${source.ownerColumn} as "ownerId", coalesce(r.mode, 'legacy') as mode,
           w.balance_credits::bigint as "balanceCents", coalesce(h.rows, 0) as rows, coalesce(h.cents, 0)::bigint as "rowsCents",
           case when r.mode = 'ledger' then -b.balance_cents else ${replayedBalance('b', 'w.balance_credits')} end as "ledgerCents",
           coalesce(d.by_cause, '{}') as drift, coalesce(f.by_cause, '{}') as findings, coalesce(a.cents, 0)::bigint as "approvedCents",
           replay.unapproved_cents(coalesce(u.cents, 0), a.cents) as "unapprovedCents"
    from ${tables[source.wallets]} w
    left join replay.wallets r on r.wallet_id = w.id and r.source = $2 and r.book_id = $1
    left join payments.balances b on b.account_id = r.account_id and b.book_id = $1
    left join history h on h.wallet_id = w.id
    left join drift d on d.wallet_id = w.id
    left join finding f on f.wallet_id = w.id
    left join unexplained u on u.wallet_id = w.id
    left join replay.approvals a on a.wallet_id = w.id and a.source = $2 and a.book_id = $1
    order by w.id`;
}
