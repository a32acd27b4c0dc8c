import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/**
 * Does something in each book, one after the other. One that fails keeps nothing from the others, or whoever broke one book would
 * stop the work in all of them.
 * @param stop aborted, no further book begins
 * @throws AppError the failures, each with its book, at the end, by the code of the first; one of the connection at once
 */
export async function forEachBook(
  books: readonly number[],
  work: (bookId: number) => Promise<void>,
  stop?: AbortSignal,
): Promise<void> {
  const failures: { readonly bookId: number; readonly failure: AppError }[] = [];
  for (const bookId of books) {
    if (stop?.aborted) break;
    try {
      await work(bookId);
    } catch (error) {
      const failure = toAppError(error);
      if (failure.code === 'DB_UNREACHABLE') throw error;
      failures.push({ bookId, failure });
    }
  }
  const [first] = failures;
  if (first === undefined) return;
  const message = failures.map(({ bookId, failure }) => `Book ${bookId}: ${failure.message}`).join(' ');
  throw new AppError(first.failure.code, message, { details: first.failure.details, cause: first.failure });
}
