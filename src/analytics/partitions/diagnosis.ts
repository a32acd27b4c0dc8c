import type { Finding } from '../../db/diagnosis.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { readStatus, type TableStatus } from './status.ts';

const RUNWAY_WARNING_DAYS = 40;
const RUNWAY_FAILED_DAYS = 7;
/** The upkeep runs each hour. */
const UPKEEP_LATE_MS = 26 * 3_600_000;

/** How long there are months for, and whether somebody sees to them, for `liventix doctor`. */
export async function judgePartitions(db: Queryable): Promise<Finding> {
  try {
    return await judge(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read which tables are kept by month' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const { rows } = await db.query<{ isThere: boolean; now: Date }>(
    `select to_regclass('partitions.tables') is not null as "isThere", now() as now`,
  );
  const now = rows[0]?.now ?? new Date();
  const status = rows[0]?.isThere === true ? await readStatus(db) : undefined;
  const kept = status?.tables.filter(({ state }) => state !== 'preparing') ?? [];
  if (kept.length === 0) return { result: 'skipped', found: 'no table is kept by month' };
  const faults = kept.flatMap((table) => faultsOf(table, now));
  const shortest = Math.min(...kept.map(({ runwayDays }) => runwayDays ?? Number.POSITIVE_INFINITY));
  const worst = shortest < RUNWAY_FAILED_DAYS ? 'failed' : 'warning';
  if (faults.length === 0) {
    return {
      result: 'ok',
      found: `${kept.length} tables are kept by month, with months for ${Number.isFinite(shortest) ? `${shortest} days` : 'all there is'}, by ${status?.runner}`,
    };
  }
  return {
    result: worst,
    found: faults.join('; '),
    todo: 'See to it now: liventix partitions maintain. What is wrong: liventix partitions status, liventix partitions verify',
  };
}

function faultsOf({ table, runwayDays, hasStrays, maintainedAt }: TableStatus, now: Date): readonly string[] {
  return [
    ...(runwayDays !== null && runwayDays < RUNWAY_WARNING_DAYS
      ? [`${table} has months for ${Math.max(0, runwayDays)} days`]
      : []),
    ...(hasStrays ? [`rows of ${table} lie in no month`] : []),
    ...(maintainedAt !== null && now.getTime() - maintainedAt.getTime() > UPKEEP_LATE_MS
      ? [`nobody has seen to the months of ${table} since ${maintainedAt.toISOString()}`]
      : []),
  ];
}
