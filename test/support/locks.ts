import type { Pool } from '../../src/db/pool.ts';
import { eventually } from './eventually.ts';

/** Awaits that a statement of another connection, one that has the text in it, waits for a lock. */
export async function waitsForLock(pool: Pool, text: string): Promise<void> {
  await eventually('it waits for a lock', async () => {
    const { rowCount } = await pool.query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1 || '%' and pid <> pg_backend_pid()`,
      [text],
    );
    return (rowCount ?? 0) > 0;
  });
}
