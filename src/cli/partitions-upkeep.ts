import { Argument, type Command, Option } from 'commander';
import { dropSetAside } from '../analytics/partitions/clean.ts';
import { readStatus } from '../analytics/partitions/status.ts';
import { chooseRunner, maintain, type Upkept } from '../analytics/partitions/upkeep.ts';
import { toJson } from '../db/json-value.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { printable } from './printable.ts';
import { waitingFor } from './progress.ts';

/** Seeing to the months, and to what is left of others. */
export function registerPartitionsUpkeep(partitions: Command, context: CommandContext): void {
  partitions
    .command('maintain')
    .description('see to the months now: make those ahead, take out what is older than is kept')
    .option('--yes', 'take months out though nobody has seen to them for more than 45 days')
    .option('--json', 'print one JSON array')
    .addHelpText('after', MAINTAIN_HELP)
    .action(({ yes = false, json = false }: { yes?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const done = await waitingFor(context, 'seeing to the months', () =>
          maintain(pool, 'command', { isConfirmed: yes }),
        );
        if (json) context.out.write(`${toJson(done)}\n`);
        else context.out.write(done.length === 0 ? 'Nothing was due.\n' : done.map(upkeptLine).join(''));
        if (done.some(({ action }) => action === 'left' || action === 'held back')) context.exitWith(1);
      }),
    );

  partitions
    .command('schedule')
    .description('say who sees to the months from now on, each hour')
    .addArgument(
      new Argument('<runner>', 'the worker, or pg_cron where the extension is there').choices(['worker', 'pg_cron']),
    )
    .option('--dry-run', 'say whether it could, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nNever both: each asks first whether it is meant.\n\nExample:\n  liventix partitions schedule pg_cron',
    )
    .action((runner: 'worker' | 'pg_cron', { dryRun = false, json = false }: { dryRun?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        await chooseRunner(pool, runner, { dryRun });
        const database = await databaseName(pool);
        const by = `${dryRun ? 'would be' : 'are'} seen to by ${runner === 'worker' ? 'the worker' : 'pg_cron'}`;
        context.out.write(
          json
            ? `${toJson({ database, [dryRun ? 'wouldRun' : 'runner']: runner })}\n`
            : `The months of ${database} ${by}.\n`,
        );
        if (dryRun) context.err.write('Nothing was changed.\n');
      }),
    );

  partitions
    .command('clean')
    .description('drop what apply and rollback set aside')
    .addOption(new Option('--yes', 'do it; without it, only say what would be dropped').conflicts('dryRun'))
    .option('--dry-run', 'say what would be dropped, as without --yes')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nThe way back stays: it copies the rows that there are by then.\n\nExample:\n  liventix partitions clean --yes',
    )
    .action(({ yes = false, json = false }: { yes?: boolean; json?: boolean }) => runClean({ yes, json }, context));
}

const MAINTAIN_HELP = `
Gives way to whoever uses a table: what could not be done is tried again the next time, and said. A clock that is ahead takes nothing out:
months are counted back from the newest row where that is older, and after 45 days without upkeep nothing goes unless a person says --yes.
Exits with 1 when something was left.

Example:
  liventix partitions maintain`;

const upkeptLine = ({ action, table, partition, detail }: Upkept): string =>
  `${action.padEnd(9)} ${printable([table, partition ?? '', detail ?? ''].filter((part) => part !== '').join(', '))}\n`;

async function runClean({ yes, json }: { yes: boolean; json: boolean }, context: CommandContext): Promise<void> {
  await withDatabase(context, async (pool) => {
    const { setAside } = await readStatus(pool);
    if (!yes) {
      context.out.write(
        json
          ? `${toJson(setAside)}\n`
          : setAside.length === 0
            ? 'Nothing is set aside.\n'
            : setAside
                .map(({ relation, table }) => `would drop ${printable(relation)}, what ${printable(table)} was\n`)
                .join(''),
      );
      if (!json && setAside.length > 0)
        context.err.write(`In ${await databaseName(pool)}. Nothing was dropped: say --yes.\n`);
      return;
    }
    const dropped = await waitingFor(context, 'dropping what was set aside', () =>
      dropSetAside(pool, { stop: context.stop }),
    );
    context.out.write(
      json
        ? `${toJson(dropped)}\n`
        : dropped.length === 0
          ? 'Nothing is set aside.\n'
          : dropped.map((relation) => `dropped ${printable(relation)}\n`).join(''),
    );
  });
}
