import type { Command } from 'commander';
import type { CommandContext } from './context.ts';
import { registerAccounts } from './ledger-accounts.ts';
import { registerLedgerBooks } from './ledger-books.ts';
import { registerExport } from './ledger-export.ts';
import { registerPost } from './ledger-post.ts';

export function registerLedger(program: Command, context: CommandContext): void {
  const ledger = program
    .command('ledger')
    .description('books, accounts, postings, and the journal for other tools')
    .addHelpText(
      'after',
      '\nExamples:\n  liventix ledger account list\n  liventix ledger post --file march.jsonl --dry-run',
    );
  registerLedgerBooks(ledger, context);
  registerAccounts(ledger, context);
  registerPost(ledger, context);
  registerExport(ledger, context);
}
