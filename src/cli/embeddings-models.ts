import { Argument, type Command, InvalidArgumentError, Option } from 'commander';
import { MAX_DIMENSIONS } from '../analytics/embeddings/input.ts';
import { KINDS, type Kind } from '../analytics/embeddings/kinds.ts';
import {
  addModel,
  listModels,
  type ModelVersion,
  retireModel,
  useModel,
  useNoModel,
} from '../analytics/embeddings/models.ts';
import { toJson } from '../db/json-value.ts';
import type { Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { known, wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { waitingFor } from './progress.ts';
import { suggestingNames } from './suggestion.ts';

interface Changing {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const MODEL = 'model@version, such as text-embedding-3-small@1';
const MOST_MISSING = 1_000_000_000;

/** Which versions of models there are, and by which each kind is searched. */
export function registerEmbeddingsModels(embeddings: Command, context: CommandContext): void {
  const models = embeddings
    .command('models')
    .description('the versions of models that embeddings are made by')
    .addHelpText('after', '\nExample:\n  liventix embeddings models list');
  registerList(models, context);
  registerAdd(models, context);
  registerUse(models, context);
  registerRetire(models, context);
}

function registerList(models: Command, context: CommandContext): void {
  models
    .command('list')
    .description('list the versions, what was made by each, and what is still missing')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nCounts rows, which takes a while on large tables.\n\nExample:\n  liventix embeddings models list',
    )
    .action(({ json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const listed = await waitingFor(context, 'counting embeddings', () => listModels(pool));
        context.out.write(json === true ? `${toJson(listed)}\n` : listed.map(modelText).join(''));
      }),
    );
}

function modelText({ name, dimensions, retiredAt, kinds }: ModelVersion): string {
  const retired = retiredAt === null ? '' : `, retired ${retiredAt.toISOString()}`;
  const lines = kinds
    .filter(({ embeddings, isCurrent }) => isCurrent || embeddings > 0n)
    .map(({ kind, isCurrent, embeddings, missing }) => {
      const role = isCurrent ? 'current' : `${formatCount(missing)} missing`;
      return `  ${`${kind}s`.padEnd(10)} ${formatCount(embeddings).padStart(12)}  ${role}\n`;
    });
  return `${name}  ${formatCount(dimensions)} dimensions${retired}\n${lines.join('')}`;
}

interface AddOptions extends Changing {
  readonly dimensions: number;
}

function registerAdd(models: Command, context: CommandContext): void {
  models
    .command('add')
    .description('add a version: embeddings may be made by it, and nothing is searched by it yet')
    .argument('<model>', MODEL)
    .requiredOption('--dimensions <n>', 'how many numbers it makes', wholeNumber(1, MAX_DIMENSIONS))
    .option('--dry-run', 'say whether it would be added, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix embeddings models add text-embedding-3-small@1 --dimensions 1536')
    .action((model: string, { dimensions, ...options }: AddOptions) =>
      change(context, options, async (tx) => {
        const isNew = await addModel(tx, { model, dimensions });
        return { json: { model, dimensions, isNew }, text: isNew ? `${model} added` : `${model} is there already` };
      }),
    );
}

const ofKnown = <T>(db: Queryable, model: string, work: () => Promise<T>): Promise<T> =>
  suggestingNames(
    {
      code: 'EMBEDDING_MODEL_UNKNOWN',
      given: [model],
      names: async () => (await listModels(db)).map(({ name }) => name),
    },
    work,
  );

const kindArgument = (text: string): Kind => {
  const kind = KINDS.find((each) => each === text);
  if (kind !== undefined) return kind;
  throw new InvalidArgumentError(`Give one of ${KINDS.join(', ')}.`);
};

interface UseOptions extends Changing {
  readonly mayMiss: number;
  readonly none?: boolean;
}

function registerUse(models: Command, context: CommandContext): void {
  models
    .command('use')
    .description('have a kind searched by a version, once it has what the current one has')
    .addArgument(known(new Argument('<kind>', 'what is searched').argParser(kindArgument), KINDS))
    .argument('[model]', MODEL)
    .addOption(new Option('--none', 'have it searched by nothing, instead of by a version').conflicts('mayMiss'))
    .option('--may-miss <n>', 'how many may be found no longer', wholeNumber(0, MOST_MISSING), 0)
    .option('--dry-run', 'say how many would be found no longer, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', USE_HELP)
    .action((kind: Kind, model: string | undefined, options: UseOptions) => runUse({ kind, model }, options, context));
}

async function runUse(
  { kind, model }: { kind: Kind; model: string | undefined },
  { mayMiss, none = false, dryRun = false, json }: UseOptions,
  context: CommandContext,
): Promise<void> {
  if ((model === undefined) !== none) {
    throw new AppError('USAGE', 'Give a model version, or --none. See: liventix embeddings models use --help');
  }
  const giving = { kind, dryRun, stop: context.stop };
  await withDatabase(context, async (pool) => {
    const missing =
      model === undefined
        ? await useNoModel(pool, giving)
        : await ofKnown(pool, model, () => useModel(pool, { ...giving, model, mayMiss }));
    const verb = dryRun ? 'would be' : 'are';
    context.out.write(
      json === true
        ? `${toJson({ kind, model: model ?? null, missing, dryRun })}\n`
        : `${kind}s ${verb} searched by ${model ?? 'no model'}: ${formatCount(missing)} ${verb} found no longer\n`,
    );
    if (dryRun) context.err.write('Nothing was changed.\n');
  });
}

const USE_HELP = `
Readers wait for nothing: until it commits they search by the version of before, then by this one. Exits with 1, and changes nothing,
while subjects are missing. Build its index first: liventix embeddings index. With --none no embedding is touched: nothing is searched
until a version is used again, and one that no kind is searched by may be retired.

Examples:
  liventix embeddings models use event text-embedding-3-small@2 --dry-run
  liventix embeddings models use package --none`;

function registerRetire(models: Command, context: CommandContext): void {
  models
    .command('retire')
    .description('retire a version for good: nothing is made or searched by it from then on')
    .argument('<model>', MODEL)
    .option('--dry-run', 'say whether it would be retired, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nWhat was made by it stays, until somebody deletes it.\n\nExample:\n  liventix embeddings models retire text-embedding-3-small@1',
    )
    .action((model: string, options: Changing) =>
      change(context, options, async (tx) => {
        const isNew = await ofKnown(tx, model, () => retireModel(tx, model));
        return { json: { model, isNew }, text: isNew ? `${model} retired` : `${model} was retired before` };
      }),
    );
}

/** Does it, or does it and takes it back. */
async function change(
  context: CommandContext,
  { dryRun = false, json }: Changing,
  work: (tx: Tx) => Promise<{ json: object; text: string }>,
): Promise<void> {
  await withDatabase(context, async (pool) => {
    const done = await withTransaction(pool, async (tx) => {
      await tx.query('savepoint untried');
      const result = await work(tx);
      if (dryRun) await tx.query('rollback to savepoint untried');
      return result;
    });
    context.out.write(json === true ? `${toJson({ ...done.json, dryRun })}\n` : `${done.text}\n`);
    if (dryRun) context.err.write('Nothing was changed.\n');
  });
}
