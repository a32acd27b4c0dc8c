import type { Tx } from '../../../db/pool.ts';

interface Switch {
  readonly off_sql: string;
  readonly on_sql: string;
}

// Only those that are on as they were made: whoever switched one off, or on for replicas, finds it so.
const TRIGGERS_SQL = `
  select format('alter table %s disable trigger %I', t.tgrelid::regclass, t.tgname) as off_sql,
    format('alter table %s enable trigger %I', t.tgrelid::regclass, t.tgname) as on_sql
  from pg_trigger t join unnest($1::text[]) as tables (name) on t.tgrelid = to_regclass('public.' || quote_ident(tables.name))
  where not t.tgisinternal and t.tgenabled = 'O'
  order by t.tgrelid::regclass::text, t.tgname`;

/**
 * Runs `work` while the tables' own triggers are off, and switches them on again in the same transaction: nobody else
 * ever meets a table without them. Foreign keys stay. Locks the tables against everybody who writes.
 */
export async function withoutTriggers(tx: Tx, tables: readonly string[], work: () => Promise<void>): Promise<void> {
  const { rows: switches } = await tx.query<Switch>(TRIGGERS_SQL, [tables]);
  for (const { off_sql } of switches) await tx.query(off_sql);
  await work();
  for (const { on_sql } of switches) await tx.query(on_sql);
}
