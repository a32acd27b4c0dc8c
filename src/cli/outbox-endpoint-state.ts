import type { Command } from 'commander';
import { printableDatabaseUrl } from '../config.ts';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { countWaiting, deleteEndpoint } from '../outbox/endpoint-delete.ts';
import { assertReason, ENDPOINT_BOUNDS } from '../outbox/endpoint-settings.ts';
import {
  type Disabling,
  disableEndpoint,
  type Endpoint,
  enableEndpoint,
  getEndpoint,
  getLivingEndpoint,
} from '../outbox/endpoints.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';
import { withEndpoints } from './with-endpoints.ts';

interface Options {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface DeleteOptions extends Options {
  readonly yes?: boolean;
}

const { min, max } = ENDPOINT_BOUNDS.reasonLength;

export function registerEndpointState(endpoint: Command, context: CommandContext): void {
  endpoint
    .command('disable')
    .description('send an endpoint nothing more until it is enabled again')
    .argument('<id>', 'the endpoint')
    .requiredOption('--reason <text>', `why, in ${min} to ${max} characters; whoever looks at it is told`)
    .option('--dry-run', 'change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nWhat waits for it goes on when it is enabled; what is announced meanwhile is not kept for it.\n\nExample:\n  liventix outbox endpoint disable 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --reason "they move house"',
    )
    .action((id: string, options: Options & { reason: string }) => runDisable(id, options, context));

  endpoint
    .command('enable')
    .description('send to an endpoint again that was disabled, by a person or by its answering 410 Gone')
    .argument('<id>', 'the endpoint')
    .option('--dry-run', 'say how much waits for it, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ENABLE_HELP)
    .action((id: string, options: Options) => runEnable(id, options, context));

  endpoint
    .command('delete')
    .description('end an endpoint; what waits for it becomes dead letters')
    .argument('<id>', 'the endpoint')
    .option('--yes', 'although deliveries wait for it')
    .option('--dry-run', 'say what would become dead letters, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', DELETE_HELP)
    .action((id: string, options: DeleteOptions) => runDelete(id, options, context));
}

const ENABLE_HELP = `
What waits for it goes on. What was announced while it was disabled was not kept for it, and is not sent: the command says how
liventix outbox replay sends that.

Example:
  liventix outbox endpoint enable 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4`;

const DELETE_HELP = `
A request under way may finish; after it none is made. Its secrets are removed, its settings stay for list --deleted: deliveries and
attempts name it. Struck in between, run it again.

Example:
  liventix outbox endpoint delete 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --dry-run`;

async function runDisable(
  given: string,
  options: Options & { reason: string },
  context: CommandContext,
): Promise<void> {
  assertReason(options.reason);
  await withEndpoints(context, options, async (pool) => {
    const { id, disabledAt, disabledReason } = await getLivingEndpoint(pool, given);
    const waiting = await countWaiting(pool, id);
    const found = disabledAt && { at: disabledAt, reason: disabledReason };
    const before = options.dryRun ? found : await disableEndpoint(pool, id, options.reason);
    tell(context, options, { id, done: 'disabled', would: 'disable', waiting, before });
  });
}

async function runEnable(given: string, options: Options, context: CommandContext): Promise<void> {
  await withEndpoints(context, options, async (pool) => {
    const { id, disabledAt } = await getLivingEndpoint(pool, given);
    const waiting = await countWaiting(pool, id);
    const enabledAt = options.dryRun ? null : await enableEndpoint(pool, id);
    tell(context, options, { id, done: 'enabled', would: 'enable', waiting, disabledAt });
    if (disabledAt !== null && !options.json) context.err.write(notKeptText({ id, disabledAt, enabledAt }));
  });
}

const MS = 1;

/** What was disabled is enabled at an instant that JavaScript cuts to its millisecond: what was announced within that is meant too. */
function notKeptText(endpoint: { id: string; disabledAt: Date; enabledAt: Date | null }): string {
  const from = endpoint.disabledAt.toISOString();
  const said = `What was announced while it was disabled, since ${from}, was not kept for it.`;
  if (endpoint.enabledAt === null) return `${said}\n`;
  const to = new Date(endpoint.enabledAt.getTime() + MS).toISOString();
  return `${said} To send it: liventix outbox replay --topic '*' --endpoint ${endpoint.id} --from ${from} --to ${to}\n`;
}

interface Told {
  readonly id: string;
  readonly done: string;
  readonly would: string;
  readonly waiting: number;
  /** Of one that was disabled already. */
  readonly before?: Disabling | null;
  /** Of one that is enabled. */
  readonly disabledAt?: Date | null;
}

function tell(context: CommandContext, { dryRun = false, json = false }: Options, told: Told): void {
  const { id, done, would, waiting, ...more } = told;
  const words = dryRun ? `would ${would}` : done;
  const key = dryRun ? `would${would.replace(/^./, (letter) => letter.toUpperCase())}` : done;
  context.out.write(
    json
      ? `${toJson({ [key]: id, waiting, ...more })}\n`
      : `${words}  ${id}  ${formatCount(waiting)} deliveries wait for it\n${more.before ? beforeLine(more.before) : ''}`,
  );
}

const beforeLine = ({ at, reason }: Disabling) =>
  `before  it was disabled already, at ${at.toISOString()}: ${printable(reason ?? 'without a reason')}\n`;

async function runDelete(given: string, options: DeleteOptions, context: CommandContext): Promise<void> {
  const { dryRun = false, json = false } = options;
  await withEndpoints(context, options, async (pool) => {
    const found = await getEndpoint(pool, given);
    const waiting = await countWaiting(pool, found.id);
    // One that is deleted already, and that deliveries wait for, is one whose deletion was struck.
    if (found.deletedAt !== null && waiting === 0) await getLivingEndpoint(pool, given);
    if (dryRun) {
      context.out.write(json ? `${toJson({ wouldDelete: found.id, waiting })}\n` : planText(found, waiting, context));
      return;
    }
    if (waiting > 0 && options.yes !== true) throw notConfirmed(found, waiting);
    context.err.write(planText(found, waiting, context));
    const progress = createProgress(context);
    const buried = await deleteEndpoint(pool, found, (count) => progress.update('dead letters', count, waiting));
    progress.clear();
    context.out.write(
      json
        ? `${toJson({ deleted: found.id, deadLetters: buried })}\n`
        : `deleted  ${found.id}  ${formatCount(buried)} deliveries became dead letters\n`,
    );
  });
}

function planText({ id, url }: Endpoint, waiting: number, { config }: CommandContext): string {
  const database = printableDatabaseUrl(requireDatabaseUrl(config));
  return `to delete  ${id}  ${printable(url)}, of ${database}; ${formatCount(waiting)} waiting deliveries become dead letters\n`;
}

function notConfirmed({ id }: Endpoint, waiting: number): AppError {
  return new AppError(
    'USAGE',
    `${formatCount(waiting)} deliveries wait for endpoint ${id} and would become dead letters. If that is wanted, add --yes. Nothing was changed.`,
  );
}
