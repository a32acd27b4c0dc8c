import type { Pool } from '../db/pool.ts';
import { type SessionLock, takeSessionLock } from '../db/session-lock.ts';
import { AppError } from '../errors.ts';

/** As long as a server may take to notice that a run was killed whose work somebody goes on with at once. */
export const BACKFILL_PATIENCE_MS = 2_000;

export type BackfillLock = SessionLock;

/**
 * Keeps other backfills of a book away.
 * @throws AppError BACKFILL_RUNNING, DB_*
 */
export function takeBackfillLock(pool: Pool, bookId: number, patienceMs: number): Promise<BackfillLock> {
  return takeSessionLock(pool, {
    name: 'liventix.backfill',
    number: bookId,
    patienceMs,
    taken: (cause) =>
      new AppError(
        'BACKFILL_RUNNING',
        `Another backfill of book ${bookId} is running. Wait for it, stop it, or let it go on where it is paused: liventix backfill resume`,
        {
          cause,
        },
      ),
  });
}
