import { z } from 'zod';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, formatSpan, type View } from '../../html/view.ts';
import {
  LATEST_ATTEMPTS,
  type LastOutcome,
  type LatestAttempt,
  lastOutcomes,
  latestAttemptsOf,
} from '../../outbox/activity.ts';
import { type EndpointBacklog, readBacklog } from '../../outbox/backlog.ts';
import { type ListedDelivery, listDeliveries } from '../../outbox/deliveries-list.ts';
import { searchDeliveries } from '../../outbox/deliveries-search.ts';
import { type EndpointHealth, endpointHealth } from '../../outbox/endpoint-health.ts';
import { type Endpoint, getEndpoint } from '../../outbox/endpoints.ts';
import { fromCursor, ID, toCursor } from '../cursor.ts';
import { type Column, exported, type List, listOf, tableOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { badge, copyable, facts, instant, linkedId } from '../parts.ts';
import { LIST_FIELDS, uuid } from '../query.ts';
import { deliveryColumns, SEARCH_MS } from './deliveries.ts';
import { deliveryPath, standingOf } from './outbox-parts.ts';

export interface EndpointRow extends EndpointBacklog {
  readonly lastSuccess: LastOutcome | undefined;
  readonly lastFailure: LastOutcome | undefined;
}

/** What waits for each endpoint, and how it went last with those that something was sent to of late. */
export function withOutcomes(
  endpoints: readonly EndpointBacklog[],
  outcomes: readonly LastOutcome[],
): readonly EndpointRow[] {
  const last = new Map(outcomes.map((outcome) => [`${outcome.endpointId} ${outcome.isDelivered}`, outcome]));
  return endpoints.map((endpoint) => ({
    ...endpoint,
    lastSuccess: last.get(`${endpoint.id} true`),
    lastFailure: last.get(`${endpoint.id} false`),
  }));
}

const SHOWN = 20;

/** Those first that somebody should look at. */
export function endpointTable(endpoints: readonly EndpointRow[], view: View): Markup {
  if (endpoints.length === 0) {
    return html`<p class="empty">None yet. To add one: <code>liventix outbox endpoint add</code></p>`;
  }
  const byTrouble = endpoints.toSorted((one, other) => troubleOf(other) - troubleOf(one));
  return html`${tableOf('Endpoints', endpointColumns(view), byTrouble.slice(0, SHOWN))}
<p><a href="/outbox/endpoints">All ${formatCount(endpoints.length, view)} endpoints</a></p>`;
}

const waitingFor = ({ pending, queued, delivering }: EndpointBacklog): number => pending + queued + delivering;

/** So much as no count of deliveries reaches, for each thing that is worse. */
const WORSE = 1e9;

function troubleOf(endpoint: EndpointBacklog): number {
  const { enabled, breaker, dead } = endpoint;
  const isBroken = enabled && breaker !== 'closed';
  return (isBroken ? 2 * WORSE : enabled ? 0 : WORSE) + waitingFor(endpoint) + dead;
}

function endpointColumns(view: View): readonly Column<EndpointRow>[] {
  const link = (path: string, endpointId: string, n: number) =>
    n === 0 ? '0' : html`<a href="${path}endpoint=${endpointId}">${formatCount(n, view)}</a>`;
  return [
    {
      name: 'endpoint',
      title: 'Endpoint',
      text: ({ id }) => id,
      cell: ({ id, url }) => html`<a href="/outbox/endpoints/${id}">${url}</a>`,
    },
    { name: 'url', text: ({ url }) => url },
    { name: 'enabled', text: ({ enabled }) => enabled },
    { name: 'disabled_reason', text: ({ disabledReason }) => disabledReason },
    { name: 'breaker', title: 'State', text: ({ breaker }) => breaker, cell: standingOf },
    {
      name: 'waiting',
      title: 'Waiting',
      isNumber: true,
      text: waitingFor,
      cell: (row) => link('/outbox/deliveries?state=pending&', row.id, waitingFor(row)),
    },
    {
      name: 'dead',
      title: 'Dead',
      isNumber: true,
      text: ({ dead }) => dead,
      cell: ({ id, dead }) => link('/outbox/dead-letters?', id, dead),
    },
    {
      name: 'last_success_at',
      title: 'Last success',
      text: ({ lastSuccess }) => lastSuccess?.at ?? null,
      cell: ({ lastSuccess }) => instant(lastSuccess?.at ?? null, view, 'not of late'),
    },
    {
      name: 'last_failure_at',
      title: 'Last failure',
      text: ({ lastFailure }) => lastFailure?.at ?? null,
      cell: ({ lastFailure }) =>
        lastFailure === undefined
          ? 'not of late'
          : html`${instant(lastFailure.at, view)} <span class="faint">${lastFailure.error ?? ''}</span>`,
    },
    { name: 'last_error', text: ({ lastFailure }) => lastFailure?.error ?? null },
  ];
}

export const endpointsPage = definePage({
  section: 'outbox',
  path: '/outbox/endpoints',
  query: z.object(LIST_FIELDS),
  show: async (ask, query) => {
    const list = endpointList(ask);
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'Endpoints',
      body: html`<p class="faint">Last success and failure are looked for in the last ${formatCount(LATEST_ATTEMPTS, ask.view)} attempts of all endpoints.</p>
${await listOf(list, ask, query)}`,
    };
  },
});

/** There are as many as people have added: all are read, and shown some at a time. */
const endpointList = ({ reader, view }: Ask): List<EndpointRow> => ({
  name: 'Endpoints',
  empty: 'None yet. To add one: liventix outbox endpoint add',
  columns: endpointColumns(view),
  fetch: async (cursor, limit) => {
    const [after] = cursor === undefined ? [] : fromCursor(cursor, [ID]);
    const { endpoints } = await readBacklog(reader);
    const begin = after === undefined ? 0 : endpoints.findIndex(({ id }) => id === after) + 1;
    const rows = withOutcomes(endpoints.slice(begin, begin + limit), await lastOutcomes(reader));
    const last = rows.at(-1);
    const isLast = begin + limit >= endpoints.length;
    return { rows, next: isLast || last === undefined ? undefined : toCursor([last.id]) };
  },
});

const RECENT = 20;

export const endpointPage = definePage({
  section: 'outbox',
  path: '/outbox/endpoints/:id',
  query: z.object({ id: uuid }),
  show: async ({ reader, view }, { id }) => {
    const endpoint = await getEndpoint(reader, id);
    const [health, attempts, deliveries, dead] = await Promise.all([
      endpointHealth(reader, id, { latest: LATEST_ATTEMPTS }),
      latestAttemptsOf(reader, { endpointId: id, limit: RECENT }),
      searchDeliveries(reader, { endpointId: id, limit: RECENT }, { budgetMs: SEARCH_MS / 2 }),
      listDeliveries(reader, { endpointId: id, state: 'dead', limit: RECENT }),
    ]);
    return {
      title: endpoint.url,
      body: html`${healthOf(endpoint, health, view)}
<h2>Settings</h2>
${settingsOf(endpoint, view)}
<h2>Its last attempts</h2>
${attempts.length === 0 ? html`<p class="empty">None among the last ${formatCount(LATEST_ATTEMPTS, view)} attempts of all endpoints.</p>` : tableOf('Its last attempts', attemptColumns(view), attempts)}
<h2>Its dead letters</h2>
${deliveriesOf(dead, view, { name: 'Its dead letters', empty: 'None.', all: `/outbox/dead-letters?endpoint=${id}` })}
<h2>Its deliveries</h2>
${deliveriesOf(deliveries.rows, view, { name: 'Its deliveries', empty: deliveries.goOnBelow === undefined ? 'None yet.' : 'None of late.', all: `/outbox/deliveries?endpoint=${id}` })}`,
    };
  },
});

function deliveriesOf(
  rows: readonly ListedDelivery[],
  view: View,
  { name, empty, all }: { readonly name: string; readonly empty: string; readonly all: string },
): Markup {
  const columns = deliveryColumns(view).filter((column) => column.name !== 'endpoint');
  return html`${rows.length === 0 ? html`<p class="empty">${empty}</p>` : tableOf(name, columns, rows)}
<p><a href="${all}">All of them</a></p>`;
}

function healthOf(endpoint: Endpoint, health: EndpointHealth, view: View): Markup {
  const { breaker, probeAt, failingSince, waiting, dead, isCut, lastSuccess, lastFailure } = health;
  const { enabled, disabledAt, disabledReason, deletedAt } = endpoint;
  const count = (n: number) => `${isCut ? 'at least ' : ''}${formatCount(n, view)}`;
  return facts([
    ['State', standingOf({ enabled, disabledReason, breaker, isDeleted: deletedAt !== null })],
    ...(disabledAt === null ? [] : [['Disabled', instant(disabledAt, view)] as const]),
    ...(deletedAt === null ? [] : [['Deleted', instant(deletedAt, view)] as const]),
    ...(probeAt === null ? [] : [['Tried again', instant(probeAt, view)] as const]),
    ...(failingSince === null ? [] : [['Failing since', instant(failingSince, view)] as const]),
    ['Waiting', count(waiting)],
    ['Dead letters', count(dead)],
    [
      'Last success',
      lastSuccess === null
        ? 'none of late'
        : html`${instant(lastSuccess.at, view)}, answered ${lastSuccess.statusCode} in ${formatSpan(lastSuccess.durationMs / 1_000)}`,
    ],
    [
      'Last failure',
      lastFailure === null ? 'none of late' : html`${instant(lastFailure.at, view)}: ${lastFailure.error}`,
    ],
  ]);
}

function settingsOf(endpoint: Endpoint, view: View): Markup {
  const { retryDelaysMs, ratePerSecond, filter, headerNames, organizationId, description } = endpoint;
  return facts([
    ['Id', copyable(endpoint.id)],
    ['Topics', endpoint.topics.join(', ')],
    ...(description === null ? [] : [['Description', description] as const]),
    ['Organization', organizationId === null ? 'any' : copyable(organizationId)],
    ['Filter', filter === null ? 'none' : html`<code>${filter}</code>`],
    ['Ordered', endpoint.ordered ? 'by the ordering key of messages' : 'no'],
    ['Timeout', formatSpan(endpoint.timeoutMs / 1_000)],
    ['At most under way', formatCount(endpoint.maxInFlight, view)],
    ['At most a second', ratePerSecond === null ? 'as many as it takes' : formatCount(ratePerSecond, view)],
    [
      'Retries after',
      retryDelaysMs === null
        ? 'the schedule of the workers'
        : retryDelaysMs.map((ms) => formatSpan(ms / 1_000)).join(', '),
    ],
    ['Headers beside ours', headerNames.length === 0 ? 'none' : `${headerNames.join(', ')} (their values are secret)`],
    ['Added', instant(endpoint.createdAt, view)],
  ]);
}

const attemptColumns = (view: View): readonly Column<LatestAttempt>[] => [
  {
    name: 'started_at',
    title: 'Begun',
    text: ({ startedAt }) => startedAt,
    cell: ({ startedAt }) => instant(startedAt, view),
  },
  {
    name: 'delivery',
    title: 'Delivery',
    isNumber: true,
    text: ({ deliveryId }) => deliveryId,
    cell: ({ deliveryId }) => linkedId(deliveryPath(deliveryId), deliveryId.toString()),
  },
  { name: 'attempt', title: 'Attempt', isNumber: true, text: ({ attempt }) => attempt },
  {
    name: 'duration_ms',
    title: 'Took',
    isNumber: true,
    text: ({ durationMs }) => durationMs,
    cell: ({ durationMs }) => formatSpan(durationMs / 1_000),
  },
  {
    name: 'outcome',
    title: 'Came to',
    text: ({ errorClass }) => errorClass ?? 'delivered',
    cell: ({ errorClass, error, statusCode }) =>
      errorClass === null
        ? badge(`delivered, ${statusCode}`, 'good')
        : html`${badge(errorClass, 'bad')} ${error ?? ''}`,
  },
];
