import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { SOURCES } from './sources.ts';

/** @throws AppError BACKFILL_UNFINISHED before the backfill of a book has come to its end */
export async function assertFinished(db: Queryable, bookId: number): Promise<void> {
  const { rowCount } = await db.query('select from replay.progress where book_id = $1 and finished_at is not null', [
    bookId,
  ]);
  if (rowCount === SOURCES.length) return;
  throw new AppError(
    'BACKFILL_UNFINISHED',
    'The backfill has not finished, so that the log lacks rows of the old tables. Run it to its end first: liventix backfill run',
  );
}
