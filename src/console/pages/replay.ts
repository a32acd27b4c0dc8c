import { z } from 'zod';
import { AppError } from '../../errors.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { type ReplayProgress, replayPlanned } from '../../outbox/replay-messages.ts';
import { planReplay, type ReplayCounts, type ReplayPlan } from '../../outbox/replay-plan.ts';
import type { ReplayRequest } from '../../outbox/replay-scope.ts';
import { DELIVERY_FILTER, fieldsOf, filterForm, filterOf, type TypedFilter, withFilter } from '../delivery-filter.ts';
import { tableOf } from '../list.ts';
import { type Ask, defineAction, definePage } from '../page.ts';
import { button, facts } from '../parts.ts';
import { serverInstant } from '../query.ts';
import { serverNow } from './dead-letters.ts';
import { deliveriesAre, deliveriesText } from './outbox-parts.ts';
import { MAX_RUN_MS, unsentNotice } from './retrying.ts';

const PATH = '/outbox/replay';
/** So long a page counts what would be sent. */
const MAX_COUNT_MS = 5_000;
/** More than so many deliveries are not sent again by mistake. */
const UNCONFIRMED = 1_000;

const FIELDS = {
  topic: DELIVERY_FILTER.topic,
  endpoint: DELIVERY_FILTER.endpoint,
  organization: DELIVERY_FILTER.organization,
  from: DELIVERY_FILTER.from,
  to: DELIVERY_FILTER.to,
} as const;

export const replayPage = definePage({
  section: 'outbox',
  path: PATH,
  query: z.object({ ...FIELDS, unless_since: serverInstant.optional() }),
  show: async (ask, { unless_since: unlessSince, ...typed }) => {
    const request = requestOf(typed);
    return {
      title: 'Replay messages',
      body: html`<p class="faint">An endpoint receives what it had before once more, and what it never had because it was added later; under the same webhook-id, by which receivers know what they have, signed with the present secret. Subscription and filter of an endpoint count as they are now.</p>
${filterForm(typed, { action: PATH, label: 'Count what would be sent', isNeeded: ['topic', 'from', 'to'] })}
${request === undefined ? html`<p class="empty">Say which messages: a topic (* for all), and between which instants they were announced. Then it is counted, and nothing is sent yet.</p>` : await planPart(ask, request, { typed, unlessSince })}`,
    };
  },
});

/** Undefined where the form is not filled in yet. */
function requestOf(typed: TypedFilter): ReplayRequest | undefined {
  const { topic, from, to, ...filter } = filterOf(typed);
  return topic === undefined || from === undefined || to === undefined ? undefined : { ...filter, topic, from, to };
}

async function planPart(
  ask: Ask,
  request: ReplayRequest,
  { typed, unlessSince }: { readonly typed: TypedFilter; readonly unlessSince: string | undefined },
): Promise<Markup> {
  const { reader, view } = ask;
  // Before it is counted: what is finished afterwards was sent by somebody else's replay of the same.
  const since = unlessSince ?? (await serverNow(reader));
  const stop = AbortSignal.timeout(MAX_COUNT_MS);
  const plan = await planReplay(reader, { ...request, unlessSince: since }, { stop });
  if (stop.aborted) {
    return html`<p class="warn">These are ${formatCount(plan.messages, view)} messages, too many to count here whom they would be sent to. Name a shorter time, or run <code>liventix outbox replay</code>, which goes on for as long as it takes.</p>`;
  }
  const { deliveries, leftAlone } = totalsOf(plan);
  return html`<h2>What would be sent</h2>
${facts([
  ['Messages', formatCount(plan.messages, view)],
  ['Deliveries', formatCount(deliveries, view)],
  ['Left alone', `${formatCount(leftAlone, view)}: on their way already, or sent since somebody else began`],
])}
${countTable(plan.endpoints, view)}
${deliveries === 0 ? html`<p class="empty">There is nothing to send again.</p>` : sendButton(ask, { typed, since, deliveries })}`;
}

const totalsOf = ({ endpoints }: ReplayPlan) => ({
  deliveries: endpoints.reduce((sum, { added, again }) => sum + added + again, 0),
  leftAlone: endpoints.reduce((sum, each) => sum + each.leftAlone, 0),
});

const sendButton = (
  ask: Ask,
  { typed, since, deliveries }: { readonly typed: TypedFilter; readonly since: string; readonly deliveries: number },
): Markup =>
  button(ask, {
    action: PATH,
    needs: 'replay messages',
    label: `Send ${deliveriesText(deliveries, ask.view)}`,
    fields: { ...fieldsOf(typed), unless_since: since },
    ...(deliveries > UNCONFIRMED
      ? {
          inside: html`<label class="check"><input type="checkbox" name="confirmed" value="yes" required> Yes, more than ${formatCount(UNCONFIRMED, ask.view)} of them</label>`,
        }
      : {}),
  });

const countTable = (endpoints: readonly ReplayCounts[], view: View): Markup | string =>
  endpoints.length === 0
    ? html`<p class="empty">No enabled endpoint subscribes to them.</p>`
    : tableOf(
        'By endpoint',
        [
          {
            name: 'endpoint',
            title: 'Endpoint',
            text: ({ url }) => url,
            cell: ({ endpointId, url }) => html`<a href="/outbox/endpoints/${endpointId}">${url}</a>`,
          },
          {
            name: 'again',
            title: 'Once more',
            isNumber: true,
            text: ({ again }) => again,
            cell: ({ again }) => formatCount(again, view),
          },
          {
            name: 'added',
            title: 'For the first time',
            isNumber: true,
            text: ({ added }) => added,
            cell: ({ added }) => formatCount(added, view),
          },
          {
            name: 'left_alone',
            title: 'Left alone',
            isNumber: true,
            text: ({ leftAlone }) => leftAlone,
            cell: ({ leftAlone }) => formatCount(leftAlone, view),
          },
        ],
        endpoints,
      );

export const replayAction = defineAction({
  path: PATH,
  name: 'replay messages',
  needs: 'replay messages',
  input: z.object({
    ...FIELDS,
    unless_since: serverInstant,
    confirmed: z.literal('yes').optional(),
  }),
  subject: ({ unless_since: _since, confirmed: _confirmed, ...typed }) => withFilter(PATH, typed),
  act: async ({ owner, view }, { unless_since: unlessSince, confirmed, ...typed }) => {
    const request = { ...neededRequest(typed), unlessSince };
    const stop = AbortSignal.timeout(MAX_COUNT_MS);
    const plan = await planReplay(owner, request, { stop });
    const { deliveries } = totalsOf(plan);
    assertCounted(stop);
    assertConfirmed(deliveries, confirmed === 'yes', view);
    const replayed = await replay(owner, request, plan);
    return {
      message: `${replayedText(replayed, deliveries, view)}${replayed.again + replayed.added > 0 ? await unsentNotice(owner) : ''}`,
      // What is left is counted from the same instant on.
      to: withFilter(PATH, typed, { unless_since: unlessSince }),
    };
  },
});

/** @throws AppError CONSOLE_INVALID */
function neededRequest(typed: TypedFilter): ReplayRequest {
  const request = requestOf(typed);
  if (request !== undefined) return request;
  throw new AppError(
    'CONSOLE_INVALID',
    'topic, from and to are needed: nothing was sent. Say which messages, and try again.',
  );
}

function assertCounted(stop: AbortSignal): void {
  if (!stop.aborted) return;
  throw new AppError(
    'OUTBOX_CONFIRMATION_NEEDED',
    'These are too many to be counted here, and nothing was sent. Name a shorter time, or run liventix outbox replay.',
  );
}

function assertConfirmed(deliveries: number, isConfirmed: boolean, view: View): void {
  if (isConfirmed || deliveries <= UNCONFIRMED) return;
  throw new AppError(
    'OUTBOX_CONFIRMATION_NEEDED',
    `${formatCount(deliveries, view)} deliveries would be sent, which is more than ${formatCount(UNCONFIRMED, view)}, and nothing was sent. Go back, count again, and confirm it.`,
    { details: { deliveries } },
  );
}

async function replay(
  owner: Parameters<typeof replayPlanned>[0],
  request: ReplayRequest,
  plan: ReplayPlan,
): Promise<ReplayProgress> {
  let reached: ReplayProgress = { messages: 0, added: 0, again: 0 };
  for await (reached of replayPlanned(owner, request, { plan, stop: AbortSignal.timeout(MAX_RUN_MS) }));
  return reached;
}

function replayedText({ added, again }: ReplayProgress, planned: number, view: View): string {
  const sent = added + again;
  if (sent === 0) return 'Nothing was sent: somebody else sent these at this moment, or they are on their way.';
  const rest = planned - sent;
  return `${deliveriesAre(again, view)} sent once more, ${formatCount(added, view)} for the first time.${rest > 0 ? ` ${deliveriesAre(rest, view)} left, or sent by somebody else: see below.` : ''}`;
}
