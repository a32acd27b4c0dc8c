import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { LIVENTIX_MAPPING, readMapping } from '../restructure/mapping.ts';
import { makePlan } from '../restructure/plan.ts';
import { PLAN_FILE, writePlan } from '../restructure/plan-file.ts';
import type { Plan, PlannedTable } from '../restructure/planned.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { several } from './options.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';
import { waitingFor } from './progress.ts';
import { didYouMean } from './suggestion.ts';
import { type Cell, tableLines, widthOf } from './table.ts';

interface PlanOptions {
  readonly mapping?: string;
  readonly output: string;
  readonly table: readonly string[];
  readonly json?: boolean;
}

/** Finding out what a mapping means for a database. */
export function registerRestructurePlan(restructure: Command, context: CommandContext): void {
  restructure
    .command('plan')
    .description('say what moving each table takes and what may break, and write it as a file for apply')
    .option('--mapping <file>', "which table goes where, as JSON; Liventix's own when left out")
    .option('--output <file>', 'where the plan is written', PLAN_FILE)
    .option('--table <table>', 'show this table in full; may be given several times', several, [])
    .option('--json', 'print the plan as one JSON object')
    .addHelpText('after', PLAN_HELP)
    .action((options: PlanOptions) => runPlan(options, context));
}

const PLAN_HELP = `
Reads the catalog in one snapshot, waits for no lock, and changes nothing but the file. Sizes and rows are those of the last ANALYZE.

  ready     moves as it is
  warned    moves; what is said of it may concern somebody
  blocked   apply leaves it where it is, for the reason given

A mapping: {"name": "shop", "from": "public", "schemas": [{"name": "sales", "tables": ["orders", "refunds"]}], "stay": ["jobs"],
"roles": {"read": "app_read", "write": "app_write", "readers": ["web"], "writers": ["jobs"]},
"accept": [{"table": "orders", "finding": "calls-copy", "because": "the import runs as of old until May"}]}

Exits with 1 when a table is blocked.

Examples:
  liventix restructure plan
  liventix restructure plan --mapping shop.json --output shop-plan.json
  liventix restructure plan --table orders`;

async function runPlan({ mapping, output, table, json = false }: PlanOptions, context: CommandContext): Promise<void> {
  const wanted = await readMapping(mapping ?? LIVENTIX_MAPPING);
  await withDatabase(context, async (pool) => {
    const plan = await waitingFor(context, 'reading the catalog', () => makePlan(pool, wanted, { now: new Date() }));
    const unknown = table.find((name) => !plan.tables.some((each) => each.table === name));
    if (unknown !== undefined) {
      throw new AppError(
        'RESTRUCTURE_TABLE_UNKNOWN',
        `The mapping moves no ${unknown}. What it moves: liventix restructure plan${didYouMean(
          unknown,
          plan.tables.map((each) => each.table),
        )}`,
      );
    }
    await writePlan(output, plan);
    if (json) context.out.write(`${toJson(plan)}\n`);
    else context.out.write(planText(plan, table, context));
    context.err.write(`The plan is in ${output}. ${nextOf(plan, output)}\n`);
    if (plan.tables.some(({ readiness }) => readiness === 'blocked')) context.exitWith(1);
  });
}

function nextOf({ tables }: Plan, output: string): string {
  const byPlan = output === PLAN_FILE ? '' : ` --plan ${output}`;
  return tables.some(({ readiness }) => readiness === 'ready' || readiness === 'warned')
    ? `Next: liventix restructure apply --dry-run${byPlan}`
    : 'There is nothing to move.';
}

function planText(plan: Plan, inFull: readonly string[], context: CommandContext): string {
  const { bad } = paintOut(context);
  const shown = inFull.length === 0 ? plan.tables : plan.tables.filter(({ table }) => inFull.includes(table));
  const rows = tableLines(
    shown.map((table) => tableCells(table, bad)),
    [
      { min: 8 },
      { min: 56, shortens: 24 },
      { align: 'right', min: 10 },
      { align: 'right', min: 18 },
      { align: 'right', min: 10 },
    ],
    { width: widthOf(context), gap: 1 },
  );
  const lines = shown.flatMap((table, nth) => [
    rows[nth],
    ...table.findings.map(
      ({ finding, severity, text }) =>
        `    ${severity === 'blocks' ? bad('blocks') : 'warns '} ${finding}: ${printable(text)}`,
    ),
    ...(inFull.length === 0 ? [] : detailLines(table)),
  ]);
  return `${[...lines, '', ...summaryLines(plan)].join('\n')}\n`;
}

const tableCells = (
  { table, target, readiness, sizeBytes, rowsEstimated, relations }: PlannedTable,
  bad: Paint['bad'],
): readonly Cell[] => [
  readiness === 'blocked' ? { text: readiness, paint: bad } : readiness,
  `${printable(table)} -> ${printable(target)}`,
  relations.length > 1 ? `${relations.length - 1} with it` : '',
  rowsEstimated === null ? 'rows not counted' : `${formatCount(Math.round(rowsEstimated))} rows`,
  sizeText(sizeBytes),
];

const sizeText = (bytes: number): string =>
  bytes < 1_000_000 ? `${Math.ceil(bytes / 1_000)} kB` : `${formatCount(Math.round(bytes / 1_000_000))} MB`;

function detailLines({ changes, locks, relations: [, ...along] }: PlannedTable): readonly string[] {
  if (changes === null) return [];
  const named: readonly (readonly [string, readonly string[]])[] = [
    ['goes along', along.map(({ name }) => name)],
    ['read by', changes.readers],
    ['policies', changes.policies],
    ['triggers', changes.triggers],
    ['defaults on the view', changes.defaults],
    ['sequences that go along', changes.sequences],
    ['types that stay', changes.types],
    ['publications', changes.publications],
    ['granted to', changes.grantees],
    ['named by', changes.functions],
    ['foreign keys', [`${changes.foreignKeysFrom} from it`, `${changes.foreignKeysTo} to it`]],
    ['locks', locks],
  ];
  return named
    .filter(([, names]) => names.length > 0)
    .map(([what, names]) => `    ${what}: ${names.map(printable).join(', ')}`);
}

function summaryLines({ tables, unmapped, mapping, notes }: Plan): readonly string[] {
  const count = (readiness: string) => tables.filter((table) => table.readiness === readiness).length;
  const counts = ['ready', 'warned', 'blocked', 'moved'].map((readiness) => `${count(readiness)} ${readiness}`);
  return [
    `${tables.length} tables of ${printable(mapping.from)}: ${counts.join(', ')}.`,
    ...(unmapped.length === 0 ? [] : [`The mapping says nothing of ${unmapped.map(printable).join(', ')}: they stay.`]),
    ...notes.map((note) => `note: ${printable(note)}`),
  ];
}
