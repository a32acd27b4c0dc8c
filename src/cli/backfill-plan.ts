import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import { isLegacyColumn } from '../replay/legacy.ts';
import type { Hazard } from '../replay/plan/hazards.ts';
import { type Need, type Plan, planBackfill } from '../replay/plan/plan.ts';
import type { Replication } from '../replay/plan/surroundings.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, formatMoney } from './output.ts';
import { createProgress } from './progress.ts';

interface Flags {
  readonly ignoreColumn: readonly string[];
  readonly json?: boolean;
}

const HELP = `
Reads in one snapshot, changes nothing, and needs nothing of ours: it may be run before migrate. Refuses a database with a column that
nobody knows on a wallet table, for it may hold money that nobody reads; where you know that it holds none, name it. That is asked again
by each plan; capture and run mind only the columns that they read.
Exits with 1 when columns are unknown, or something must be put right before the backfill.

Examples:
  liventix backfill plan
  liventix backfill plan --ignore-column wallets.colour --json`;

export function registerPlan(backfill: Command, context: CommandContext): void {
  backfill
    .command('plan')
    .description('what there is, what of it is at odds, and what a backfill will take: time, space, locks')
    .option(
      '--ignore-column <table.column>',
      'an unknown column that holds no money; any number of times',
      legacyColumn,
      [],
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action((flags: Flags) =>
      withDatabase(
        context,
        async (pool) => {
          const progress = createProgress(context);
          const plan = await planBackfill(pool, {
            ignoredColumns: flags.ignoreColumn,
            onStep: (step) => progress.update(step, 0, 0),
          }).finally(progress.clear);
          context.out.write(flags.json ? `${toJson(plan)}\n` : planText(plan));
          if (!plan.holds) context.exitWith(1);
        },
        { isBeforeMigrations: true },
      ),
    );
}

function legacyColumn(column: string, others: readonly string[]): readonly string[] {
  if (isLegacyColumn(column)) return [...others, column];
  throw new InvalidArgumentError('Give a column of a legacy table, such as wallets.colour.');
}

function planText(plan: Plan): string {
  const { database, role, postgres, hazards, interferences, locks, waitsFor, needs, replication, holds } = plan;
  const sections: [title: string, lines: readonly string[]][] = [
    ['Tables', plan.tables.flatMap(tableLines)],
    ['At odds', hazards.length === 0 ? ['nothing'] : hazards.flatMap(hazardLines)],
    [
      'On the tables',
      interferences.map(
        ({ kind, on, what, outcome, blocks }) => `${mark(blocks)}${kind} on ${on}: ${what}; ${outcome}`,
      ),
    ],
    ['Time and space', needLines(needs)],
    ['Locks', locks.map(({ command, mode, on, heldUntil }) => `${command}: ${mode} on ${on}, until ${heldUntil}`)],
    ['Open transactions that capture on would wait for', waitsFor.map(({ who, todo }) => `${who}. ${todo}`)],
    ['Replication', replicationLines(replication)],
  ];
  return [
    `${database} on PostgreSQL ${postgres}, as ${role}\n`,
    ...sections.flatMap(([title, lines]) =>
      lines.length === 0 ? [] : [`\n${title}\n`, ...lines.map((line) => `  ${line}\n`)],
    ),
    holds
      ? '\nNothing stands against it. Nothing was changed.\n'
      : '\nWhat is marked FIRST must be put right first. Nothing was changed.\n',
  ].join('');
}

const mark = (blocks: boolean) => (blocks ? 'FIRST ' : '');

function tableLines({
  table,
  rows,
  bytes,
  firstAt,
  lastAt,
  withoutTime,
  inTheFuture,
}: Plan['tables'][number]): string[] {
  const range = firstAt === null ? '' : `, ${firstAt} to ${lastAt}`;
  const odd = [
    ...(withoutTime === 0n ? [] : [`${formatCount(withoutTime)} without a time`]),
    ...(inTheFuture === 0n ? [] : [`${formatCount(inTheFuture)} in the future`]),
  ];
  return [
    `${table.padEnd(34)} ${formatCount(rows).padStart(11)} rows, ${megabytes(bytes)}${range}${odd.map((text) => `, ${text}`).join('')}`,
  ];
}

function hazardLines({ hazard, table, count, cents, examples, outcome, blocks }: Hazard): string[] {
  const money = cents === null ? '' : `, ${formatMoney(cents)} USD`;
  return [
    `${mark(blocks)}${hazard}: ${formatCount(count)} in ${table}${money}; ${outcome}`,
    ...examples.map((example) => `    ${example}`),
  ];
}

function needLines({ surveySeconds, runSeconds, durationBasis, spaceBasis, ...space }: Need): string[] {
  return [
    `about ${duration(runSeconds)}, of which the survey ${duration(surveySeconds)}`,
    `  (${durationBasis})`,
    `about ${megabytes(space.bytes)} of tables and indexes, and ${megabytes(space.walBytes)} of write-ahead log`,
    `  (${spaceBasis})`,
    `a checkpoint after ${megabytes(space.checkpointBytes)} of that log at most (max_wal_size)`,
    '  (with 50 of them, and 256 MB of shared_buffers, 10,000,000 rows took half as long again: docs/benchmarks.md)',
  ];
}

function replicationLines({ walLevel, isReplica, slots, replicas, publications }: Replication): string[] {
  return [
    `wal_level ${walLevel}${isReplica ? '; this server is a replica: the backfill runs on its primary' : ''}`,
    ...replicas.map(({ name, state, sync }) => `replica ${name}, ${state ?? 'of unknown state'}, ${sync ?? 'unknown'}`),
    ...slots.map(
      ({ name, kind, active, behindBytes }) =>
        `slot ${name}, ${kind}, ${active ? 'in use' : 'read by nobody'}${behindBytes === null ? '' : `, ${megabytes(behindBytes)} behind`}`,
    ),
    ...publications.map(
      (name) => `publication ${name} sends the wallet tables; the ledger's own go with it where it is for all tables`,
    ),
  ];
}

const MEGABYTE = 1_000_000;

function megabytes(bytes: bigint): string {
  return `${(Number(bytes) / MEGABYTE).toFixed(1).replace(/\B(?=(\d{3})+\.)/g, ',')} MB`;
}

function duration(seconds: number): string {
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return `${formatCount(Math.ceil(seconds / 60))} min`;
}
