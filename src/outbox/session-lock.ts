import type { Queryable } from '../db/pool.ts';

/** An advisory lock that is held by a session, and ends with it. */
export interface SessionLock {
  /** What is locked, and the number of which of them. */
  readonly name: string;
  readonly number: number;
}

/**
 * SQL: who holds the locks of a name, which is a parameter such as `$1`, and their numbers, as oids: of the locks that others take, which
 * the same view shows, not every number is one of ours. Of another role's session nothing else is seen without pg_read_all_stats, and is
 * null.
 */
export const holdersOf = (name: string): string => `
    select pg_locks.pid, objid as number, state, state_change, client_addr, backend_start
    from pg_locks join pg_stat_activity on pg_stat_activity.pid = pg_locks.pid
    where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
      and classid = (hashtext(${name})::bigint & 4294967295)::oid`;

/** Takes the lock until the session ends, when nobody has it. */
export async function tryLock(db: Queryable, { name, number }: SessionLock): Promise<boolean> {
  const { rows } = await db.query<{ taken: boolean }>({
    name: 'try-lock',
    text: 'select pg_try_advisory_lock(hashtext($1), $2) as taken',
    values: [name, number],
  });
  return rows[0]?.taken === true;
}

// In a transaction too: one whose client is gone would keep its locks for as long as nobody tells the server.
const IDLE_HOLDER = `
  select pid, state_change::text as "lastAsked" from (${holdersOf('$1')}) as holders
  where number = $2::integer::oid and state in ('idle', 'idle in transaction', 'idle in transaction (aborted)')`;

/**
 * Ends the session that holds a lock once it was not seen to ask the server anything for `staleMs`: its client is gone, and the server
 * was not told, as when a network is cut. By a clock of ours, since one that jumps would end whoever leads.
 */
export function createEviction(lock: SessionLock & { readonly staleMs: number }): (db: Queryable) => Promise<void> {
  let seen = { what: '', at: 0 };
  return async (db) => {
    const { rows } = await db.query<{ pid: number; lastAsked: string }>(IDLE_HOLDER, [lock.name, lock.number]);
    const [holder] = rows;
    const what = `${holder?.pid} ${holder?.lastAsked}`;
    if (what !== seen.what) seen = { what, at: performance.now() };
    if (holder === undefined || performance.now() - seen.at < lock.staleMs) return;
    await db.query(
      'select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and state_change = $2::text::timestamptz',
      [holder.pid, holder.lastAsked],
    );
  };
}
