import pg from 'pg';
import { AppError } from '../errors.ts';
import type { Pool, Queryable } from './pool.ts';
import { isLockTimeout, toAppError } from './sqlstate.ts';

/** Keeps others away who would do the same. */
export interface SessionLock {
  /** @throws AppError DB_UNREACHABLE */
  assertHeld(): void;
  /** Aborts when it is lost: another may have it from then on. */
  readonly lost: AbortSignal;
  release(): Promise<void>;
}

/** What is locked, and the number of which of them. */
export interface SessionLockName {
  readonly name: string;
  readonly number: number;
}

export interface SessionLockOptions extends SessionLockName {
  /** How long another may take to let go: a server notices a killed one some milliseconds later. */
  readonly patienceMs: number;
  /** What is thrown where somebody else holds it: `holder` in words, `process 4711 (liventix, since 2026-01-01 12:00:00 UTC)`. */
  taken(cause: unknown, holder: string): AppError;
}

/**
 * Takes an advisory lock for as long as a session lives, on a connection of its own, so that whoever is killed lets go of it by
 * dying. Not one of the pool's, which may have no second one.
 * @throws AppError what `taken` makes, DB_*
 */
export async function takeSessionLock(pool: Pool, options: SessionLockOptions): Promise<SessionLock> {
  const client = new pg.Client({
    ...pool.options,
    options: `${pool.options.options ?? ''} -c lock_timeout=${options.patienceMs}`,
  });
  const loss = new AbortController();
  const { signal: lost } = loss;
  client.on('error', (error) => loss.abort(error));
  const release = () => client.end().catch(() => undefined);
  try {
    await client.connect();
    await client.query('select pg_advisory_lock(hashtext($1), $2)', [options.name, options.number]);
  } catch (error) {
    const refusal = isLockTimeout(error) ? options.taken(error, await holderOf(client, options)) : toAppError(error);
    await release();
    throw refusal;
  }
  const assertHeld = () => {
    if (!lost.aborted) return;
    throw new AppError(
      'DB_UNREACHABLE',
      `The connection that kept other runs away was lost (${lost.reason.message}). Run it again: it goes on where it stopped.`,
      { cause: lost.reason },
    );
  };
  return { assertHeld, lost, release };
}

/**
 * Does something while nobody else does the same. It is told to stop when the lock is lost, too, and fails with that whatever came of it.
 * @throws AppError what `taken` makes, DB_UNREACHABLE, what `work` throws
 */
export async function underSessionLock<T>(
  pool: Pool,
  { stop, ...options }: SessionLockOptions & { readonly stop: AbortSignal | undefined },
  work: (stop: AbortSignal) => Promise<T>,
): Promise<T> {
  const lock = await takeSessionLock(pool, options);
  try {
    return await work(AbortSignal.any([lock.lost, ...(stop === undefined ? [] : [stop])])).finally(lock.assertHeld);
  } finally {
    await lock.release();
  }
}

/** Whether some session holds it. @throws AppError DB_* */
export const isSessionLockHeld = async (db: Queryable, name: SessionLockName): Promise<boolean> =>
  (await findHolder(db, name)) !== undefined;

const holderOf = async (client: pg.Client, name: SessionLockName): Promise<string> =>
  (await findHolder(client, name)) ?? 'one that has just ended';

async function findHolder(
  db: Pick<Queryable, 'query'>,
  { name, number }: SessionLockName,
): Promise<string | undefined> {
  const { rows } = await db.query<{ holder: string }>(
    `select format('process %s (%s)', l.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''), host(a.client_addr),
       'since ' || to_char(a.backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC')) as holder
     from pg_locks l left join pg_stat_activity a using (pid)
     where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.objid = $2
       and l.classid::int8 = hashtext($1)::int8 & 4294967295 and l.database = (select oid from pg_database where datname = current_database())`,
    [name, number],
  );
  return rows[0]?.holder;
}
