import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import {
  type ComparedTable,
  DEFAULT_MAX_ROWS,
  discardRebuild,
  type Rebuild,
  type RebuildOptions,
  rebuildProjections,
  type Swap,
} from '../ledger/rebuild/rebuild.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { createProgress } from './progress.ts';

const REBUILD_HELP = `
The projections (accounts, entries, balances, account_changes, holds, hold_entries, reversals, periods, account_slots) are
rebuilt in the schema payments_rebuilt, in steps that are committed one by one, and compared row by row with the live ones, which
are read and not changed. Stopped or killed at any point, it goes on when run again. It needs the right to create a schema, and
the space of the tables once more. What differs is kept there for --swap, until --discard; where nothing differs, nothing is left.

--swap looks first whether the log itself is as it was written and sealed. Then, under a lock that it tries for 50 ms at a time and
that keeps postings waiting, it projects the rest and puts the rows that differ in place. It says for how long the lock was held.
Nothing is announced. Without --swap it is the dry run. Afterwards: liventix books verify

Exits with 0 when every table is the same, or was made so, 1 when one differs, 3 when it was stopped before the end.

Examples:
  liventix replay rebuild
  liventix replay rebuild --swap --json`;

const VERIFY_HELP = `
As replay rebuild without --swap, and leaves nothing behind: the live tables are read and not changed. Needs the right to create a
schema, and the space of the tables once more. Exits with 0 when every table is the same, row by row, and 1 when one differs.

Example:
  liventix replay verify --book 2 --json`;

/** An integer that JavaScript holds exactly. */
const MOST_ROWS = Number.MAX_SAFE_INTEGER;

export function registerReplay(program: Command, context: CommandContext): void {
  const replay = program
    .command('replay')
    .description('make the projections anew from the log, beside the live ones: to compare, and to put in place')
    .addHelpText('after', '\nExample:\n  liventix replay rebuild');
  const bookOption = ['--book <n>', 'only this book; all of them when left out', wholeNumber(1, MAX_BOOK)] as const;
  replay
    .command('rebuild')
    .description('rebuild the projections beside the live ones and compare; with --swap, make the live ones the same')
    .option(...bookOption)
    .option('--swap', 'put the rows that differ in place of the live ones')
    .option('--max-rows <n>', 'with --swap: at most so many', wholeNumber(1, MOST_ROWS), DEFAULT_MAX_ROWS)
    .addOption(
      new Option('--discard', 'remove what a run before has left, and do nothing else').conflicts(['swap', 'book']),
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', REBUILD_HELP)
    .action((options: RebuildFlags) =>
      options.discard === true
        ? withDatabase(context, (pool) => discard(pool, options, context))
        : withDatabase(
            context,
            (pool) =>
              run(pool, options, context, {
                keep: true,
                ...(options.swap === true ? { swap: { maxRows: BigInt(options.maxRows) } } : {}),
              }),
            { stopsItself: true },
          ),
    );
  replay
    .command('verify')
    .description('replay the log beside the live tables, and compare what it gives with them')
    .option(...bookOption)
    .option('--json', 'print one JSON object')
    .addHelpText('after', VERIFY_HELP)
    .action((options: Flags) =>
      withDatabase(context, (pool) => run(pool, options, context, {}), { stopsItself: true }),
    );
}

interface Flags {
  readonly book?: number;
  readonly json?: boolean;
}

interface RebuildFlags extends Flags {
  readonly swap?: boolean;
  readonly maxRows: number;
  readonly discard?: boolean;
}

async function discard(pool: Pool, options: Flags, context: CommandContext): Promise<void> {
  const wasThere = await discardRebuild(pool);
  if (options.json) context.out.write(`${toJson({ discarded: wasThere })}\n`);
  else context.out.write(wasThere ? 'What was rebuilt is removed.\n' : 'Nothing was there.\n');
}

async function run(pool: Pool, flags: Flags, context: CommandContext, options: RebuildOptions): Promise<void> {
  const startedAt = performance.now();
  const progress = createProgress(context);
  const rebuild = await rebuildProjections(pool, {
    ...options,
    ...(flags.book === undefined ? {} : { bookId: flags.book }),
    stop: context.stop,
    onStep: (position, last) => progress.update('projecting the log', position, last),
    onCompare: (table) => progress.update(`comparing ${table}`, 0, 0),
    onCheck: (check) => progress.update(`checking that ${check}`, 0, 0),
    onBusy: (tries) => progress.update(`waiting for the ledger's locks, try ${tries}`, 0, 0),
  }).finally(progress.clear);
  const seconds = (performance.now() - startedAt) / 1_000;
  const { tables, isEqual, resumedAt, swap, isKept } = rebuild;
  context.out.write(
    flags.json
      ? `${toJson({ equal: isEqual, resumedAt, tables, swap: swap ?? null, kept: isKept, seconds })}\n`
      : rebuildText(rebuild, paintOut(context)),
  );
  if (!isEqual && swap === undefined) context.exitWith(1);
}

function rebuildText(rebuild: Rebuild, paint: Paint): string {
  const { tables, isEqual, resumedAt, swap, isKept } = rebuild;
  const resumed =
    resumedAt === 0n ? '' : `What a run before had rebuilt, up to position ${resumedAt}, was found again.\n\n`;
  const verdict = isEqual
    ? `${paint.good('Every table is what the log gives.')}\n`
    : swap === undefined
      ? `${paint.bad('NOT every table is what the log gives.')}${isKept ? ' What it gives is kept: put it in place with --swap, or remove it with --discard.' : ' Put it right: liventix replay rebuild --swap'}\n`
      : swapText(swap);
  return `${resumed}${tables.map((table) => comparedText(table, paint)).join('')}\n${verdict}`;
}

function comparedText(
  { table, rows, rebuiltRows, isEqual, differing, missing, surplus, first }: ComparedTable,
  { bad, good }: Paint,
): string {
  const counts = `${table.padEnd(18)} ${formatCount(rows).padStart(14)} rows, rebuilt ${formatCount(rebuiltRows).padStart(14)}`;
  if (isEqual) return `${good('same')}     ${counts}\n`;
  const found = `differing ${formatCount(differing)}, missing ${formatCount(missing)}, surplus ${formatCount(surplus)}`;
  return `${bad('DIFFERS')}  ${counts}   ${found}\n${first.map((text) => `         ${text}\n`).join('')}`;
}

const swapText = ({ rows, lockedMs, tries }: Swap) =>
  `${formatCount(rows)} rows were put in place, under a lock of ${Math.ceil(lockedMs)} ms${tries === 1 ? '' : `, at try ${tries}`}. Every table is what the log gives. Prove it: liventix books verify\n`;
