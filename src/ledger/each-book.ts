import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/**
 * Does something in each book, one after the other. One that fails keeps nothing from the others, or whoever broke one book would
 * stop the work in all of them.
 * @param stop aborted, no further book begins
 * @throws AppError the first failure, which names its book, at the end; one of the connection at once
 */
export async function forEachBook(
  books: readonly number[],
  work: (bookId: number) => Promise<void>,
  stop?: AbortSignal,
): Promise<void> {
  let failure: AppError | undefined;
  for (const bookId of books) {
    if (stop?.aborted) break;
    try {
      await work(bookId);
    } catch (error) {
      const { code, message } = toAppError(error);
      if (code === 'DB_UNREACHABLE') throw error;
      failure ??= new AppError(code, `Book ${bookId}: ${message}`, { cause: error });
    }
  }
  if (failure !== undefined) throw failure;
}
