import { type Finding, findingOf, type Said } from '../../db/diagnosis.ts';
import { inShell } from '../../db/in-shell.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { readStatus, type Status, type TableStatus } from './status.ts';
import { closes, mendsKeys, ofLost } from './tables.ts';

const RUNWAY_WARNING_DAYS = 40;
const RUNWAY_FAILED_DAYS = 7;
/** The upkeep runs each hour. */
const UPKEEP_LATE_MS = 26 * 3_600_000;
/** As partitions.maintain has it. */
const CLOCK_DOUBTED_MS = 45 * 24 * 3_600_000;

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
  const there = status.tables.filter(({ isLost }) => !isLost);
  const kept = there.filter(({ state }) => state !== 'preparing');
  const said = [
    ...status.tables.flatMap(lost),
    ...there.flatMap(keysOf),
    ...kept.flatMap((table) => faultsOf(table, now)),
    ...(status.isRunning ? [] : there.flatMap((table) => brokenOff(table, status))),
  ];
  const shortest = Math.min(...kept.map(({ runwayDays }) => runwayDays ?? Number.POSITIVE_INFINITY));
  if (said.length === 0) {
    return {
      result: 'ok',
      found: `tables kept by month: ${kept.length}, with months for ${Number.isFinite(shortest) ? `${shortest} days` : 'all there is'}, by ${status.runner}`,
    };
  }
  // Rows are written that no key keeps apart, and what refers to them does not go with them.
  const isFailing = shortest < RUNWAY_FAILED_DAYS || there.some(({ unkeptKeys }) => unkeptKeys.length > 0);
  return findingOf(isFailing ? 'failed' : 'warning', said);
}

const MAINTAIN = 'See to it now: liventix partitions maintain. What is wrong: liventix partitions verify.';
const CONFIRM =
  'Nothing is taken out until somebody has looked whether the clock is right: liventix partitions maintain --yes.';

/** What was begun, and nobody is at it any more: what changes is noted without end, or a check waits for its month. */
function brokenOff({ table, state, copy, begunAt, closesAt }: TableStatus, { setAside }: Status): readonly Said[] {
  // Plain again, with its months aside, it is to be cleaned up only.
  const isGoingBack =
    copy?.way === 'rollback' || (state === 'preparing' && setAside.some((aside) => aside.table === table));
  const [there, back] = ['apply', 'rollback'].map((way) => `liventix partitions ${way} --table ${inShell(table)}`);
  const todo = isGoingBack
    ? `Go on: ${back}. Or keep it by month, with the mapping that has it: ${there}.`
    : `Go on, with the mapping that has it: ${there}. Or make it a plain table again: ${back}.`;
  if (copy !== null)
    return [
      { found: `the rows of ${table} were being copied, ${copy.waiting} changes wait, and nobody is at it`, todo },
    ];
  if (state !== 'preparing') return [];
  if (isGoingBack) return [{ found: `the way back of ${table} was broken off when it was a plain table again`, todo }];
  const refusal = closesAt === null ? '' : `, whose check refuses rows of ${closesAt} and later until then`;
  return [{ found: `the conversion of ${table}, begun ${begunAt.toISOString()}, was broken off${refusal}`, todo }];
}

function lost({ table, isLost, state, closesAt }: TableStatus): readonly Said[] {
  if (!isLost) return [];
  if (state !== 'preparing') return [{ found: `${table} is gone, which was kept by month`, todo: `${ofLost(table)}.` }];
  const refusal =
    closesAt === null ? '' : `: where it is called otherwise now, its check refuses rows of ${closesAt} and later`;
  return [{ found: `${table} is gone, whose conversion was broken off${refusal}`, todo: `${ofLost(table)}.` }];
}

const keysOf = ({ table, unkeptKeys }: TableStatus): readonly Said[] =>
  unkeptKeys.map((found) => ({ found, todo: `${mendsKeys(table)}.` }));

function faultsOf(status: TableStatus, now: Date): readonly Said[] {
  const { table, months, runwayDays, missingMonths, hasStrays, areStraysDue, openToOthers, maintainedAt, begunAt } =
    status;
  const seenAt = maintainedAt ?? begunAt;
  const lateMs = now.getTime() - seenAt.getTime();
  const strays = months.find(({ isDefault }) => isDefault)?.partition;
  return [
    ...(runwayDays !== null && runwayDays < RUNWAY_WARNING_DAYS
      ? [{ found: `${table} has months for ${Math.max(0, runwayDays)} days`, todo: MAINTAIN }]
      : []),
    ...(missingMonths.length > 0
      ? [{ found: `${table} has no month ${missingMonths.join(', ')}, which somebody took out`, todo: MAINTAIN }]
      : []),
    // The default one has no end either.
    ...(months.every(({ endDay }) => endDay !== null)
      ? [{ found: `${table} refuses rows that lie in no month: the partition for them is gone`, todo: MAINTAIN }]
      : []),
    ...(hasStrays
      ? [
          {
            found: `rows of ${table} lie in no month`,
            todo: areStraysDue
              ? MAINTAIN
              : `They are older than is kept, or beyond the months ahead: correct or delete them in ${strays}, or raise monthsAhead.`,
          },
        ]
      : []),
    ...openToOthers.map(({ relation, why }) => ({ found: `${relation} ${why}`, todo: `${closes(relation)}.` })),
    ...(lateMs > UPKEEP_LATE_MS
      ? [
          {
            found: `nobody has seen to the months of ${table} since ${seenAt.toISOString()}`,
            todo: lateMs > CLOCK_DOUBTED_MS ? CONFIRM : MAINTAIN,
          },
        ]
      : []),
  ];
}
