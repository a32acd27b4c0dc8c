import { type Finding, findingOf, type Said } from '../../db/diagnosis.ts';
import { describeHolder, findHorizonHolders } from '../../db/horizon.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { APPLY, anewOf, plural, rebuildOf } from './advice.ts';
import { findMissingGuards } from './guards.ts';
import { viewRemedy } from './views.ts';

export interface RollupStatus {
  readonly name: string;
  readonly state: 'installing' | 'building' | 'ready';
  /** Where its source is; null where it is nowhere. */
  readonly source: string | null;
  /** A table of its own that is there no more. */
  readonly lostTable: string | null;
  /** Why it is to be rebuilt. */
  readonly toBeRebuilt: string | null;
  /** Among the reasons is that the source was truncated. */
  readonly isEmptied: boolean;
  readonly monthsLeft: bigint;
  /** Rows of the source that are not counted yet, and changes of rows that are not; so many and more where it is MOST_BEHIND. */
  readonly rowsBehind: bigint;
  readonly changesWaiting: bigint;
  readonly lastCountedAt: Date | null;
  /** No run has worked for five minutes. */
  readonly isUnattended: boolean;
  /** Since when every run fails, and what failed last. */
  readonly failingSince: Date | null;
  readonly error: string | null;
  /** It counted on another server, from which this one was restored. */
  readonly isAhead: boolean;
  /** What counts and is not there: triggers, the default, the index. */
  readonly missing: readonly string[];
}

export interface ViewStatus {
  readonly name: string;
  readonly isThere: boolean;
  readonly isFilled: boolean;
  readonly refreshedAt: Date | null;
  readonly seconds: number | null;
  readonly rows: bigint | null;
  readonly everyMinutes: number;
  readonly isStale: boolean;
  /** What failed at the last try, or that it was ended from outside. */
  readonly error: string | null;
  /** It failed because rows are not unique by what the view is declared to be unique by. */
  readonly isNotUnique: boolean;
  /** As its file has it. */
  readonly declaredName: string;
}

export const MOST_BEHIND = 100_000;

const ROLLUPS = `
  select r.name, r.state, r.last_counted_at as "lastCountedAt", r.counted_below::text as "countedBelow",
    (greatest(r.last_run_at, r.last_counted_at) between clock_timestamp() - interval '5 minutes' and clock_timestamp()) is not true as "isUnattended",
    r.failing_since as "failingSince", r.error,
    rollups.lost_table(r) as "lostTable",
    rollups.is_elsewhere(r, pg_snapshot_xmin(pg_current_snapshot())) as "isAhead",
    (select count(*) from rollups.chunks c where c.rollup = r.name and c.built_at is null) as "monthsLeft",
    (select m.why from rollups.marks m where m.rollup = r.name order by m.id limit 1) as "toBeRebuilt",
    exists (select from rollups.marks m where m.rollup = r.name and m.is_emptied) as "isEmptied",
    (select s.name from unnest(r.sources) with ordinality s (name, number)
     join pg_class c on c.oid = to_regclass(s.name) and c.relkind in ('r', 'p')
     join pg_attribute a on a.attrelid = c.oid and a.attname = 'recorded_xid' and not a.attisdropped
     order by s.number limit 1) as source,
    format('rollups.%I', r.name || '_changes') as changes
  from rollups.rollups r order by r.name`;

const VIEWS = `
  select v.name, c.oid is not null as "isThere", coalesce(c.relispopulated, false) as "isFilled",
    good.finished_at as "refreshedAt", extract(epoch from good.finished_at - good.started_at)::float8 as seconds, good.rows,
    (extract(epoch from v.every) / 60)::int as "everyMinutes",
    coalesce(good.started_at not between clock_timestamp() - 2 * v.every and clock_timestamp(), true) as "isStale",
    case when last.id is distinct from good.id and last.error is not null then last.error
      when last.id is distinct from good.id and not exists (
        select from pg_locks l where l.locktype = 'advisory' and l.objid = (hashtext(v.name)::int8 & 4294967295)
          and l.classid = (hashtext('liventix.rollups')::int8 & 4294967295)
          and l.database = (select oid from pg_database where datname = current_database()))
      then format('the refresh that began at %s was ended from outside', last.started_at) end as error,
    coalesce(last.id is distinct from good.id and last.is_not_unique, false) as "isNotUnique", v.declaration ->> 'name' as "declaredName"
  from rollups.views v
  left join pg_class c on c.oid = to_regclass(v.name)
  left join lateral (select * from rollups.refreshes r where r.view = v.name and r.finished_at is not null and r.error is null
    order by r.id desc limit 1) good on true
  left join lateral (select * from rollups.refreshes r where r.view = v.name order by r.id desc limit 1) last on true
  order by v.name`;

/** What is kept, how far it is, and what keeps it back. Reads little, however large the sources are. */
export async function rollupStatus(
  db: Queryable,
): Promise<{ readonly rollups: readonly RollupStatus[]; readonly views: readonly ViewStatus[] }> {
  const { rows: kept } = await db.query<
    Omit<RollupStatus, 'rowsBehind' | 'changesWaiting' | 'missing'> & { countedBelow: string; changes: string }
  >(ROLLUPS);
  const guards = await findMissingGuards(db);
  const rollups: RollupStatus[] = [];
  for (const { countedBelow, changes, ...status } of kept) {
    const behind = (from: string, where: string) =>
      `(select count(*) from (select from ${from} where ${where} limit ${MOST_BEHIND}) b)`;
    const rowsBehind =
      status.source === null ? '0::bigint' : behind(status.source, `recorded_xid >= '${countedBelow}'`);
    const changesWaiting = status.lostTable === null ? behind(changes, 'true') : '0::bigint';
    const { rows } = await db.query<{ rowsBehind: bigint; changesWaiting: bigint }>(
      `select ${rowsBehind} as "rowsBehind", ${changesWaiting} as "changesWaiting"`,
    );
    rollups.push({
      ...status,
      rowsBehind: rows[0]?.rowsBehind ?? 0n,
      changesWaiting: rows[0]?.changesWaiting ?? 0n,
      missing: guards.filter(({ rollup }) => rollup === status.name).map(({ what }) => what),
    });
  }
  const { rows: views } = await db.query<ViewStatus>(VIEWS);
  return { rollups, views };
}

const HOLDS_FOR_SECONDS = 10;

/** Whether what dashboards read is what there is, for `liventix doctor`. */
export async function judgeRollups(db: Queryable): Promise<Finding> {
  try {
    return await judge(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read which rollups are kept' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const { rows } = await db.query<{ isThere: boolean }>(
    `select to_regclass('rollups.rollups') is not null as "isThere"`,
  );
  if (rows[0]?.isThere !== true) return NOTHING;
  const { rollups, views } = await rollupStatus(db);
  if (rollups.length + views.length === 0) return NOTHING;
  const failures = [...rollups.flatMap(failuresOf), ...views.flatMap(viewFailuresOf)];
  const warnings = [...(await lagOf(db, rollups)), ...views.flatMap(viewWarningsOf)];
  const said = [...failures, ...warnings];
  if (said.length === 0)
    return {
      result: 'ok',
      found: `${rollups.length} ${plural(rollups.length, 'rollup')} ${rollups.length === 1 ? 'is' : 'are'} up to date, and ${views.length} ${plural(views.length, 'view')} refreshed`,
    };
  return findingOf(failures.length > 0 ? 'failed' : 'warning', said);
}

const NOTHING: Finding = { result: 'skipped', found: 'no rollup is kept' };

function failuresOf(status: RollupStatus): readonly Said[] {
  const { name, state, source, lostTable, toBeRebuilt, isEmptied, isAhead, missing, failingSince, error } = status;
  if (lostTable !== null)
    return [{ found: `${lostTable}, of the rollup ${name}, is gone`, todo: `Run: ${anewOf(name)}.` }];
  if (source === null)
    return [
      { found: `the source of ${name} is gone`, todo: `Put it back, or run: liventix rollups remove --name ${name}.` },
    ];
  if (toBeRebuilt !== null)
    return [
      { found: `${name} does not follow its source: ${toBeRebuilt}`, todo: `Run: ${rebuildOf(name, isEmptied)}.` },
    ];
  if (isAhead)
    return [
      {
        found: `${name} counted on another server, from which this one was restored`,
        todo: `Run: ${rebuildOf(name)}.`,
      },
    ];
  if (state !== 'ready') return [{ found: `${name} is not built yet`, todo: `Run: ${APPLY}.` }];
  return [
    ...(missing.length === 0
      ? []
      : [{ found: `${name} lacks ${missing.join(', ')}`, todo: `Run: ${APPLY}. It says what is to be rebuilt.` }]),
    ...(failingSince === null
      ? []
      : [
          {
            found: `${name} cannot be counted since ${failingSince.toISOString()}: ${error}`,
            todo: `Remove the cause, such as rows that it cannot count; or change the file: ${anewOf(name)}.`,
          },
        ]),
  ];
}

function viewFailuresOf({ name, declaredName, isThere, isFilled, error, isNotUnique }: ViewStatus): readonly Said[] {
  if (isThere && isFilled) return [];
  if (!isThere || error === null)
    return [{ found: `the view ${name} is ${isThere ? 'not filled' : 'gone'}`, todo: `Run: ${APPLY}.` }];
  return [{ found: `the view ${name} is not filled: ${error}`, todo: viewRemedy(declaredName, isNotUnique) }];
}

const viewWarningsOf = ({ name, declaredName, isFilled, isStale, error, isNotUnique }: ViewStatus): readonly Said[] =>
  isFilled && (isStale || error !== null)
    ? [
        {
          found: `the view ${name} is stale${error === null ? '' : `: ${error}`}`,
          todo: isNotUnique ? viewRemedy(declaredName, isNotUnique) : 'Run: liventix rollups refresh.',
        },
      ]
    : [];

/** Rows that wait, and who keeps them waiting. */
async function lagOf(db: Queryable, rollups: readonly RollupStatus[]): Promise<readonly Said[]> {
  const behind = rollups.filter(
    ({ state, rowsBehind, changesWaiting }) => state === 'ready' && rowsBehind + changesWaiting > 0n,
  );
  if (behind.length === 0) return [];
  const { holders } = await findHorizonHolders(db, HOLDS_FOR_SECONDS);
  const [oldest] = holders.filter((holder) => holder.kind !== 'transaction' || holder.hasWritten);
  const waiting = behind
    .map(({ name, rowsBehind, changesWaiting }) => `${name} ${rowsBehind + changesWaiting}`)
    .join(', ');
  if (oldest !== undefined)
    return [
      { found: `rows that wait to be counted: ${waiting}; held back by ${describeHolder(oldest)}`, todo: oldest.todo },
    ];
  const isLate = behind.some(
    ({ rowsBehind, isUnattended, error }) => rowsBehind >= BigInt(MOST_BEHIND) || (isUnattended && error === null),
  );
  return isLate
    ? [
        {
          found: `rows that wait to be counted: ${waiting}`,
          todo: 'Let a worker run: liventix worker. Or at once: liventix rollups run.',
        },
      ]
    : [];
}
