import { type Command, InvalidArgumentError, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import { isUuid } from '../ledger/input.ts';
import { DELIVERY_STATES, type DeliveryState, type ListedDelivery, listDeliveries } from '../outbox/deliveries-list.ts';
import {
  type AttemptStory,
  type DeliveryStory,
  getMessageStory,
  type MessageStory,
  type Shown,
} from '../outbox/message-story.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { INSTANTS_HELP } from './instants.ts';
import { uuid, wholeNumber } from './options.ts';
import { deliveryId, type FilterOptions, filterOf, withFilter } from './outbox-filter.ts';
import { passedOverLines } from './outbox-passed-over.ts';
import { paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';
import { waitingFor } from './progress.ts';
import { type Cell, cellText, tableText } from './table.ts';

const MAX_LISTED = 100_000;

interface ListOptions extends FilterOptions {
  readonly state?: DeliveryState;
  readonly organization?: string;
  readonly key?: string;
  readonly limit: number;
  readonly before?: bigint;
  readonly json?: boolean;
}

/** Where deliveries stand, and how they came there. */
export function registerOutboxDeliveries(outbox: Command, context: CommandContext): void {
  const deliveries = outbox
    .command('deliveries')
    .description('list deliveries, the newest first')
    .addOption(new Option('--state <state>', 'only those that stand so').choices(DELIVERY_STATES));
  withFilter(deliveries)
    .option('--organization <id>', 'only of messages of this organization', uuid)
    .option('--key <ordering key>', 'only of this ordering key, at endpoints that are ordered')
    .option('--limit <n>', 'how many', wholeNumber(1, MAX_LISTED), 20)
    .option('--before <id>', 'only deliveries with a lower id: the next page', deliveryId)
    .option('--json', 'print one JSON array')
    .addHelpText('after', LIST_HELP)
    .action((options: ListOptions) =>
      withDatabase(context, async (pool) => {
        const { state, organization: organizationId, key: orderingKey, limit, before, json } = options;
        const page = { ...filterOf(options), state, organizationId, orderingKey, limit, before };
        const listed = await waitingFor(context, 'looking for deliveries', () => listDeliveries(pool, page));
        if (json) context.out.write(`${toJson(listed)}\n`);
        else if (listed.length === 0) context.err.write('There are no such deliveries.\n');
        else context.out.write(deliveryTable(listed, context));
      }),
    );

  outbox
    .command('show')
    .description('show a message, its deliveries and each of their attempts')
    .argument('<id>', 'a message (a UUID, as in webhook-id), or a delivery (a number)', readShown)
    .option('--json', 'print one JSON object')
    .addHelpText('after', SHOW_HELP)
    .action((shown: Shown, { json }: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const story = await waitingFor(context, 'looking for the message', () => getMessageStory(pool, shown));
        context.out.write(json ? `${storyJson(story)}\n` : storyText(story, paintOut(context)));
      }),
    );
}

/** Where an instant would be, of what is due at none yet. */
const inLine = (behind: bigint | null) => (behind === null ? 'after others of its key' : `behind ${behind}`);

const LIST_HELP = `
${INSTANTS_HELP}
With --from or --to, only what was kept of those days is read. Of an endpoint that had little to do, --from makes it faster.
Behind N: an ordered endpoint is sent N first; liventix outbox retry N lets it be attempted now. Changes nothing.

Examples:
  liventix outbox deliveries --endpoint 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --key order-7 --state pending
  liventix outbox deliveries --state dead --topic 'ticket.*' --from 2026-03-01
  liventix outbox deliveries --limit 1000 --before 51234 --json`;

const SHOW_HELP = `
Of a delivery, its message is shown with that delivery alone. Of a response the first 8 kB are kept. Of a message without deliveries,
the endpoints that subscribe to its topic now are shown, and why each was not sent it, as far as they tell. Changes nothing.

Examples:
  liventix outbox show 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4
  liventix outbox show 51234 --json`;

function readShown(text: string): Shown {
  const bare = text.replace(/^msg_/, '');
  if (isUuid(bare)) return { messageId: bare.toLowerCase() };
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Give a message, a UUID, or a delivery, a number.');
  return { deliveryId: deliveryId(text) };
}

function deliveryTable(deliveries: readonly ListedDelivery[], context: CommandContext): string {
  const paint = paintOut(context);
  const hasKeys = deliveries.some(({ orderingKey }) => orderingKey !== null);
  const rows = [
    [
      'id',
      'message',
      'topic',
      'endpoint',
      'state',
      'attempts',
      'due or finished',
      ...(hasKeys ? ['key'] : []),
      'last error',
    ],
    ...deliveries.map((delivery) => [
      delivery.id.toString(),
      delivery.messageId,
      delivery.topic,
      delivery.endpointId,
      stateCell(delivery.state, paint),
      delivery.attempts.toString(),
      (delivery.finishedAt ?? delivery.dueAt)?.toISOString() ?? inLine(delivery.behind),
      ...(hasKeys ? [printable(delivery.orderingKey ?? '')] : []),
      printable(delivery.lastError ?? ''),
    ]),
  ];
  // Ids are to be copied, and are never cut.
  const columns = [{}, {}, { shortens: 12 }, {}, {}, {}, {}, ...(hasKeys ? [{ shortens: 8 }] : []), { shortens: 16 }];
  return tableText(context, rows, columns);
}

const stateCell = (state: DeliveryState, { good, bad }: Paint): Cell =>
  state === 'delivered' ? { text: state, paint: good } : state === 'dead' ? { text: state, paint: bad } : state;

// The payload as it is: parsing it would round large numbers.
function storyJson({ payloadJson, ...story }: MessageStory): string {
  return `${toJson(story).slice(0, -1)},"payload":${payloadJson}}`;
}

function storyText(story: MessageStory, paint: Paint): string {
  const { organizationId, orderingKey, headers, deliverAfter, processedAt } = story;
  const lines = [
    `message    ${story.id}`,
    `topic      ${story.topic}`,
    `announced  ${story.createdAt.toISOString()}`,
    ...(deliverAfter === null ? [] : [`not before ${deliverAfter.toISOString()}`]),
    `processed  ${processedAt === null ? 'not yet turned into deliveries' : processedAt.toISOString()}`,
    ...(organizationId === null ? [] : [`whose      organization ${organizationId}`]),
    ...(orderingKey === null ? [] : [`ordered by ${printable(orderingKey)}`]),
    ...(headers === null ? [] : [`headers    ${printable(JSON.stringify(headers))}`]),
    `payload    ${printable(story.payloadJson)}`,
    ...story.deliveries.flatMap((delivery) => deliveryLines(delivery, paint)),
    ...(story.passedOver === null ? [] : passedOverLines(story, story.passedOver)),
    ...(processedAt === null && story.deliveries.length === 0 ? ['deliveries none yet'] : []),
  ];
  return `${lines.join('\n')}\n`;
}

function deliveryLines(delivery: DeliveryStory, paint: Paint): string[] {
  const { id, endpointId, url, state, attempts, dueAt, behind, finishedAt, orderingKey } = delivery;
  const due = dueAt === null ? inLine(behind) : `due ${dueAt.toISOString()}`;
  const when = finishedAt === null ? due : finishedAt.toISOString();
  return [
    '',
    `delivery   ${id}  ${cellText(stateCell(state, paint))}  ${when}`,
    `endpoint   ${endpointId}  ${printable(url ?? 'gone')}`,
    ...(orderingKey === null ? [] : [`line       ${printable(orderingKey)}`]),
    ...reasonLines(delivery),
    ...(attempts.length === 0 ? ['attempts   none'] : attempts.flatMap(attemptLines)),
  ];
}

/** Why it is dead, where its last attempt does not say so. */
function reasonLines({ state, lastError, attempts }: DeliveryStory): string[] {
  if (state !== 'dead' || lastError === null || lastError === attempts.at(-1)?.error) return [];
  return [`reason     ${printable(lastError)}`];
}

function attemptLines(attempt: AttemptStory): string[] {
  const { statusCode, errorClass, error, address, retryAt, response } = attempt;
  const came = errorClass === null ? `delivered, answered ${statusCode}` : `${errorClass}: ${printable(error ?? '')}`;
  const from = address === null ? '' : `, address ${printable(address)}`;
  const next = retryAt === null ? '' : `, next at ${retryAt.toISOString()}`;
  return [
    `${`attempt ${attempt.attempt}`.padEnd(10)} ${attempt.startedAt.toISOString()}  ${attempt.durationMs} ms  ${came}${from}${next}`,
    ...(response ? [`response   ${printable(response)}`] : []),
  ];
}
