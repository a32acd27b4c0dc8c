import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { LIVENTIX_MAPPING, readMapping } from '../restructure/mapping.ts';
import { type Isolation, isolate } from '../restructure/tenancy/isolate.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { formatCount } from './output.ts';
import { type Patience, withTries } from './patience.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

interface IsolateOptions extends Pick<Patience, 'tries'> {
  readonly mapping?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** Seeing to it that whose rows are whose is held by the database. */
export function registerRestructureIsolate(restructure: Command, context: CommandContext): void {
  withTries(
    restructure
      .command('isolate')
      .description(
        'keep tenants apart: whose each row is, its index, and policies on every table; run again, it goes on',
      )
      .option('--mapping <file>', "whose rows are whose, as JSON; Liventix's own when left out"),
  )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ISOLATE_HELP)
    .action((options: IsolateOptions) => runIsolate(options, context));
}

const ISOLATE_HELP = `
Adds organization_id where a row does not say whose it is, fills it some pages at a time, and keeps it by a trigger; builds the indexes
beside whoever writes; then puts restrictive policies beside the old ones: what they allow, they allow within a tenant. The old ones ask
once a statement what they asked of every row. Views and functions with their owner's rights, which pass by every policy, are closed, ask
for the rights of whoever calls, or look names up where nobody else puts any; what no policy is asked about, as TRUNCATE, readers lose.
Each table in transactions of its own that give way after 50 ms; an index waits for whoever has a transaction open, and keeps nobody
waiting: Ctrl-C ends that too. Undone by liventix restructure rollback. Exits with 1 when something was left.

Examples:
  liventix restructure isolate --dry-run
  liventix restructure isolate`;

async function runIsolate(
  { mapping, tries, dryRun = false, json = false }: IsolateOptions,
  context: CommandContext,
): Promise<void> {
  const wanted = await readMapping(mapping ?? LIVENTIX_MAPPING);
  await withDatabase(
    context,
    async (pool) => {
      const database = await databaseName(pool);
      context.err.write(
        dryRun ? `What would keep the tenants of ${database} apart.\n` : `Keeping the tenants of ${database} apart.\n`,
      );
      const progress = createProgress(context);
      const isolation = await isolate(pool, wanted, {
        stop: context.stop,
        maxTries: tries,
        dryRun,
        onProgress: (what, done, total) => progress.update(printable(what), done, total),
        onBusy: (what, tries) => progress.update(`waiting for ${printable(what)}, tries`, tries, 0),
        onWaiting: (what, holders) => progress.update(`${printable(what)} waits for ${printable(holders)}`, 0, 0),
        onWarning: (warning) => context.err.write(`Warning: ${printable(warning)}\n`),
      }).finally(progress.clear);
      if (json) context.out.write(`${toJson(dryRun ? { wouldDo: isolation.wouldDo } : isolation)}\n`);
      else context.out.write(dryRun ? wouldDoText(isolation) : isolationText(isolation));
      if (dryRun) context.err.write('Nothing was changed.\n');
      else if (isIncomplete(isolation)) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

const isIncomplete = ({ tables, left, isStopped }: Isolation): boolean =>
  isStopped || left.length > 0 || tables.some(({ status }) => status === 'skipped');

const wouldDoText = ({ wouldDo }: Isolation): string =>
  wouldDo
    .flatMap(({ object, statements }) => [`-- ${printable(object)}`, ...statements.map((each) => `${each};`), ''])
    .map((line) => `${line}\n`)
    .join('');

function isolationText({ tables, left, ofOthers, isStopped }: Isolation): string {
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
    ...left.map((each) => `left      ${printable(each)}`),
    ...ofOthers.map((each) => `not ours  ${printable(each)}: what passes by policies there is its owner's to close`),
    '',
    `${count('isolated')} isolated, ${count('already')} before, ${count('skipped')} left.`,
    ...(isStopped ? ['Stopped. Run it again: it goes on where it was.'] : []),
    '',
  ].join('\n');
}
