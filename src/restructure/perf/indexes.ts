import type { Queryable } from '../../db/pool.ts';

/** An index of a table, those of its partitions with it, and how often it was used. */
export interface IndexUse {
  readonly table: string;
  readonly index: string;
  /** While everything was measured, by whomever. */
  readonly scans: number;
  /** Since the server began to count. */
  readonly scansEver: number;
  readonly bytes: number;
  /** Keeps rows unique, which it does without being read. */
  readonly isUnique: boolean;
}

interface Counted extends Omit<IndexUse, 'scans'> {
  readonly id: number;
}

/** How often each index was used so far. @throws AppError DB_* */
export async function countIndexScans(db: Queryable): Promise<ReadonlyMap<number, Counted>> {
  const { rows } = await db.query<Counted>(
    `select i.oid::int8::float8 as id, n.nspname || '.' || t.relname as table, i.relname as index, x.indisunique as "isUnique",
       sum(s.idx_scan)::float8 as "scansEver", sum(pg_relation_size(s.indexrelid))::float8 as bytes
     from pg_stat_user_indexes s
       join pg_class i on i.oid = coalesce(pg_partition_root(s.indexrelid)::oid, s.indexrelid)
       join pg_index x on x.indexrelid = i.oid
       join pg_class t on t.oid = x.indrelid join pg_namespace n on n.oid = t.relnamespace
     group by 1, 2, 3, 4 order by 2, 3`,
  );
  return new Map(rows.map((each) => [each.id, each]));
}

/** What was used in between, of the tables that were read. Pure. */
export function indexUses(
  before: ReadonlyMap<number, Counted>,
  after: ReadonlyMap<number, Counted>,
  tables: ReadonlySet<string>,
): readonly IndexUse[] {
  return [...after.values()]
    .filter(({ table }) => tables.has(table))
    .map(({ id, ...counted }) => ({ ...counted, scans: counted.scansEver - (before.get(id)?.scansEver ?? 0) }));
}
