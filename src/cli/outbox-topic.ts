import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { PayloadSchema } from '../outbox/payload-schema.ts';
import { getTopic, listTopics, registerTopic, removeTopic, type Topic } from '../outbox/topic-registry.ts';
import { type Judged, judgeLast, LOOKED_AT } from '../outbox/topic-trial.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';
import { readSmallFile } from './small-file.ts';
import { suggestingNames } from './suggestion.ts';
import { tableText } from './table.ts';

interface Options {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface AddOptions extends Options {
  readonly schema: string;
  readonly description?: string;
}

/** Topics whose payloads have a schema. */
export function registerOutboxTopic(outbox: Command, context: CommandContext): void {
  const topic = outbox
    .command('topic')
    .description('what payloads of a topic look like')
    .addHelpText('after', '\nExample:\n  liventix outbox topic list');
  registerAdd(topic, context);
  registerLooks(topic, context);
  topic
    .command('remove')
    .description("take a topic's schema away; its payloads are as they like")
    .addHelpText('after', '\nExample:\n  liventix outbox topic remove ticket.purchased --dry-run')
    .argument('<topic>', 'the topic')
    .option('--dry-run', 'say whether there is one, and change nothing')
    .option('--json', 'print one JSON object')
    .action((name: string, options: Options) => runRemove(name, options, context));
}

function registerAdd(topic: Command, context: CommandContext): void {
  topic
    .command('add')
    .description('give a topic a schema, in place of the one that it has')
    .argument('<topic>', 'the topic, such as ticket.purchased')
    .requiredOption('--schema <file>', 'JSON Schema, draft 2020-12; - reads it from stdin')
    .option('--description <text>', 'what is announced under it')
    .option('--dry-run', 'say how many of the last messages would not fit, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ADD_HELP)
    .action((name: string, options: AddOptions) => runAdd(name, options, context));
}

const ADD_HELP = `
announce() refuses a payload that does not fit. What SQL announces is judged by the worker before it is sent, and so is what waits already:
it becomes a dead letter (payload_invalid), for outbox retry once the schema was put right. Misspelt keywords and formats are refused.
--dry-run judges the last ${formatCount(LOOKED_AT.messages)} messages of the last ${LOOKED_AT.days} days. It reads those days from end
to end until it has as many: no index finds messages by their topic. Ctrl-C ends it.

Examples:
  liventix outbox topic add ticket.purchased --schema ticket-purchased.json --dry-run
  liventix outbox topic add ticket.purchased --schema ticket-purchased.json --description 'A ticket was paid for'`;

async function runAdd(topic: string, options: AddOptions, context: CommandContext): Promise<void> {
  const schema = await schemaIn(options.schema);
  await withDatabase(context, async (pool) => {
    if (options.dryRun) {
      const judged = await judge(pool, { topic, schema }, context);
      context.out.write(options.json ? `${toJson({ wouldAdd: topic, ...judged })}\n` : judgedText(topic, judged));
      return;
    }
    const registered = await registerTopic(pool, { topic, schema, description: options.description });
    const { status, version } = registered;
    context.out.write(options.json ? `${toJson(registered)}\n` : `${status}  ${topic}  version ${version}\n`);
  });
}

async function schemaIn(file: string): Promise<PayloadSchema> {
  const text = await readSmallFile(file, '--schema');
  try {
    return JSON.parse(text) as PayloadSchema;
  } catch (error) {
    throw new AppError('OUTBOX_SCHEMA_INVALID', 'What --schema names is no JSON. Is it the right file?', {
      cause: error,
    });
  }
}

async function judge(
  pool: Pool,
  given: { topic: string; schema: PayloadSchema },
  context: CommandContext,
): Promise<Judged> {
  const progress = createProgress(context);
  return await judgeLast(pool, given, (days) => progress.update('days', days, LOOKED_AT.days)).finally(progress.clear);
}

function judgedText(topic: string, { messages, misfits, examples }: Judged): string {
  const lines = examples.map(({ id, path, expected }) => `${id}  ${printable(`${path || 'it'} ${expected}`)}\n`);
  return `would add  ${topic}  ${formatCount(misfits)} of its last ${formatCount(messages)} messages would not fit\n${lines.join('')}`;
}

function registerLooks(topic: Command, context: CommandContext): void {
  topic
    .command('list')
    .description('list the topics that have a schema')
    .addHelpText('after', '\nExample:\n  liventix outbox topic list --json')
    .option('--json', 'print one JSON array')
    .action((options: Options) =>
      withDatabase(context, async (pool) => {
        const topics = await listTopics(pool);
        if (options.json) context.out.write(`${toJson(topics)}\n`);
        else if (topics.length === 0) context.err.write(NO_TOPICS);
        else context.out.write(topicTable(topics, context));
      }),
    );
  topic
    .command('show')
    .description("print a topic's schema, as it may be given to topic add")
    .addHelpText('after', '\nExample:\n  liventix outbox topic show ticket.purchased')
    .argument('<topic>', 'the topic')
    .option('--json', 'print one JSON object of all that is known of it')
    .action((name: string, options: Options) =>
      withDatabase(context, async (pool) => {
        const found = await topicNamed(pool, name);
        context.out.write(options.json ? `${toJson(found)}\n` : `${JSON.stringify(found.schema, null, 2)}\n`);
      }),
    );
}

const topicNamed = (pool: Pool, name: string): ReturnType<typeof getTopic> =>
  suggestingNames(
    {
      code: 'OUTBOX_TOPIC_UNKNOWN',
      given: [name],
      names: async () => (await listTopics(pool)).map(({ topic }) => topic),
    },
    () => getTopic(pool, name),
  );

const NO_TOPICS = 'No topic has a schema yet: liventix outbox topic add gives it one.\n';

function topicTable(topics: readonly Topic[], context: CommandContext): string {
  const rows = topics.map(({ topic, version, updatedAt, description }) => [
    topic,
    `version ${version} of ${updatedAt.toISOString()}`,
    printable(description ?? ''),
  ]);
  return tableText(context, rows, [{}, {}, { shortens: 16 }]);
}

async function runRemove(
  name: string,
  { dryRun = false, json = false }: Options,
  context: CommandContext,
): Promise<void> {
  await withDatabase(context, async (pool) => {
    const { topic, version } = await topicNamed(pool, name);
    if (!dryRun) await removeTopic(pool, topic);
    const key = dryRun ? 'wouldRemove' : 'removed';
    const words = dryRun ? 'would remove' : 'removed';
    context.out.write(json ? `${toJson({ [key]: topic, version })}\n` : `${words}  ${topic}  version ${version}\n`);
  });
}
