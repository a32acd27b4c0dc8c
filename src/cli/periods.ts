import { type FileHandle, open, rm } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import {
  type ClosedPeriod,
  closePeriod,
  listPeriods,
  type PeriodCertificate,
  previewPeriod,
} from '../ledger/periods.ts';
import { runPeriodChecks } from '../ledger/verify.ts';
import { checkLines } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { beginningOf, INSTANTS_HELP } from './instants.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { waitingFor } from './progress.ts';
import { packageVersion } from './version.ts';
import { assertNewFile } from './whole-file.ts';

/** Closing periods, and proving what they were closed with. */
export function registerPeriods(books: Command, context: CommandContext): void {
  registerClose(books, context);
  registerList(books, context);
}

interface CloseOptions {
  readonly until: Instant;
  readonly book: number;
  readonly certificate?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

function registerClose(books: Command, context: CommandContext): void {
  books
    .command('close')
    .description('close all periods before an instant, for ever: no earlier effective date is posted any more')
    .requiredOption('--until <instant>', 'the first instant that stays open; of a date, its beginning', beginningOf)
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .addOption(new Option('--certificate <file>', 'write the certificate to a new file').conflicts('dryRun'))
    .option('--dry-run', 'say what would be closed, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `\n${INSTANTS_HELP}\nTo close March, give --until 2026-04-01. Nothing reopens a period: a correction is posted in the open one. Postings wait\nwhile it is closed; where one stays open for ten seconds, nothing is closed and the command exits with 3.\n\nExamples:\n  liventix books close --until 2026-04-01 --dry-run\n  liventix books close --until 2026-04-01 --certificate march.json`,
    )
    .action((options: CloseOptions) =>
      withDatabase(context, async (pool) => {
        const request = { until: options.until, bookId: options.book };
        if (options.dryRun) {
          const preview = await waitingFor(context, 'adding up the period', () => previewPeriod(pool, request));
          context.out.write(
            options.json
              ? `${toJson({ wouldClose: preview })}\n`
              : `Would close, and nothing was changed:\n\n${preview.text}sha256 ${preview.hash}\n`,
          );
          return;
        }
        context.err.write(
          `Closing book ${options.book} of ${await databaseName(pool)} until ${options.until}, for ever.\n`,
        );
        const period = await waitingFor(context, 'adding up the period, and closing it', () =>
          closeInto(options.certificate, () => closePeriod(pool, request)),
        );
        context.out.write(options.json ? `${toJson(certificateOf(period))}\n` : closedText(period));
      }),
    );
}

// The file is there before anything is closed, so that no certificate is left without a place; and a new one, so that
// none takes the place of another.
async function closeInto(path: string | undefined, close: () => Promise<ClosedPeriod>): Promise<ClosedPeriod> {
  if (path === undefined) return close();
  await assertNewFile(path);
  const file = await open(path, 'wx');
  try {
    const period = await close().catch(async (error: unknown) => {
      await rm(path, { force: true });
      throw error;
    });
    await writeCertificate(file, period);
    return period;
  } finally {
    await file.close();
  }
}

async function writeCertificate(file: FileHandle, period: ClosedPeriod): Promise<void> {
  try {
    await file.writeFile(`${JSON.stringify(JSON.parse(toJson(certificateOf(period))), null, 2)}\n`);
    await file.sync();
  } catch (error) {
    throw new AppError(
      'SYSTEM_FAILED',
      `Book ${period.book} is closed by event ${period.eventPosition}, but its certificate could not be written: ${(error as Error).message}. It is shown by: liventix books periods --json`,
      { cause: error },
    );
  }
}

function certificateOf(period: ClosedPeriod): Record<string, unknown> {
  return { ...period, version: packageVersion() };
}

function closedText(period: ClosedPeriod): string {
  return `${period.text}sha256 ${period.hash}\n\nClosed by event ${period.eventPosition} at ${period.closedAt}.\n`;
}

function registerList(books: Command, context: CommandContext): void {
  books
    .command('periods')
    .description('the closed periods, with the hashes of their certificates')
    .option('--book <n>', 'the book; with --verify, all books are verified', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--verify', 'recompute every certificate from the entries; exits with 1 when one does not hold')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nChanges nothing.\n\nExamples:\n  liventix books periods\n  liventix books periods --verify',
    )
    .action((options: { book: number; verify?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const { book } = options;
        const { periods, checks } = await withTransaction(
          pool,
          async (tx) => ({
            periods: await listPeriods(tx, { bookId: book }),
            checks: options.verify
              ? await waitingFor(context, 'recomputing every certificate', () => runPeriodChecks(tx))
              : undefined,
          }),
          ONE_SNAPSHOT,
        );
        const holds = checks?.every((check) => check.holds);
        context.out.write(
          options.json
            ? `${toJson({ book, periods, holds, checks })}\n`
            : `${periodsText(book, periods)}${checks?.map((check) => checkLines(check, context)).join('') ?? ''}`,
        );
        if (holds === false) context.exitWith(1);
      }),
    );
}

function periodsText(book: number, periods: readonly ClosedPeriod[]): string {
  if (periods.length === 0) return `Book ${book} has no closed period.\n`;
  return periods.map((period) => `${periodLine(period)}\n`).join('');
}

function periodLine(period: ClosedPeriod): string {
  const { from, until, eventPosition, closedAt, closedBy, hash } = period;
  return `${from ?? 'the beginning'} until ${until}  ${counted(period)}  closed by event ${eventPosition} at ${closedAt} by ${closedBy}  sha256 ${hash}`;
}

const counted = ({ transactions, entries }: PeriodCertificate) =>
  `${formatCount(transactions)} transactions, ${formatCount(entries)} entries`;
