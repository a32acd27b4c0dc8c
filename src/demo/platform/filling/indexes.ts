import type { Tx } from '../../../db/pool.ts';

interface Part {
  readonly drop_sql: string;
  readonly create_sql: string;
}

// Keys stay, for others refer to them; so do the parts of partitioned tables, whose partitions have them under names of their own.
const PARTS_SQL = `
  with tables as (
    select c.oid from unnest($1::text[]) as tables (name) join pg_class c on c.oid = to_regclass('public.' || quote_ident(name))
    where c.relkind = 'r'
  ), parts as (
    select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) as drop_sql,
      format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) as create_sql,
      1 as rank, c.conrelid::regclass::text as table_name, c.conname::text as name
    from pg_constraint c join tables on tables.oid = c.conrelid where c.contype = 'f'
    union all
    select format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid), 0, i.indrelid::regclass::text,
      i.indexrelid::regclass::text
    from pg_index i join tables on tables.oid = i.indrelid
    where not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('u', 'p', 'x'))
  )
  select drop_sql, create_sql from parts order by rank, table_name, name`;

/**
 * Runs `work` while tables have neither foreign keys nor those indexes that no key needs, and makes them again, as they
 * were: once for all rows takes a fraction of the time of row by row. A row that breaks one fails there, and the
 * transaction with it. Locks the tables against everybody until the transaction ends.
 */
export async function withoutIndexes(
  tx: Tx,
  tables: readonly string[],
  work: () => Promise<void>,
  afterEach: (made: { done: number; total: number }) => void,
): Promise<void> {
  const { rows: parts } = await tx.query<Part>(PARTS_SQL, [tables]);
  for (const { drop_sql } of parts) await tx.query(drop_sql);
  await work();
  for (const [index, { create_sql }] of parts.entries()) {
    await tx.query(create_sql);
    afterEach({ done: index + 1, total: parts.length });
  }
}
