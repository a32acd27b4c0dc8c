import type { Command } from 'commander';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { checkRestructuring } from '../restructure/verify/checks.ts';
import { watchChecks } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { toJson } from './output.ts';
import { createProgress } from './progress.ts';

/** Finding out whether nothing changed but what was to change. */
export function registerRestructureVerify(restructure: Command, context: CommandContext): void {
  restructure
    .command('verify')
    .description('prove that nothing changed but where tables are; exits with 1 when something does not hold')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Reads in one snapshot, every row of every moved table by both names, and changes nothing: what the catalog says of each table against what it
said before and after each step, views against tables, privileges by role, rows, foreign keys, policies.

Example:
  liventix restructure verify`,
    )
    .action(({ json = false }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const progress = createProgress(context);
        const checks = await withTransaction(
          pool,
          (tx) => checkRestructuring(tx, watchChecks(context, progress, json)),
          ONE_SNAPSHOT,
        ).finally(progress.clear);
        const holds = checks.every((check) => check.holds);
        if (json) context.out.write(`${toJson({ holds, checks })}\n`);
        else context.out.write(holds ? '\nIt holds.\n' : '\nIt does NOT hold.\n');
        if (!holds) context.exitWith(1);
      }),
    );
}
