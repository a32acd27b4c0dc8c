import type { Command } from 'commander';
import { compareWithRebuild, type RebuiltTable } from '../ledger/rebuild.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { MAX_BOOK, wholeNumber } from './options.ts';
import { formatCount, toJson } from './output.ts';
import { createProgress } from './progress.ts';

export function registerRebuild(books: Command, context: CommandContext): void {
  books
    .command('rebuild')
    .description('replay the log in an empty schema, and compare what it gives with the live tables')
    .option('--book <n>', 'only this book; all of them when left out', wholeNumber(1, MAX_BOOK))
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nThe projections are rebuilt by their own functions in one database transaction, which is undone afterwards: the live\ntables are read and not changed. Needs the right to create a schema, and the space of the tables once more.\nExits with 0 when every table is the same, row by row, and 1 when one is not.\n\nExample:\n  liventix books rebuild --book 2 --json',
    )
    .action((options: { book?: number; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const progress = createProgress(context);
        const tables = await compareWithRebuild(pool, {
          ...(options.book === undefined ? {} : { bookId: options.book }),
          onStep: (position, last) => progress.update('replaying the log', position, last),
        }).finally(progress.clear);
        const isEqual = tables.every((table) => table.isEqual);
        context.out.write(options.json ? `${toJson({ equal: isEqual, tables })}\n` : rebuildText(tables, isEqual));
        if (!isEqual) context.exitWith(1);
      }),
    );
}

function rebuildText(tables: readonly RebuiltTable[], isEqual: boolean): string {
  const lines = tables.map(
    ({ table, rows, rebuiltRows, isEqual: same }) =>
      `${same ? 'same   ' : 'DIFFERS'}  ${table.padEnd(18)} ${formatCount(rows).padStart(14)} rows, rebuilt ${formatCount(rebuiltRows).padStart(14)}\n`,
  );
  const verdict = isEqual
    ? 'Every table is what the log gives.'
    : 'NOT every table is what the log gives. Which rows: liventix books verify';
  return `${lines.join('')}\n${verdict}\n`;
}
