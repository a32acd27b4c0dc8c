import { type Command, Option } from 'commander';
import { STREAMED } from '../db/cursor.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { EXPORT_FORMATS, type ExportFormat, exportJournal } from '../ledger/export.ts';
import { dayAfter } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { day, MAX_BOOK, wholeNumber } from './options.ts';
import { writeOut } from './output.ts';
import { createProgress, createProgressBeside } from './progress.ts';
import { writeWholeFile } from './whole-file.ts';

interface ExportCommandOptions {
  readonly format: ExportFormat;
  readonly from?: string;
  readonly to?: string;
  readonly book: number;
  readonly output?: string;
}

const HELP = `
Days are those of the effective dates, in UTC. Entries come in the order of the log, of one snapshot. With --from, every
currency begins with one transaction that brings in what each account had before, against Equity:Opening-Balances (where
0 remains), so that every balance at the end is the ledger's.

Accounts are named Root:Type:CURRENCY:Name, and the owner's id where there is one; each slot of an account is a sub-account
of it. cash, escrow, payable and taxes are Liabilities, receivable and suspense Assets, revenue and contra_revenue Income,
fees and adjustments Expenses; a type added since is an asset or a liability by its normal side. A character that the tools
refuse is written as its code point between two Q. Amounts are exact: debit positive, credit negative.

hledger    UTF-8, so run hledger under a UTF-8 locale. A description's line breaks become spaces and its semicolons commas;
           then a tag has it as it was. In tags , ; [ ] % and line breaks are percent-encoded.
beancount  version 2; no text is lost.
csv        RFC 4180, UTF-8, one line an entry. Text that a spreadsheet would take for a formula (it begins with = + - @, a
           tab or a line break) begins with an apostrophe, and so does text that began with one.

A file is written under another name and renamed at the end: it is there as a whole or not at all.

Examples:
  liventix ledger export --format hledger --output 2026.journal --from 2026-01-01 --to 2026-12-31
  liventix ledger export --format csv | gzip > entries.csv.gz`;

export function registerExport(ledger: Command, context: CommandContext): void {
  ledger
    .command('export')
    .description('write the journal of a book for hledger, Beancount or a spreadsheet')
    .addOption(new Option('--format <format>', 'what reads it').choices(EXPORT_FORMATS).makeOptionMandatory())
    .option('--from <day>', 'the first day; from the beginning when left out', day)
    .option('--to <day>', 'the last day; to the end when left out', day)
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--output <file>', 'where to write; stdout when left out')
    .addHelpText('after', HELP)
    .action((options: ExportCommandOptions) => runExport(options, context));
}

async function runExport(options: ExportCommandOptions, context: CommandContext): Promise<void> {
  const { format, from, to, book, output } = options;
  if (from !== undefined && to !== undefined && from > to) {
    throw new AppError('USAGE', `--from ${from} is after --to ${to}. See: liventix ledger export --help`);
  }
  const slice = { format, bookId: book, from, to: to === undefined ? undefined : dayAfter(to) };
  const progress = output === undefined ? createProgressBeside(context) : createProgress(context);
  const onProgress = (entries: number, total: bigint) => progress.update('entries', entries, total);
  await withDatabase(context, (pool) =>
    withTransaction(
      pool,
      async (tx) => {
        if (output !== undefined) return await writeWholeFile(output, exportJournal(tx, { ...slice, onProgress }));
        for await (const text of exportJournal(tx, { ...slice, onProgress }))
          await writeOut(context.out, text, context.stop);
      },
      STREAMED,
    ).finally(progress.clear),
  );
}
