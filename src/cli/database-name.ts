import type { Queryable } from '../db/pool.ts';

/** What a command that changes much says it is about to change. */
export async function databaseName(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ name: string }>('select current_database() as name');
  return `the database ${rows[0]?.name}`;
}
