import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import { type Applied, applyPlan, type Outcome } from '../restructure/apply.ts';
import { dryRun, dryRunBack, type WouldDo } from '../restructure/dry-run.ts';
import { readStanding } from '../restructure/journal.ts';
import { PLAN_FILE, readPlan } from '../restructure/plan-file.ts';
import type { Plan } from '../restructure/planned.ts';
import { type RolledBack, rollBack, type Undone } from '../restructure/rollback.ts';
import type { ViewLeft } from '../restructure/set-aside.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { several } from './options.ts';
import { formatCount } from './output.ts';
import { type Patience, withPatience, withRest } from './patience.ts';
import { printable } from './printable.ts';
import { createProgress, type Progress } from './progress.ts';
import { suggestingNames } from './suggestion.ts';
import { tableText } from './table.ts';

/** Doing what a plan says, seeing what was done, and undoing it. */
export function registerRestructureApply(restructure: Command, context: CommandContext): void {
  givingWay(
    restructure
      .command('apply')
      .description('move the tables of a plan, one a transaction; run again, it goes on where it was')
      .option('--plan <file>', 'the plan', PLAN_FILE)
      .option(
        '--schema <schema>',
        'move the tables of this target schema alone; may be given several times',
        several,
        [],
      )
      .option('--table <table>', 'move this table alone; may be given several times', several, []),
  )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', APPLY_HELP)
    .action(async (options: ApplyOptions) => {
      const plan = await readPlan(options.plan);
      const names = [...plan.mapping.schemas.map(({ name }) => name), ...plan.tables.map((each) => each.table)];
      await suggestingNames(
        {
          code: 'RESTRUCTURE_TABLE_UNKNOWN',
          given: [...options.schema, ...options.table],
          names: async () => names,
        },
        () => runApply(plan, options, context),
      );
    });

  givingWay(
    restructure
      .command('rollback')
      .description('undo what apply did, the last first: tables go back, the views go, written rows stay')
      .option('--to <step>', 'undo what came after this step of liventix restructure status', stepNumber)
      .option('--table <table>', 'put this table back alone; may be given several times', several, []),
  )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ROLLBACK_HELP)
    .action((options: RollbackOptions) => runRollback(options, context));

  restructure
    .command('status')
    .description('list what apply did and rollback would undo')
    .addHelpText('after', '\nExample:\n  liventix restructure status')
    .option('--json', 'print one JSON array')
    .action(({ json = false }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const steps = await readStanding(pool);
        if (json) context.out.write(`${toJson(steps)}\n`);
        else if (steps.length === 0) context.out.write('Nothing was moved. First: liventix restructure plan\n');
        else {
          const rows = steps.map(({ id, kind, object, doneAt }) => [
            String(id),
            doneAt.toISOString(),
            kind,
            printable(object),
          ]);
          context.out.write(tableText(context, rows, [{ align: 'right', min: 6 }, {}, { min: 10 }, { shortens: 16 }]));
        }
      }),
    );
}

/** One request in a hundred meets a move where tables follow each other at once; so one in some hundreds does. */
export const REST_FACTOR = 8;
const givingWay = (command: Command): Command => withPatience(withRest(command, 'a table was locked', REST_FACTOR));

interface ApplyOptions extends Patience {
  readonly plan: string;
  readonly schema: readonly string[];
  readonly table: readonly string[];
  readonly rest: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface RollbackOptions extends Patience {
  readonly to?: bigint;
  readonly table: readonly string[];
  readonly rest: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const stepNumber = (text: string): bigint => {
  if (/^\d{1,18}$/.test(text)) return BigInt(text);
  throw new InvalidArgumentError('Give the number of a step, as liventix restructure status has it.');
};

const APPLY_HELP = `
First the roles, the schemas and who may use them; then each table in a transaction of its own, with a view under its old name; then the
search_path of roles, when all have moved. A table that is in use is given way to after 50 ms and tried again, so and so
often, and then left where it is; so is one that would be locked for longer than --longest, as of many partitions.
Refuses when a table is not any more what the plan says. Exits with 1 when a table was left.

Examples:
  liventix restructure apply --dry-run
  liventix restructure apply --schema ticketing
  liventix restructure apply`;

const ROLLBACK_HELP = `
Each step in a transaction of its own, as apply does them. What somebody else changed of a table meanwhile stays with it, rights and
defaults that were changed by its old name among that; one that was changed by both names, differently, is left. A view that something
stands on by now is not dropped: its table is left where it is, and named. Exits with 1 when something was left.

Examples:
  liventix restructure rollback --dry-run
  liventix restructure rollback
  liventix restructure rollback --to 14
  liventix restructure rollback --table orders`;

async function runApply(plan: Plan, options: ApplyOptions, context: CommandContext): Promise<void> {
  const selection = { schemas: options.schema, tables: options.table };
  await withDatabase(
    context,
    async (pool) => {
      if (options.dryRun === true) {
        writeDryRun(await dryRun(pool, plan, selection), options, context);
        return;
      }
      context.err.write(`Moving tables of ${await databaseName(pool)} by the plan ${options.plan}.\n`);
      const progress = createProgress(context);
      const applied = await applyPlan(pool, plan, {
        ...selection,
        stop: context.stop,
        maxTries: options.tries,
        restFactor: options.rest,
        lockedForAtMostMs: options.longest,
        onProgress: (table, done, total) => progress.update(`moving ${printable(table)}`, done, total),
        onBusy: (table, tries) => progress.update(`waiting for ${printable(table)}, tries`, tries, 0),
        onOutcome: (outcome) => writeLines(outcomeLines(outcome), { ...options, progress }, context),
      }).finally(progress.clear);
      context.out.write(options.json === true ? `${toJson(applied)}\n` : appliedText(applied));
      if (applied.isStopped || applied.outcomes.some(({ status }) => status === 'skipped')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

function writeDryRun(steps: readonly WouldDo[], { json = false }: { json?: boolean }, context: CommandContext): void {
  const lines = steps.flatMap(({ object, statements }) => [
    `-- ${printable(object)}`,
    ...statements.map((each) => `${each};`),
    '',
  ]);
  context.out.write(json ? `${toJson({ wouldDo: steps })}\n` : `${lines.join('\n')}\n`);
  context.err.write('Nothing was changed.\n');
}

function appliedText({ outcomes, denied, viewsLeft, isStopped }: Applied): string {
  const count = (status: Outcome['status']) => outcomes.filter((outcome) => outcome.status === status).length;
  const longest = Math.max(0, ...outcomes.map((outcome) => (outcome.status === 'moved' ? outcome.lockedMs : 0)));
  return [
    ...denied.map(({ kind, object, reason }) => `left     ${kind} ${printable(object)}: ${printable(reason)}`),
    ...viewsLeft.map(viewLeftLine),
    '',
    `${count('moved')} moved, ${count('already')} before, ${count('skipped')} left. No table was locked for more than ${longest.toFixed(0)} ms.`,
    ...(isStopped ? ['Stopped. Run it again: it goes on where it was.'] : []),
    '',
  ].join('\n');
}

/** As it happens, so that a log has it of a run that dies. */
function writeLines(
  lines: readonly string[],
  { json = false, progress }: { json?: boolean; progress: Progress },
  { out }: CommandContext,
): void {
  if (json) return;
  progress.clear();
  out.write(lines.map((line) => `${line}\n`).join(''));
}

function outcomeLines(outcome: Outcome): readonly string[] {
  const name = `${printable(outcome.table)} -> ${printable(outcome.target)}`;
  switch (outcome.status) {
    case 'moved':
      return [`moved    ${name.padEnd(60)} ${outcome.lockedMs.toFixed(0).padStart(5)} ms`];
    case 'already':
      return [`before   ${name}`];
    case 'skipped':
      return [`left     ${name}`, ...outcome.reasons.map((reason) => `    ${printable(reason)}`)];
  }
}

async function runRollback(
  { to, table, tries, rest, longest, dryRun: isDry = false, json = false }: RollbackOptions,
  context: CommandContext,
): Promise<void> {
  await withDatabase(
    context,
    async (pool) => {
      if (isDry) {
        writeDryRun(await dryRunBack(pool, { to, tables: table }), { json }, context);
        return;
      }
      context.err.write(`Putting tables of ${await databaseName(pool)} back.\n`);
      const progress = createProgress(context);
      const rolledBack = await rollBack(pool, {
        to,
        tables: table,
        stop: context.stop,
        maxTries: tries,
        restFactor: rest,
        lockedForAtMostMs: longest,
        onProgress: (object, done, total) => progress.update(`undoing ${printable(object)}`, done, total),
        onBusy: (object, tries) => progress.update(`waiting for ${printable(object)}, tries`, tries, 0),
        onOutcome: (outcome) => writeLines(undoneLines(outcome), { json, progress }, context),
      }).finally(progress.clear);
      context.out.write(json ? `${toJson(rolledBack)}\n` : rolledBackText(rolledBack));
      if (rolledBack.isStopped || rolledBack.steps.some(({ status }) => status === 'skipped')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

const viewLeftLine = ({ view, reason }: ViewLeft): string => `left     view ${printable(view)}: ${printable(reason)}`;

function rolledBackText({ steps, viewsLeft, isStopped }: RolledBack): string {
  if (steps.length === 0 && viewsLeft.length === 0 && !isStopped) return 'There is nothing to undo.\n';
  const count = (status: Undone['status']) => steps.filter((step) => step.status === status).length;
  return [
    ...viewsLeft.map(viewLeftLine),
    '',
    `${formatCount(count('undone'))} undone, ${formatCount(count('skipped'))} left.`,
    ...(isStopped || count('skipped') > 0
      ? [`${isStopped ? 'Stopped. ' : ''}Run it again: it goes on where it was.`]
      : []),
    '',
  ].join('\n');
}

const undoneLines = ({ kind, object, status, reason }: Undone): readonly string[] => [
  `${(status === 'undone' ? 'undone' : 'left').padEnd(9)}${kind} ${printable(object)}`,
  ...(reason === undefined ? [] : [`    ${printable(reason)}`]),
];
