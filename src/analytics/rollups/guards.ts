import type { Queryable } from '../../db/pool.ts';
import { TRIGGER } from './names.ts';

/** What counts for a rollup, and is not there. */
export interface MissingGuard {
  readonly rollup: string;
  /** Such as `the trigger zz_liventix_rollups_recorded of site.visits`. */
  readonly what: string;
  /** Whose rows are not all counted without it: without an index everything is, slowly. */
  readonly loses: 'nothing' | 'of the rollup' | 'of every rollup of the source';
}

const MISSING = `
  with source as (
    select r.name as rollup, c.oid
    from rollups.rollups r cross join lateral (
      select c.oid from unnest(r.sources) with ordinality s (name, number)
      join pg_class c on c.oid = to_regclass(s.name) and c.relkind in ('r', 'p')
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'recorded_xid' and not a.attisdropped
      order by s.number limit 1) c
    where $1::text[] is null or r.name = any ($1)
  ), relation as (
    select s.rollup, s.oid, true as is_source from source s
    union all
    select s.rollup, t.relid, false from source s cross join lateral pg_partition_tree(s.oid) t where t.relid <> s.oid
  ), trigger as (
    select r.rollup, r.oid, t.name, t.loses
    from relation r cross join lateral (values
      ($2, true, 'of every rollup of the source'),
      ($3 || r.rollup, true, 'of the rollup'),
      ($3 || r.rollup || '_t', r.is_source, 'of the rollup')) t (name, is_wanted, loses)
    where t.is_wanted
  )
  select m.rollup, m.what || ' of ' || m.oid::regclass as what, m.loses
  from (
    select t.rollup, 'the trigger ' || t.name as what, t.oid, t.loses from trigger t
    where not exists (select from pg_trigger g where g.tgrelid = t.oid and g.tgname = t.name::name and g.tgenabled = 'A')
    union all
    select r.rollup, 'the default of recorded_xid', r.oid, 'of every rollup of the source' from relation r
    where not exists (
      select from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where d.adrelid = r.oid and a.attname = 'recorded_xid' and pg_get_expr(d.adbin, d.adrelid) = 'pg_current_xact_id()')
    union all
    select s.rollup, 'the index on recorded_xid', s.oid, 'nothing' from source s
    where not exists (
      select from pg_index x join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
      where x.indrelid = s.oid and x.indisvalid and a.attname = 'recorded_xid')
  ) m
  order by 1, 2`;

/** What counts for rollups and was dropped or disabled, of their sources and every partition. Reads the catalog alone. */
export async function findMissingGuards(db: Queryable, names?: readonly string[]): Promise<readonly MissingGuard[]> {
  const { rows } = await db.query<MissingGuard>(MISSING, [names ?? null, TRIGGER.recorded, TRIGGER.prefix]);
  return rows;
}

/** @param names those that are not kept yet are passed over @throws AppError ROLLUP_TABLE_MISSING where somebody dropped a table of one */
export async function assertTablesThere(db: Queryable, names: readonly string[] | undefined): Promise<void> {
  await db.query(
    'select rollups.get(r.name) from rollups.rollups r where $1::text[] is null or r.name = any ($1) order by r.name',
    [names ?? null],
  );
}
