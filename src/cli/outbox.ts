import type { Command } from 'commander';
import { type OutboxStatus, outboxStatus } from '../outbox/status.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { registerOutboxAttach } from './outbox-attach.ts';
import { registerOutboxDeliveries } from './outbox-deliveries.ts';
import { registerOutboxEndpoint } from './outbox-endpoint.ts';
import { stateOf } from './outbox-endpoint-show.ts';
import { registerOutboxPrune } from './outbox-prune.ts';
import { registerOutboxReplay } from './outbox-replay.ts';
import { registerOutboxRetry } from './outbox-retry.ts';
import { formatCount, toJson } from './output.ts';

export function registerOutbox(program: Command, context: CommandContext): void {
  const outbox = program
    .command('outbox')
    .description('what is announced, who receives the webhooks, and how their delivery stands');
  registerOutboxEndpoint(outbox, context);

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
