import { createHash } from 'node:crypto';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { lastVerification } from '../console/verifications.ts';
import { toJson } from '../db/json-value.ts';
import type { Pool, Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { isZone, knownLocale, type View } from '../html/view.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { csvOf } from '../report/csv.ts';
import { pageOf } from '../report/page.ts';
import { findBrowser, printToPdf } from '../report/pdf.ts';
import { type AskedPeriod, parsePeriod } from '../report/period.ts';
import { readReport } from '../report/read.ts';
import { holds, type RecordedVerification, type Report } from '../report/report.ts';
import { PAPERS, type Paper } from '../report/style.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { writeOut } from './output.ts';
import { createProgress } from './progress.ts';
import { packageVersion } from './version.ts';
import { assertNewFile, assertWritable, writeWholeFile } from './whole-file.ts';

const FORMATS = ['html', 'csv', 'pdf'] as const;

interface Options {
  readonly period: string;
  readonly format: (typeof FORMATS)[number];
  readonly output?: string;
  readonly book: number;
  readonly zone: string;
  readonly locale: string;
  readonly paper?: Paper;
  readonly chromium?: string;
  readonly verify: boolean;
  readonly json?: boolean;
}

const STDOUT = '-';

const HELP = `
One file to be filed at the end of a month: the trial balance at the end, movements by account type, escrow by state, suspense by cause,
the certificate of the closed period, the verification of the book, its seal, and charts. All figures are of one snapshot, by effective
dates, as a period is closed. Where the period is not closed, the report says that it is provisional. Changes nothing.

A period is a month 2026-10, a quarter 2026-Q4, a year 2026, or days 2026-10-01..2026-10-31, the last one included; its days are
those of --zone. Give the zone in which you close your periods: books close --until 2026-11-01 means the day of UTC.

The book is verified in the same snapshot. --no-verify leaves that out, and names the verification of all books that was kept last.

html  one page that asks for nothing and prints well; dark where the screen is, light on paper.
pdf   the same, printed by a headless Chromium without network (Debian: apt-get install chromium), with page numbers.
csv   RFC 4180, UTF-8, one figure a line: section (report, type, total, escrow, suspense, turnover, certificate, check), currency, type
      (of accounts), item (a cause, state, day, closed period or check), measure, value (an amount as a decimal number, a count or a text),
      cents (the amount in minor units). A balance is debits less credits. Text that a spreadsheet would take for a formula begins with an
      apostrophe, and so does text that began with one.

Exits with 1 when something in it does not hold, 3 when a check of the verification could not be made; the file is written all the same.

Examples:
  liventix books report --period 2026-10
  liventix books report --period 2026-Q4 --format pdf --paper letter --output 2026-Q4.pdf
  liventix books report --period 2026-10 --format csv --output - | gzip > 2026-10.csv.gz
  liventix books report --period 2026 --book 2 --zone Europe/Berlin --locale de-DE --no-verify`;

/** What finance files at the end of a month. */
export function registerReport(books: Command, context: CommandContext): void {
  books
    .command('report')
    .description('a report of a month, quarter, year or days, as one file: figures, proofs and charts')
    .requiredOption('--period <period>', 'what it is of: 2026-10, 2026-Q4, 2026, or 2026-10-01..2026-10-31')
    .addOption(new Option('--format <format>', 'how it is written').choices(FORMATS).default('html'))
    .option('--output <file>', 'a new file to write; - is stdout; when left out, it is named after book and period')
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--zone <zone>', 'whose days the period has, and in which times are shown', zoneName, 'UTC')
    .option('--locale <locale>', 'how figures and times are written', localeName, 'en-GB')
    .addOption(new Option('--paper <size>', 'of a PDF').choices(PAPERS).default(undefined, 'a4'))
    .option('--chromium <path>', 'what prints a PDF; found in the PATH when left out')
    .option('--no-verify', 'do not verify the book for it')
    .option('--json', 'print one JSON object about the file')
    .addHelpText('after', HELP)
    .action((options: Options) => runReport(options, context));
}

/** By its place: what PostgreSQL takes an offset or an abbreviation such as CET for is not what it is here. */
function zoneName(text: string): string {
  if (text === 'UTC' || (text.includes('/') && isZone(text))) return text;
  throw new InvalidArgumentError('Give the name of a time zone, such as UTC or Europe/Berlin.');
}

function localeName(text: string): string {
  const known = knownLocale(text);
  if (known !== undefined) return known;
  throw new InvalidArgumentError('Give the name of a locale, such as en-GB or de-DE.');
}

async function runReport(options: Options, context: CommandContext): Promise<void> {
  const { format, chromium, output, json } = options;
  const period = parsePeriod(options.period);
  const path = output ?? `liventix-book-${options.book}-${period.text}.${format}`;
  await assertTakes(path, { format, json, isTerminal: context.out.isTTY === true });
  if (format !== 'pdf' && (chromium !== undefined || options.paper !== undefined)) {
    throw new AppError('USAGE', '--chromium and --paper are for --format pdf. See: liventix books report --help');
  }
  // What would fail in the end is told before millions of entries are read.
  const browser =
    format === 'pdf' ? await findBrowser({ named: chromium, path: context.config.searchPath }) : undefined;
  await withDatabase(context, async (pool) => {
    const report = await read(pool, { ...options, period }, context);
    const file = await render(report, options, { browser, context });
    if (path === STDOUT) await writeOut(context.out, file, context.stop);
    else await writeWholeFile(path, [file]);
    tell(report, { path, file, ...options }, context);
  });
}

async function assertTakes(
  path: string,
  { format, json, isTerminal }: { format: string; json: boolean | undefined; isTerminal: boolean },
): Promise<void> {
  if (path !== STDOUT) {
    await assertWritable({ option: '--output', path });
    await assertNewFile(path);
  } else if (json === true) {
    throw new AppError('USAGE', '--json and --output - would both be on stdout: give --output a file.');
  } else if (format === 'pdf' && isTerminal) {
    throw new AppError('USAGE', 'A PDF is nothing for a terminal: give --output a file.');
  }
}

async function read(
  pool: Pool,
  { period, book: bookId, zone, verify }: Omit<Options, 'period'> & { period: AskedPeriod },
  context: CommandContext,
): Promise<Report> {
  const progress = createProgress(context);
  const request = { bookId, period, zone, version: packageVersion() };
  return await readReport(
    pool,
    { ...request, verification: verify ? 'now' : keptVerification },
    {
      onStep: (step) => progress.update(step, 0, 0),
      onBegin: (check) => progress.update(`checking that ${check}`, 0, 0),
    },
  ).finally(progress.clear);
}

async function keptVerification(db: Queryable): Promise<RecordedVerification | undefined> {
  const last = await lastVerification(db);
  if (last === undefined || last.certificate === null || last.certificateSha256 === null) return undefined;
  const { verificationId, begunAt, certificate, certificateSha256 } = last;
  return {
    verificationId,
    begunAt,
    certificate,
    certificateSha256,
    state: last.state as RecordedVerification['state'],
  };
}

async function render(
  report: Report,
  { format, paper, zone, locale }: Options,
  { browser, context }: { browser: string | undefined; context: CommandContext },
): Promise<string | Uint8Array> {
  if (format === 'csv') return csvOf(report);
  const view: View = { zone, locale };
  if (browser === undefined) return pageOf(report, view);
  const progress = createProgress(context);
  progress.update('printing', 0, 0);
  return await printToPdf(pageOf(report, view, paper ?? 'a4'), {
    browser,
    path: context.config.searchPath,
    signal: context.stop,
  }).finally(progress.clear);
}

interface Written extends Omit<Options, 'period'> {
  readonly path: string;
  readonly file: string | Uint8Array;
}

const VERDICTS = new Map<boolean | null, string>([
  [true, 'Everything in it that was checked holds.'],
  [false, 'Something in it does NOT hold: it says what.'],
  [null, 'What was checked holds; the rest could not be found out: it says what.'],
]);

function tell(report: Report, { path, file, format, json }: Written, context: CommandContext): void {
  const { standing, made, book, period, verified } = report;
  const verdict = holds(report);
  const sha256 = createHash('sha256').update(file).digest('hex');
  const status = standing === 'closed' ? 'final' : 'provisional';
  if (json === true) {
    const { from, until, zone, asked } = period;
    const about = { file: path, format, sha256, bytes: Buffer.byteLength(file), book: book.bookId };
    const of = { period: { text: asked.text, from, until, zone }, status, standing, holds: verdict };
    context.out.write(
      `${toJson({ ...about, ...of, verification: verified.how, madeAt: made.at, seconds: made.seconds })}\n`,
    );
  } else {
    const { figures, verification } = made.seconds;
    const took = `Read in ${figures.toFixed(1)} s${verified.how === 'now' ? `, verified in ${verification.toFixed(1)} s` : ', not verified'}.`;
    const where = path === STDOUT ? '' : `${path}, `;
    const text = `Book ${book.bookId}, ${period.asked.text}, ${status}: ${where}SHA-256 ${sha256}\n${VERDICTS.get(verdict)} ${took}\n`;
    // On stdout is the report itself.
    (path === STDOUT ? context.err : context.out).write(text);
  }
  if (verdict !== true) context.exitWith(verdict === null ? 3 : 1);
}
