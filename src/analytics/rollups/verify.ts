import pg from 'pg';
import type { Pool, Tx } from '../../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';
import { APPLY, rebuildOf } from './advice.ts';
import { findLosses, type Lost } from './build.ts';
import type { Rollup } from './declaration.ts';
import { assertTablesThere, findMissingGuards } from './guards.ts';
import { contributedColumns, contributedOf } from './merge.ts';
import { innerName, targetOf } from './names.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

export interface Verified {
  readonly rollup: string;
  readonly source: string;
  readonly holds: boolean;
  /** Groups and days. */
  readonly cells: bigint;
  readonly rows: bigint;
  /** Of days whose partitions are gone, and that have more than there is of them. */
  readonly kept: bigint;
  /** Rows that came since the last run, of which nothing is said. */
  readonly waiting: bigint;
  readonly faults: bigint;
  /** What counts and is not there. */
  readonly missing: readonly string[];
  readonly first: readonly string[];
  /** What a rebuild would lose, where there are faults. */
  readonly lost: Lost | null;
  /** How far the farthest median is from the true one, as a part of it. */
  readonly medianError: number | null;
  readonly seconds: number;
}

/** What a median may be off by, as a part of the two values in the middle. */
export const MEDIAN_ERROR = 0.01;
const NAMED_FAULTS = 20;

/**
 * Recomputes every group and day of the rollups from the rows, in one snapshot beside whoever writes: those that are counted by now, and those that are
 * and were taken back since. Counts, sums and distinct values are to be the same, medians within 1 %.
 * @throws AppError ROLLUP_TO_BE_REBUILT where one is not built, ROLLUP_HORIZON_BEHIND, ROLLUP_TABLE_MISSING, DB_*
 */
export function verifyRollups(
  pool: Pool,
  { names, onBegin }: { names?: readonly string[]; onBegin?: (rollup: string) => void } = {},
): Promise<readonly Verified[]> {
  return withTransaction(
    pool,
    async (tx) => {
      const verified: Verified[] = [];
      for (const kept of await keptRollups(tx, names)) {
        onBegin?.(kept.name);
        verified.push(await verifyRollup(tx, kept));
      }
      return verified;
    },
    ONE_SNAPSHOT,
  );
}

interface Kept {
  readonly name: string;
  readonly state: string;
  readonly why: string | null;
  /** Among the reasons is that the source was truncated. */
  readonly isEmptied: boolean;
  readonly declaration: Rollup;
  readonly source: string;
  /** An SQL condition on {day}: whether its partition may be gone. */
  readonly gone: string;
  readonly countedBelow: string;
  /** It counted on another server, from which this one was restored. */
  readonly isElsewhere: boolean;
}

async function keptRollups(tx: Tx, names: readonly string[] | undefined): Promise<readonly Kept[]> {
  await assertTablesThere(tx, names);
  const { rows } = await tx.query<Kept>(
    `select r.name, r.state, r.declaration, r.counted_below::text as "countedBelow", s.source,
       rollups.gone_days(s.source::regclass, r.declaration ->> 'time', r.declaration ->> 'zone') as gone,
       (select m.why from rollups.marks m where m.rollup = r.name order by m.id limit 1) as why,
       exists (select from rollups.marks m where m.rollup = r.name and m.is_emptied) as "isEmptied",
       rollups.is_elsewhere(r, pg_snapshot_xmin(pg_current_snapshot())) as "isElsewhere"
     from rollups.rollups r cross join lateral rollups.source_of(r.sources) s (source)
     where $1::text[] is null or r.name = any ($1) order by r.name`,
    [names ?? null],
  );
  const unknown = names?.find((name) => !rows.some((row) => row.name === name));
  if (unknown !== undefined)
    throw new AppError('ROLLUP_UNKNOWN', `There is no rollup ${unknown}. Those that are kept: liventix rollups status`);
  for (const { name, state, why, isEmptied, isElsewhere } of rows) {
    if (state !== 'ready')
      throw new AppError('ROLLUP_TO_BE_REBUILT', `${name} is not built yet. Go on with that: ${APPLY}`);
    if (why !== null)
      throw new AppError(
        'ROLLUP_TO_BE_REBUILT',
        `${name} does not follow its source since ${why}: ${rebuildOf(name, isEmptied)}`,
      );
    if (isElsewhere)
      throw new AppError(
        'ROLLUP_HORIZON_BEHIND',
        `${name} has counted on another server, from which this one was restored: ${rebuildOf(name, isEmptied)}`,
      );
  }
  return rows;
}

async function verifyRollup(tx: Tx, kept: Kept): Promise<Verified> {
  const startedAt = performance.now();
  const { rows } = await tx.query<
    Omit<Verified, 'rollup' | 'source' | 'holds' | 'missing' | 'seconds' | 'first' | 'lost'> & {
      first: string[] | null;
    }
  >(comparison(kept), [kept.countedBelow]);
  const missing = (await findMissingGuards(tx, [kept.name])).map(({ what }) => what);
  const [found] = rows;
  if (found === undefined) throw new Error(`nothing is said of ${kept.name}`);
  return {
    ...found,
    rollup: kept.name,
    source: kept.source,
    holds: found.faults === 0n && missing.length === 0,
    missing,
    first: found.first ?? [],
    lost: found.faults > 0n ? await findLosses(tx, kept.name, false) : null,
    seconds: (performance.now() - startedAt) / 1_000,
  };
}

interface Compared {
  readonly column: string;
  readonly expected: string;
}

function comparison({ declaration: rollup, source, gone }: Kept): string {
  const { group, count, distinct, countIf, measures, median } = rollup;
  const keys = [...group.map((_, at) => `group${at}`), 'day'];
  const key = (columns: readonly string[]) => `row(${columns.join(', ')})::${innerName(rollup, 'key')}`;
  const compared: readonly Compared[] = [
    { column: count, expected: 'count(*)' },
    ...(distinct === undefined ? [] : [{ column: distinct.name, expected: 'count(distinct viewer)' }]),
    ...countIf.map((each, at) => ({ column: each.name, expected: `coalesce(sum(flag${at}), 0)` })),
    ...measures.flatMap((each, at) => [
      { column: each.sum, expected: `coalesce(sum(value${at}), 0)` },
      { column: each.count, expected: `count(value${at})` },
      { column: each.average, expected: `trim_scale(sum(value${at})) / nullif(count(value${at}), 0)` },
    ]),
  ];
  const middle =
    median === undefined ? 'null::double precision' : 'percentile_cont(0.5) within group (order by weight)';
  const lower = median === undefined ? 'null::double precision' : 'percentile_disc(0.5) within group (order by weight)';
  const stored = median === undefined ? 'null::double precision' : `t.${ident(median.name)}`;
  const inner = [
    ...(distinct === undefined
      ? []
      : [
          {
            what: `its viewers`,
            is: `(select count(*) from ${innerName(rollup, 'viewers')} v where v.cell = t.cell and v.views > 0)`,
            should: `e.${ident(distinct.name)}`,
          },
        ]),
    ...(median === undefined
      ? []
      : [
          {
            what: 'its buckets',
            is: `(select coalesce(sum(b.weight), 0) from ${innerName(rollup, 'buckets')} b where b.cell = t.cell)`,
            should: 'e.weights',
          },
        ]),
  ];
  const differences = [
    ...compared.map(({ column }) => ({ what: column, is: `t.${ident(column)}`, should: `e.${ident(column)}` })),
    ...inner,
  ].map(
    ({ what, is, should }) =>
      `case when ${is} is distinct from ${should} then format('%s is %s, should be %s', ${literal(what)}, coalesce((${is})::text, 'none'), coalesce((${should})::text, 'none')) end`,
  );
  return `with counted as (
  select ${contributedOf(rollup)} from ${source} s where s.recorded_xid is null or s.recorded_xid < $1::xid8
  union all
  select ${contributedColumns(rollup, 'q.')} from ${innerName(rollup, 'changes')} q where coalesce(q.recorded_xid, '0') < $1::xid8
),
expected as (
  select ${keys.join(', ')}, ${compared.map(({ column, expected }) => `${expected} as ${ident(column)}`).join(', ')},
    ${middle} as middle, ${lower} as lower, ${median === undefined ? '0' : 'count(weight)'} as weights
  from counted group by ${keys.join(', ')}
),
cell as (
  select t.cell, coalesce(e.key, t.key) as key, e.rows as rows, e.cell_day as day, t.day as kept_day,
    coalesce(t.${ident(count)}, 0) > coalesce(e.rows, 0) and ${gone.replaceAll('{day}', 't.day')} as is_kept,
    concat_ws(', ', ${differences.join(',\n      ')}) as difference,
    abs(t.median - e.middle) as off, (abs(e.lower) + abs(2 * e.middle - e.lower)) / 2 as scale,
    t.median is null <> (e.middle is null) as median_missing, t.median, e.middle
  from (select expected.*, ${key(keys)} as key, day as cell_day, ${ident(count)} as rows from expected) e
  full join (select t.*, ${key([...group.map(ident), 'day'])} as key, ${stored} as median from ${targetOf(rollup)} t) t on t.key = e.key
),
judged as (
  select c.*, nullif(concat_ws(', ', nullif(c.difference, ''),
      case when c.median_missing or c.median <> c.middle and c.off > c.scale * ${MEDIAN_ERROR} + 1e-9
        then format('the median is %s, should be %s', coalesce(c.median::text, 'none'), coalesce(c.middle::text, 'none')) end), '') as fault
  from cell c where not c.is_kept
)
select
  (select count(*) from judged) as cells,
  (select coalesce(sum(rows), 0)::bigint from judged) as rows,
  (select count(*) from cell where is_kept) as kept,
  (select count(*) from ${source} s where s.recorded_xid >= $1::xid8) as waiting,
  (select count(*) from judged where fault is not null) as faults,
  (select array_agg(f.said) from (select format('%s: %s', key, fault) as said from judged where fault is not null order by key limit ${NAMED_FAULTS}) f) as first,
  (select max(off / scale) from judged where scale > 0 and scale < 'Infinity') as "medianError"`;
}
