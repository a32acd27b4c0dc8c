import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type CsvCell, csvLine, freeText } from '../ledger/csv.ts';
import { decimalText } from '../ledger/export-format.ts';
import {
  type AccountBalance,
  type AccountFacts,
  effectiveBalance,
  type HistoryOrder,
  listAccountTypes,
  recordedBalance,
} from '../ledger/history.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import {
  DEFAULT_PAGE_LINES,
  MAX_PAGE_LINES,
  type StatementLine,
  type StatementPage,
  statementPage,
  statementPages,
} from '../ledger/statement.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { afterEndOf, beginningOf, endOf, INSTANTS_HELP } from './instants.ts';
import { MAX_BOOK, uuid, wholeNumber } from './options.ts';
import { formatCount, formatMoney, writeOut } from './output.ts';
import { createProgressBeside, waitingFor } from './progress.ts';
import { tableText } from './table.ts';

/** What an account stood at, and how it came there. */
export function registerHistory(books: Command, context: CommandContext): void {
  registerBalance(books, context);
  registerStatement(books, context);
  registerAccountTypes(books, context);
}

const MAX_POSITION = 999_999_999_999_999;

interface BalanceOptions {
  readonly book: number;
  readonly asOf?: Instant;
  readonly by: HistoryOrder;
  readonly position?: number;
  /** As `--as-of` with `--by effective`, which it was before them. */
  readonly effective?: Instant;
  readonly json?: boolean;
}

function registerBalance(books: Command, context: CommandContext): void {
  books
    .command('balance')
    .description('the balance of an account, now or at a time')
    .argument('<account-id>', 'the account', uuid)
    .addOption(
      new Option('--as-of <instant>', 'at the instant, or at the end of the date; now, when left out')
        .argParser(endOf)
        .conflicts(['position', 'effective']),
    )
    .addOption(
      byOption('what it is as of: what was recorded by then, or what was effective by then, as far as is known now')
        .default('recorded')
        .conflicts(['position', 'effective']),
    )
    .addOption(
      new Option('--position <n>', 'as it was recorded up to the position of the log, included')
        .argParser(wholeNumber(0, MAX_POSITION))
        .conflicts('effective'),
    )
    .addOption(new Option('--effective <instant>').argParser(endOf).hideHelp())
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `\n${INSTANTS_HELP}\nThe balance is positive on the account's normal side; signedCents, in JSON, is positive on the debit side.\n\nExamples:\n  liventix books balance 5f0c7f6e-53c5-8b1a-9d8b-0f3cf1a5d2b7\n  liventix books balance 5f0c7f6e-53c5-8b1a-9d8b-0f3cf1a5d2b7 --as-of 2026-03-31 --by effective`,
    )
    .action((accountId: string, options: BalanceOptions, command: Command) =>
      withDatabase(context, async (pool) => {
        const time = timeOf(options, command);
        const { book } = options;
        const balance = await waitingFor(context, 'adding up', () => balanceFor(pool, accountId, book, time));
        context.out.write(
          options.json ? `${toJson({ book, ...time, ...balance })}\n` : balanceText(balance, book, time),
        );
      }),
    );
}

/** When a balance is asked of; now, where nothing is said. */
interface BalanceTime {
  readonly at?: Instant | undefined;
  readonly position?: number | undefined;
  readonly effective?: Instant | undefined;
}

/** @throws AppError USAGE where `--by` is said of no instant */
function timeOf({ asOf, by, position, effective }: BalanceOptions, command: Command): BalanceTime {
  const isByAlone = asOf === undefined && command.getOptionValueSource('by') === 'cli';
  if (isByAlone)
    throw new AppError('USAGE', '--by says what --as-of means: give both. See: liventix books balance --help');
  return by === 'effective' ? { effective: asOf } : { at: asOf, position, effective };
}

function balanceFor(pool: Pool, accountId: string, book: number, time: BalanceTime): Promise<AccountBalance> {
  const { at, position, effective } = time;
  if (effective !== undefined) return effectiveBalance(pool, accountId, effective, { bookId: book });
  return recordedBalance(pool, accountId, {
    bookId: book,
    ...(at === undefined ? {} : { at }),
    ...(position === undefined ? {} : { position: BigInt(position) }),
  });
}

function balanceText(balance: AccountBalance, book: number, { at, position, effective }: BalanceTime): string {
  const when =
    (effective && `effective at ${effective}, as far as is known now`) ??
    (at && `recorded at ${at}`) ??
    (position === undefined ? 'recorded now' : `recorded up to position ${position} of the log`);
  return [
    `account  ${factsText(balance, book)}\n`,
    `balance  ${formatMoney(balance.balance.cents, balance.decimalPlaces)} ${balance.currency}\n`,
    `as       ${when}\n`,
    `of       ${formatCount(balance.entries)} entries\n`,
  ].join('');
}

function factsText({ accountId, type, name, currency, normalSide }: AccountFacts, book: number): string {
  return `${accountId}: ${type} ${name}, ${currency}, positive on the ${normalSide} side, book ${book}`;
}

interface StatementOptions {
  readonly book: number;
  readonly by: HistoryOrder;
  readonly from?: Instant;
  readonly to?: Instant;
  readonly limit: number;
  readonly page?: string;
  readonly csv?: boolean;
  readonly json?: boolean;
}

function registerStatement(books: Command, context: CommandContext): void {
  books
    .command('statement')
    .description('the statement of an account: opening balance, lines, closing balance')
    .argument('<account-id>', 'the account', uuid)
    .addOption(byOption('the order of the lines, and what --from and --to mean').default('recorded'))
    .option('--from <instant>', 'the first instant included, or the first day', beginningOf)
    .option('--to <instant>', 'the first instant no longer included, or the last day that is', afterEndOf)
    .option('--limit <n>', 'lines on a page', wholeNumber(1, MAX_PAGE_LINES), DEFAULT_PAGE_LINES)
    .option('--page <token>', 'the page that the one before named, of the same account, order and dates')
    .addOption(new Option('--csv', 'write the whole statement as CSV').conflicts(['json', 'page']))
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `\n${INSTANTS_HELP}\nAmounts and balances are positive on the account's normal side; those called signed are positive on the debit side.\nOpening balance + all lines of all pages = closing balance: every page shows the account as it was known when the\nfirst one was made, whatever is posted meanwhile. In CSV, text that a spreadsheet would take for a formula (it begins with = + - @, a tab\nor a line break) begins with an apostrophe, and so does text that began with one.\n\nExamples:\n  liventix books statement 5f0c7f6e-53c5-8b1a-9d8b-0f3cf1a5d2b7 --by effective --from 2026-03-01 --to 2026-03-31\n  liventix books statement 5f0c7f6e-53c5-8b1a-9d8b-0f3cf1a5d2b7 --csv > statement.csv`,
    )
    .action((accountId: string, options: StatementOptions) =>
      withDatabase(context, async (pool) => {
        const { book, by, from, to, limit: pageLines, page } = options;
        const request = { accountId, bookId: book, by, from, to, pageLines, page };
        if (options.csv) {
          await writeCsv(statementPages(pool, { ...request, pageLines: MAX_PAGE_LINES }), context);
          return;
        }
        const found = await waitingFor(context, 'reading the account', () => statementPage(pool, request));
        context.out.write(options.json ? `${toJson({ book, ...found })}\n` : statementText(found, options, context));
      }),
    );
}

/** `--by recorded|effective`. */
export function byOption(description: string): Option {
  return new Option('--by <order>', description).choices(['recorded', 'effective'] satisfies HistoryOrder[]);
}

const TIME_WIDTH = 19;
const MIN_MONEY_WIDTH = 14;

function statementText(page: StatementPage, { book, page: token }: StatementOptions, context: CommandContext): string {
  const money = (cents: bigint) => formatMoney(cents, page.decimalPlaces);
  const isLast = page.nextPage === undefined;
  const [before, after] = [
    token === undefined ? 'opening balance' : 'brought forward',
    isLast ? 'closing balance' : 'carried forward',
  ];
  const rows = [
    ['recorded (UTC)', 'effective (UTC)', 'amount', 'balance', ''],
    ['', '', '', money(page.broughtForward.cents), before],
    ...page.lines.map((line) => [
      secondOf(line.recordedAt),
      secondOf(line.effectiveAt),
      money(line.amount.cents),
      money(line.balance.cents),
      describe(line),
    ]),
    ['', '', '', money(page.carriedForward.cents), after],
  ];
  const inMoney = { align: 'right', min: MIN_MONEY_WIDTH } as const;
  const columns = [{ min: TIME_WIDTH }, { min: TIME_WIDTH }, inMoney, inMoney, { shortens: 12 }];
  const dates = `from ${page.from ?? 'the beginning'} to ${page.to === undefined ? 'the end' : `before ${page.to}`}`;
  return [
    `Statement of account ${factsText(page, book)}\n`,
    `by what was ${page.by}, ${dates}; opening ${money(page.opening.cents)}, closing ${money(page.closing.cents)}\n\n`,
    tableText(context, rows, columns),
    ...(isLast ? [] : [`\nMore follows: the same command with --page ${page.nextPage}\n`]),
  ].join('');
}

const secondOf = (instant: Instant) => instant.slice(0, TIME_WIDTH).replace('T', ' ');

function describe({ referenceType, referenceId, description }: StatementLine): string {
  const parts = [referenceType, referenceId, description].filter((part) => part !== null);
  // Text of others' making goes to a terminal: what would move its cursor does not.
  return parts.join(' ').replace(/\p{Cc}+/gu, ' ');
}

const CSV_COLUMNS = [
  'line',
  'account_seq',
  'recorded_at',
  'effective_at',
  'amount',
  'balance',
  'currency',
  'signed_amount_cents',
  'signed_balance_cents',
  'transaction_id',
  'event_position',
  'entry_id',
  'reference_type',
  'reference_id',
  'description',
] as const;

type CsvRow = Partial<Record<(typeof CSV_COLUMNS)[number], CsvCell>>;

const csvRow = (row: CsvRow): string => csvLine(CSV_COLUMNS.map((column) => row[column] ?? null));

async function writeCsv(pages: AsyncIterable<StatementPage>, context: CommandContext): Promise<void> {
  const progress = createProgressBeside(context);
  let [isFirst, lines] = [true, 0];
  try {
    for await (const page of pages) {
      await writeOut(context.out, csvOf(page, isFirst), context.stop);
      isFirst = false;
      lines += page.lines.length;
      progress.update('lines', lines, 0);
    }
  } finally {
    progress.clear();
  }
}

/** A page as CSV, the statement's opening before its first line and its closing after its last. */
function csvOf(page: StatementPage, isFirst: boolean): string {
  const { currency, decimalPlaces } = page;
  const total = (line: 'opening' | 'closing') =>
    csvRow({
      line,
      balance: decimalText(page[line].cents, decimalPlaces),
      currency,
      signed_balance_cents: page[line].signedCents,
    });
  return [
    ...(isFirst ? [csvLine(CSV_COLUMNS), total('opening')] : []),
    ...page.lines.map((line) =>
      csvRow({
        line: 'entry',
        account_seq: line.accountSeq,
        recorded_at: line.recordedAt,
        effective_at: line.effectiveAt,
        amount: decimalText(line.amount.cents, decimalPlaces),
        balance: decimalText(line.balance.cents, decimalPlaces),
        currency,
        signed_amount_cents: line.amount.signedCents,
        signed_balance_cents: line.balance.signedCents,
        transaction_id: line.transactionId,
        event_position: line.eventPosition,
        entry_id: line.entryId,
        reference_type: freeText(line.referenceType),
        reference_id: freeText(line.referenceId),
        description: freeText(line.description),
      }),
    ),
    ...(page.nextPage === undefined ? [total('closing')] : []),
  ].join('');
}

function registerAccountTypes(books: Command, context: CommandContext): void {
  books
    .command('account-types')
    .description('the account types, and on which side the balances of each are positive')
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  liventix books account-types --json')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const types = await listAccountTypes(pool);
        const rows = types.map(({ type, normalSide, description }) => [type, normalSide, description]);
        const text = () => tableText(context, rows, [{}, { min: 6 }, { shortens: 20 }]);
        context.out.write(options.json ? `${toJson(types)}\n` : text());
      }),
    );
}
