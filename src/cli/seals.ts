import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { isUuid } from '../ledger/input.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { type EventName, proveConsistency, proveInclusion } from '../ledger/proof.ts';
import { listSeals, type Seal, sealBook } from '../ledger/seals.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { createProgress, waitingFor } from './progress.ts';
import { tableText } from './table.ts';

const MAX_LISTED = 100_000;
const MAX_POSITION = 9_223_372_036_854_775_807n;

interface BookOptions {
  readonly book: number;
  readonly json?: boolean;
}

/** `books seal`, `books seals` and `books prove`. */
export function registerSeals(books: Command, context: CommandContext): void {
  registerSeal(books, context);
  registerList(books, context);
  registerProve(books, context);
}

const withBook = (command: Command) => command.option('--book <n>', 'the book', wholeNumber(1, MAX_BOOK), MAIN_BOOK);

function registerSeal(books: Command, context: CommandContext): void {
  withBook(books.command('seal'))
    .description("seal what is new in a book's log, so that no event of it can change unnoticed")
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nNo writer waits for it, and it waits for none. Keep the root where nobody who may write to this database can\nchange it: whoever owns the database can make all seals anew, and only a root kept elsewhere tells.\nThe worker does the same every LIVENTIX_SEAL_INTERVAL_S seconds.\n\nExample:\n  liventix books seal --json',
    )
    .action(({ book, json }: BookOptions) =>
      withDatabase(context, async (pool) => {
        const progress = createProgress(context);
        const sealed = await sealBook(pool, book, {
          onBatch: (done, total) => progress.update('sealing events', done, total),
        }).finally(progress.clear);
        const newest = sealed.at(-1) ?? (await listSeals(pool, { bookId: book, limit: 1 }))[0] ?? null;
        context.out.write(json ? `${toJson({ book, sealed, newest })}\n` : sealText(book, sealed, newest));
      }),
    );
}

function sealText(book: number, sealed: readonly Seal[], newest: Seal | null): string {
  if (newest === null) return `Book ${book} has no events to seal.\n`;
  const events = sealed.reduce((sum, seal) => sum + seal.events, 0);
  const what =
    sealed.length === 0
      ? `nothing new since seal ${newest.sealNumber}`
      : `${formatCount(events)} events in ${sealed.length === 1 ? `seal ${newest.sealNumber}` : `seals ${sealed[0]?.sealNumber} to ${newest.sealNumber}`}`;
  return [
    `sealed     ${what}`,
    `tree size  ${formatCount(newest.treeSize)}`,
    `root       ${newest.root}`,
    `seal hash  ${newest.sealHash}`,
    '',
  ].join('\n');
}

function registerList(books: Command, context: CommandContext): void {
  withBook(books.command('seals'))
    .description('list the seals of a book, the newest first')
    .option('--limit <n>', 'how many', wholeNumber(1, MAX_LISTED), 20)
    .option('--before <n>', 'only seals with a lower number', wholeNumber(1, Number.MAX_SAFE_INTEGER))
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nChanges nothing.\n\nExample:\n  liventix books seals --limit 100 --json')
    .action(({ book, json, ...page }: BookOptions & { limit: number; before?: number }) =>
      withDatabase(context, async (pool) => {
        const seals = await listSeals(pool, { bookId: book, ...page });
        if (json) context.out.write(`${toJson(seals)}\n`);
        else if (seals.length > 0) context.out.write(sealTable(seals, context));
        else context.err.write(`Book ${book} has no such seals. Seal what is new: liventix books seal\n`);
      }),
    );
}

function sealTable(seals: readonly Seal[], context: CommandContext): string {
  const rows = [
    ['seal', 'sealed at', 'events', 'tree size', 'root'],
    ...seals.map(({ sealNumber, sealedAt, events, treeSize, root }) => [
      sealNumber.toString(),
      sealedAt.toISOString(),
      formatCount(events),
      formatCount(treeSize),
      root,
    ]),
  ];
  const right = { align: 'right' } as const;
  return tableText(context, rows, [right, right, right, right, {}]);
}

function registerProve(books: Command, context: CommandContext): void {
  withBook(books.command('prove'))
    .description('print a proof as one JSON document, that scripts/check-proof.py checks without us')
    .argument('[event]', 'its position in the log, or its id: that of the transaction or the account', readEvent)
    .option('--between <roots...>', 'of two roots instead: that the later log begins with the earlier one', readRoot)
    .addHelpText(
      'after',
      '\nChanges nothing. Exits with 1 when the log no longer gives the sealed root, 3 when the event is not sealed yet.\nHow to check a proof with nothing but SHA-256: docs/proofs.md\n\nExamples:\n  liventix books prove 17 > proof.json && python3 check-proof.py proof.json\n  liventix books prove --between ROOT ROOT',
    )
    .action((event: EventName | undefined, options: { book: number; between?: string[] }) =>
      withDatabase(context, async (pool) => {
        context.out.write(
          `${toJson(await waitingFor(context, 'looking for the proof', () => prove(pool, event, options)))}\n`,
        );
      }),
    );
}

async function prove(pool: Pool, event: EventName | undefined, options: { book: number; between?: string[] }) {
  const [first, second, ...more] = options.between ?? [];
  if (event !== undefined && first === undefined) return proveInclusion(pool, options.book, event);
  if (event === undefined && first !== undefined && second !== undefined && more.length === 0) {
    return proveConsistency(pool, options.book, [first, second]);
  }
  throw new AppError('USAGE', 'Give an event, or --between and two roots. See: liventix books prove --help');
}

function readEvent(text: string): EventName {
  if (/^\d{1,19}$/.test(text) && BigInt(text) <= MAX_POSITION) return { position: BigInt(text) };
  if (isUuid(text)) return { eventId: text.toLowerCase() };
  throw new InvalidArgumentError('Give a position or a UUID.');
}

function readRoot(text: string, before: string[] | undefined): string[] {
  if (!/^[0-9a-f]{64}$/i.test(text)) throw new InvalidArgumentError('Give roots of 64 hexadecimal digits.');
  return [...(before ?? []), text.toLowerCase()];
}
