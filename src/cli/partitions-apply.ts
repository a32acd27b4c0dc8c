import type { Command } from 'commander';
import { type ApplyOptions, applyPartitions, type Outcome } from '../analytics/partitions/apply.ts';
import type { Reconciled } from '../analytics/partitions/copies.ts';
import { type Finding, inMegabytes } from '../analytics/partitions/findings.ts';
import { type Entry, LIVENTIX_PARTITIONS, readPartitionsMapping } from '../analytics/partitions/mapping.ts';
import type { Mended } from '../analytics/partitions/mend-keys.ts';
import { makePlan, type PlannedTable } from '../analytics/partitions/plan.ts';
import { chooseToPutBack, type PutBack, rollBackPartitions } from '../analytics/partitions/rollback.ts';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { several } from './options.ts';
import { formatCount } from './output.ts';
import { type Patience, withPatience, withRest } from './patience.ts';
import { printable } from './printable.ts';
import { createProgress, waitingFor } from './progress.ts';
import { didYouMean } from './suggestion.ts';

interface Selection {
  readonly mapping?: string;
  readonly table: readonly string[];
  readonly json?: boolean;
}

type Flags = Patience & { readonly rest: number };
type Trying = { readonly dryRun?: boolean };
type ApplyFlags = Selection & Flags & { readonly keepPast?: boolean; readonly yes?: boolean } & Trying;

/** Seeing what would become of tables, doing it, and undoing it. */
export function registerPartitionsApply(partitions: Command, context: CommandContext): void {
  selecting(
    partitions.command('plan').description('say what becomes of each table of the mapping, and what keeps one from it'),
  )
    .addHelpText('after', PLAN_HELP)
    .action((options: Selection) => runPlan(options, context));

  givingWay(
    selecting(
      partitions
        .command('apply')
        .description(
          'turn the tables of the mapping into such as are kept by month; run again, it goes on where it was',
        ),
    ),
  )
    .option('--dry-run', 'say what partitions plan says, and change nothing')
    .option('--keep-past', 'leave the rows there are in one partition: nothing is copied')
    .option('--yes', 'let months go that a shorter keepMonths than before keeps no longer')
    .addHelpText('after', APPLY_HELP)
    .action((options: ApplyFlags) => (options.dryRun ? runPlan : runApply)(options, context));

  givingWay(
    partitions
      .command('rollback')
      .description('make plain tables again, with every row there is by then; also gives up what apply began')
      .option('--table <table>', 'put this table back alone; may be given several times', several, [])
      .option('--dry-run', 'say which tables it would be, and change nothing')
      .option('--json', 'print one JSON object'),
  )
    .addHelpText('after', ROLLBACK_HELP)
    .action((options: Selection & Flags & Trying) => (options.dryRun ? runRollbackDry : runRollback)(options, context));
}

const selecting = (command: Command): Command =>
  command
    .option('--mapping <file>', "which tables, and how, as JSON; Liventix's own when left out")
    .option('--table <table>', 'this table alone, with its schema; may be given several times', several, [])
    .option('--json', 'print one JSON object');

/** A rest of once the step imposed 65 ms on the p99 of who writes beside it, on a disk that both share. */
export const REST_FACTOR = 3;
const givingWay = (command: Command): Command =>
  withPatience(withRest(command, 'a step took, of copying or an index', REST_FACTOR));

const PLAN_HELP = `
Changes nothing. Exits with 1 when a table cannot be converted as it is. What the words mean: docs/partitions.md.

Examples:
  liventix partitions plan
  liventix partitions plan --mapping partitions.json --table analytics.event_impressions`;

const APPLY_HELP = `
Each table in three parts. Beside whoever uses it: its keys and indexes with the instant, a check of where the past ends, not valid first.
In one short transaction: the table becomes the partition of the past of one that bears its name, and views, foreign keys, policies,
grants, triggers and publications go over. Beside whoever uses it again: its rows are copied into months, what changes meanwhile is
captured; and in another short transaction the months take the place of the past, which is set aside (liventix partitions clean drops it).
Of a table that has its months, what keeps its keys is put right: triggers, keys that are lacking, keys that nothing has or refers to.
Locks are given way to after 50 ms and tried again. Needs as much disk again as the rows take, until clean. Exits with 1 when a table was
left.

Examples:
  liventix partitions apply
  liventix partitions apply --table analytics.event_impressions --keep-past
  liventix partitions apply --rest 4`;

const ROLLBACK_HELP = `
Copies every row that is there now into a plain table, beside whoever uses it, which takes the place of the months in one short
transaction. The months are set aside (liventix partitions clean drops them). What is known of a table that somebody dropped goes. Exits
with 1 when a table was left.

Examples:
  liventix partitions rollback
  liventix partitions rollback --table analytics.event_impressions`;

async function readEntries({ mapping, table }: Selection): Promise<readonly Entry[]> {
  const { tables } = await readPartitionsMapping(mapping ?? LIVENTIX_PARTITIONS);
  const unknown = table.find((name) => !tables.some((entry) => entry.table === name));
  if (unknown !== undefined) {
    throw new AppError(
      'PARTITIONS_TABLE_UNKNOWN',
      `${unknown} is not in the mapping, which has ${tables.map((entry) => entry.table).join(', ')}.${didYouMean(
        unknown,
        tables.map((entry) => entry.table),
      )}`,
    );
  }
  return table.length === 0 ? tables : tables.filter((entry) => table.includes(entry.table));
}

async function runPlan(options: Selection, context: CommandContext): Promise<void> {
  const entries = await readEntries(options);
  await withDatabase(context, async (pool) => {
    const plan = await waitingFor(context, 'reading the catalog', () => makePlan(pool, entries, new Date()));
    context.out.write(options.json === true ? `${toJson({ tables: plan })}\n` : plan.map(plannedText).join('\n'));
    if (plan.some(({ status }) => status === 'blocked')) context.exitWith(1);
  });
}

const MARKS: Readonly<Record<Finding['severity'], string>> = { blocks: 'BLOCKS ', changes: 'changes', note: 'note   ' };

function plannedText({ table, status, rowsEstimated, sizeBytes, months, findings }: PlannedTable): string {
  const rows = rowsEstimated === null ? 'rows not counted yet' : `about ${formatCount(Math.round(rowsEstimated))} rows`;
  const size = sizeBytes === null ? '' : `, ${rows}, ${formatCount(inMegabytes(sizeBytes))} MB`;
  const future = months.length === 0 ? '' : `, months ${months[0]} to ${months.at(-1)} beside the past`;
  return [
    `${status.padEnd(8)} ${printable(table)}${size}${future}`,
    ...findings.map(({ severity, text }) => `    ${MARKS[severity]} ${printable(text)}`),
    '',
  ].join('\n');
}

async function runApply(options: ApplyFlags, context: CommandContext): Promise<void> {
  const entries = await readEntries(options);
  await withDatabase(
    context,
    async (pool) => {
      context.err.write(`Turning tables of ${await databaseName(pool)} into months.\n`);
      const progress = createProgress(context);
      const outcomes = await applyPartitions(pool, {
        ...patienceOf(options, context),
        entries,
        now: new Date(),
        keepsPast: options.keepPast,
        mayLose: options.yes,
        onStep: (what, done, total) => progress.update(printable(what), done, total),
        onOutcome: (outcome) => {
          progress.clear();
          if (options.json !== true) context.out.write(outcomeText(outcome));
        },
      }).finally(progress.clear);
      if (options.json === true) context.out.write(`${toJson({ outcomes })}\n`);
      if (outcomes.some(({ status }) => status === 'skipped')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

const patienceOf = (
  { tries: maxTries, longest: lockedForAtMostMs, rest: restFactor }: Flags,
  { stop }: CommandContext,
): Pick<ApplyOptions, 'stop' | 'maxTries' | 'lockedForAtMostMs' | 'restFactor'> => ({
  stop,
  maxTries,
  lockedForAtMostMs,
  restFactor,
});

/** Said where it was locked at all. */
const locked = (ms: readonly number[]) =>
  ms.length === 0 ? '' : `, locked for ${ms.map((each) => each.toFixed(0)).join(' and ')} ms`;

function outcomeText(outcome: Outcome | PutBack): string {
  const name = printable(outcome.table);
  switch (outcome.status) {
    case 'partitioned':
      return [
        `by month ${name}${locked(outcome.lockedMs)}\n`,
        ...outcome.expired.map(
          ({ partition, rowsEstimated }) =>
            `    older than is kept, and taken out by the next upkeep: ${printable(partition)}, about ${formatCount(Math.round(rowsEstimated))} rows\n`,
        ),
        ...leftLines(outcome),
        ...outcome.copies.map(reconciledLine),
        ...outcome.mended.flatMap(mendedLines),
      ].join('');
    case 'sorted':
      return [
        `sorted   ${name}: rows that lay in no month have theirs${locked(outcome.lockedMs)}\n`,
        ...leftLines(outcome),
        ...outcome.copies.map(reconciledLine),
        ...outcome.mended.flatMap(mendedLines),
      ].join('');
    case 'mended':
      return [
        `mended   ${name}\n`,
        ...leftLines(outcome),
        ...outcome.copies.map(reconciledLine),
        ...outcome.mended.flatMap(mendedLines),
      ].join('');
    case 'attached':
      return [
        `attached ${name}: what was there is one partition${locked(outcome.lockedMs)}\n`,
        ...outcome.mended.flatMap(mendedLines),
      ].join('');
    case 'back':
      return `back     ${name}${locked([outcome.lockedMs])}\n`;
    case 'given up':
      return [
        `given up ${name}: what apply had made for it is gone\n`,
        ...outcome.left.map((left) => `    ${printable(left)}\n`),
      ].join('');
    case 'already':
      return [`already  ${name}\n`, ...leftLines(outcome), ...outcome.copies.map(reconciledLine)].join('');
    case 'skipped':
      return `left     ${name}\n${outcome.reasons.map((reason) => `    ${printable(reason)}\n`).join('')}`;
  }
}

const leftLines = ({ areSomeLeft }: { readonly areSomeLeft: boolean }): readonly string[] =>
  areSomeLeft ? ['    rows lie in no month, as it is none that is kept or ahead: liventix partitions verify\n'] : [];

const reconciledLine = ({ copy, alike, missing, gone, older, different, isTaken }: Reconciled): string =>
  `    ${printable(copy)}: ${formatCount(alike)} rows alike, ${formatCount(missing)} only there${isTaken ? ' and taken' : ''}, ${formatCount(gone)} that were there before and are gone, ${formatCount(older)} older than is kept, ${formatCount(different)} that say something else (partitions.reconciled)\n`;

const mendedLines = ({ side, unkept, written, takenAway }: Mended): readonly string[] => [
  ...unkept.map((fault) => `    ${printable(fault)}: put right\n`),
  `    ${printable(side)}: ${formatCount(written)} keys that were lacking, ${formatCount(takenAway)} taken away that no row has and nothing refers to\n`,
];

async function runRollbackDry({ table, json }: Selection, context: CommandContext): Promise<void> {
  await withDatabase(context, async (pool) => {
    const tables = (await chooseToPutBack(pool, table)).map(({ schema, name }) => `${schema}.${name}`);
    const lines = tables.map((name) => `would put back ${printable(name)}\n`);
    if (json) context.out.write(`${toJson({ wouldPutBack: tables })}\n`);
    else context.out.write(lines.length === 0 ? 'No table is kept by month.\n' : lines.join(''));
    context.err.write('Nothing was changed.\n');
  });
}

async function runRollback(options: Selection & Flags, context: CommandContext): Promise<void> {
  await withDatabase(
    context,
    async (pool) => {
      const name = await databaseName(pool);
      const progress = createProgress(context);
      const outcomes = await rollBackPartitions(pool, {
        ...patienceOf(options, context),
        tables: options.table,
        onBegin: () => context.err.write(`Making plain tables of ${name} again.\n`),
        onStep: (what, done, total) => progress.update(printable(what), done, total),
        onOutcome: (outcome) => {
          progress.clear();
          if (options.json !== true) context.out.write(outcomeText(outcome));
        },
      }).finally(progress.clear);
      if (options.json === true) context.out.write(`${toJson({ outcomes })}\n`);
      else if (outcomes.length === 0) context.out.write('No table is kept by month.\n');
      if (outcomes.some(({ status }) => status === 'skipped')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}
