import type { Command } from 'commander';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { type TrialBalance, trialBalance } from '../ledger/trial-balance.ts';
import type { CheckResult } from '../ledger/verify.ts';
import { type Verification, verifyBooksAndWallets } from '../replay/verify.ts';
import { registerRebuild } from './books-rebuild.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount, formatMoney, toJson } from './output.ts';
import { createProgress } from './progress.ts';

export function registerBooks(program: Command, context: CommandContext): void {
  const books = program.command('books').description('prove that the books balance');
  registerVerify(books, context);
  registerTrialBalance(books, context);
  registerRebuild(books, context);
}

function registerVerify(books: Command, context: CommandContext): void {
  books
    .command('verify')
    .description('recompute everything that the ledger promises; exits with 1 when something does not hold')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nReads in one snapshot, changes nothing, and may run at any time. Exits with 3 when a check could not be made:\nthe wallets cannot be compared before the backfill has finished.\n\nExample:\n  liventix books verify --json',
    )
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const progress = createProgress(context);
        const verification = await verifyBooksAndWallets(pool, {
          onBegin: (check) => progress.update(`checking that ${check}`, 0, 0),
          onEnd: (result) => {
            progress.clear();
            if (!options.json) context.out.write(checkLines(result));
          },
        }).finally(progress.clear);
        if (options.json) context.out.write(`${toJson(verification)}\n`);
        else context.out.write(verdictText(verification));
        if (verification.balance !== true) context.exitWith(verification.balance === null ? 3 : 1);
      }),
    );
}

function verdictText({ balance, skipped }: Verification): string {
  const lines = skipped.map(({ check, reason }) => `skipped  ${check}: ${reason}\n`).join('');
  if (balance === null) return `${lines}\nWhat was checked holds; the rest could not be found out.\n`;
  return `${lines}\n${balance ? 'The books balance.' : 'The books do NOT balance.'}\n`;
}

const NAME_WIDTH = 72;

function checkLines(result: CheckResult): string {
  const mark = result.holds ? 'holds ' : 'FAILS ';
  const counted = `${formatCount(result.examined)} ${result.unit}`;
  const line = `${mark} ${result.check.padEnd(NAME_WIDTH)} ${counted.padStart(22)}  ${result.seconds.toFixed(1).padStart(6)} s\n`;
  const faults = result.first.map((fault) => `         ${fault}\n`);
  const more = result.faults - BigInt(result.first.length);
  return line + faults.join('') + (more > 0n ? `         and ${formatCount(more)} more\n` : '');
}

function registerTrialBalance(books: Command, context: CommandContext): void {
  books
    .command('trial-balance')
    .description('debits, credits and balance by account type, per currency, and suspense by cause')
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nA balance is its debits less its credits. Exits with 0 when every currency sums to zero, 1 when one does not.\nChanges nothing.\n\nExample:\n  liventix books trial-balance --json',
    )
    .action((options: { book: number; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const { book } = options;
        const currencies = await trialBalance(pool, { bookId: book });
        const balance = currencies.every(({ balanceCents }) => balanceCents === 0n);
        context.out.write(
          options.json ? `${toJson({ book, balance, currencies })}\n` : trialBalanceText(book, currencies),
        );
        if (!balance) context.exitWith(1);
      }),
    );
}

function trialBalanceText(book: number, currencies: readonly TrialBalance[]): string {
  if (currencies.length === 0) return `Book ${book} has no accounts.\n`;
  const broken = currencies.filter(({ balanceCents }) => balanceCents !== 0n);
  const verdicts = broken.map(
    ({ currency, balanceCents, decimalPlaces }) =>
      `${currency} sums to ${formatMoney(balanceCents, decimalPlaces)}, not to zero. See why: liventix books verify`,
  );
  const blocks = currencies.map((balance) => `${trialBalanceLines(balance).join('\n')}\n`);
  const verdict = broken.length === 0 ? 'Every currency sums to zero.' : verdicts.join('\n');
  return `${blocks.join('\n')}\n${verdict}\n`;
}

const LABEL_WIDTH = 28;
const MIN_MONEY_WIDTH = 16;

/** One currency's trial balance as a table. */
export function trialBalanceLines(balance: TrialBalance): string[] {
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
  return rows.map(([label, amounts]) =>
    `${label.padEnd(LABEL_WIDTH)}${amounts.map((amount) => amount.padStart(width)).join('')}`.trimEnd(),
  );
}
