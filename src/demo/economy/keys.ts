import type { Tx } from '../../db/pool.ts';

/** The tables that grow with the number of transactions; nothing else refers to them. */
const BULK_TABLES = ['invoices', 'wallet_transactions', 'org_wallet_transactions', 'credit_lots', 'ad_spend_ledger'];

interface Key {
  readonly drop_sql: string;
  readonly create_sql: string;
}

// Dropped in this order and made again in the opposite one: a foreign key stands on a primary key.
const KEYS_SQL = `
  with tables as (
    select to_regclass('public.' || name) as oid from unnest($1::text[]) as name
  ), constraints as (
    select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) as drop_sql,
      format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) as create_sql,
      array_position(array['f', 'u', 'p']::"char"[], c.contype) as rank, c.conname as name
    from pg_constraint c
    where c.contype in ('u', 'p') and c.conrelid in (select oid from tables)
      or c.contype = 'f' and (c.conrelid in (select oid from tables) or c.confrelid in (select oid from tables))
  ), indexes as (
    select format('drop index %s', i.indexrelid::regclass) as drop_sql, pg_get_indexdef(i.indexrelid) as create_sql,
      0 as rank, i.indexrelid::regclass::text as name
    from pg_index i join tables on tables.oid = i.indrelid
    where not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('u', 'p'))
  )
  select drop_sql, create_sql from (select * from constraints union all select * from indexes) keys order by rank, name`;

/**
 * Runs `work` while the tables that grow have neither indexes nor keys, and makes those again, as they were: building
 * an index once takes a fraction of the time of growing it row by row. A row that breaks a key fails there, and the
 * transaction with it. Locks those tables against everybody until the transaction ends.
 */
export async function withoutKeys(
  tx: Tx,
  work: () => Promise<void>,
  onKeyMade: (made: { done: number; total: number }) => void,
): Promise<void> {
  const { rows: keys } = await tx.query<Key>(KEYS_SQL, [BULK_TABLES]);
  for (const key of keys) await tx.query(key.drop_sql);
  await work();
  for (const [index, key] of keys.toReversed().entries()) {
    await tx.query(key.create_sql);
    onKeyMade({ done: index + 1, total: keys.length });
  }
}
