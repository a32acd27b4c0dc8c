import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import {
  assessInstall,
  type Installed,
  install,
  planInstall,
  planUninstall,
  type Uninstalled,
  uninstall,
} from '../states/install.ts';
import type { Machine } from '../states/machine.ts';
import type { InstallWatch, Mapped } from '../states/take-in.ts';
import { checkMachines } from '../states/verify.ts';
import { watchChecks } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { machinesArgument } from './machine-argument.ts';
import { formatCount, paintOut } from './output.ts';
import { createProgress } from './progress.ts';

interface InstallOptions {
  readonly table?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** Putting machines on tables, taking them off, and finding out whether they hold. */
export function registerStatesInstall(states: Command, context: CommandContext): void {
  states
    .command('install')
    .description('let tables go by their machines: old rows are taken in, every change is judged from then on')
    .addArgument(machinesArgument())
    .option('--table <table>', 'another table than the one that the machine is declared for')
    .option('--dry-run', 'say what would become of the rows, print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText('after', INSTALL_HELP)
    .action((machines: readonly Machine[], options: InstallOptions) => runInstall(machines, options, context));

  states
    .command('uninstall')
    .description('undo install: take off the column state and the triggers, put the old checks back')
    .addArgument(machinesArgument())
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText('after', UNINSTALL_HELP)
    .action((machines: readonly Machine[], options: InstallOptions) => runUninstall(machines, options, context));

  states
    .command('verify')
    .description('recompute what the installed machines promise; exits with 1 when something does not hold')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nReads in one snapshot, and changes nothing: states against histories, accounts against states.\n\nExample:\n  liventix states verify --json',
    )
    .action(({ json }: { json?: boolean }) => withDatabase(context, (pool) => runVerify(pool, json === true, context)));
}

const INSTALL_HELP = `
The table keeps the column of its old labels, and old code goes on to read and to write it: it and the column state follow each other.
Old rows get the state that their label says, and a history that says so; nothing else of them changes. An order whose state implies
money in its escrow gets the posting that put it there.

Gives way to whoever uses the table after 50 ms and tries again, at most 40 times. Interrupted, it goes on where it was.

Examples:
  liventix states install escrow --dry-run
  liventix states install escrow ticket proposal campaign`;

const UNINSTALL_HELP = `
Old labels stay as they are. The history stays, and what was booked: installed again, each row goes on from the state that its history
ends in, where its label may still stand for that. Until then nobody watches what the accounts keep. A check that rows no longer fit holds
for new rows alone, and is named.

Example:
  liventix states uninstall escrow --dry-run`;

async function runInstall(
  machines: readonly Machine[],
  options: InstallOptions,
  context: CommandContext,
): Promise<void> {
  const { table, dryRun = false, json = false } = options;
  if (table !== undefined && machines.length > 1)
    throw new AppError('USAGE', '--table is for one machine. See: liventix states install --help');
  await withDatabase(
    context,
    async (pool) => {
      // All before any: a fault of one shows while nothing has been changed.
      for (const machine of machines) await assessInstall(pool, machine, table);
      const done = dryRun ? await planAll(pool, machines, table) : await installAll(pool, machines, table, context);
      if (json) context.out.write(`${toJson(dryRun ? done.map((each) => ({ wouldDo: each })) : done)}\n`);
      else context.out.write(done.map((each) => installedText(each, dryRun)).join(''));
      if (dryRun) context.err.write('Nothing was changed.\n');
    },
    { stopsItself: true },
  );
}

async function planAll(
  pool: Pool,
  machines: readonly Machine[],
  table: string | undefined,
): Promise<readonly Installed[]> {
  const planned: Installed[] = [];
  for (const machine of machines) planned.push(await planInstall(pool, machine, table));
  return planned;
}

async function installAll(
  pool: Pool,
  machines: readonly Machine[],
  table: string | undefined,
  context: CommandContext,
): Promise<readonly Installed[]> {
  const progress = createProgress(context);
  const done: Installed[] = [];
  try {
    for (const machine of machines) {
      const watch: InstallWatch = {
        stop: context.stop,
        onBusy: (tries) => progress.update('waiting for the table, tries', tries, 0),
        onProgress: (rows, total) => progress.update(`rows of ${machine.name}`, rows, total),
      };
      done.push(await install(pool, machine, { ...watch, table }));
    }
    return done;
  } finally {
    progress.clear();
  }
}

function installedText(each: Installed, dryRun: boolean): string {
  const { status, machine, table, mapped, implied, dropped } = each;
  if (status === 'already') return `already    ${machine} on ${table}\n`;
  const lines = [
    `${dryRun ? 'would install' : status}  ${machine} on ${table}`,
    ...mapped.map(mappedLine),
    ...implied.map(
      ({ currency, rows, amountCents }) =>
        `  ${dryRun ? 'would book' : 'booked'} what ${formatCount(rows)} rows imply: ${amountCents} ${currency} in minor units`,
    ),
    ...dropped.map((name) => `  ${dryRun ? 'would take off' : 'took off'} the check ${name}`),
    ...(dryRun ? sqlLines(each) : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

const sqlLines = ({ statements, afterwards }: Installed): readonly string[] => [
  ...statements.map((statement) => `${statement};`),
  '-- then, so many rows a transaction, each row gets its state, and with it a history and its money; and when all have:',
  ...afterwards.map((statement) => `${statement};`),
];

function mappedLine({ label, state, rows }: Mapped): string {
  const change = label === null ? `null -> ${state}` : label === state ? state : `${label} -> ${state}`;
  return `  ${formatCount(rows).padStart(12)}  ${change}`;
}

async function runUninstall(
  machines: readonly Machine[],
  options: InstallOptions,
  context: CommandContext,
): Promise<void> {
  const { dryRun = false, json = false } = options;
  await withDatabase(
    context,
    async (pool) => {
      const done: Uninstalled[] = [];
      const where = await databaseName(pool);
      for (const machine of machines) {
        if (!dryRun) context.err.write(`Taking ${machine.name} off its table in ${where}: the column state goes.\n`);
        done.push(dryRun ? await planUninstall(pool, machine) : await uninstall(pool, machine, { stop: context.stop }));
      }
      if (json) context.out.write(`${toJson(dryRun ? done.map((each) => ({ wouldDo: each })) : done)}\n`);
      else context.out.write(done.map((each) => uninstalledText(each, dryRun)).join(''));
      if (dryRun) context.err.write('Nothing was changed.\n');
    },
    { stopsItself: true },
  );
}

function uninstalledText({ status, machine, table, kept, restored, statements }: Uninstalled, dryRun: boolean): string {
  if (status === 'already') return `${machine} is on no table\n`;
  const lines = [
    `${dryRun ? 'would take' : 'took'} ${machine} off ${table ?? 'its table, which is gone'}`,
    ...kept.map(
      ({ currency, rows, amountCents }) =>
        `  ${formatCount(rows)} accounts keep ${amountCents} ${currency} in minor units, which nobody watches until it is installed again`,
    ),
    ...(dryRun
      ? statements.map((statement) => `${statement};`)
      : restored.map(
          ({ name, holdsForAll }) =>
            `  put back the check ${name}${holdsForAll ? '' : ', for new rows alone: there are rows that it refuses'}`,
        )),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

async function runVerify(pool: Pool, json: boolean, context: CommandContext): Promise<void> {
  const paint = paintOut(context);
  const progress = createProgress(context);
  const watch = watchChecks(context, progress, json);
  const checks = await withTransaction(pool, (tx) => checkMachines(tx, watch), ONE_SNAPSHOT).finally(progress.clear);
  const holds = checks.every((check) => check.holds);
  if (json) context.out.write(`${toJson({ holds, checks })}\n`);
  else if (checks.length === 0) context.out.write('No machine is installed: there is nothing to verify.\n');
  else context.out.write(`\n${holds ? paint.good('The machines hold.') : paint.bad('The machines do NOT hold.')}\n`);
  if (!holds) context.exitWith(1);
}
