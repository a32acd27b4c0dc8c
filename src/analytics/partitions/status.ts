import type { Queryable } from '../../db/pool.ts';
import { isSessionLockHeld } from '../../db/session-lock.ts';
import { CONVERSION, type KeptTable, readTables } from './tables.ts';

interface MonthStatus {
  readonly partition: string;
  /** Null at either end for what has no bound there, and at both for the default partition. */
  readonly firstDay: string | null;
  readonly endDay: string | null;
  readonly isDefault: boolean;
  readonly sizeBytes: bigint;
}

export interface TableStatus
  extends Pick<KeptTable, 'state' | 'keepMonths' | 'expired' | 'zone' | 'begunAt' | 'closesAt' | 'isLost'> {
  readonly table: string;
  /** None while it is being prepared, and of one that is lost. */
  readonly months: readonly MonthStatus[];
  readonly copy: {
    readonly way: 'apply' | 'rollback';
    readonly blocksDone: number;
    readonly blocks: number;
    readonly rows: bigint;
    readonly waiting: bigint;
  } | null;
  /** Days until no month is there for new rows, be it that one is missing in between. Null where the past has no end. */
  readonly runwayDays: number | null;
  /** Those that somebody took out between others, as `2026-01`, up to two years back. */
  readonly missingMonths: readonly string[];
  /** Whether rows lie in no month, and whether the upkeep or apply have months for some of them. */
  readonly hasStrays: boolean;
  readonly areStraysDue: boolean;
  /** What is wrong with its tables of keys and the triggers that keep them, in words. */
  readonly unkeptKeys: readonly string[];
  /** Relations that show something by their own names to others than the owner, and why. */
  readonly openToOthers: readonly { readonly relation: string; readonly why: string }[];
  readonly maintainedAt: Date | null;
}

export interface Status {
  readonly runner: 'worker' | 'pg_cron';
  /** Whether a conversion is under way, there or back. */
  readonly isRunning: boolean;
  readonly tables: readonly TableStatus[];
  readonly setAside: readonly {
    readonly relation: string;
    readonly table: string;
    readonly at: Date;
    readonly sizeBytes: bigint;
  }[];
}

/** @throws AppError DB_* */
export async function readStatus(pool: Queryable): Promise<Status> {
  // Asked first: whoever ends a copy while we look was at it.
  const isRunning = await isSessionLockHeld(pool, CONVERSION);
  const tables: TableStatus[] = [];
  for (const kept of await readTables(pool)) tables.push(await readStatusOf(pool, kept));
  const { rows: settings } = await pool.query<Pick<Status, 'runner'>>('select runner from partitions.settings');
  const { rows: setAside } = await pool.query<Status['setAside'][number]>(
    `select s.relation, s.table_name as table, s.at, (
       select coalesce(sum(pg_total_relation_size(t.relid)), 0)::int8 from pg_partition_tree(to_regclass(s.relation)) t
     ) + case (select c.relkind from pg_class c where c.oid = to_regclass(s.relation)) when 'r' then coalesce(pg_total_relation_size(to_regclass(s.relation)), 0) else 0 end as "sizeBytes"
     from partitions.set_aside s where to_regclass(s.relation) is not null order by s.at`,
  );
  return {
    runner: settings[0]?.runner ?? 'worker',
    isRunning,
    tables,
    setAside,
  };
}

type Facts = Pick<TableStatus, 'runwayDays' | 'missingMonths' | 'maintainedAt' | 'areStraysDue' | 'openToOthers'>;

async function readStatusOf(db: Queryable, kept: KeptTable): Promise<TableStatus> {
  const { id, schema, name, state, keepMonths, expired, zone, begunAt, closesAt, isLost } = kept;
  const hasMonths = state !== 'preparing' && !isLost;
  const { rows: months } = await db.query<MonthStatus>(
    `select m.partition::text, m.first_day::text as "firstDay", m.end_day::text as "endDay", m.is_default as "isDefault", pg_total_relation_size(m.partition) as "sizeBytes"
     from partitions.months_of($1) m order by m.is_default, m.first_day nulls first`,
    [hasMonths ? id : null],
  );
  const { rows: copies } = await db.query<NonNullable<TableStatus['copy']>>(
    `select min(way) as way, sum(next_block)::float8 as "blocksDone", sum(blocks)::float8 as blocks, sum(rows_copied)::int8 as rows,
       (select count(*) from partitions.captured c where c.table_id = $1) as waiting
     from partitions.copies where table_id = $1 having count(*) > 0`,
    [id],
  );
  const { rows: facts } = await db.query<Facts>(
    `select (
         select case when bool_or(m.end_day is null) then null else least(max(m.end_day), (
             select min(g.month) from partitions.missing_months(t.id, now()) g (month) where g.month >= partitions.month_at(t.id, now())
           )) - (now() at time zone t.zone)::date end
         from partitions.months_of(t.id) m where not m.is_default
       ) as "runwayDays", array(
         select to_char(g.month, 'YYYY-MM') from partitions.missing_months(t.id, now()) g (month)
         where g.month < (select max(m.end_day) from partitions.months_of(t.id) m)
       ) as "missingMonths", t.maintained_at as "maintainedAt",
       exists (select from partitions.months_of(t.id) m where m.is_default and cardinality(partitions.months_in(t.id, m.partition, now())) > 0) as "areStraysDue",
       (select coalesce(jsonb_agg(jsonb_build_object('relation', o.relation::text, 'why', o.why)), '[]') from partitions.open_to_others(t.id) o) as "openToOthers"
     from partitions.tables t where t.id = $1`,
    [hasMonths ? id : null],
  );
  // While it is prepared too: it has its keys from the beginning.
  const { rows: unkept } = await db.query<{ fault: string }>('select u.fault from partitions.unkept_keys($1) u', [id]);
  return {
    table: `${schema}.${name}`,
    state,
    keepMonths,
    expired,
    zone,
    begunAt,
    closesAt,
    isLost,
    months,
    copy: copies[0] ?? null,
    runwayDays: facts[0]?.runwayDays ?? null,
    missingMonths: facts[0]?.missingMonths ?? [],
    hasStrays: await hasStrays(db, kept),
    areStraysDue: facts[0]?.areStraysDue ?? false,
    unkeptKeys: unkept.map(({ fault }) => fault),
    openToOthers: facts[0]?.openToOthers ?? [],
    maintainedAt: facts[0]?.maintainedAt ?? null,
  };
}

/** Whether rows lie in no month. */
export async function hasStrays(db: Queryable, { id }: Pick<KeptTable, 'id'>): Promise<boolean> {
  const { rows } = await db.query<{ partition: string }>(
    'select m.partition::text as partition from partitions.months_of($1) m where m.is_default',
    [id],
  );
  const [strays] = rows;
  return strays !== undefined && ((await db.query(`select from ${strays.partition} limit 1`)).rowCount ?? 0) > 0;
}
