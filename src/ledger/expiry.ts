import type { Pool } from '../db/pool.ts';
import { isLockTimeout } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { ask } from './ask.ts';
import { forEachBook } from './each-book.ts';
import { expireHolds } from './holds.ts';
import { assertWhole } from './input.ts';

/** What became of the expiry in every book: how many holds, and the books in which accounts or the period stayed locked too long. */
interface Expiry {
  readonly expired: number;
  readonly postponed: readonly number[];
}

/** Calls of `expireHolds` for a book: whatever its holds come to, the seals do not wait for them for long. */
const MAX_CALLS = 10;
const MAX_LOCK_TIMEOUT_MS = 60_000;

/**
 * As `expireHolds`, in every book in which one is due, some thousands at most; the rest is for the next time. So are accounts that
 * stay locked for longer than `lockTimeoutMs`, and nobody else's holds wait for them.
 * @throws AppError the failure of a book, after the others have had their turn
 */
export async function expireDueHolds(
  pool: Pool,
  { lockTimeoutMs, stop }: { readonly lockTimeoutMs: number; readonly stop: AbortSignal },
): Promise<Expiry> {
  assertWhole('lockTimeoutMs', lockTimeoutMs, 1, MAX_LOCK_TIMEOUT_MS);
  const books = await ask<{ book: number }>(
    pool,
    `select distinct h.book_id as book from payments.holds h
     where h.state = 'active' and h.expires_at <= clock_timestamp() order by 1`,
    [],
  );
  let expired = 0;
  const postponed: number[] = [];
  const expireSome = (bookId: number) =>
    withTransaction(pool, async (tx) => {
      await tx.query(`set local lock_timeout = ${lockTimeoutMs}`);
      return expireHolds(tx, { bookId });
    });
  await forEachBook(
    books.map(({ book }) => book),
    async (bookId) => {
      try {
        for (let call = 0; call < MAX_CALLS && !stop.aborted; call += 1) {
          const written = await expireSome(bookId);
          if (written === 0) break;
          expired += written;
        }
      } catch (error) {
        if (!(error instanceof AppError) || !isLockTimeout(error.cause)) throw error;
        postponed.push(bookId);
      }
    },
    stop,
  );
  return { expired, postponed };
}
