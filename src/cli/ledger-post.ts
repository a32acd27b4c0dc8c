import { open } from 'node:fs/promises';
import { stdin } from 'node:process';
import type { Readable } from 'node:stream';
import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { assertBook } from '../ledger/books.ts';
import { MAIN_BOOK, type PostOutcome } from '../ledger/ledger.ts';
import { type LineOutcome, postLines, tryLines } from '../ledger/post-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount, writeOut } from './output.ts';
import { createProgress } from './progress.ts';

const DEFAULT_BATCH = 500;
const MAX_BATCH = 10_000;

const HELP = `
Each line is one transaction, in JSON, of the shape that payments.post_transactions takes:
  {"idempotency_key": "order-17", "effective_at": "2026-03-01T12:00:00Z", "description": "Order 17", "entries": [
   {"account_id": "…", "amount_cents": 250, "currency": "USD"}, {"account_id": "…", "amount_cents": "-250", "currency": "USD"}]}
(on one line; amounts are whole minor units, debit positive, as a number or as text). Lines are posted in their order, a batch
in one database transaction. One that is refused leaves the others alone; so does one that is no JSON, or has more than 10 MB.
Only those that are "linked": true to the next line stand or fall together, in one call whatever the batch size.

Prints one JSON object a line: line, status (posted, duplicate, rejected), and transaction_id, event_position and, of each entry in
turn, account_seqs (its number within its account) and balances_after_cents (the account's, debit positive), or code and message.
Of an account kept in slots these are those of the slot that took the entry. A number beyond 2^53 is printed as text. A
duplicate has what was answered the first time.
Exits with 0 when every line was posted, now or before, and with 1 when one was rejected.

A batch is sent when it is full, and of what is piped in at the latest 50 ms after its first line: what one writes slowly
is posted as it comes.

With an idempotency_key (or a transaction_id) in each line, the same file may be posted again, and posts nothing twice: after
Ctrl-C, which waits for the batch under way, after a crash, or after the lines that were rejected are corrected.

--dry-run lets the database judge every line as if those before it in the file were posted, in one database transaction that
is undone at the end: nothing is posted, announced or written. What it prints is what posting the file now would print; the
posting itself gives other positions, because the dry run used these up, and other ids where a line names none. The accounts of
the file stay locked until its end: others who post to them wait.

Examples:
  liventix ledger post --file march.jsonl --dry-run
  liventix ledger post --file march.jsonl > results.jsonl
  zcat march.jsonl.gz | liventix ledger post --file - --batch-size 1000`;

interface PostCommandOptions {
  readonly file: string;
  readonly book: number;
  readonly batchSize: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function registerPost(ledger: Command, context: CommandContext): void {
  ledger
    .command('post')
    .description('post the transactions of a file of JSON lines')
    .requiredOption('--file <file>', 'the file; - reads what is piped in')
    .option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK)
    .option('--batch-size <n>', 'transactions a call and a commit', wholeNumber(1, MAX_BATCH), DEFAULT_BATCH)
    .option('--dry-run', 'say what would become of every line, and post nothing')
    .option('--json', 'print the summary, which goes to stderr, as one JSON object')
    .addHelpText('after', HELP)
    .action((options: PostCommandOptions) => runPost(options, context));
}

async function runPost(options: PostCommandOptions, context: CommandContext): Promise<void> {
  const source = await openSource(options.file);
  const stopReading = () => source.input.destroy();
  context.stop.addEventListener('abort', stopReading, { once: true });
  const tally: Tally = { lastLine: 0, posted: 0, duplicate: 0, rejected: 0, startedAt: performance.now() };
  try {
    await postSource(source, tally, options, context);
    context.err.write(summary(tally, options));
  } catch (error) {
    if (tally.lastLine > 0) context.err.write(summary(tally, options));
    if (!context.stop.aborted) throw error;
    throw stopped(tally, options, context.stop, error);
  } finally {
    context.stop.removeEventListener('abort', stopReading);
    stopReading();
  }
  if (tally.rejected > 0) context.exitWith(1);
}

interface Source {
  readonly input: Readable;
  /** Undefined where nobody can tell. */
  readonly bytes: number | undefined;
  bytesRead(): number;
}

async function openSource(path: string): Promise<Source> {
  if (path === '-') return { input: stdin, bytes: undefined, bytesRead: () => 0 };
  const file = await open(path);
  const stats = await file.stat();
  const input = file.createReadStream();
  return { input, bytes: stats.isFile() ? stats.size : undefined, bytesRead: () => input.bytesRead };
}

interface Tally extends Record<PostOutcome['status'], number> {
  lastLine: number;
  readonly startedAt: number;
}

async function postSource(
  source: Source,
  tally: Tally,
  options: PostCommandOptions,
  context: CommandContext,
): Promise<void> {
  const { book: bookId, batchSize, dryRun } = options;
  const how = { bookId, batchSize, isSlow: source.bytes === undefined, stop: context.stop };
  const post = dryRun ? tryLines : postLines;
  const progress = createProgress(context);
  await withDatabase(
    context,
    async (pool) => {
      // Not only once the first line has come.
      await assertBook(pool, bookId);
      for await (const outcomes of post(pool, source.input, how)) {
        for (const { line, status } of outcomes) {
          tally[status] += 1;
          tally.lastLine = line;
        }
        progress.clear();
        await writeOut(context.out, outcomes.map((outcome) => outcomeLine(outcome, options)).join(''), context.stop);
        progress.update('lines', tally.lastLine, estimatedLines(source, tally.lastLine));
      }
    },
    { stopsItself: true },
  ).finally(progress.clear);
}

function estimatedLines({ bytes, bytesRead }: Source, lines: number): number {
  return bytes === undefined || bytesRead() === 0 ? 0 : Math.round((lines * bytes) / bytesRead());
}

function outcomeLine(outcome: LineOutcome, { dryRun }: PostCommandOptions): string {
  const { line, status } = outcome;
  const said =
    outcome.status === 'rejected'
      ? { code: outcome.code, message: outcome.message }
      : {
          transaction_id: outcome.transactionId,
          event_position: outcome.eventPosition,
          account_seqs: outcome.accountSeqs,
          balances_after_cents: outcome.balancesAfterCents,
        };
  return `${toJson({ line, status, ...(dryRun ? { dry_run: true } : {}), ...said })}\n`;
}

function summary(tally: Tally, { json, dryRun }: PostCommandOptions): string {
  const { posted, duplicate: duplicates, rejected } = tally;
  const seconds = (performance.now() - tally.startedAt) / 1_000;
  const lines = posted + duplicates + rejected;
  if (json) {
    return `${toJson({ lines, ...(dryRun ? { wouldPost: posted } : { posted }), duplicates, rejected, seconds })}\n`;
  }
  const rate = formatCount(Math.round(lines / Math.max(seconds, 0.001)));
  return [
    `${formatCount(lines)} lines: ${formatCount(posted)} ${dryRun ? 'would be posted' : 'posted'}, `,
    `${formatCount(duplicates)} posted before, ${formatCount(rejected)} rejected, in ${seconds.toFixed(1)} s (${rate}/s)\n`,
    ...(dryRun ? ['Nothing was posted.\n'] : []),
  ].join('');
}

function stopped({ lastLine }: Tally, { dryRun }: PostCommandOptions, stop: AbortSignal, cause: unknown): AppError {
  const what = dryRun
    ? `${String(stop.reason)} stopped the dry run after line ${lastLine}; nothing was posted. Run it again.`
    : `${String(stop.reason)} stopped the posting after line ${lastLine}; what was printed is committed. Run it again: lines with an idempotency_key post once.`;
  return new AppError('STOPPED', what, { cause });
}
