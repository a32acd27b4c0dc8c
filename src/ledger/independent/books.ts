import type { Tx } from '../../db/pool.ts';
import type { LogReader } from './log-reader.ts';
import { isoOf, microsecondsOf } from './microseconds.ts';

/** Compares the rows of the books with what the log says of them. A book may have been there before any event opened one. */
export async function compareBooks(tx: Tx, reader: LogReader, bookId: number | null): Promise<void> {
  const { rows } = await tx.query<{ id: number; name: string; until: string | null }>(
    `select book_id as id, name, closed_until::text as until from payments.books
     where $1::integer is null or book_id = $1 order by book_id`,
    [bookId],
  );
  for (const { id, name, until } of rows) {
    const { book, findings, periods, sealed } = reader.bookOf(id);
    // Seals and tiles of a book that has no event.
    await sealed.finish();
    findings.examined('books');
    if (book.name !== undefined && book.name !== name) {
      findings.fault(
        'books',
        `book ${id} is called ${JSON.stringify(name)}, its event in the log opened it as ${JSON.stringify(book.name)}`,
      );
    }
    const closedUntil = until === null ? undefined : microsecondsOf(until);
    if (closedUntil !== periods.closedUntil)
      findings.fault(
        'periods',
        `book ${id} is closed until ${shown(closedUntil)}, its periods until ${shown(periods.closedUntil)}`,
      );
  }
  const known = new Set(rows.map(({ id }) => id));
  for (const { book, findings, sealed } of reader.books.values()) {
    if (known.has(book.bookId)) continue;
    await sealed.finish();
    findings.fault('books', `book ${book.bookId} is in the log and not among the books`);
  }
}

const shown = (instant: bigint | undefined) => (instant === undefined ? 'never' : isoOf(instant));

/** Whether the rows of entries of each book sum to zero per currency. */
export function judgeBookSums(reader: LogReader): void {
  for (const { book, findings } of reader.books.values()) {
    for (const [currency, cents] of book.sums) {
      if (cents !== 0n) findings.fault('bookSums', `book ${book.bookId} sums to ${cents} ${currency}`);
    }
  }
}
