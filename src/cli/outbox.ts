import type { Command } from 'commander';
import type { CommandContext } from './context.ts';
import { registerOutboxAttach } from './outbox-attach.ts';
import { registerOutboxDeliveries } from './outbox-deliveries.ts';
import { registerOutboxEndpoint } from './outbox-endpoint.ts';
import { registerOutboxPrune } from './outbox-prune.ts';
import { registerOutboxReplay } from './outbox-replay.ts';
import { registerOutboxRetry } from './outbox-retry.ts';
import { registerOutboxStatus } from './outbox-status.ts';
import { registerOutboxTopic } from './outbox-topic.ts';

export function registerOutbox(program: Command, context: CommandContext): void {
  const outbox = program
    .command('outbox')
    .description('what is announced, who receives the webhooks, and how their delivery stands')
    .addHelpText(
      'after',
      "\nExamples:\n  liventix outbox status\n  liventix outbox endpoint add --url https://example.com/hooks --topic 'ticket.*'",
    );
  registerOutboxEndpoint(outbox, context);
  registerOutboxTopic(outbox, context);

  registerOutboxDeliveries(outbox, context);
  registerOutboxRetry(outbox, context);
  registerOutboxReplay(outbox, context);
  registerOutboxAttach(outbox, context);
  registerOutboxPrune(outbox, context);
  registerOutboxStatus(outbox, context);
}
