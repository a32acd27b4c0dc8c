import pg from 'pg';
import { AppError } from '../errors.ts';
import type { Pool } from './pool.ts';
import { isLockTimeout, toAppError } from './sqlstate.ts';

/** Keeps others away who would do the same. */
export interface SessionLock {
  /** @throws AppError DB_UNREACHABLE */
  assertHeld(): void;
  release(): Promise<void>;
}

export interface SessionLockOptions {
  /** What is locked, and the number of which of them. */
  readonly name: string;
  readonly number: number;
  /** How long another may take to let go: a server notices a killed one some milliseconds later. */
  readonly patienceMs: number;
  /** What is thrown where somebody else holds it. */
  taken(cause: unknown): AppError;
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
  let lost: Error | undefined;
  client.on('error', (error) => {
    lost ??= error;
  });
  const release = () => client.end().catch(() => undefined);
  try {
    await client.connect();
    await client.query('select pg_advisory_lock(hashtext($1), $2)', [options.name, options.number]);
  } catch (error) {
    await release();
    throw isLockTimeout(error) ? options.taken(error) : toAppError(error);
  }
  const assertHeld = () => {
    if (lost === undefined) return;
    throw new AppError(
      'DB_UNREACHABLE',
      `The connection that kept other runs away was lost (${lost.message}). Run it again: it goes on where it stopped.`,
      { cause: lost },
    );
  };
  return { assertHeld, release };
}
