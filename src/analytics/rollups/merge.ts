import pg from 'pg';
import type { Rollup } from './declaration.ts';
import { innerName, targetOf } from './names.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/**
 * What a row, `s`, comes to: its group, its day, its viewer, and by number what is counted and added. The same of a row of the source and of one that
 * was taken back, so that the one takes away what the other brought.
 */
export function contribution(
  rollup: Rollup,
): readonly { readonly name: string; readonly type: string; readonly of: string }[] {
  const { time, zone, distinct, countIf, measures, median } = rollup;
  const day = `rollups.local_time(s.${ident(time)}, ${literal(zone)})::date`;
  return [
    { name: 'day', type: 'date', of: day },
    ...(distinct === undefined ? [] : [{ name: 'viewer', type: 'text', of: `rollups.viewer((${distinct.of})::text)` }]),
    ...countIf.map((each, at) => ({
      name: `flag${at}`,
      type: 'integer',
      of: `coalesce(s.${ident(each.column)}, false)::integer`,
    })),
    ...measures.map((each, at) => ({
      name: `value${at}`,
      type: 'numeric',
      of: `rollups.finite(s.${ident(each.column)}::numeric)`,
    })),
    ...(median === undefined
      ? []
      : [{ name: 'weight', type: 'double precision', of: `rollups.weight(s.${ident(median.column)})` }]),
  ];
}

/** The group columns by number: names of theirs may be any. */
const groups = ({ group }: Rollup): readonly string[] => group.map((_, at) => `group${at}`);
export const keyed = (rollup: Rollup): readonly string[] => [...groups(rollup), 'day'];
export const keyColumns = (rollup: Rollup): readonly string[] => [...rollup.group.map(ident), 'day'];

/** Of a source row `s`, in the order of the columns of the table of changes. */
export const contributedOf = (rollup: Rollup): string =>
  [
    ...rollup.group.map((each, at) => `s.${ident(each)} as group${at}`),
    ...contribution(rollup).map(({ name, of }) => `${of} as ${name}`),
  ].join(', ');
export const contributedColumns = (rollup: Rollup, prefix = ''): string =>
  [...groups(rollup), ...contribution(rollup).map(({ name }) => name)].map((each) => prefix + each).join(', ');

/**
 * The medians of groups of buckets, as percentile_cont(0.5) has them: between the two in the middle where their number is even. Of all groups in one pass.
 * @param buckets a query of `key`, `bucket` and `weight`
 */
export const mediansOf = (buckets: string): string =>
  `select w.key, sum(w.hits * rollups.bucket_value(w.bucket)) / sum(w.hits) as median
    from (
      select v.key, v.bucket, (v.upto > v.low and v.upto - v.weight <= v.low)::integer + (v.upto > v.high and v.upto - v.weight <= v.high)::integer as hits
      from (
        select u.*, div(u.total - 1, 2) as low, div(u.total, 2) as high from (
          select b.key, b.bucket, b.weight, sum(b.weight) over (partition by b.key order by b.bucket) as upto, sum(b.weight) over (partition by b.key) as total
          from (${buckets}) b) u) v) w
    where w.hits > 0 group by w.key`;

/** What is in changes comes with its sign; see the rule in the migration that made the schema. */
export function readSql(rollup: Rollup): string {
  return mergeSql(
    rollup,
    `select 1 as sign, ${contributedOf(rollup)} from {source} s where s.recorded_xid >= $1 and s.recorded_xid < $2
  union all
  select -1, ${contributedColumns(rollup, 'q.')} from ${innerName(rollup, 'changes')} q
  where q.changed_xid < $2 and (q.recorded_xid is null or q.recorded_xid < $1)
  union all
  select 1, ${contributedColumns(rollup, 'q.')} from ${innerName(rollup, 'changes')} q
  where q.changed_xid >= $2 and q.recorded_xid >= $1 and q.recorded_xid < $2`,
  );
}

/** The rows of before of one month. Changes of such rows that this snapshot sees are of rows that it does not see, or sees as they became. */
export const buildSql = (rollup: Rollup): string =>
  mergeSql(
    rollup,
    `select 1 as sign, ${contributedOf(rollup)} from {source} s where (s.recorded_xid is null or s.recorded_xid < $2) and {rows}`,
    `,
dropped as (delete from ${innerName(rollup, 'changes')} q where (q.recorded_xid is null or q.recorded_xid < $2) and {changes})`,
  );

/** One statement, and so one snapshot: reads changes, adds them to the rollup, to its viewers and to its buckets, and says what it touched. */
function mergeSql(rollup: Rollup, changes: string, also = ''): string {
  const { count, distinct, countIf, measures, median } = rollup;
  const key = (alias: string) =>
    `row(${keyed(rollup)
      .map((each) => `${alias}.${each}`)
      .join(', ')})::${innerName(rollup, 'key')}`;
  const added = [
    { column: ident(count), as: 'rows', sum: 'sum(c.sign)::bigint' },
    ...countIf.map((each, at) => ({
      column: ident(each.name),
      as: `flags${at}`,
      sum: `sum(c.sign * c.flag${at})::bigint`,
    })),
    ...measures.flatMap((each, at) => [
      { column: ident(each.sum), as: `sum${at}`, sum: `coalesce(sum(c.sign * c.value${at}), 0)` },
      {
        column: ident(each.count),
        as: `count${at}`,
        sum: `coalesce(sum(c.sign) filter (where c.value${at} is not null), 0)::bigint`,
      },
    ]),
  ];
  const inserted = [...keyColumns(rollup), ...added.map(({ column }) => column)].join(', ');
  const names = keyed(rollup).join(', ');
  const key0 = keyColumns(rollup)
    .map((each) => `t.${each}`)
    .join(', ');
  return `with changes as materialized (
  ${changes}
)${also},
cells as (
  select ${names}, ${added.map(({ as, sum }) => `${sum} as ${as}`).join(', ')} from changes c group by ${names}
),
merged as (
  insert into ${targetOf(rollup)} as t (${inserted})
  -- By day, as most of them are asked for: so they lie together.
  select ${names}, ${added.map(({ as }) => as).join(', ')} from cells order by day
  on conflict (${keyColumns(rollup).join(', ')}) do update set ${added.map(({ column }) => `${column} = t.${column} + excluded.${column}`).join(', ')}
  returning t.cell, row(${key0})::${innerName(rollup, 'key')} as key, t.${ident(count)} as rows
),
watched as (
  ${distinct === undefined ? 'select null::bigint as cell, null::text as viewer, 0 as views, 0 as before where false' : viewersMerge(rollup, key('c'))}
),
weighed as (
  ${median === undefined ? 'select null::bigint as cell, 0 as bucket, 0::bigint as weight where false' : bucketsMerge(rollup, key('c'))}
),
seen as (
  select cell, (count(*) filter (where views > 0 and before <= 0) - count(*) filter (where views <= 0 and before > 0)) as fresh
  from watched group by cell
)
select
  (select count(*) from changes) as changes,
  (select min(rows) from merged) as fewest,
  (select array_agg(cell) from merged) as cells,
  (select array_agg(cell order by cell) from seen) as seen_cells,
  (select array_agg(fresh order by cell) from seen) as seen,
  (select array_agg(cell) from merged where rows = 0) as emptied_cells,
  (select array_agg(cell order by cell, viewer) from watched where views = 0) as gone_viewer_cells,
  (select array_agg(viewer order by cell, viewer) from watched where views = 0) as gone_viewers,
  (select array_agg(cell order by cell, bucket) from weighed where weight = 0) as gone_bucket_cells,
  (select array_agg(bucket order by cell, bucket) from weighed where weight = 0) as gone_buckets`;
}

/** How often it was there before is told with it: no statement may look at a row that it changes. */
const viewersMerge = (rollup: Rollup, key: string): string =>
  `insert into ${innerName(rollup, 'viewers')} as t (cell, viewer, views, change)
  select m.cell, c.viewer, sum(c.sign), sum(c.sign) from changes c join merged m on m.key = ${key}
  where c.viewer is not null group by m.cell, c.viewer having sum(c.sign) <> 0 order by m.cell, c.viewer
  on conflict (cell, viewer) do update set views = t.views + excluded.views, change = excluded.change
  returning t.cell, t.viewer, t.views, t.views - t.change as before`;

const bucketsMerge = (rollup: Rollup, key: string): string =>
  `insert into ${innerName(rollup, 'buckets')} as t (cell, bucket, weight)
  select m.cell, rollups.bucket(c.weight) as bucket, sum(c.sign) from changes c join merged m on m.key = ${key}
  where c.weight is not null group by m.cell, rollups.bucket(c.weight) having sum(c.sign) <> 0 order by 1, 2
  on conflict (cell, bucket) do update set weight = t.weight + excluded.weight
  returning t.cell, t.bucket, t.weight`;

/** $1: the cells that were merged; $2, $3: of some of them, how many viewers more. */
export function settleSql(rollup: Rollup): string {
  const { distinct, median } = rollup;
  const set = [
    ...(distinct === undefined ? [] : [`${ident(distinct.name)} = t.${ident(distinct.name)} + coalesce(s.fresh, 0)`]),
    ...(median === undefined ? [] : [`${ident(median.name)} = m.median`]),
  ];
  if (set.length === 0) return 'select $1::bigint[], $2::bigint[], $3::bigint[]';
  return `update ${targetOf(rollup)} t set ${set.join(', ')}
from unnest($1::bigint[]) c (cell) left join unnest($2::bigint[], $3::bigint[]) s (cell, fresh) on s.cell = c.cell${
    median === undefined
      ? ''
      : ` left join (${mediansOf(`select b.cell as key, b.bucket, b.weight from unnest($1::bigint[]) c (cell) join ${innerName(rollup, 'buckets')} b on b.cell = c.cell and b.weight > 0`)}) m on m.key = c.cell`
  }
where t.cell = c.cell`;
}

/** What has come to nothing is gone: $1 cells, $2 and $3 viewers, $4 and $5 buckets. */
export function clearSql(rollup: Rollup): string {
  const { count, distinct, median } = rollup;
  const steps = [
    ...(distinct === undefined
      ? []
      : [
          `viewers as (delete from ${innerName(rollup, 'viewers')} t using unnest($2::bigint[], $3::text[]) g (cell, viewer) where t.cell = g.cell and t.viewer = g.viewer)`,
        ]),
    ...(median === undefined
      ? []
      : [
          `buckets as (delete from ${innerName(rollup, 'buckets')} t using unnest($4::bigint[], $5::integer[]) g (cell, bucket) where t.cell = g.cell and t.bucket = g.bucket)`,
        ]),
  ];
  const last = `delete from ${targetOf(rollup)} t where t.cell = any ($1::bigint[]) and t.${ident(count)} = 0`;
  return steps.length === 0 ? last : `with ${steps.join(', ')} ${last}`;
}

/** $1: below which everything is counted. Whoever changed a row below it has been seen by the statement before. */
export const forgetSql = (rollup: Rollup): string =>
  `with gone as (delete from ${innerName(rollup, 'changes')} q where q.changed_xid < $1 returning 1) select count(*) from gone`;

/** Of the days that are built anew. */
export function wipeSql(rollup: Rollup): string {
  const inner = [
    ...(rollup.distinct === undefined ? [] : ['viewers']),
    ...(rollup.median === undefined ? [] : ['buckets']),
  ];
  const steps = inner.map(
    (what) => `${what} as (delete from ${innerName(rollup, what)} v using cells c where v.cell = c.cell)`,
  );
  return `with ${[`cells as (delete from ${targetOf(rollup)} t where {days} returning t.cell)`, ...steps].join(',\n')} select count(*) from cells`;
}
