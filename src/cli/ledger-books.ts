import type { Command } from 'commander';
import { type Book, listBooks, openBook } from '../ledger/books.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, toJson } from './output.ts';

export function registerLedgerBooks(ledger: Command, context: CommandContext): void {
  const book = ledger.command('book').description('the books: each is a ledger by itself, and sums to zero by itself');

  book
    .command('open')
    .description('open a book, or find the one of that name; prints its number')
    .requiredOption('--name <name>', 'its name, 1 to 100 characters')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix ledger book open --name "Liventix EU"')
    .action(({ name, json }: { name: string; json?: boolean }) =>
      withDatabase(context, async (pool) => {
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
        context.out.write(json ? `${toJson(books)}\n` : books.map(bookLine).join(''));
      }),
    );
}

function bookLine({ bookId, name, openedAt, accounts }: Book): string {
  return `${bookId}  ${name}  opened ${openedAt.toISOString()}  ${formatCount(accounts)} accounts\n`;
}
