import type { Command } from 'commander';
import { acceptedUrl, addEndpoint, type Endpoint, listEndpoints } from '../outbox/endpoints.ts';
import { type OutboxStatus, outboxStatus } from '../outbox/status.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { registerOutboxAttach } from './outbox-attach.ts';
import { registerOutboxDeliveries } from './outbox-deliveries.ts';
import { registerOutboxPrune } from './outbox-prune.ts';
import { registerOutboxReplay } from './outbox-replay.ts';
import { registerOutboxRetry } from './outbox-retry.ts';
import { formatCount, toJson } from './output.ts';

interface AddOptions {
  readonly url: string;
  readonly topic: readonly string[];
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function registerOutbox(program: Command, context: CommandContext): void {
  const outbox = program
    .command('outbox')
    .description('what is announced, who receives the webhooks, and how their delivery stands');
  const endpoint = outbox.command('endpoint').description('the endpoints that webhooks go to');

  endpoint
    .command('add')
    .description('subscribe a URL to topics; prints its id and its secret, once')
    .requiredOption('--url <url>', 'where to POST, http(s)')
    .requiredOption('--topic <topic>', 'a topic, ticket.* or *; repeat it for more', collect)
    .option('--dry-run', 'say whether it would be taken, and add nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      "\nExamples:\n  liventix outbox endpoint add --url https://example.com/hooks --topic 'ticket.*' --topic payment.received\n\nThe receiver verifies with the secret by https://www.standardwebhooks.com, in any language.",
    )
    .action(({ url, topic: topics, dryRun, json }: AddOptions) =>
      withDatabase(context, async (pool) => {
        const { egressAllow, egressDeny } = context.config;
        const subscription = { url, topics, egressAllow, egressDeny };
        if (dryRun) {
          const wouldAdd = { url: acceptedUrl(subscription), topics };
          context.out.write(json ? `${toJson({ wouldAdd })}\n` : `would add  ${wouldAdd.url}  ${topics.join(' ')}\n`);
          return;
        }
        const added = await addEndpoint(pool, subscription);
        context.out.write(json ? `${toJson(added)}\n` : `id      ${added.id}\nsecret  ${added.secret}\n`);
      }),
    );

  endpoint
    .command('list')
    .description('list the endpoints, without their secrets')
    .option('--json', 'print one JSON array')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const endpoints = await listEndpoints(pool);
        if (options.json) context.out.write(`${toJson(endpoints)}\n`);
        else if (endpoints.length === 0) context.err.write(NO_ENDPOINTS);
        else context.out.write(endpoints.map(endpointLine).join(''));
      }),
    );

  outbox
    .command('status')
    .description('count messages, deliveries by state and attempts, and show what each endpoint waits for')
    .option('--json', 'print one JSON object')
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const status = await outboxStatus(pool);
        context.out.write(options.json ? `${toJson(status)}\n` : statusText(status));
      }),
    );

  registerOutboxDeliveries(outbox, context);
  registerOutboxRetry(outbox, context);
  registerOutboxReplay(outbox, context);
  registerOutboxAttach(outbox, context);
  registerOutboxPrune(outbox, context);
}

const NO_ENDPOINTS = 'There are no endpoints yet: liventix outbox endpoint add subscribes one.\n';

function collect(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}

function endpointLine(endpoint: Endpoint): string {
  return `${endpoint.id}  ${endpoint.url}  ${endpoint.topics.join(' ')}  ${stateOf(endpoint)}\n`;
}

function stateOf({ enabled, disabledReason }: Pick<Endpoint, 'enabled' | 'disabledReason'>): string {
  if (enabled) return 'enabled';
  return disabledReason === null ? 'disabled' : `disabled (${disabledReason})`;
}

function statusText(status: OutboxStatus): string {
  const { messages, deliveries, attempts, oldestUndeliveredSeconds: oldest } = status;
  const states = Object.entries(deliveries).map(([state, count]) => `${formatCount(count)} ${state}`);
  const lines = [
    `messages    ${formatCount(messages.total)}, of which ${formatCount(messages.unprocessed)} are not yet turned into deliveries`,
    `deliveries  ${states.join(', ')}`,
    `attempts    ${formatCount(attempts)}`,
    `oldest      ${oldest === null ? (deliveries.paused === 0 ? 'nothing is waiting' : 'no enabled endpoint waits for anything') : `waiting for ${oldest.toFixed(1)} s`}`,
    ...(deliveries.paused === 0
      ? []
      : [
          `paused      ${formatCount(deliveries.paused)} wait for an endpoint that is disabled, and nobody attempts them`,
        ]),
    ...status.endpoints.map(
      ({ id, url, enabled, disabledReason, waiting, paused, delivered, dead, lastError }) =>
        `endpoint    ${id}  ${url}  ${stateOf({ enabled, disabledReason })}: ${formatCount(waiting)} waiting, ${formatCount(paused)} paused, ${formatCount(delivered)} delivered, ${formatCount(dead)} dead${lastError === null ? '' : `; last error: ${lastError}`}`,
    ),
  ];
  return `${lines.join('\n')}\n`;
}
