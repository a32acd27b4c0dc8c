import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import type { HistoryOrder } from '../ledger/history.ts';
import type { Instant } from '../ledger/instants.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { type AsOf, type TrialBalance, trialBalance } from '../ledger/trial-balance.ts';
import { registerReport } from './books-report.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { endOf, INSTANTS_HELP } from './instants.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatMoney, paintOut } from './output.ts';
import { registerPeriods } from './periods.ts';
import { waitingFor } from './progress.ts';
import { registerSeals } from './seals.ts';
import { byOption, registerHistory } from './statement.ts';
import { tableLines, widthOf } from './table.ts';
import { registerVerify } from './verification.ts';

export function registerBooks(program: Command, context: CommandContext): void {
  const books = program
    .command('books')
    .description('prove that the books balance, look into their history, close their periods, seal them')
    .addHelpText('after', '\nExamples:\n  liventix books verify\n  liventix books trial-balance');
  registerVerify(books, context);
  registerTrialBalance(books, context);
  registerHistory(books, context);
  registerPeriods(books, context);
  registerSeals(books, context);
  registerReport(books, context);
}

function registerTrialBalance(books: Command, context: CommandContext): void {
  books
    .command('trial-balance')
    .description('debits, credits and balance by account type, per currency, and suspense by cause')
    .option('--as-of <instant>', 'at the instant, or at the end of the date; now, when left out', endOf)
    .addOption(
      byOption('what it is as of: what was recorded by then, or what was effective by then').default('recorded'),
    )
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `\nA balance is its debits less its credits. Exits with 0 when every currency sums to zero, 1 when one does not.\nChanges nothing. It reads the balances, which books verify compares with the entries; as of an instant, it reads all\nentries of the book.\n${INSTANTS_HELP}\n\nExamples:\n  liventix books trial-balance --json\n  liventix books trial-balance --as-of 2026-03-31 --by effective`,
    )
    .action((options: TrialBalanceOptions, command: Command) =>
      withDatabase(context, async (pool) => {
        const { book } = options;
        const asOf = asOfIn(options, command);
        const currencies = await waitingFor(context, 'adding up', () => trialBalance(pool, { bookId: book, asOf }));
        const balance = currencies.every(({ balanceCents }) => balanceCents === 0n);
        context.out.write(
          options.json
            ? `${toJson({ book, asOf, balance, currencies })}\n`
            : `${asOf === undefined ? '' : `By what was ${asOf.by} at ${asOf.at}.\n\n`}${trialBalanceText(book, currencies, { asOf, context })}`,
        );
        if (!balance) context.exitWith(1);
      }),
    );
}

interface TrialBalanceOptions {
  readonly book: number;
  readonly asOf?: Instant;
  readonly by: HistoryOrder;
  readonly json?: boolean;
}

function asOfIn({ asOf, by }: TrialBalanceOptions, command: Command): AsOf | undefined {
  if (asOf !== undefined) return { at: asOf, by };
  if (command.getOptionValueSource('by') === 'cli') {
    throw new AppError('USAGE', '--by says what --as-of means: give both. See: liventix books trial-balance --help');
  }
  return undefined;
}

function trialBalanceText(
  book: number,
  currencies: readonly TrialBalance[],
  { asOf, context }: { asOf: AsOf | undefined; context: CommandContext },
): string {
  const { good, bad } = paintOut(context);
  if (currencies.length === 0)
    return `Book ${book} has no accounts${asOf?.by === 'recorded' ? ' recorded by then' : ''}.\n`;
  const broken = currencies.filter(({ balanceCents }) => balanceCents !== 0n);
  const verdicts = broken.map(
    ({ currency, balanceCents, decimalPlaces }) =>
      `${bad(`${currency} sums to ${formatMoney(balanceCents, decimalPlaces)}, not to zero.`)} See why: liventix books verify`,
  );
  const blocks = currencies.map((balance) => `${trialBalanceLines(balance, widthOf(context)).join('\n')}\n`);
  const verdict = broken.length === 0 ? good('Every currency sums to zero.') : verdicts.join('\n');
  return `${blocks.join('\n')}\n${verdict}\n`;
}

const LABEL_WIDTH = 28;
const MIN_MONEY_WIDTH = 16;

/** One currency's trial balance as a table. @param terminal how wide it may be; undefined for whatever it takes */
export function trialBalanceLines(balance: TrialBalance, terminal?: number): string[] {
  const cells = ({ debitCents, creditCents, balanceCents }: Omit<TrialBalance['suspense'][number], 'cause'>) =>
    [debitCents, creditCents, balanceCents].map((cents) => formatMoney(cents, balance.decimalPlaces));
  const rows: [string, string[]][] = [
    [`Trial balance, ${balance.currency}`, ['debit', 'credit', 'balance']],
    ...balance.lines.map((line): [string, string[]] => [`  ${line.type}`, cells(line)]),
    ['  total', cells(balance)],
    ...(balance.suspense.length === 0 ? [] : [['Of suspense, by cause', []] satisfies [string, string[]]]),
    ...balance.suspense.map((line): [string, string[]] => [`  ${line.cause}`, cells(line)]),
  ];
  const width = Math.max(MIN_MONEY_WIDTH, ...rows.flatMap(([, amounts]) => amounts.map(({ length }) => length + 2)));
  const money = { align: 'right', min: width } as const;
  return tableLines(
    rows.map(([label, amounts]) => [label, ...amounts]),
    [{ min: LABEL_WIDTH, shortens: 10 }, money, money, money],
    { width: terminal, gap: 0 },
  );
}
