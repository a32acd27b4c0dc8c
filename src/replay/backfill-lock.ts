import pg from 'pg';
import type { Pool } from '../db/pool.ts';
import { isLockTimeout, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/** As long as a server may take to notice that a run was killed whose work somebody goes on with at once. */
export const BACKFILL_PATIENCE_MS = 2_000;

/** Keeps other backfills of a book away. */
export interface BackfillLock {
  /** @throws AppError DB_UNREACHABLE */
  assertHeld(): void;
  release(): Promise<void>;
}

/**
 * Session-wide and on a connection of its own, so that a killed run lets go of it by dying. Not one of the pool's, which
 * may have no second one.
 * @throws AppError BACKFILL_RUNNING, DB_*
 */
export async function takeBackfillLock(pool: Pool, bookId: number, patienceMs: number): Promise<BackfillLock> {
  const client = new pg.Client({
    ...pool.options,
    options: `${pool.options.options ?? ''} -c lock_timeout=${patienceMs}`,
  });
  let lost: Error | undefined;
  client.on('error', (error) => {
    lost ??= error;
  });
  const release = () => client.end().catch(() => undefined);
  try {
    await client.connect();
    await client.query(`select pg_advisory_lock(hashtext('liventix.backfill'), $1)`, [bookId]);
  } catch (error) {
    await release();
    if (!isLockTimeout(error)) throw toAppError(error);
    throw new AppError(
      'BACKFILL_RUNNING',
      `Another backfill of book ${bookId} is running. Wait for it, or stop it first.`,
      { cause: error },
    );
  }
  const assertHeld = () => {
    if (lost === undefined) return;
    throw new AppError(
      'DB_UNREACHABLE',
      `The connection that kept other backfills away was lost (${lost.message}). Run it again: it goes on where it stopped.`,
      { cause: lost },
    );
  };
  return { assertHeld, release };
}
