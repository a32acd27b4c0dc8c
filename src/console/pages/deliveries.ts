import { z } from 'zod';
import { html, type Markup } from '../../html/markup.ts';
import type { View } from '../../html/view.ts';
import { DELIVERY_STATES, type DeliveryState, type ListedDelivery } from '../../outbox/deliveries-list.ts';
import { searchDeliveries } from '../../outbox/deliveries-search.ts';
import { getMessageStory } from '../../outbox/message-story.ts';
import { fromCursor, NUMBER, toCursor } from '../cursor.ts';
import { DELIVERY_FILTER, filterForm, filterOf, type TypedFilter } from '../delivery-filter.ts';
import { type Column, exported, type List, listOf } from '../list.ts';
import { type Ask, definePage } from '../page.ts';
import { instant, linkedId } from '../parts.ts';
import { LIST_FIELDS, rowNumber } from '../query.ts';
import { messagePageOf } from './messages.ts';
import { deliveryPath, deliveryState, endpointLink, inLine } from './outbox-parts.ts';

/** So long a page looks for deliveries that no index leads to, before it shows those that it has found. */
export const SEARCH_MS = 200;

const states = z.enum(DELIVERY_STATES, { error: DELIVERY_STATES.join(', ') }).optional();

export const deliveriesPage = definePage({
  section: 'outbox',
  path: '/outbox/deliveries',
  query: z.object({ ...LIST_FIELDS, ...DELIVERY_FILTER, state: states }),
  show: async (ask, query) => {
    const list = deliveryList(ask, query, { state: query.state, columns: deliveryColumns(ask.view) });
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'Deliveries',
      body: html`${filterForm(query, { action: '/outbox/deliveries', label: 'Show', inside: stateField(query.state) })}
${await listOf(list, ask, query)}`,
    };
  },
});

const stateField = (chosen: DeliveryState | undefined): Markup =>
  html`<label>State <select name="state"><option value="">any</option>${DELIVERY_STATES.map(
    (state) => html`<option value="${state}"${state === chosen ? html` selected` : ''}>${state}</option>`,
  )}</select></label>`;

/** Deliveries that match, the newest first. */
export const deliveryList = (
  { reader }: Pick<Ask, 'reader'>,
  filter: TypedFilter,
  { state, columns }: { readonly state: DeliveryState | undefined; readonly columns: List<ListedDelivery>['columns'] },
): List<ListedDelivery> => ({
  name: state === 'dead' ? 'Dead letters' : 'Deliveries',
  empty: state === 'dead' ? 'No dead letters: nothing was given up.' : 'There are no such deliveries.',
  columns,
  fetch: async (cursor, limit) => {
    const [before] = cursor === undefined ? [] : fromCursor(cursor, [NUMBER]);
    const page = { ...filterOf(filter), state, limit, before: before === undefined ? undefined : BigInt(before) };
    const { rows, goOnBelow } = await searchDeliveries(reader, page, { budgetMs: SEARCH_MS });
    return { rows, next: goOnBelow === undefined ? undefined : toCursor([goOnBelow]) };
  },
});

export const deliveryColumns = (view: View): readonly Column<ListedDelivery>[] => [
  {
    name: 'delivery',
    title: 'Delivery',
    text: ({ id }) => id,
    cell: ({ id }) => linkedId(deliveryPath(id), id.toString()),
  },
  { name: 'message', text: ({ messageId }) => messageId },
  { name: 'topic', title: 'Topic', text: ({ topic }) => topic },
  {
    name: 'endpoint',
    title: 'Endpoint',
    text: ({ endpointId }) => endpointId,
    cell: ({ endpointId }) => endpointLink(endpointId),
  },
  { name: 'state', title: 'State', text: ({ state }) => state, cell: ({ state }) => deliveryState(state) },
  { name: 'attempts', title: 'Attempts', isNumber: true, text: ({ attempts }) => attempts },
  {
    name: 'created_at',
    text: ({ createdAt }) => createdAt,
  },
  {
    name: 'due_at',
    title: 'Due, or finished',
    text: ({ dueAt }) => dueAt,
    cell: ({ dueAt, finishedAt, behind }) => instant(finishedAt ?? dueAt, view, inLine(behind)),
  },
  { name: 'finished_at', text: ({ finishedAt }) => finishedAt },
  { name: 'ordering_key', text: ({ orderingKey }) => orderingKey },
  { name: 'last_error', title: 'Last error', text: ({ lastError }) => lastError },
];

/** By its number alone, as logs and attempts name it: the page of its message, with it alone. */
export const deliveryPage = definePage({
  section: 'outbox',
  path: '/outbox/deliveries/:delivery',
  query: z.object({ delivery: rowNumber }),
  show: async (ask, { delivery }) =>
    messagePageOf(ask, await getMessageStory(ask.reader, { deliveryId: BigInt(delivery) }), { isAlone: true }),
});
