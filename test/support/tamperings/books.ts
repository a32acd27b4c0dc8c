import type { Pool } from '../../../src/db/pool.ts';
import { openBook } from '../../../src/ledger/books.ts';
import { fillLogBooks } from './log.ts';
import type { Tampering } from './tampering.ts';

/** The one that is tampered with: nothing is in it. */
export const OPENED_BOOK = 2;

/** The main book, which the migrations made, with something in it, and one that was opened. */
export async function fillOpenedBooks(pool: Pool): Promise<void> {
  await fillLogBooks(pool);
  await openBook(pool, 'second "book"');
}

const BOOKS = 'the books are what the log opened';

export const BOOK_TAMPERINGS: readonly Tampering<unknown>[] = [
  [
    'the name of a book',
    () => `update payments.books set name = 'other' where book_id = ${OPENED_BOOK}`,
    () => `book ${OPENED_BOOK} is called "other", its event in the log opened it as "second \\"book\\""`,
    BOOKS,
  ],
  [
    'the names of two books, exchanged',
    () =>
      `update payments.books set name = 'x' where book_id = 1; update payments.books set name = 'main' where book_id = ${OPENED_BOOK}`,
    () => `book ${OPENED_BOOK} is called "main", its event in the log opened it as`,
    BOOKS,
  ],
  [
    'a book, left out',
    () =>
      `delete from payments.book_grants where book_id = ${OPENED_BOOK}; delete from payments.books where book_id = ${OPENED_BOOK}`,
    () => `book ${OPENED_BOOK} is in the log and not among the books`,
    BOOKS,
  ],
];
