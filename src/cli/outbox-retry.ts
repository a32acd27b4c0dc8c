import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { countWorkers } from '../outbox/backlog.ts';
import {
  planRetry,
  planRetryOf,
  type RetryPlan,
  type RetryProgress,
  retryPlanned,
  type WaitingDelivery,
} from '../outbox/dead-letters.ts';
import { assertEnabled, type EndpointAndCount } from '../outbox/delivery-filter.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { databaseName } from './database-name.ts';
import { INSTANTS_HELP } from './instants.ts';
import { wholeNumber } from './options.ts';
import { unsentNotice } from './outbox-at-work.ts';
import { deliveryId, type FilterOptions, filterOf, withFilter } from './outbox-filter.ts';
import { formatCount } from './output.ts';
import { printable } from './printable.ts';
import { createProgress } from './progress.ts';

const MAX_NAMED = 10_000;
const MAX_EXPLAINED = 20;
export const MAX_RATE = 100_000;

interface RetryOptions extends FilterOptions {
  readonly dead?: boolean;
  readonly rate?: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function registerOutboxRetry(outbox: Command, context: CommandContext): void {
  const retry = outbox
    .command('retry')
    .description('let dead letters be attempted again, or deliveries that wait for their next attempt, now')
    .argument('[delivery-id...]', 'the deliveries', (text, before: bigint[] | undefined) => [
      ...(before ?? []),
      deliveryId(text),
    ])
    .option('--dead', 'all dead letters, or those that the other options mean');
  withFilter(retry)
    .option('--rate <n>', 'how many a second; as fast as it goes when left out', wholeNumber(1, MAX_RATE))
    .option('--dry-run', 'count them by endpoint, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action((ids: bigint[] | undefined, options: RetryOptions) => runRetry(ids ?? [], options, context));
}

const HELP = `
The retry schedule begins anew; numbers of attempts go on, and every attempt is kept. Those that are delivered, on their way or due
already are left alone, so that a second run does no harm: what was delivered is sent again by liventix outbox replay. A message
that is not to be delivered before an instant is not; at an ordered endpoint, a delivery goes after those in front of it. Of the
first 20 that are named and left alone for that, the command says which instant, or which delivery, and what can be done.

Ctrl-C ends it after the batch under way, and another run does the rest. Where an endpoint is disabled, nothing is changed, and
--dry-run ends as the run would. Of deleted endpoints nothing can be attempted: --dead leaves theirs alone and says how many these are,
and liventix outbox replay sends their messages to another endpoint.
${INSTANTS_HELP}

Examples:
  liventix outbox retry 51234 51240
  liventix outbox retry --dead --endpoint 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --from 2026-03-01 --dry-run
  liventix outbox retry --dead --topic 'ticket.*' --rate 50`;

async function runRetry(ids: readonly bigint[], options: RetryOptions, context: CommandContext): Promise<void> {
  assertUsage(ids, options);
  const filter = filterOf(options);
  await withDatabase(
    context,
    async (pool) => {
      const plan = options.dead ? await planRetry(pool, filter) : await planRetryOf(pool, ids);
      if (options.dryRun) {
        context.out.write(options.json ? `${toJson(dryRunOf(plan))}\n` : planText(plan));
        assertEnabled(plan.endpoints);
        if (!options.json) context.err.write('Nothing was changed.\n');
        return;
      }
      assertEnabled(plan.endpoints);
      const retried = plan.deliveries === 0 ? 0 : await runPlan(pool, plan, options, context);
      const workers = await countWorkers(pool);
      context.out.write(
        options.json
          ? `${toJson({ retried, ...untouchedOf(plan), workers })}\n`
          : `${retriedText(retried, plan)}\n${waitingText(plan)}`,
      );
      if (!options.json && retried > 0) context.err.write(unsentNotice(workers));
    },
    { stopsItself: true },
  );
}

function assertUsage(ids: readonly bigint[], options: RetryOptions): void {
  const narrowed = (['topic', 'endpoint', 'from', 'to'] as const).filter((name) => options[name] !== undefined);
  const fault =
    ids.length > 0 && (options.dead || narrowed.length > 0)
      ? 'Give either ids of deliveries, or --dead and what narrows it.'
      : ids.length === 0 && !options.dead
        ? 'Give ids of deliveries, or --dead.'
        : ids.length > MAX_NAMED
          ? `Give at most ${formatCount(MAX_NAMED)} ids.`
          : undefined;
  if (fault !== undefined) throw new AppError('USAGE', `${fault} See: liventix outbox retry --help`);
}

async function runPlan(pool: Pool, plan: RetryPlan, options: RetryOptions, context: CommandContext): Promise<number> {
  const what = `${formatCount(plan.deliveries)} deliveries of ${await databaseName(pool)}`;
  if (!options.json) context.err.write(`Retrying ${what}.\n`);
  const progress = createProgress(context);
  let reached: RetryProgress = { done: 0, retried: 0 };
  try {
    for await (reached of retryPlanned(pool, plan, { rate: options.rate, stop: context.stop })) {
      progress.update('deliveries', reached.done, plan.deliveries);
    }
  } finally {
    progress.clear();
  }
  if (context.stop.aborted && reached.done < plan.deliveries) {
    throw new AppError(
      'STOPPED',
      `${String(context.stop.reason)} stopped the retry after ${formatCount(reached.retried)} of ${what}; these are kept. Run it again for the rest.`,
    );
  }
  return reached.retried;
}

const isRefused = ({ endpoints }: RetryPlan) => endpoints.some(({ enabled }) => !enabled);

const dryRunOf = (plan: RetryPlan) => ({
  wouldRetry: isRefused(plan) ? 0 : plan.deliveries,
  isRefused: isRefused(plan),
  endpoints: [...plan.endpoints, ...plan.ofDeleted],
  ...untouchedOf(plan),
});

const untouchedOf = (plan: RetryPlan) => ({
  leftAlone: plan.leftAlone,
  ofDeletedEndpoints: countOfDeleted(plan),
  waiting: plan.waiting,
});

const countOfDeleted = ({ ofDeleted }: RetryPlan) => ofDeleted.reduce((sum, { deliveries }) => sum + deliveries, 0);

function planText(plan: RetryPlan): string {
  return [
    isRefused(plan)
      ? `would be refused, all ${formatCount(plan.deliveries)}${leftAloneText(plan)}\n`
      : `would retry  ${formatCount(plan.deliveries)}${leftAloneText(plan)}\n`,
    ...[...plan.endpoints, ...plan.ofDeleted].map(endpointLine),
    waitingText(plan),
  ].join('');
}

/** What a retry does not change, and who can. */
function waitingText({ waiting }: RetryPlan): string {
  const lines = waiting.slice(0, MAX_EXPLAINED).map(waitingLine);
  const more = waiting.length - lines.length;
  return [...lines, ...(more > 0 ? [`and ${formatCount(more)} more that wait\n`] : [])].join('');
}

function waitingLine({ deliveryId, messageId, behind, notBefore }: WaitingDelivery): string {
  if (behind !== null) {
    return `${deliveryId} waits behind ${behind}, which is sent first; if that waits for its next attempt: liventix outbox retry ${behind}\n`;
  }
  return `${deliveryId} is not to be sent before ${notBefore?.toISOString()}, as its message says, and a retry does not change that. To send it sooner, the tables' owner may run: update public.outbox set deliver_after = null where id = '${messageId}'; and retry it then\n`;
}

function endpointLine(endpoint: EndpointAndCount): string {
  const { endpointId, url, enabled, disabledReason, isDeleted, deliveries } = endpoint;
  const why = isDeleted ? 'DELETED' : `DISABLED (${printable(disabledReason ?? 'by hand')}): a retry is refused`;
  const state = enabled ? '' : `  ${why}`;
  return `${formatCount(deliveries).padStart(11)}  ${endpointId}  ${printable(url ?? 'gone')}${state}\n`;
}

function retriedText(retried: number, plan: RetryPlan): string {
  if (retried === 0) return `nothing to retry${leftAloneText(plan)}`;
  return `retried  ${formatCount(retried)}${leftAloneText(plan)}`;
}

function leftAloneText(plan: RetryPlan): string {
  const states = Object.entries(plan.leftAlone).map(([state, count]) => `${formatCount(count)} ${state}`);
  const ofDeleted = countOfDeleted(plan);
  const all = [...states, ...(ofDeleted === 0 ? [] : [`${formatCount(ofDeleted)} dead of deleted endpoints`])];
  return all.length === 0 ? '' : `, left alone: ${all.join(', ')}`;
}
