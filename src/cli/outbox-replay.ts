import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { countWorkers } from '../outbox/backlog.ts';
import { type ReplayProgress, replayPlanned } from '../outbox/replay-messages.ts';
import { planReplay, type ReplayCounts, type ReplayPlan } from '../outbox/replay-plan.ts';
import type { ReplayRequest } from '../outbox/replay-scope.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { afterEndOf, beginningOf, INSTANTS_HELP } from './instants.ts';
import { uuid, wholeNumber } from './options.ts';
import { unsentNotice } from './outbox-at-work.ts';
import { filterOf } from './outbox-filter.ts';
import { MAX_RATE } from './outbox-retry.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

/** More than so many deliveries are not sent again by mistake. */
const UNCONFIRMED = 1_000;

interface ReplayOptions {
  readonly topic: string;
  readonly endpoint?: string;
  readonly from: string;
  readonly to: string;
  readonly unlessSince?: string;
  readonly rate?: number;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function registerOutboxReplay(outbox: Command, context: CommandContext): void {
  outbox
    .command('replay')
    .description('send messages again, to whoever subscribes to them now, signed')
    .requiredOption('--topic <topic>', 'of this topic: ticket.purchased, ticket.* or *')
    .requiredOption(
      '--from <instant>',
      'announced at this instant or later; of a date, from its beginning',
      beginningOf,
    )
    .requiredOption('--to <instant>', 'announced before this instant; of a date, until its end', afterEndOf)
    .option('--endpoint <id>', 'to this endpoint alone', uuid)
    .option(
      '--unless-since <instant>',
      'leave alone what was delivered, or died, at this instant or later',
      beginningOf,
    )
    .option('--rate <n>', 'how many deliveries a second; as fast as it goes when left out', wholeNumber(1, MAX_RATE))
    .option('--yes', `do so for more than ${formatCount(UNCONFIRMED)} deliveries`)
    .option('--dry-run', 'count them by endpoint, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action((options: ReplayOptions) => runReplay(options, context));
}

const HELP = `
An endpoint receives what it had before once more, and what it never had because it was added later; under the same webhook-id, by
which receivers know what they have, signed with the present secret. What is on its way already is left alone. Subscription,
organization and filter of an endpoint count as they are now; an endpoint that is disabled receives nothing.

Ctrl-C ends it after the batch under way, and says with which --unless-since another run does the rest.
${INSTANTS_HELP}

Examples:
  liventix outbox replay --topic 'ticket.*' --from 2026-03-01 --to 2026-03-02 --dry-run
  liventix outbox replay --topic '*' --endpoint 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --from 2026-03-01T08:00:00Z --to 2026-03-01T09:00:00Z`;

async function runReplay(options: ReplayOptions, context: CommandContext): Promise<void> {
  const { topic, from, to, unlessSince } = options;
  const request = { ...filterOf(options), topic, from, to, unlessSince };
  await withDatabase(
    context,
    async (pool) => {
      const plan = await makePlan(pool, request, context);
      if (options.dryRun) {
        context.out.write(
          options.json ? `${toJson({ wouldReplay: totalsOf(plan), endpoints: plan.endpoints })}\n` : planText(plan),
        );
        if (!options.json) context.err.write('Nothing was changed.\n');
        return;
      }
      const { deliveries } = totalsOf(plan);
      assertConfirmed(deliveries, options);
      if (deliveries === 0) {
        context.out.write(
          options.json
            ? `${toJson({ messages: 0, added: 0, again: 0, workers: await countWorkers(pool) })}\n`
            : `nothing to send again${leftAloneText(plan)}\n`,
        );
        return;
      }
      if (!options.json) context.err.write(`Into ${await databaseName(pool)}:\n${planText(plan)}`);
      const replayed = await runPlan(pool, request, plan, options, context);
      const workers = await countWorkers(pool);
      context.out.write(options.json ? `${toJson({ ...replayed, workers })}\n` : replayedText(replayed));
      if (!options.json) context.err.write(unsentNotice(workers));
    },
    { stopsItself: true },
  );
}

async function makePlan(pool: Pool, request: ReplayRequest, context: CommandContext): Promise<ReplayPlan> {
  const progress = createProgress(context);
  const onBatch = (messages: number, total: number) => progress.update('counting messages', messages, total);
  const plan = await planReplay(pool, request, { stop: context.stop, onBatch }).finally(progress.clear);
  if (!context.stop.aborted) return plan;
  throw new AppError(
    'STOPPED',
    `${String(context.stop.reason)} stopped the replay while it counted; nothing was changed.`,
  );
}

function assertConfirmed(deliveries: number, { yes }: ReplayOptions): void {
  if (yes || deliveries <= UNCONFIRMED) return;
  throw new AppError(
    'OUTBOX_CONFIRMATION_NEEDED',
    `${formatCount(deliveries)} deliveries would be sent, which is more than ${formatCount(UNCONFIRMED)}, and nothing was changed. Look with --dry-run whose they are, and confirm with --yes.`,
    { details: { deliveries } },
  );
}

async function runPlan(
  pool: Pool,
  request: ReplayRequest,
  plan: ReplayPlan,
  { rate }: ReplayOptions,
  context: CommandContext,
): Promise<ReplayProgress> {
  const progress = createProgress(context);
  let reached: ReplayProgress = { messages: 0, added: 0, again: 0 };
  try {
    for await (reached of replayPlanned(pool, request, { plan, rate, stop: context.stop })) {
      progress.update('messages', reached.messages, plan.messages);
    }
  } finally {
    progress.clear();
  }
  if (context.stop.aborted && reached.messages < plan.messages) {
    throw new AppError(
      'STOPPED',
      `${String(context.stop.reason)} stopped the replay after ${formatCount(reached.messages)} of ${formatCount(plan.messages)} messages; these are kept. Run it again for the rest, with --unless-since ${request.unlessSince ?? plan.startedAt.toISOString()}`,
    );
  }
  return reached;
}

function totalsOf(plan: ReplayPlan) {
  const sum = (count: (endpoint: ReplayCounts) => number) =>
    plan.endpoints.reduce((total, each) => total + count(each), 0);
  return {
    messages: plan.messages,
    deliveries: sum(({ added, again }) => added + again),
    leftAlone: sum(({ leftAlone }) => leftAlone),
  };
}

function planText(plan: ReplayPlan): string {
  const { messages, deliveries } = totalsOf(plan);
  return [
    `${formatCount(messages)} messages, ${formatCount(deliveries)} deliveries${leftAloneText(plan)}\n`,
    ...plan.endpoints.map(
      ({ endpointId, url, again, added, leftAlone }) =>
        `${endpointId}  ${printable(url)}  ${formatCount(again)} again, ${formatCount(added)} for the first time, ${formatCount(leftAlone)} left alone\n`,
    ),
  ].join('');
}

function leftAloneText(plan: ReplayPlan): string {
  const { leftAlone } = totalsOf(plan);
  return leftAlone === 0 ? '' : `, left alone: ${formatCount(leftAlone)}`;
}

const replayedText = ({ messages, added, again }: ReplayProgress) =>
  `replayed  ${formatCount(messages)} messages: ${formatCount(again)} deliveries again, ${formatCount(added)} for the first time\n`;
