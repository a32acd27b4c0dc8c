import type { Command } from 'commander';
import { LIVENTIX_MAPPING, readMapping } from '../restructure/mapping.ts';
import { type Isolation, isolate } from '../restructure/tenancy/isolate.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { formatCount, toJson } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

interface IsolateOptions {
  readonly mapping?: string;
  readonly json?: boolean;
}

/** Seeing to it that whose rows are whose is held by the database. */
export function registerRestructureIsolate(restructure: Command, context: CommandContext): void {
  restructure
    .command('isolate')
    .description('keep tenants apart: whose each row is, its index, and policies on every table; run again, it goes on')
    .option('--mapping <file>', "whose rows are whose, as JSON; Liventix's own when left out")
    .option('--json', 'print one JSON object')
    .addHelpText('after', ISOLATE_HELP)
    .action((options: IsolateOptions) => runIsolate(options, context));
}

const ISOLATE_HELP = `
Adds organization_id where a row does not say whose it is, fills it some pages at a time, and keeps it by a trigger; builds the indexes beside
whoever writes; then puts restrictive policies beside the old ones: what they allow, they allow within a tenant. Views and functions with
their owner's rights, which pass by every policy, are closed or ask for the rights of whoever calls. Each table in transactions of its own
that give way after 50 ms. Undone by liventix restructure rollback. Exits with 1 when a table was left.

Example:
  liventix restructure isolate`;

async function runIsolate({ mapping, json = false }: IsolateOptions, context: CommandContext): Promise<void> {
  const wanted = await readMapping(mapping ?? LIVENTIX_MAPPING);
  await withDatabase(
    context,
    async (pool) => {
      context.err.write(`Keeping the tenants of ${await databaseName(pool)} apart.\n`);
      const progress = createProgress(context);
      const isolation = await isolate(pool, wanted, {
        stop: context.stop,
        onProgress: (what, done, total) => progress.update(printable(what), done, total),
        onBusy: (what, tries) => progress.update(`waiting for ${printable(what)}, tries`, tries, 0),
      }).finally(progress.clear);
      context.out.write(json ? `${toJson(isolation)}\n` : isolationText(isolation));
      if (isolation.isStopped || isolation.tables.some(({ status }) => status === 'skipped')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

function isolationText({ tables, isStopped }: Isolation): string {
  const count = (status: string) => tables.filter((table) => table.status === status).length;
  const lines = tables.map(({ table, status, filled, without, reason }) =>
    [
      `${status.padEnd(9)} ${printable(table)}`,
      ...(without === null
        ? []
        : [`${formatCount(filled)} rows given their organization, ${formatCount(without)} of none`]),
      ...(reason === undefined ? [] : [printable(reason)]),
    ].join(': '),
  );
  return [
    ...lines,
    '',
    `${count('isolated')} isolated, ${count('already')} before, ${count('skipped')} left.`,
    ...(isStopped ? ['Stopped. Run it again: it goes on where it was.'] : []),
    '',
  ].join('\n');
}
