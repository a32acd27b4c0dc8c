import { type Command, InvalidArgumentError } from 'commander';
import { attachSubjects, USUAL_READERS, USUAL_WRITERS } from '../analytics/embeddings/attach.ts';
import { createExtension, creationOf, readExtension, USUAL_SCHEMA } from '../analytics/embeddings/extension.ts';
import { buildIndexes, dropIndexes, findIndexes, listIndexes } from '../analytics/embeddings/indexes.ts';
import { type EmbeddingStatus, embeddingStatus, type KindStatus } from '../analytics/embeddings/status.ts';
import { type EmbeddingCheck, verifyEmbeddings } from '../analytics/embeddings/verify.ts';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { registerEmbeddingsModels } from './embeddings-models.ts';
import { formatCount, paintOut } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';
import { tableText } from './table.ts';

export function registerEmbeddings(program: Command, context: CommandContext): void {
  const embeddings = program
    .command('embeddings')
    .description('embeddings of events, sponsors and packages: their models, who sees them, and pgvector where it is')
    .addHelpText('after', '\nExample:\n  liventix embeddings status');
  registerStatus(embeddings, context);
  registerEmbeddingsModels(embeddings, context);
  registerAttach(embeddings, context);
  registerUpgrade(embeddings, context);
  registerIndex(embeddings, context);
  registerDowngrade(embeddings, context);
  registerVerify(embeddings, context);
}

interface Printed {
  readonly json?: boolean;
}

interface Changing extends Printed {
  readonly dryRun?: boolean;
}

function registerStatus(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('status')
    .description('show how embeddings are searched, by which models, and what is missing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nCounts rows, which takes a while on large tables.\n\nExample:\n  liventix embeddings status',
    )
    .action(({ json }: Printed) =>
      withDatabase(context, async (pool) => {
        const status = await embeddingStatus(pool);
        context.out.write(json === true ? `${toJson(status)}\n` : statusText(status));
      }),
    );
}

function statusText({ extension, kinds, indexes }: EmbeddingStatus): string {
  const { version, schema, available } = extension;
  const how =
    version !== null
      ? `by pgvector ${version}, in schema ${schema}`
      : `exactly, over arrays: ${available === null ? 'the server has no pgvector' : `pgvector ${available} could be created: liventix embeddings upgrade`}`;
  const lines = [
    `searched   ${how}`,
    ...kinds.map(kindLine),
    ...indexes.map(
      ({ name, model, state, bytes }) =>
        `index      ${name}  ${model}  ${state}${bytes === null ? '' : `, ${formatCount(bytes)} bytes`}`,
    ),
  ];
  return `${lines.join('\n')}\n`;
}

function kindLine({ kind, current, embeddings, table, without }: KindStatus): string {
  const name = `${kind}s`.padEnd(10);
  if (current === null) return `${name} by no model: liventix embeddings models use`;
  const missing = without === null ? '' : `, ${formatCount(without)} without`;
  const seen = table === null ? 'tied to no table: liventix embeddings attach' : `of ${printable(table)}`;
  return `${name} by ${current}: ${formatCount(embeddings)}${missing}; ${seen}`;
}

interface AttachOptions extends Changing {
  readonly event?: string;
  readonly sponsor?: string;
  readonly package?: string;
  readonly readers: readonly string[];
  readonly writers: readonly string[];
}

const names = (text: string): readonly string[] => text.split(',').filter((name) => name !== '');

function registerAttach(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('attach')
    .description('tie embeddings to their tables: who sees the row sees its embedding, and deleting it deletes that')
    .option('--event <table>', 'the table of events; events.events or public.events when left out')
    .option('--sponsor <table>', 'the table of sponsors; sponsorship.sponsors or public.sponsors when left out')
    .option('--package <table>', 'the table of packages; sponsorship_packages of sponsorship or public when left out')
    .option('--readers <roles>', 'who may search, by commas; those that there are', names, USUAL_READERS)
    .option('--writers <roles>', 'who may write, by commas; those that there are', names, USUAL_WRITERS)
    .option('--dry-run', 'say what would be tied to what, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText('after', ATTACH_HELP)
    .action((options: AttachOptions) => runAttach(options, context));
}

const ATTACH_HELP = `
Until then nobody but the owner sees an embedding. Takes every other right to them away. Gives way after 50 ms to whoever uses a table,
and tries again, at most 40 times. Can be run again: after tables were moved or put back, and with other roles.

Examples:
  liventix embeddings attach --dry-run
  liventix embeddings attach --event events.events --readers app_read --writers app_write`;

async function runAttach(options: AttachOptions, context: CommandContext): Promise<void> {
  const { json, dryRun = false, readers, writers } = options;
  const tables = Object.fromEntries(
    (['event', 'sponsor', 'package'] as const).flatMap((kind) => {
      const table = options[kind];
      return table === undefined ? [] : [[kind, table]];
    }),
  );
  await withDatabase(context, async (pool) => {
    const attached = await attachSubjects(pool, { tables, readers, writers, dryRun, stop: context.stop });
    if (json === true) context.out.write(`${toJson(attached)}\n`);
    else {
      const verb = dryRun ? 'would be tied to' : 'tied to';
      for (const { kind, table } of attached) {
        context.out.write(
          `${`${kind}s`.padEnd(10)} ${table === null ? 'no table of them is here' : `${verb} ${printable(table)}`}\n`,
        );
      }
    }
    if (dryRun) context.err.write('Nothing was changed.\n');
  });
}

interface BuildOptions extends Changing {
  readonly memory?: string;
}

interface UpgradeOptions extends BuildOptions {
  readonly schema: string;
}

/** As PostgreSQL writes it. */
function memorySize(text: string): string {
  if (/^[1-9]\d{0,6}(kB|MB|GB)$/.test(text)) return text;
  throw new InvalidArgumentError('Give a size such as 512MB or 2GB.');
}

const MEMORY = 'of the server, for the build alone; its maintenance_work_mem when left out';

function registerUpgrade(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('upgrade')
    .description('have embeddings searched by pgvector: create it, build the indexes, compare both ways')
    .option('--schema <name>', 'where to create it, where it is not there', USUAL_SCHEMA)
    .option('--memory <size>', MEMORY, memorySize)
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', UPGRADE_HELP)
    .action((options: UpgradeOptions) => runUpgrade(options, context));
}

const UPGRADE_HELP = `
No embedding is written: the indexes are on embedding::vector(n). They are built concurrently, which waits for transactions that are
open and keeps nobody waiting. Interrupted, run it again. The way back: liventix embeddings downgrade. Exits with 1 when the comparison
does not hold.

Examples:
  liventix embeddings upgrade --dry-run
  liventix embeddings upgrade --memory 2GB`;

async function runUpgrade(options: UpgradeOptions, context: CommandContext): Promise<void> {
  await withDatabase(context, async (pool) => {
    if (options.dryRun === true) return showBuild(pool, options, context);
    context.err.write(`Having the embeddings of ${await databaseName(pool)} searched by pgvector.\n`);
    const extension = await createExtension(pool, options.schema);
    const built = await build(pool, options, context);
    const checks = await verified(pool, options, context);
    if (options.json === true) context.out.write(`${toJson({ extension, built, checks })}\n`);
    if (checks.some(({ holds }) => !holds)) context.exitWith(1);
  });
}

function registerIndex(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('index')
    .description('build the indexes that are wanted and not there, of versions that follow too')
    .option('--memory <size>', MEMORY, memorySize)
    .option('--dry-run', 'print the SQL that would run, and change nothing')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nOne HNSW index a kind and model version, built concurrently: run it before another version is made current.\n\nExamples:\n  liventix embeddings index --dry-run\n  liventix embeddings index --memory 2GB',
    )
    .action((options: BuildOptions) =>
      withDatabase(context, async (pool) => {
        if (options.dryRun === true) return showBuild(pool, options, context);
        const built = await build(pool, options, context);
        if (options.json === true) context.out.write(`${toJson(built)}\n`);
      }),
    );
}

/** Without the extension nobody knows yet what the indexes will be of: of its types. */
async function showBuild(
  pool: Pool,
  { json, schema }: Changing & { schema?: string },
  context: CommandContext,
): Promise<void> {
  const { version } = await readExtension(pool);
  const wanted = (await listIndexes(pool)).filter(({ state }) => state === 'absent' || state === 'invalid');
  const statements = [
    ...(version === null && schema !== undefined ? await creationOf(pool, schema) : []),
    ...wanted.map(({ name, statement }) => statement ?? `create index concurrently ${name} …`),
  ];
  context.out.write(
    json === true ? `${toJson({ wouldDo: statements })}\n` : statements.map((each) => `${each};\n`).join(''),
  );
  context.err.write('Nothing was changed.\n');
}

async function build(pool: Pool, { memory, json }: BuildOptions, context: CommandContext) {
  const progress = createProgress(context);
  const built = await buildIndexes(pool, {
    memory,
    onProgress: (index, done, total) => progress.update(`building ${index}`, done, total),
  }).finally(progress.clear);
  if (json !== true) {
    for (const { name, model } of built) context.out.write(`built      ${name}  ${model}\n`);
    if (built.length === 0) context.out.write('every index that is wanted is there\n');
  }
  return built;
}

function registerDowngrade(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('downgrade')
    .description('drop the indexes of pgvector: the search goes on without, and the extension may go')
    .option('--dry-run', 'name them, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nKeeps nobody waiting, and writes no embedding. Then, where nothing else uses it, drop extension vector.\n\nExample:\n  liventix embeddings downgrade --dry-run',
    )
    .action(({ json, dryRun }: Changing) =>
      withDatabase(context, async (pool) => {
        if (dryRun !== true) context.err.write(`Dropping the indexes of embeddings of ${await databaseName(pool)}.\n`);
        const dropped = dryRun === true ? await findIndexes(pool) : await dropIndexes(pool);
        const verb = dryRun === true ? 'would drop' : 'dropped   ';
        if (json === true) context.out.write(`${toJson({ [dryRun === true ? 'wouldDrop' : 'dropped']: dropped })}\n`);
        else
          context.out.write(
            dropped.length === 0 ? 'there is none\n' : dropped.map((name) => `${verb} ${name}\n`).join(''),
          );
        if (dryRun === true) context.err.write('Nothing was changed.\n');
      }),
    );
}

function registerVerify(embeddings: Command, context: CommandContext): void {
  embeddings
    .command('verify')
    .description('recompute what embeddings promise; exits with 1 when something does not hold')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nReads every embedding in one snapshot, and changes nothing. With pgvector it searches for what is like 20 subjects of a kind both by\nits index and over the arrays: at least 95 % of the 10 nearest, and similarities that differ by 0.00001 at most.\n\nExample:\n  liventix embeddings verify --json',
    )
    .action((options: Printed) =>
      withDatabase(context, async (pool) => {
        const checks = await verified(pool, options, context);
        if (options.json === true) context.out.write(`${toJson(checks)}\n`);
        if (checks.some(({ holds }) => !holds)) context.exitWith(1);
      }),
    );
}

async function verified(pool: Pool, { json }: Printed, context: CommandContext): Promise<readonly EmbeddingCheck[]> {
  const progress = createProgress(context);
  const onBegin = (check: string) => progress.update(`checking that ${check}`, 0, 0);
  const checks = await withTransaction(pool, (tx) => verifyEmbeddings(tx, { onBegin }), ONE_SNAPSHOT).finally(
    progress.clear,
  );
  if (json !== true) context.out.write(checks.map((check) => checkText(check, context)).join(''));
  return checks;
}

const NAME_WIDTH = 58;

function checkText({ check, holds, examined, unit, faults }: EmbeddingCheck, context: CommandContext): string {
  const { good, bad } = paintOut(context);
  const mark = holds ? { text: 'holds', paint: good } : { text: 'FAILS', paint: bad };
  const cells = [mark, check, `${formatCount(examined)} ${unit}`];
  const line = tableText(context, [cells], [{ min: 6 }, { min: NAME_WIDTH, shortens: 24 }, {}], 1);
  return line + faults.map((fault) => `         ${printable(fault)}\n`).join('');
}
