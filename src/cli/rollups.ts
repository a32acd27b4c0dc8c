import type { Command } from 'commander';
import { anewOf, plural } from '../analytics/rollups/advice.ts';
import { type AppliedRollup, applyRollups, planRollups } from '../analytics/rollups/apply.ts';
import { buildRollup, type Lost, planRebuild, type RebuildPlan } from '../analytics/rollups/build.ts';
import { LIVENTIX_ROLLUPS, readDeclarations } from '../analytics/rollups/declaration.ts';
import { planRemoval, type Removed, removeRollups } from '../analytics/rollups/remove.ts';
import { type Ran, runRollups } from '../analytics/rollups/run.ts';
import { MOST_BEHIND, type RollupStatus, rollupStatus, type ViewStatus } from '../analytics/rollups/status.ts';
import { MEDIAN_ERROR, type Verified, verifyRollups } from '../analytics/rollups/verify.ts';
import { type Refreshed, refreshView } from '../analytics/rollups/views.ts';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { several } from './options.ts';
import { formatCount } from './output.ts';
import { type Patience, USUAL_PATIENCE, withPatience } from './patience.ts';
import { createProgress, waitingFor } from './progress.ts';
import { suggestingNames } from './suggestion.ts';

interface JsonOption {
  readonly json?: boolean;
}

interface MappingOptions extends JsonOption {
  readonly mapping?: string;
}

interface ApplyOptions extends MappingOptions, Patience {
  readonly dryRun?: boolean;
}

interface RebuildOptions extends JsonOption {
  readonly everything?: boolean;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
}

interface NamesOptions extends JsonOption {
  readonly name: readonly string[];
}

/** `1 month`, `2 months`. */
const many = (count: number | bigint, what: string): string => `${formatCount(count)} ${plural(count, what)}`;

const MAPPING = "what there is to be; the old platform's when left out";

/** Statistics that dashboards read: made, kept up to date, recomputed, and taken away. */
export function registerRollups(program: Command, context: CommandContext): void {
  const rollups = program
    .command('rollups')
    .description(
      'statistics that dashboards read: kept by group and day as rows come, and views refreshed beside readers',
    )
    .addHelpText('after', '\nExample:\n  liventix rollups status');

  rollups
    .command('plan')
    .description('say what apply would do, as the SQL that would run; change nothing')
    .option('--mapping <file>', MAPPING)
    .option('--json', 'print one JSON array')
    .addHelpText('after', PLAN_HELP)
    .action((options: MappingOptions) => runApply({ ...options, ...USUAL_PATIENCE, dryRun: true }, context));

  withPatience(
    rollups
      .command('apply')
      .description('make the rollups and views that there are not yet, and count what there is; run again, it goes on')
      .option('--mapping <file>', MAPPING),
  )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText('after', APPLY_HELP)
    .action((options: ApplyOptions) => runApply(options, context));

  rollups
    .command('run')
    .description('count what came since the last run, as the worker does every 2 s; exits with 1 when one cannot be')
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  liventix rollups run')
    .action(({ json }: JsonOption) => withDatabase(context, (pool) => runRun(pool, json === true, context)));

  rollups
    .command('refresh')
    .description('refresh the views now, beside their readers, as the worker does every hour')
    .option('--json', 'print one JSON array')
    .addHelpText('after', '\nExample:\n  liventix rollups refresh')
    .action(({ json }: JsonOption) => withDatabase(context, (pool) => runRefresh(pool, json === true, context)));

  rollups
    .command('rebuild')
    .description(
      'count everything of a rollup anew, month by month: readers have the old numbers until the new are there',
    )
    .argument('<rollup>', 'its name, as liventix rollups status has it')
    .option('--everything', 'days whose partitions are gone go too')
    .option('--yes', 'what the source has less of goes, though no partition of those days is gone')
    .option('--dry-run', 'say how many months would be counted anew as a whole, and which in part, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', REBUILD_HELP)
    .action((rollup: string, options: RebuildOptions) =>
      withDatabase(context, (pool) => ofKnown(pool, [rollup], () => runRebuild(pool, rollup, options, context)), {
        stopsItself: true,
      }),
    );

  rollups
    .command('verify')
    .description('recompute every group and day from the rows, in one snapshot; exits with 1 when something differs')
    .option('--name <rollup>', 'this rollup alone; may be given several times', several, [])
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `\nCounts, sums and distinct values are to be the same, medians within ${MEDIAN_ERROR * 100} %. Beside whoever writes; reads the whole of each source.\n\nExample:\n  liventix rollups verify --name event_daily`,
    )
    .action((options: NamesOptions) =>
      withDatabase(context, (pool) => ofKnown(pool, options.name, () => runVerify(pool, options, context))),
    );

  rollups
    .command('status')
    .description('list what is kept, and how far it is')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix rollups status --json')
    .action(({ json }: JsonOption) => withDatabase(context, (pool) => runStatus(pool, json === true, context)));

  withPatience(
    rollups
      .command('remove')
      .description('undo apply: rollups and views go, with the triggers and the column that counted')
      .option('--name <rollup>', 'this rollup or view alone; may be given several times', several, []),
  )
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText('after', REMOVE_HELP)
    .action((options: RemoveOptions) =>
      withDatabase(context, (pool) => ofKnown(pool, options.name, () => runRemove(pool, options, context)), {
        stopsItself: true,
      }),
    );
}

const ofKnown = <T>(pool: Pool, given: readonly string[], work: () => Promise<T>): Promise<T> =>
  suggestingNames(
    {
      code: 'ROLLUP_UNKNOWN',
      given,
      names: async () => {
        const { rollups, views } = await rollupStatus(pool);
        return [...rollups, ...views].map(({ name }) => name);
      },
    },
    work,
  );

const PLAN_HELP = `
The file is JSON: where tables may be, the rollups over them, and views. docs/rollups.md tells all of it; mappings/liventix-rollups.json
is the old platform's.

Examples:
  liventix rollups plan
  liventix rollups plan --mapping rollups.json`;

const APPLY_HELP = `
Each source gets a column recorded_xid, an index on it, built beside whoever writes, and triggers for UPDATE, DELETE and TRUNCATE; an INSERT
costs none. It is locked for that once, given way to after 50 ms, and tried again. Then what there is is counted, month by month.

Examples:
  liventix rollups apply --dry-run
  liventix rollups apply && liventix rollups verify`;

const REBUILD_HELP = `
A group and day is kept as it is where a partition of it is gone and it has more than there is: nothing could count it anew. Of a table
without partitions there is none. Other days of which it has more than there is are not lost unasked: a rebuild is refused, but for --yes
or where a TRUNCATE emptied the table. New rows are counted when all is built. Interrupted, liventix rollups apply goes on, with the same
--mapping.

Examples:
  liventix rollups rebuild event_daily
  liventix rollups rebuild event_daily --dry-run
  liventix rollups rebuild event_daily --everything`;

const REMOVE_HELP = `
What was counted is gone with it, and of days that the source has no rows of any more nothing can count it again.

Example:
  liventix rollups remove --dry-run`;

async function runApply(
  { mapping, tries: maxTries, longest: lockedForAtMostMs, dryRun = false, json = false }: ApplyOptions,
  context: CommandContext,
): Promise<void> {
  const declarations = await readDeclarations(mapping ?? LIVENTIX_ROLLUPS);
  await withDatabase(
    context,
    async (pool) => {
      const progress = createProgress(context);
      const watch = {
        maxTries,
        lockedForAtMostMs,
        stop: context.stop,
        onBusy: (count: number) => progress.update('waiting for the table, tries', count, 0),
        onMonth: (rollup: string, built: number, of: number) => progress.update(`months of ${rollup}`, built, of),
        onFill: (view: string) => progress.update(`filling ${view}`, 0, 0),
      };
      const applied = await (dryRun ? planRollups : applyRollups)(pool, declarations, watch)
        .catch((error: unknown) => {
          throw mapping === undefined ? ofTheDefault(error) : error;
        })
        .finally(progress.clear);
      if (json) context.out.write(`${toJson(applied)}\n`);
      else context.out.write(applied.map((each) => appliedText(each, dryRun)).join(''));
      for (const { name, rolesLeftOut } of applied)
        if (rolesLeftOut.length > 0)
          context.err.write(`${name} is not read by ${rolesLeftOut.join(', ')}: there is no such role here.\n`);
      if (dryRun) context.err.write('Nothing was changed.\n');
      if (applied.some(({ status }) => status === 'left')) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

/** Whoever declared his own need not know what the old platform's file wants. */
function ofTheDefault(error: unknown): unknown {
  if (!(error instanceof AppError) || error.code !== 'ROLLUP_DECLARATION_INVALID') return error;
  const { message, code, details } = error;
  return new AppError(code, `${message} This is the old platform's file: one of your own is named with --mapping.`, {
    details,
  });
}

function appliedText({ kind, name, of, status, statements, left }: AppliedRollup, dryRun: boolean): string {
  const remark = `${of === '' ? '' : ` of ${of}`}${left === undefined ? '' : `: ${left}`}`;
  const line = `${status.padEnd(15)} ${kind.padEnd(6)} ${name}${remark}\n`;
  return dryRun ? line + statements.map((statement) => `${statement};\n`).join('') : line;
}

async function runRun(pool: Pool, json: boolean, context: CommandContext): Promise<void> {
  const ran = await waitingFor(context, 'counting what came', () => runRollups(pool, { stop: context.stop }));
  if (json) context.out.write(`${toJson(ran.map(told))}\n`);
  else if (ran.length === 0) context.out.write(NONE);
  else context.out.write(ran.map(ranText).join(''));
  if (ran.some(({ status }) => status === 'failed' || status === 'to be rebuilt')) context.exitWith(1);
}

const NONE = 'No rollup is kept. First: liventix rollups apply\n';

const told = (ran: Ran) =>
  ran.status === 'failed' ? { ...ran, error: `${ran.error.code}: ${ran.error.message}` } : ran;

const ranText = (ran: Ran): string =>
  ran.status === 'failed'
    ? `failed         ${ran.rollup}: ${ran.error.code}: ${ran.error.message}\n`
    : `${ran.status.padEnd(14)} ${ran.rollup}  ${ran.changes === 1n ? '1 row or change' : `${formatCount(ran.changes)} rows and changes`}\n`;

async function runRefresh(pool: Pool, json: boolean, context: CommandContext): Promise<void> {
  const progress = createProgress(context);
  const refreshed: Refreshed[] = [];
  for (const { name } of (await waitingFor(context, 'looking at the rollups', () => rollupStatus(pool))).views) {
    progress.update(`refreshing ${name}`, 0, 0);
    refreshed.push(await refreshView(pool, name).finally(progress.clear));
  }
  if (json) context.out.write(`${toJson(refreshed)}\n`);
  else if (refreshed.length === 0) context.out.write('There is no view. First: liventix rollups apply\n');
  else {
    const line = ({ view, status, rows, seconds, error }: Refreshed) =>
      `${status.padEnd(10)} ${view}${error === null ? '' : `: ${error}`}${rows === null ? '' : `  ${many(rows, 'row')} in ${seconds?.toFixed(1)} s`}\n`;
    context.out.write(refreshed.map(line).join(''));
  }
  if (refreshed.some(({ status }) => status === 'failed')) context.exitWith(1);
}

async function runRebuild(
  pool: Pool,
  rollup: string,
  { everything = false, yes: mayLose = false, dryRun = false, json = false }: RebuildOptions,
  context: CommandContext,
): Promise<void> {
  if (dryRun) {
    const plan = await waitingFor(context, 'counting months', () => planRebuild(pool, rollup, everything));
    context.out.write(json ? `${toJson(plan)}\n` : rebuildText(rollup, plan));
    context.err.write('Nothing was changed.\n');
    return;
  }
  const kept = everything ? 'every day' : 'what its source has rows of';
  context.err.write(`Counting ${kept} of ${rollup} anew in ${await databaseName(pool)}.\n`);
  const progress = createProgress(context);
  const watch = {
    stop: context.stop,
    onMonth: (name: string, built: number, of: number) => progress.update(`months of ${name}`, built, of),
  };
  const { rows, keptMonths } = await buildRollup(pool, rollup, watch, { everything, mayLose }).finally(progress.clear);
  if (json) {
    context.out.write(`${toJson({ rollup, rows, keptMonths })}\n`);
    return;
  }
  context.out.write(`rebuilt ${rollup} of ${many(rows, 'row')}\n`);
  if (keptMonths > 0)
    context.out.write(
      `${many(keptMonths, 'month')} kept in part: groups and days that the source has less of, as partitions of it are gone\n`,
    );
}

function rebuildText(rollup: string, { months, kept, lost }: RebuildPlan): string {
  const anew = `would count ${many(months, 'month')} of ${rollup} anew`;
  const what =
    kept.length === 0
      ? `${anew}, and keep none`
      : `${anew} as a whole, and ${formatCount(kept.length)} in part: what the source has less of in ${kept.join(', ')} is kept`;
  return `${what}\n${lost === null ? '' : `would lose ${lostText(lost)}: but for --everything, --yes and after a TRUNCATE that is refused\n`}`;
}

const lostText = ({ rows, days }: Lost): string => `${many(rows, 'row')} of ${days}, which the source has not`;

function adviceText({ rollup, lost }: Verified): readonly string[] {
  if (lost === null) return [`To count anew what the source has: liventix rollups rebuild ${rollup}`];
  return [
    `A rebuild would lose ${lostText(lost)}. If they went with their month, leave it so: nothing counts them again`,
    `If they are to go, or never were: liventix rollups rebuild ${rollup} --yes`,
  ];
}

async function runVerify(pool: Pool, { name, json = false }: NamesOptions, context: CommandContext): Promise<void> {
  const progress = createProgress(context);
  const verified = await verifyRollups(pool, {
    ...(name.length === 0 ? {} : { names: name }),
    onBegin: (rollup) => progress.update(`recomputing ${rollup}`, 0, 0),
  }).finally(progress.clear);
  const holds = verified.every((each) => each.holds);
  if (json) context.out.write(`${toJson({ holds, rollups: verified })}\n`);
  else if (verified.length === 0) context.out.write('No rollup is kept: there is nothing to verify.\n');
  else
    context.out.write(
      `${verified.map(verifiedText).join('')}\n${holds ? 'The rollups hold.' : 'The rollups do NOT hold.'}\n`,
    );
  if (!holds) context.exitWith(1);
}

function verifiedText(verified: Verified): string {
  const { rollup, source, holds, cells, rows, kept, faults, missing, first, medianError, waiting, seconds } = verified;
  const median = medianError === null ? '' : `, medians within ${(medianError * 100).toFixed(2)} %`;
  const lines = [
    `${holds ? 'holds ' : 'FAILS '} ${rollup} of ${source}: ${formatCount(cells)} groups and days of ${many(rows, 'row')}${median}  ${seconds.toFixed(1)} s`,
    ...(kept > 0n ? [`         ${formatCount(kept)} of days whose partitions are gone are kept`] : []),
    ...(waiting > 0n
      ? [`         ${many(waiting, 'row')} that came since, still to be counted: of that it says nothing`]
      : []),
    ...missing.map((what) => `         ${what} is not there`),
    ...first.map((fault) => `         ${fault}`),
    ...(faults > BigInt(first.length) ? [`         and ${formatCount(faults - BigInt(first.length))} more`] : []),
    ...(faults > 0n ? adviceText(verified).map((line) => `         ${line}`) : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

async function runStatus(pool: Pool, json: boolean, context: CommandContext): Promise<void> {
  const status = await rollupStatus(pool);
  if (json) context.out.write(`${toJson(status)}\n`);
  else if (status.rollups.length + status.views.length === 0) context.out.write(NONE);
  else context.out.write(status.rollups.map(rollupText).join('') + status.views.map(viewText).join(''));
}

function rollupText({
  name,
  state,
  source,
  lostTable,
  toBeRebuilt,
  monthsLeft,
  rowsBehind,
  changesWaiting,
  lastCountedAt,
  isAhead,
  missing,
  failingSince,
  error,
}: RollupStatus): string {
  const rows = rowsBehind >= BigInt(MOST_BEHIND) ? `${formatCount(rowsBehind)} and more rows` : many(rowsBehind, 'row');
  const remarks = [
    ...(source === null ? ['its source is gone'] : []),
    ...(lostTable === null ? [] : [`${lostTable} is gone: ${anewOf(name)}`]),
    ...(toBeRebuilt === null ? [] : [`to be rebuilt: ${toBeRebuilt}`]),
    ...(isAhead ? ['to be rebuilt: it counted on another server'] : []),
    ...missing.map((what) => `${what} is not there`),
    ...(failingSince === null ? [] : [`cannot be counted since ${failingSince.toISOString()}: ${error}`]),
    ...(state === 'building' ? [`${many(monthsLeft, 'month')} left`] : []),
    `${rows} and ${many(changesWaiting, 'change')} wait`,
    ...(lastCountedAt === null ? [] : [`counted at ${lastCountedAt.toISOString()}`]),
  ];
  return `${(lostTable === null ? state : 'gone').padEnd(10)} rollup ${name}${source === null ? '' : ` of ${source}`}: ${remarks.join(', ')}\n`;
}

function viewText({ name, isThere, isFilled, refreshedAt, seconds, rows, isStale, error }: ViewStatus): string {
  const state = !isThere ? 'gone' : !isFilled ? 'empty' : isStale ? 'stale' : 'fresh';
  const remarks = [
    ...(refreshedAt === null ? [] : [`refreshed at ${refreshedAt.toISOString()} in ${seconds?.toFixed(1)} s`]),
    ...(rows === null ? [] : [many(rows, 'row')]),
    ...(error === null ? [] : [error]),
  ];
  return `${state.padEnd(10)} view ${name}: ${remarks.join(', ') || 'never refreshed'}\n`;
}

interface RemoveOptions extends NamesOptions, Patience {
  readonly dryRun?: boolean;
}

async function runRemove(
  pool: Pool,
  { name, tries: maxTries, longest: lockedForAtMostMs, dryRun = false, json = false }: RemoveOptions,
  context: CommandContext,
): Promise<void> {
  const names = name.length === 0 ? undefined : name;
  const planned = await planRemoval(pool, names);
  if (!dryRun && planned.length > 0) {
    context.err.write(
      `Removing ${planned.map((each) => each.name).join(', ')} from ${await databaseName(pool)}: what was counted goes.\n`,
    );
  }
  const removed = dryRun
    ? planned
    : await removeRollups(pool, names, { maxTries, lockedForAtMostMs, stop: context.stop });
  if (json) context.out.write(`${toJson(removed)}\n`);
  else if (removed.length === 0) context.out.write(NONE);
  else context.out.write(removed.map((each) => removedText(each, dryRun)).join(''));
  if (dryRun) context.err.write('Nothing was changed.\n');
}

function removedText({ kind, name, of, statements }: Removed, dryRun: boolean): string {
  const line = `${dryRun ? 'would remove' : 'removed'} ${kind} ${name}${of === null ? '' : ` of ${of}`}\n`;
  return dryRun ? line + statements.map((statement) => `${statement};\n`).join('') : line;
}
