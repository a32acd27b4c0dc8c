import type { Queryable } from '../db/pool.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { findCapture } from './capture.ts';
import { MOST_RARE, RARE } from './drift-list.ts';
import type { Drift, SourceStatus } from './report.ts';
import { ORPHAN, SOURCES, ZERO_ROW } from './sources.ts';

/*
 * How the backfill stands, for whoever may not read the old tables and will not wait: what report.ts finds out, within bounds.
 */

/** Up to here rows are counted; beyond, the planner's statistics say how many there are. */
const MOST_ROWS = 100_000;
const MOST_WALLETS = 50_000;
const MOST_WAITING = 10_000;

/** A number, exact or as far as it is known. */
export interface Count {
  readonly count: bigint;
  /** `least`: there are more. */
  readonly basis: 'exact' | 'about' | 'least';
}

export interface SourceGlance {
  readonly source: SourceStatus['source'];
  /** False before its first row is looked at: the second source waits for the first. */
  readonly begun: boolean;
  readonly rows: bigint;
  /** Of the old table; null where that is gone. */
  readonly total: Count | null;
  readonly finished: boolean;
  readonly retiredAt: Date | null;
}

/** How far the backfill is, by source; none has begun where it never ran. */
export async function glanceAtSources(db: Queryable): Promise<readonly SourceGlance[]> {
  const { rows } = await db.query<Omit<SourceGlance, 'total'> & { counted: bigint | null; estimated: bigint | null }>(
    `select s.source, p.book_id is not null as begun, p.finished_at is not null as finished, p.retired_at as "retiredAt",
            (coalesce(p.rows, 0) + (select coalesce(sum(c.rows), 0) from replay.row_counts c where c.book_id = $1 and c.source = s.source))::bigint as rows,
            console.count_legacy_rows(s.source, $3) as counted,
            (select greatest(c.reltuples, 0)::bigint from pg_class c where c.oid = console.legacy_table(s.source)) as estimated
     from unnest($2::text[]) with ordinality as s (source, nth)
     left join replay.progress p on p.source = s.source and p.book_id = $1
     order by s.nth`,
    [MAIN_BOOK, SOURCES.map(({ name }) => name), MOST_ROWS + 1],
  );
  return rows.map(({ counted, estimated, ...row }) => ({ ...row, total: bounded(counted, estimated, MOST_ROWS) }));
}

function bounded(counted: bigint | null, estimated: bigint | null, most: number): Count | null {
  if (counted === null) return null;
  if (counted <= most) return { count: counted, basis: 'exact' };
  return estimated !== null && estimated > most
    ? { count: estimated, basis: 'about' }
    : { count: BigInt(most), basis: 'least' };
}

/** Whether somebody runs it now, as its lock says. @param primary a replica does not see that */
export async function isBackfillRunning(primary: Queryable): Promise<boolean> {
  const { rowCount } = await primary.query(
    `select from pg_locks l
     where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.objid = $1
       and l.classid::int8 = hashtext('liventix.backfill')::int8 & 4294967295
       and l.database = (select oid from pg_database where datname = current_database())`,
    [MAIN_BOOK],
  );
  return rowCount !== 0;
}

export interface WalletsByMode {
  readonly legacy: Count;
  readonly ledger: Count;
}

/** How many wallets the old tables keep, and how many the ledger. */
export async function glanceAtModes(db: Queryable): Promise<WalletsByMode> {
  const { rows } = await db.query<{ legacy: bigint; ledger: bigint; most: bigint }>(
    `select coalesce(sum(c.wallets) filter (where c.mode = 'legacy'), 0)::bigint as legacy,
            coalesce(sum(c.wallets) filter (where c.mode = 'ledger'), 0)::bigint as ledger,
            coalesce(max(c.of_source), 0)::bigint as most
     from (
       select w.mode, w.wallets, sum(w.wallets) over (partition by s.source) as of_source
       from unnest($2::text[]) as s (source) cross join lateral console.count_wallets($1, s.source, $3) w
     ) c`,
    [MAIN_BOOK, SOURCES.map(({ name }) => name), MOST_WALLETS + 1],
  );
  const [found] = rows;
  if (found === undefined || found.most <= MOST_WALLETS) {
    return {
      legacy: { count: found?.legacy ?? 0n, basis: 'exact' },
      ledger: { count: found?.ledger ?? 0n, basis: 'exact' },
    };
  }
  return estimateModes(db);
}

async function estimateModes(db: Queryable): Promise<WalletsByMode> {
  const { rows } = await db.query<{ wallets: bigint; ledger: number }>(
    `select greatest(c.reltuples, 0)::bigint as wallets, coalesce((
       select s.most_common_freqs[array_position(s.most_common_vals::text::text[], 'ledger')]
       from pg_stats s where s.schemaname = 'replay' and s.tablename = 'wallets' and s.attname = 'mode'), 0)::float8 as ledger
     from pg_class c where c.oid = 'replay.wallets'::regclass`,
  );
  const { wallets = 0n, ledger = 0 } = rows[0] ?? {};
  const kept = BigInt(Math.round(Number(wallets) * ledger));
  return { ledger: { count: kept, basis: 'about' }, legacy: { count: wallets - kept, basis: 'about' } };
}

export type DriftGlance = Omit<Drift, 'count'> & { readonly count: Count };

/**
 * What the old history could not explain, by cause: as driftByCause says it, by the balances of suspense, which number their entries, and by
 * notes of rows that moved nothing, as far as those are found among the last of what is no plain posting.
 */
export async function glanceAtDrift(db: Queryable): Promise<readonly DriftGlance[]> {
  const { rows } = await db.query<{ cause: string; entries: bigint; notes: bigint; cents: bigint; rare: bigint }>(
    `with rare as materialized (
       select e.type, e.payload ->> 'note' as note from payments.events e
       where e.book_id = $1 and ${RARE} order by e.position desc limit $2
     )
     select f.cause, sum(f.entries)::bigint as entries, sum(f.notes)::bigint as notes, sum(f.cents)::bigint as cents,
            (select count(*) from rare) as rare
     from (
       select a.name as cause, b.last_seq as entries, 0 as notes, b.balance_cents as cents
       from payments.accounts a
       cross join lateral unnest(payments.slots_of($1, a.id)) as s (account_id)
       join payments.balances b on b.account_id = s.account_id and b.book_id = a.book_id
       -- By its owner, which is none: there are few of the platform's own.
       where a.book_id = $1 and a.organization_id is null and a.user_id is null and a.type = 'suspense' and b.last_seq > 0
         and not exists (select from payments.account_slots k where k.slot_account_id = a.id and k.book_id = a.book_id)
       union all
       select n.note, 0, count(*), 0 from rare n where n.type = 'note.recorded' and n.note in ('${ZERO_ROW}', '${ORPHAN}') group by n.note
     ) f
     group by f.cause
     order by f.cause`,
    [MAIN_BOOK, MOST_RARE + 1],
  );
  return rows.map(({ cause, entries, notes, cents, rare }) => ({
    cause,
    cents,
    count: { count: entries + notes, basis: notes > 0n && rare > MOST_RARE ? 'least' : 'exact' },
  }));
}

export interface FindingCount {
  readonly cause: string;
  readonly rows: Count;
}

/** What the survey found in the old rows that the flows do not explain, by cause. */
export async function glanceAtFindings(db: Queryable): Promise<readonly FindingCount[]> {
  const { rows } = await db.query<{ cause: string; rows: bigint }>(
    `select f.cause, count(*) as rows
     from (select cause from replay.findings where book_id = $1 limit $2) f
     group by f.cause order by f.cause`,
    [MAIN_BOOK, MOST_ROWS + 1],
  );
  const isAll = rows.reduce((sum, each) => sum + each.rows, 0n) <= MOST_ROWS;
  return rows.map(({ cause, rows: count }) => ({ cause, rows: { count, basis: isAll ? 'exact' : 'least' } }));
}

/** What is captured and waits to be brought into the log. */
export interface CaptureGlance {
  readonly installedAt: Date;
  /** False when a trigger was dropped, disabled or made anew since. */
  readonly isWhole: boolean;
  readonly waiting: Count;
  /** When the first of it was captured; null where nothing waits. */
  readonly oldestAt: Date | null;
}

/** Null where nothing is captured. */
export async function glanceAtCapture(db: Queryable): Promise<CaptureGlance | null> {
  const capture = await findCapture(db);
  if (capture === undefined) return null;
  const { rows } = await db.query<{ waiting: bigint; oldestAt: Date | null }>(
    `select (select count(*) from (select from replay.captured_rows limit $1) r)
          + (select count(*) from (select from replay.captured_wallets limit $1) w) as waiting,
       least((select captured_at from replay.captured_rows order by id limit 1),
             (select captured_at from replay.captured_wallets order by id limit 1)) as "oldestAt"`,
    [MOST_WAITING + 1],
  );
  const { waiting = 0n, oldestAt = null } = rows[0] ?? {};
  const { installedAt, isWhole } = capture;
  const isAll = waiting <= MOST_WAITING;
  return { installedAt, isWhole, oldestAt, waiting: { count: waiting, basis: isAll ? 'exact' : 'least' } };
}
