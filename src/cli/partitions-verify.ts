import type { Command } from 'commander';
import { inMegabytes } from '../analytics/partitions/findings.ts';
import { readStatus, type Status, type TableStatus } from '../analytics/partitions/status.ts';
import { ofLost } from '../analytics/partitions/tables.ts';
import { verifyPartitions } from '../analytics/partitions/verify.ts';
import { toJson } from '../db/json-value.ts';
import { watchChecks } from './check-lines.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';
import { type Column, tableLines, widthOf } from './table.ts';

/** Finding out how tables by month stand. */
export function registerPartitionsVerify(partitions: Command, context: CommandContext): void {
  partitions
    .command('verify')
    .description('look at all that tables kept by month promise; exits with 1 when something does not hold')
    .option('--json', 'print one JSON array')
    .addHelpText('after', VERIFY_HELP)
    .action(({ json = false }: { json?: boolean }) => runVerify(json, context));

  partitions
    .command('status')
    .description(
      'list tables kept by month, with their months, copies under way, the runway left, and what is set aside',
    )
    .option('--months', 'list each month too')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix partitions status --months')
    .action(({ months = false, json = false }: { months?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const status = await readStatus(pool);
        context.out.write(json ? `${toJson(status)}\n` : statusText(status, months, context));
      }),
    );
}

const VERIFY_HELP = `
In one snapshot, and changes nothing: that months follow each other without a gap, have every index, key and trigger, and show nothing by
their own names; that no row lies in no month; that side tables are kept by their triggers, and have the key of every row; that a key that
none keeps is there once; that nothing reads what was set aside. Reads all rows. That a copy had every row of what it took the place of,
apply and rollback find out before they let it: that is in partitions.log, with counts and sums of hashes.

Example:
  liventix partitions verify --json`;

async function runVerify(json: boolean, context: CommandContext): Promise<void> {
  await withDatabase(context, async (pool) => {
    const progress = createProgress(context);
    const results = await verifyPartitions(pool, watchChecks(context, progress, json)).finally(progress.clear);
    if (json) context.out.write(`${toJson(results)}\n`);
    if (results.some(({ holds }) => !holds)) context.exitWith(1);
  });
}

const megabytes = (bytes: bigint) => `${formatCount(inMegabytes(bytes))} MB`;

function statusText({ runner, tables, setAside }: Status, withMonths: boolean, context: CommandContext): string {
  const { bad } = paintOut(context);
  const monthLines = (months: TableStatus['months']) =>
    tableLines(months.map(monthCells), MONTH_COLUMNS, { width: widthOf(context), gap: 1 });
  if (tables.length === 0 && setAside.length === 0)
    return 'No table is kept by month. First: liventix partitions plan\n';
  return [
    ...tables.flatMap((table) => [tableLine(table, bad), ...(withMonths ? monthLines(table.months) : [])]),
    ...setAside.map(
      ({ relation, table, at, sizeBytes }) =>
        `set aside   ${printable(relation)}, what ${printable(table)} was until ${at.toISOString()}, ${megabytes(sizeBytes)}: liventix partitions clean`,
    ),
    `The months are seen to by ${runner === 'worker' ? 'the worker' : 'pg_cron'}.`,
    '',
  ].join('\n');
}

function tableLine(
  {
    table,
    state,
    months,
    copy,
    runwayDays,
    missingMonths,
    hasStrays,
    isLost,
    unkeptKeys,
    keepMonths,
    expired,
    maintainedAt,
  }: TableStatus,
  bad: Paint['bad'],
): string {
  if (isLost) return `${bad('lost')}        ${printable(ofLost(table))}`;
  const sum = months.reduce((total, { sizeBytes }) => total + sizeBytes, 0n);
  return [
    `${state.padEnd(11)} ${printable(table)}`,
    ...(months.length === 0
      ? []
      : [`${months.filter(({ isDefault }) => !isDefault).length} months, ${megabytes(sum)}`]),
    ...(runwayDays === null ? [] : [`months for ${runwayDays} days`]),
    ...(missingMonths.length === 0 ? [] : [bad(`WITHOUT ${missingMonths.join(', ')}`)]),
    keepMonths === null
      ? 'kept for ever'
      : `kept for ${keepMonths} ${keepMonths === 1 ? 'month' : 'months'}, then ${expired === 'drop' ? 'dropped' : 'archived'}`,
    ...(copy === null
      ? []
      : [
          `copying (${copy.way}): ${formatCount(copy.blocksDone)} of ${formatCount(copy.blocks)} blocks, ${formatCount(copy.waiting)} changes wait`,
        ]),
    ...(unkeptKeys.length > 0 ? [`${bad('KEYS ARE NOT KEPT')}: liventix partitions apply`] : []),
    ...(hasStrays ? [bad('ROWS LIE IN NO MONTH')] : []),
    ...(maintainedAt === null ? [] : [`seen to ${maintainedAt.toISOString()}`]),
  ].join(', ');
}

const MONTH_COLUMNS: readonly Column[] = [{ min: 54, shortens: 24 }, { min: 26 }, { align: 'right', min: 12 }];

const monthCells = ({ partition, firstDay, endDay, isDefault, sizeBytes }: TableStatus['months'][number]) => [
  `    ${printable(partition)}`,
  isDefault ? 'what lies in no month' : `${firstDay ?? 'ever'} to ${endDay ?? 'ever'}`,
  megabytes(sizeBytes),
];
