import type { Queryable } from '../db/pool.ts';
import type { LegacyTables } from './legacy.ts';
import type { Source } from './sources.ts';

/** One wallet on both sides. */
export interface WalletSides {
  /** Null where the old wallet is gone. */
  readonly legacyCents: bigint | null;
  /** Null where it has no account. */
  readonly ledgerCents: bigint | null;
  /** Rows that move money, and rows of the log that stand for them. */
  readonly legacyRows: bigint;
  readonly ledgerRows: bigint;
  readonly legacySum: bigint;
  readonly ledgerSum: bigint;
  /** Rows that one side has otherwise or not at all, and the first of them. */
  readonly differingRows: bigint;
  readonly firstRow: string | null;
  /** Entries whose running balance is not the sum of those up to it. */
  readonly brokenEntries: bigint;
  /** What is booked as drift between the wallet and its rows. */
  readonly driftCents: bigint;
  readonly unexplainedCents: bigint;
  readonly approvedCents: bigint;
  /** Transactions on its account that the old tables do not know. */
  readonly beside: bigint;
  /** Accounts beside its own that a part of it is kept in, where nothing is mirrored from. */
  readonly slots: bigint;
}

interface Which {
  readonly bookId: number;
  readonly source: Source;
  readonly tables: LegacyTables;
  readonly walletId: string;
}

/** Both sides of one wallet, row by row, in one snapshot. */
export async function compareWallet(db: Queryable, { bookId, source, tables, walletId }: Which): Promise<WalletSides> {
  const { rows } = await db.query<WalletSides>(
    `with wallet as materialized (
       select r.wallet_id, r.account_id from replay.wallets r where r.book_id = $1 and r.source = $2 and r.wallet_id = $3
     ), entry as materialized (
       select n.account_seq, n.amount_cents, n.transaction_id, n.balance_after_cents, n.event_position,
              coalesce(m.legacy_id, payments.try_uuid(n.metadata #>> '{legacy,id}')) as legacy_id,
              n.metadata ? 'legacy_balance_cents' as is_drift, m.legacy_id is not null as is_mirrored,
              sum(n.amount_cents) over (order by n.account_seq) as running
       from payments.entries n
       left join replay.mirrored_rows m
         on m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id and m.source = $2
       where n.book_id = $1 and n.account_id = (select account_id from wallet)
     ), legacy as materialized (
       select t.id, t.credits_delta::bigint as cents from ${tables[source.transactions]} t
       where t.wallet_id = $3 and t.credits_delta <> 0
     ), booked as materialized (
       select e.legacy_id as id, -sum(e.amount_cents)::bigint as cents from entry e
       where e.legacy_id is not null group by e.legacy_id having sum(e.amount_cents) <> 0
     ), pair as (
       select coalesce(l.id, b.id) as id, l.cents as legacy, b.cents as ledger
       from legacy l full join booked b on b.id = l.id
       where l.cents is distinct from b.cents
     )
     select (select w.balance_credits::bigint from ${tables[source.wallets]} w where w.id = $3) as "legacyCents",
            (select -b.balance_cents from payments.balances b
             where b.book_id = $1 and b.account_id = (select account_id from wallet)) as "ledgerCents",
            (select count(*) from legacy) as "legacyRows", (select count(*) from booked) as "ledgerRows",
            (select coalesce(sum(cents), 0)::bigint from legacy) as "legacySum",
            (select coalesce(sum(cents), 0)::bigint from booked) as "ledgerSum",
            (select count(*) from pair) as "differingRows",
            (select format('%s %s: %s credits, in the log %s', '${source.transactions}', id, coalesce(legacy::text, 'none'), coalesce(ledger::text, 'none'))
             from pair order by id limit 1) as "firstRow",
            (select count(*) from entry where running <> balance_after_cents) as "brokenEntries",
            (select coalesce(sum(d.cents), 0)::bigint from replay.drift d
             where d.wallet_id = $3 and d.source = $2 and d.book_id = $1) as "driftCents",
            (select coalesce(sum(abs(d.cents)), 0)::bigint from replay.drift d
             where d.wallet_id = $3 and d.source = $2 and d.book_id = $1 and d.cause = 'unexplained') as "unexplainedCents",
            (select coalesce(sum(a.cents), 0)::bigint from replay.approvals a
             where a.wallet_id = $3 and a.source = $2 and a.book_id = $1) as "approvedCents",
            (select count(distinct e.event_position) from entry e
             where e.legacy_id is null and not e.is_drift) as beside,
            (select count(*) from payments.account_slots s
             where s.book_id = $1 and s.account_id = (select account_id from wallet)) as slots`,
    [bookId, source.name, walletId],
  );
  const [sides] = rows;
  if (sides === undefined) throw new Error('a select without a from clause answers one row');
  return sides;
}

/** Why both sides are not the same, in words; undefined where they are. */
export function faultOf(sides: WalletSides): string | undefined {
  const {
    legacyCents,
    ledgerCents,
    legacyRows,
    ledgerRows,
    differingRows,
    firstRow,
    brokenEntries,
    driftCents,
    beside,
  } = sides;
  if (ledgerCents === null) return 'it has no account yet: liventix backfill run';
  if (sides.slots > 0n) return 'its account is kept in slots, which the old tables cannot mirror';
  if (beside > 0n) return `${beside} transactions of its account are not in the old tables: reverse them first`;
  if (differingRows > 0n) {
    return `${differingRows} of its rows differ (${legacyRows} in the old table, ${ledgerRows} in the log), the first ${firstRow}`;
  }
  if (brokenEntries > 0n)
    return `${brokenEntries} of its entries carry another balance than their sum: liventix books verify`;
  if ((legacyCents ?? 0n) !== ledgerCents) return `it holds ${legacyCents ?? 0n}, its account ${ledgerCents}`;
  if (sides.legacySum + driftCents !== ledgerCents) {
    return `its rows come to ${sides.legacySum} and its booked difference to ${driftCents}, its account holds ${ledgerCents}`;
  }
  return undefined;
}
