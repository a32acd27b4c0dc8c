import type { Queryable } from '../db/pool.ts';
import type { LegacyTables } from './legacy.ts';
import { isUnknown, type Source, UNEXPLAINED } from './sources.ts';

/** One wallet on both sides. */
export interface WalletSides {
  /** Null where the old wallet is gone. */
  readonly legacyCents: bigint | null;
  /** Null where it has no account. */
  readonly ledgerCents: bigint | null;
  /** Rows that one side has otherwise or not at all, and the first of them. */
  readonly differingRows: bigint;
  readonly firstRow: string | null;
  /** Entries whose running balance is not the sum of those up to it. */
  readonly brokenEntries: bigint;
  /** What is booked as drift between the wallet and its rows; and what entries say about it. */
  readonly driftCents: bigint;
  readonly bookedDriftCents: bigint;
  /** Of its rows, what is of a type that nobody knows, without a sign. */
  readonly unknownRowsCents: bigint;
  /** What nobody can explain, of its balance or of its rows, and nobody has signed for. */
  readonly unapprovedCents: bigint;
  /** What transactions that the old tables do not know left on its account. */
  readonly besideCents: bigint;
  /** Accounts beside its own that a part of it is kept in, where nothing is mirrored from. */
  readonly slots: bigint;
  /** Why old code could not write to it: not open, or with a limit; null where nothing is against it. */
  readonly restriction: string | null;
  /** The account's last entry. */
  readonly lastSeq: bigint;
  /** Rows with changes that are captured and not in the log yet, which are not compared. */
  readonly pendingIds: readonly string[];
}

export interface Which {
  readonly bookId: number;
  readonly source: Source;
  readonly tables: LegacyTables;
  readonly walletId: string;
}

/** A part of a wallet: what came since all of it was compared, and some of its rows. */
export interface Part {
  readonly whole: WalletSides;
  readonly ids: readonly string[];
}

/** Both sides of one wallet, row by row, in one snapshot: all of it, or a part. */
export async function compareWallet(
  db: Queryable,
  { bookId, source, tables, walletId }: Which,
  part?: Part,
): Promise<WalletSides> {
  const { rows } = await db.query<WalletSides>(compareSql(source, tables, part !== undefined), [
    bookId,
    source.name,
    walletId,
    part?.whole.lastSeq ?? 0n,
    part?.whole.unknownRowsCents ?? 0n,
    ...(part === undefined ? [] : [part.ids]),
  ]);
  const [sides] = rows;
  if (sides === undefined) throw new Error('a select without a from clause answers one row');
  return sides;
}

/**
 * Parameters: $1 book, $2 source, $3 wallet, $4 the entry after which it begins, $5 what rows of unknown types came to before; of a part,
 * $6 other rows to compare.
 */
function compareSql(source: Source, tables: LegacyTables, isPart: boolean): string {
  const [rows, wallets] = [tables[source.transactions], tables[source.wallets]];
  const touched = 'select unnest($6::uuid[]) as id union select e.legacy_id from entry e where e.legacy_id is not null';
  const booked = isPart
    ? `select t.id, replay.booked_cents($1, $2, t.id, w.account_id) as cents from touched t cross join wallet w`
    : `select e.legacy_id as id, -sum(e.amount_cents)::bigint as cents from entry e where e.legacy_id is not null group by e.legacy_id`;
  return `
    with wallet as materialized (
      select r.wallet_id, r.account_id from replay.wallets r where r.book_id = $1 and r.source = $2 and r.wallet_id = $3
    ), entry as materialized (
      select n.account_seq, n.amount_cents, n.transaction_id, n.balance_after_cents, n.event_position,
             coalesce(m.legacy_id, case when n.metadata #>> '{legacy,table}' = $2 then payments.try_uuid(n.metadata #>> '{legacy,id}') end) as legacy_id,
             n.metadata ? 'legacy_balance_cents' as is_drift,
             sum(n.amount_cents) over (order by n.account_seq) + coalesce((
               select b.balance_after_cents from payments.entries b
               where b.book_id = $1 and b.account_id = n.account_id and b.account_seq = $4), 0) as running
      from payments.entries n
      left join replay.mirrored_rows m
        on m.event_id = n.transaction_id and m.account_id = n.account_id and m.book_id = n.book_id and m.source = $2
      where n.book_id = $1 and n.account_id = (select account_id from wallet) and n.account_seq > $4
    ), touched as materialized (
      ${isPart ? touched : 'select null::uuid as id where false'}
    ), pending as materialized (
      select distinct coalesce((c.new).id, (c.old).id) as id from replay.captured_rows c where c.wallet_id = $3 and c.source = $2
    ), legacy as materialized (
      select t.id, t.credits_delta::bigint as cents, ${isUnknown('t', source.typeColumn)} as is_unknown from ${rows} t
      where t.wallet_id = $3 ${isPart ? 'and t.id in (select id from touched)' : ''}
    ), unknown as (
      select $5 + coalesce(sum(abs(l.cents)) filter (where l.is_unknown), 0)::bigint as cents from legacy l
    ), pair as (
      select coalesce(l.id, b.id) as id, coalesce(l.cents, 0) as legacy, coalesce(b.cents, 0) as ledger
      from legacy l full join (${booked}) b on b.id = l.id
      where coalesce(l.cents, 0) <> coalesce(b.cents, 0) and coalesce(l.id, b.id) not in (select id from pending)
    )
    select (select w.balance_credits::bigint from ${wallets} w where w.id = $3) as "legacyCents",
           (select -b.balance_cents from payments.balances b where b.book_id = $1 and b.account_id = (select account_id from wallet)) as "ledgerCents",
           (select count(*) from pair) as "differingRows",
           (select format('%s %s: %s credits, in the log %s', '${source.transactions}', id, legacy, ledger) from pair order by id limit 1) as "firstRow",
           (select count(*) from entry where running <> balance_after_cents) as "brokenEntries",
           (select coalesce(sum(d.cents), 0)::bigint from replay.drift d
            where d.wallet_id = $3 and d.source = $2 and d.book_id = $1) as "driftCents",
           (select coalesce(-sum(amount_cents), 0)::bigint from entry where is_drift) as "bookedDriftCents",
           (select cents from unknown) as "unknownRowsCents",
           replay.unapproved_cents(
             replay.unexplained_cents(
               (select coalesce(sum(d.cents), 0)::bigint from replay.drift d
                where d.wallet_id = $3 and d.source = $2 and d.book_id = $1 and d.cause = '${UNEXPLAINED}'),
               (select cents from unknown)),
             (select a.cents from replay.approvals a where a.wallet_id = $3 and a.source = $2 and a.book_id = $1)) as "unapprovedCents",
           (select coalesce(-sum(e.amount_cents), 0)::bigint from entry e where e.legacy_id is null and not e.is_drift) as "besideCents",
           (select count(*) from payments.account_slots s
            where s.book_id = $1 and s.account_id = (select account_id from wallet)) as slots,
           (select case when b.status <> 'open' then format('it is %s', b.status)
                        when b.min_cents is not null or b.max_cents is not null then 'it has a floor or a ceiling' end
            from payments.balances b where b.book_id = $1 and b.account_id = (select account_id from wallet)) as restriction,
           greatest($4, (select max(account_seq) from entry)) as "lastSeq",
           array(select id from pending) as "pendingIds"`;
}

/** Why the two sides do not go together, in words, their balances aside; undefined where they do. */
export function faultOf(sides: WalletSides): string | undefined {
  const { differingRows, firstRow, brokenEntries, driftCents, bookedDriftCents, besideCents } = sides;
  if (sides.ledgerCents === null) return 'it has no account yet: liventix backfill run';
  if (sides.slots > 0n) return 'its account is kept in slots, which the old tables cannot mirror';
  if (besideCents !== 0n) {
    return `transactions on its account that are not in the old tables come to ${besideCents} cents: reverse them first`;
  }
  if (differingRows > 0n) return `${differingRows} of its rows differ, the first ${firstRow}`;
  if (brokenEntries > 0n) {
    return `${brokenEntries} of its entries carry another balance than their sum: liventix books verify`;
  }
  if (driftCents !== bookedDriftCents) {
    return `its difference from its rows is kept as ${driftCents} cents, and booked as ${bookedDriftCents}`;
  }
  return undefined;
}

/** Why the balances are not the same, in words; undefined where they are. */
export function balanceFaultOf({ legacyCents, ledgerCents }: WalletSides): string | undefined {
  if ((legacyCents ?? 0n) === ledgerCents) return undefined;
  return `it holds ${legacyCents ?? 0n}, its account ${ledgerCents ?? 'does not exist'}`;
}
