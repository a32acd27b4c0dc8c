import { type Command, InvalidArgumentError, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import { type EndpointStatus, type OutboxStatus, outboxStatus } from '../outbox/status.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { atWorkLine } from './outbox-at-work.ts';
import { watchOutbox } from './outbox-watch.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';
import { waitingFor } from './progress.ts';

interface StatusOptions {
  readonly watch?: boolean;
  readonly every: number;
  readonly exact?: boolean;
  readonly json?: boolean;
}

const UNIT_MS = { ms: 1, s: 1_000, m: 60_000 };
const [MIN_EVERY_MS, MAX_EVERY_MS] = [100, 3_600_000];

export function registerOutboxStatus(outbox: Command, context: CommandContext): void {
  outbox
    .command('status')
    .description(
      'count messages, deliveries by state and attempts, and show who leads, how many workers there are, and what each endpoint waits for',
    )
    .option(
      '--watch',
      'look again and again until Ctrl-C, with rates, breakers, who leads, and what holds the horizon back',
    )
    .addOption(
      new Option('--every <time>', 'how often, such as 500ms, 2s or 1m').argParser(interval).default(2_000, '2s'),
    )
    .option('--exact', 'count what was delivered too, row by row, however much that is')
    .option('--json', 'print one JSON object; with --watch one a line')
    .addHelpText(
      'after',
      '\nWhat waits and what is dead is counted; beyond 250,000 of a kind the numbers are the least that there are (isCut).\nOf tables beyond 64 MB, messages, delivered and attempts are what the server estimates (isEstimate), unless --exact.\nThe last error is one of the last 10,000 attempts. Not on a terminal, --watch prints one line each time.\n\nExample:\n  liventix outbox status --watch --every 1s',
    )
    .action(async ({ watch, every, exact, json }: StatusOptions) => {
      if (watch) return watchOutbox(context, { everyMs: every, ...(json ? { json } : {}) });
      await withDatabase(context, async (pool) => {
        const status = await waitingFor(context, 'counting', () => outboxStatus(pool, { exact: exact === true }));
        context.out.write(json ? `${toJson(status)}\n` : statusText(status, paintOut(context)));
      });
    });
}

function interval(text: string): number {
  const [, digits, unit] = /^(\d{1,7})(ms|s|m)$/.exec(text) ?? [];
  const ms = Number(digits) * UNIT_MS[(unit ?? 'ms') as keyof typeof UNIT_MS];
  if (ms >= MIN_EVERY_MS && ms <= MAX_EVERY_MS) return ms;
  throw new InvalidArgumentError('Give a time from 100ms to 60m, such as 2s.');
}

function statusText(status: OutboxStatus, paint: Paint): string {
  const { messages, deliveries, attempts, oldestUndeliveredSeconds: oldest } = status;
  const about = (count: number) => `${status.isEstimate ? 'about ' : ''}${formatCount(count)}`;
  const states = Object.entries(deliveries).map(([state, count]) =>
    stateCount(state, count, state === 'delivered' ? about(count) : formatCount(count), paint),
  );
  const lines = [
    `messages    ${about(messages.total)}, of which ${formatCount(messages.unprocessed)} are not yet turned into deliveries`,
    `deliveries  ${states.join(', ')}${status.isCut ? '; more than were counted wait or are dead' : ''}`,
    `attempts    ${about(attempts)}`,
    `oldest      ${oldest === null ? (deliveries.paused === 0 ? 'nothing is waiting' : 'no enabled endpoint waits for anything') : `waiting for ${oldest.toFixed(1)} s`}`,
    ...(deliveries.paused === 0
      ? []
      : [
          `paused      ${formatCount(deliveries.paused)} wait for an endpoint that is disabled, and nobody attempts them`,
        ]),
    atWorkLine(status),
    ...nobodyLines(status, paint),
    ...status.endpoints.map((endpoint) => endpointLine(endpoint, paint)),
    ...deletedLines(status.deletedEndpoints),
  ];
  return `${lines.join('\n')}\n`;
}

/** `3 dead`, which is bad where there are any. */
function stateCount(state: string, count: number, text: string, { bad }: Paint): string {
  const words = `${text} ${state}`;
  return state === 'dead' && count > 0 ? bad(words) : words;
}

function nobodyLines({ messages, deliveries, workers }: OutboxStatus, { bad }: Paint): string[] {
  const waiting = messages.unprocessed + deliveries.pending + deliveries.queued + deliveries.delivering;
  if (workers > 0 || waiting === 0) return [];
  return [
    `nobody      ${bad('no worker runs')}, and ${formatCount(waiting)} wait: they are sent when one does (liventix worker)`,
  ];
}

function deletedLines({ waiting, delivered, dead }: OutboxStatus['deletedEndpoints']): string[] {
  if (waiting + (delivered ?? 0) + dead === 0) return [];
  const counts = [
    ...(waiting === 0 ? [] : [`${formatCount(waiting)} not yet finished`]),
    ...(delivered === null ? [] : [`${formatCount(delivered)} delivered`]),
    `${formatCount(dead)} dead`,
  ];
  return [`deleted     endpoints that were deleted: ${counts.join(', ')}, counted above too`];
}

function endpointLine(endpoint: EndpointStatus, paint: Paint): string {
  const { id, url, waiting, paused, delivered, dead, lastError } = endpoint;
  const counts = [
    `${formatCount(waiting)} waiting`,
    `${formatCount(paused)} paused`,
    ...(delivered === null ? [] : [`${formatCount(delivered)} delivered`]),
    stateCount('dead', dead, formatCount(dead), paint),
  ];
  return `endpoint    ${id}  ${printable(url)}  ${stateOf(endpoint, paint)}: ${counts.join(', ')}${lastError === null ? '' : `; last error: ${printable(lastError)}`}`;
}

function stateOf({ enabled, disabledReason, breaker }: EndpointStatus, { bad, warn }: Paint): string {
  if (enabled) return breaker === 'closed' ? 'enabled' : `enabled, ${bad(`breaker ${breaker}`)}`;
  return warn(disabledReason === null ? 'disabled' : `disabled (${printable(disabledReason)})`);
}
