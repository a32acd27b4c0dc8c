import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { assertBookId, assertText } from './input.ts';

export interface Book {
  readonly bookId: number;
  readonly name: string;
  readonly openedAt: Date;
  /** Slots are not counted: they are of their account. */
  readonly accounts: bigint;
}

/**
 * Opens a book, or finds the one of that name.
 * @param name 1 to 100 characters; spaces around it do not count
 * @returns its id
 * @throws AppError LEDGER_INVALID, DB_*
 */
export async function openBook(db: Queryable, name: string): Promise<number> {
  assertText('The name of a book', name);
  try {
    const { rows } = await db.query<{ bookId: number }>('select payments.open_book($1) as "bookId"', [name]);
    const [opened] = rows;
    if (opened === undefined) throw new AppError('INTERNAL', 'The database answered nothing to the opening of a book.');
    return opened.bookId;
  } catch (error) {
    throw toAppError(error);
  }
}

/** Every book, in the order of their ids. */
export async function listBooks(db: Queryable): Promise<Book[]> {
  const { rows } = await db.query<Book>(
    `select b.book_id as "bookId", b.name, b.created_at as "openedAt",
            (select count(*) from payments.accounts a where a.book_id = b.book_id)
              - (select count(*) from payments.account_slots s where s.book_id = b.book_id) as accounts
     from payments.books b
     order by b.book_id`,
  );
  return rows;
}

/** Every book that may be read, by its id, without counting anything. */
export async function bookNames(db: Queryable): Promise<readonly Pick<Book, 'bookId' | 'name'>[]> {
  const { rows } = await db.query<Pick<Book, 'bookId' | 'name'>>(
    'select book_id as "bookId", name from payments.books order by book_id',
  );
  return rows;
}

/** @throws AppError LEDGER_BOOK_UNKNOWN */
export async function assertBook(db: Queryable, bookId: number): Promise<void> {
  assertBookId(bookId);
  const { rowCount } = await db.query('select from payments.books where book_id = $1', [bookId]);
  if (rowCount === 0) throw bookUnknown(bookId);
}

export function bookUnknown(bookId: number): AppError {
  return new AppError('LEDGER_BOOK_UNKNOWN', `Book ${bookId} does not exist. See: liventix ledger book list`);
}
