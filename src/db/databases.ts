import pg from 'pg';
import type { Queryable } from './pool.ts';

const DROP_TRIES = 10;
const PERMISSION_DENIED = '42501';
const IN_USE = '55006';

/**
 * Drops a database that may still be in use, as an owner who is no superuser. FORCE ends other sessions, but fails where
 * one is not ours to end, such as an autovacuum worker; without FORCE the server ends those by itself.
 */
export async function dropDatabase(db: Queryable, name: string): Promise<void> {
  const database = pg.escapeIdentifier(name);
  for (let tryNumber = 1; ; tryNumber += 1) {
    try {
      await db.query(`drop database if exists ${database} with (force)`);
      return;
    } catch (error) {
      if (!isSqlstate(error, PERMISSION_DENIED)) throw error;
    }
    await db.query(
      'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = current_user',
      [name],
    );
    try {
      // Waits up to five seconds for whoever is still there.
      await db.query(`drop database if exists ${database}`);
      return;
    } catch (error) {
      if (!isSqlstate(error, IN_USE) || tryNumber >= DROP_TRIES) throw error;
    }
  }
}

function isSqlstate(error: unknown, sqlstate: string): boolean {
  return error instanceof pg.DatabaseError && error.code === sqlstate;
}
