import type { Pool, Queryable } from '../db/pool.ts';
import { assertBook } from '../ledger/books.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { assertNotRetired } from './capture.ts';

/**
 * Lets the backfill of a book stand still after the chunk under way, from any terminal; a run that is begun meanwhile waits too.
 * @returns whether it was not paused before
 * @throws AppError LEDGER_BOOK_UNKNOWN, BACKFILL_RETIRED
 */
export async function pauseBackfill(pool: Pool, bookId = MAIN_BOOK): Promise<boolean> {
  await assertBook(pool, bookId);
  await assertNotRetired(pool, bookId);
  const { rowCount } = await pool.query('insert into replay.pause (book_id) values ($1) on conflict do nothing', [
    bookId,
  ]);
  return rowCount === 1;
}

/** @returns whether it was paused */
export async function resumeBackfill(pool: Pool, bookId = MAIN_BOOK): Promise<boolean> {
  const { rowCount } = await pool.query('delete from replay.pause where book_id = $1', [bookId]);
  return rowCount === 1;
}

export async function pauseStatus(db: Queryable, bookId = MAIN_BOOK): Promise<{ pausedAt: Date | null }> {
  const { rows } = await db.query<{ pausedAt: Date }>(
    'select paused_at as "pausedAt" from replay.pause where book_id = $1',
    [bookId],
  );
  return rows[0] ?? { pausedAt: null };
}
