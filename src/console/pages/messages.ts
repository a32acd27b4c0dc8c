import { z } from 'zod';
import { toJson } from '../../db/json-value.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatInstant, formatSpan, type View } from '../../html/view.ts';
import {
  type AttemptStory,
  type DeliveryStory,
  getMessageStory,
  type MessageStory,
  prettyPayload,
} from '../../outbox/message-story.ts';
import type { PassedOver, PassedOverEndpoint } from '../../outbox/passed-over.ts';
import { withFilter } from '../delivery-filter.ts';
import { type Column, tableOf } from '../list.ts';
import { type Ask, definePage, jsonFile, type Sent, type Shown } from '../page.ts';
import { badge, copyable, facts, instant, linkedId } from '../parts.ts';
import { uuid } from '../query.ts';
import { deliveryPath, deliveryState, endpointLink, inLine } from './outbox-parts.ts';
import { retryButton } from './retrying.ts';

export const messagePage = definePage({
  section: 'outbox',
  path: '/outbox/messages/:message',
  query: z.object({
    // A receiver knows it as webhook-id, behind msg_.
    message: z.preprocess((text) => (typeof text === 'string' ? text.replace(/^msg_/, '') : text), uuid),
    export: z.literal('json', { error: 'json' }).optional(),
  }),
  show: async (ask, { message, export: format }) => {
    const story = await getMessageStory(ask.reader, { messageId: message });
    return format === undefined ? await messagePageOf(ask, story, { isAlone: false }) : storyFile(story);
  },
});

/** The payload as it is: parsing it would round large numbers. */
function storyFile({ payloadJson, ...story }: MessageStory): Sent {
  return jsonFile(`message-${story.id}.json`, `${toJson(story).slice(0, -1)},"payload":${payloadJson}}\n`);
}

/** So much of a payload is on the page, and so many deliveries: the rest is in the file. */
const PAYLOAD_SHOWN = 16_384;
const DELIVERIES_SHOWN = 50;
/** Of a response, where it is one among many. */
const RESPONSE_SHOWN = 200;

/** @param isAlone one delivery is shown, with all that is known of it */
export async function messagePageOf(
  ask: Ask,
  story: MessageStory,
  { isAlone }: { readonly isAlone: boolean },
): Promise<Shown> {
  const { view, reader } = ask;
  const { deliveries } = story;
  const payload = await prettyPayload(reader, story.id);
  const path = `/outbox/messages/${story.id}`;
  return {
    title: isAlone ? `Delivery ${deliveries[0]?.id ?? ''}` : `Message ${story.topic}`,
    body: html`${messageFacts(story, view)}
<h2>Payload</h2>
<pre>${payload.slice(0, PAYLOAD_SHOWN)}</pre>
${payload.length > PAYLOAD_SHOWN ? html`<p class="faint">The rest is in the file.</p>` : ''}
<p><a href="${path}?export=json" download>All of it as JSON</a>${isAlone ? html` · <a href="${path}">All deliveries of this message</a>` : ''}</p>
<h2>${isAlone ? 'Delivery' : 'Deliveries'}</h2>
${deliveries.length === 0 ? noneText(story, view) : ''}
${deliveries.slice(0, DELIVERIES_SHOWN).map((delivery) => deliveryPart(ask, delivery, { isAlone }))}
${deliveries.length > DELIVERIES_SHOWN ? html`<p class="faint">${deliveries.length - DELIVERIES_SHOWN} more are in the file.</p>` : ''}`,
  };
}

function messageFacts(story: MessageStory, view: View): Markup {
  const { organizationId, orderingKey, headers, deliverAfter, processedAt } = story;
  return facts([
    ['Message', linkedId(`/outbox/messages/${story.id}`, story.id)],
    ['Topic', story.topic],
    ['Announced', instant(story.createdAt, view)],
    ...(deliverAfter === null ? [] : [['Not to be delivered before', instant(deliverAfter, view)] as const]),
    ['Turned into deliveries', instant(processedAt, view, 'not yet')],
    ['Organization', organizationId === null ? '–' : copyable(organizationId)],
    ...(orderingKey === null ? [] : [['Ordered by', orderingKey] as const]),
    ...(headers === null ? [] : [['Headers', html`<code>${JSON.stringify(headers)}</code>`] as const]),
  ]);
}

function noneText(story: MessageStory, view: View): Markup {
  const { passedOver, topic } = story;
  if (passedOver === null)
    return html`<p class="empty">None yet: a relay turns the message into deliveries when it comes to it.</p>`;
  if (passedOver.endpoints.length === 0)
    return html`<p class="empty">None: no endpoint that may have it subscribes to ${topic} now.</p>`;
  return html`<p>None. These endpoints subscribe to ${topic} now, and were not sent it:</p>
${passedOverTable(passedOver, view)}
${passedOver.endpoints.every(({ why }) => why === 'filter') ? '' : html`<p><a href="${replayPath(story)}">Send it to them after all</a></p>`}`;
}

const JUST_AFTER_MS = 1;

/** The plan of a replay of this message alone, or of what was announced within the same millisecond. */
function replayPath({ topic, createdAt }: MessageStory): string {
  const to = new Date(createdAt.getTime() + JUST_AFTER_MS).toISOString();
  return withFilter('/outbox/replay', { topic, from: createdAt.toISOString(), to });
}

const passedOverTable = ({ endpoints, isCut }: PassedOver, view: View): Markup =>
  html`${tableOf(
    'Passed over',
    [
      {
        name: 'endpoint',
        title: 'Endpoint',
        text: ({ url }) => url,
        cell: ({ endpointId, url }) => html`<a href="/outbox/endpoints/${endpointId}">${url}</a>`,
      },
      { name: 'why', title: 'Why', text: (each) => whyText(each, view) },
    ],
    endpoints,
  )}${isCut ? html`<p class="faint">And others, which were added later than these.</p>` : ''}`;

function whyText({ why, since, enabled }: PassedOverEndpoint, view: View): string {
  const whatFirst = enabled ? '' : '; it is disabled, so enable it first';
  const at = since === null ? '' : formatInstant(since, view);
  switch (why) {
    case 'filter':
      return 'its filter does not match';
    case 'added_later':
      return `it was added later, at ${at}${whatFirst}`;
    case 'disabled':
      return `it was disabled, since ${at}: enable it first`;
    case 'changed':
      return `it would be sent it now: it was disabled then, or its topics or its filter were others${whatFirst}`;
    default:
      return why satisfies never;
  }
}

function deliveryPart(ask: Ask, delivery: DeliveryStory, { isAlone }: { readonly isAlone: boolean }): Markup {
  const { view } = ask;
  const { id, endpointId, url, state, dueAt, behind, finishedAt, orderingKey, lastError, attempts } = delivery;
  return html`<h3>To ${url ?? 'an endpoint that is gone'} ${deliveryState(state)}</h3>
${facts([
  ['Delivery', linkedId(deliveryPath(id), id.toString())],
  ['Endpoint', endpointLink(endpointId)],
  finishedAt === null ? ['Due', instant(dueAt, view, inLine(behind))] : ['Finished', instant(finishedAt, view)],
  ...(orderingKey === null ? [] : [['Line', orderingKey] as const]),
  // Where its last attempt does not say why.
  ...(state === 'dead' && lastError !== null && lastError !== attempts.at(-1)?.error
    ? [['Reason', lastError] as const]
    : []),
])}
${attempts.length === 0 ? html`<p class="empty">No attempt yet.</p>` : tableOf(`Attempts of delivery ${id}`, attemptColumns(view, { isAlone }), attempts)}
${state === 'dead' ? retryButton(ask, { id, attempts: delivery.attemptsMade, back: deliveryPath(id) }) : ''}`;
}

const attemptColumns = (view: View, { isAlone }: { readonly isAlone: boolean }): readonly Column<AttemptStory>[] => [
  { name: 'attempt', title: 'Attempt', isNumber: true, text: ({ attempt }) => attempt },
  {
    name: 'started_at',
    title: 'Begun',
    text: ({ startedAt }) => startedAt,
    cell: ({ startedAt }) => instant(startedAt, view),
  },
  {
    name: 'duration_ms',
    title: 'Took',
    isNumber: true,
    text: ({ durationMs }) => durationMs,
    cell: ({ durationMs }) => formatSpan(durationMs / 1_000),
  },
  {
    name: 'status_code',
    title: 'Answered',
    isNumber: true,
    text: ({ statusCode }) => statusCode,
    cell: ({ statusCode }) => statusCode?.toString() ?? '–',
  },
  {
    name: 'outcome',
    title: 'Came to',
    text: ({ errorClass }) => errorClass,
    cell: ({ errorClass, error, address, retryAt }) =>
      html`${errorClass === null ? badge('delivered', 'good') : html`${badge(errorClass, 'bad')} ${error ?? ''}`}${address === null ? '' : html` <span class="faint">at ${address}</span>`}${retryAt === null ? '' : html`, next ${instant(retryAt, view)}`}`,
  },
  {
    name: 'response',
    title: 'Response',
    text: ({ response }) => response,
    cell: ({ response }) => responseText(response, { isAlone }),
  },
];

function responseText(response: string | null, { isAlone }: { readonly isAlone: boolean }): Markup | string {
  if (response === null || response === '') return '–';
  const isCut = !isAlone && response.length > RESPONSE_SHOWN;
  return html`<code>${isCut ? `${response.slice(0, RESPONSE_SHOWN)}…` : response}</code>`;
}
