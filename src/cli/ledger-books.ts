import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Tx } from '../db/pool.ts';
import { type Book, listBooks, openBook } from '../ledger/books.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { tryOut } from './dry-run.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { tableText } from './table.ts';

export function registerLedgerBooks(ledger: Command, context: CommandContext): void {
  const book = ledger
    .command('book')
    .description('the books: each is a ledger by itself, and sums to zero by itself')
    .addHelpText('after', '\nExample:\n  liventix ledger book list');

  book
    .command('open')
    .description('open a book, or find the one of that name; prints its number')
    .requiredOption('--name <name>', 'its name, 1 to 100 characters')
    .option('--dry-run', 'say whether there is one of that name, and open none')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix ledger book open --name "Liventix EU"')
    .action(({ name, dryRun, json }: { name: string; dryRun?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        if (dryRun) return sayWouldOpen(await tryOut(pool, (tx) => wouldOpen(tx, name)), { json }, context);
        const bookId = await openBook(pool, name);
        context.out.write(json ? `${toJson({ bookId })}\n` : `${bookId}\n`);
      }),
    );

  book
    .command('list')
    .description('list the books, with the number that --book takes')
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  liventix ledger book list --json')
    .action(({ json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const books = await listBooks(pool);
        context.out.write(json ? `${toJson(books)}\n` : booksText(books, context));
      }),
    );
}

/** The number of a book that is there, or undefined for one that would be opened. */
async function wouldOpen(tx: Tx, name: string): Promise<number | undefined> {
  const before = await listBooks(tx);
  const bookId = await openBook(tx, name);
  return before.find((each) => each.bookId === bookId)?.bookId;
}

function sayWouldOpen(
  bookId: number | undefined,
  { json }: { json?: boolean | undefined },
  { out, err }: CommandContext,
) {
  const words = bookId === undefined ? 'Would open a book of that name.' : `There is one of that name: ${bookId}.`;
  out.write(json ? `${toJson({ wouldOpen: bookId === undefined, bookId })}\n` : `${words}\n`);
  err.write('Nothing was changed.\n');
}

function booksText(books: readonly Book[], context: CommandContext): string {
  const rows = books.map(({ bookId, name, openedAt, accounts }) => [
    bookId.toString(),
    printable(name),
    `opened ${openedAt.toISOString()}`,
    `${formatCount(accounts)} accounts`,
  ]);
  return tableText(context, rows, [{ align: 'right' }, { shortens: 16 }, {}, { align: 'right' }]);
}
