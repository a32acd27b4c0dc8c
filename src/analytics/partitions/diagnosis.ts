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
  if (status === undefined || status.tables.length === 0)
    return { result: 'skipped', found: 'no table is kept by month' };
  const broken = status.isRunning ? [] : status.tables.flatMap(brokenOff);
  const kept = status.tables.filter(({ state }) => state !== 'preparing');
  const faults = kept.flatMap((table) => faultsOf(table, now));
  const shortest = Math.min(...kept.map(({ runwayDays }) => runwayDays ?? Number.POSITIVE_INFINITY));
  if (faults.length + broken.length === 0) {
    return {
      result: 'ok',
      found: `${kept.length} tables are kept by month, with months for ${Number.isFinite(shortest) ? `${shortest} days` : 'all there is'}, by ${status.runner}`,
    };
  }
  return {
    result: shortest < RUNWAY_FAILED_DAYS ? 'failed' : 'warning',
    found: [...faults, ...broken].join('; '),
    todo: [
      ...(faults.length === 0
        ? []
        : [
            'See to it now: liventix partitions maintain. What is wrong: liventix partitions status, liventix partitions verify.',
          ]),
      ...(broken.length === 0
        ? []
        : ['Go on: liventix partitions apply; or make it a plain table again: liventix partitions rollback.']),
    ].join(' '),
  };
}

/** What was begun, and nobody is at it any more: what changes is noted without end, or a check waits for its month. */
function brokenOff({ table, state, copy, begunAt, closesAt }: TableStatus): readonly string[] {
  if (copy !== null)
    return [`the rows of ${table} were being copied, ${copy.waiting} changes wait, and nobody is at it`];
  if (state !== 'preparing') return [];
  const refusal = closesAt === null ? '' : `, whose check refuses rows of ${closesAt} and later until then`;
  return [`the conversion of ${table}, begun ${begunAt.toISOString()}, was broken off${refusal}`];
}

function faultsOf({ table, runwayDays, hasStrays, maintainedAt, begunAt }: TableStatus, now: Date): readonly string[] {
  const seenAt = maintainedAt ?? begunAt;
  return [
    ...(runwayDays !== null && runwayDays < RUNWAY_WARNING_DAYS
      ? [`${table} has months for ${Math.max(0, runwayDays)} days`]
      : []),
    ...(hasStrays ? [`rows of ${table} lie in no month`] : []),
    ...(now.getTime() - seenAt.getTime() > UPKEEP_LATE_MS
      ? [`nobody has seen to the months of ${table} since ${seenAt.toISOString()}`]
      : []),
  ];
}
