import { z } from 'zod';
import type { Queryable } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import { formatCount, type View } from '../../html/view.ts';
import { planRetry, type RetryPlan } from '../../outbox/dead-letters.ts';
import type { ListedDelivery } from '../../outbox/deliveries-list.ts';
import { assertEnabled, type EndpointAndCount } from '../../outbox/delivery-filter.ts';
import { DELIVERY_FILTER, fieldsOf, filterForm, filterOf, type TypedFilter, withFilter } from '../delivery-filter.ts';
import { type Column, exported, listOf, tableOf } from '../list.ts';
import { type Ask, defineAction, definePage } from '../page.ts';
import { badge, button, facts } from '../parts.ts';
import { LIST_FIELDS, serverInstant } from '../query.ts';
import { may } from '../visitor.ts';
import { deliveryColumns, deliveryList } from './deliveries.ts';
import { deliveriesAre, deliveriesText } from './outbox-parts.ts';
import { MAX_RUN_MS, retryButton, runToEnd, unsentNotice } from './retrying.ts';

const PATH = '/outbox/dead-letters';
const PLAN_PATH = '/outbox/dead-letters/retry';

export const deadLettersPage = definePage({
  section: 'outbox',
  path: PATH,
  query: z.object({ ...LIST_FIELDS, ...DELIVERY_FILTER }),
  show: async (ask, query) => {
    const columns = deliveryColumns(ask.view).filter(({ name }) => name !== 'state');
    const list = deliveryList(ask, query, {
      state: 'dead',
      columns: [...columns, ...(query.export === undefined ? retryColumn(ask) : [])],
    });
    if (query.export !== undefined) return exported(list, query.export);
    return {
      title: 'Dead letters',
      body: html`<p class="faint">Deliveries whose attempts were all made, or that cannot be made: nobody attempts them again by himself. A retry begins the schedule anew; numbers of attempts go on, and every attempt is kept.</p>
${filterForm(query, { action: PATH, label: 'Show' })}
<p><a href="${withFilter(PLAN_PATH, query)}">Retry all that match</a> · <a href="/outbox/replay">Replay messages, whatever became of them</a></p>
${await listOf(list, ask, query)}`,
    };
  },
});

/** A button in each row, for whoever may press it. */
function retryColumn(ask: Ask): readonly Column<ListedDelivery>[] {
  if (!may(ask.visitor, 'retry deliveries')) return [];
  const back = ask.url.pathname + ask.url.search;
  return [
    {
      name: 'retry',
      title: 'Retry',
      text: () => null,
      cell: ({ id, attempts }) => retryButton(ask, { id, attempts, back }),
    },
  ];
}

export const retryPlanPage = definePage({
  section: 'outbox',
  path: PLAN_PATH,
  query: z.object(DELIVERY_FILTER),
  show: async (ask, query) => {
    const { reader, view } = ask;
    // Before it is counted: what dies afterwards is not meant.
    const diedBefore = await serverNow(reader);
    const plan = await planRetry(reader, filterOf(query), { diedBefore });
    return {
      title: 'Retry dead letters',
      body: html`${filterForm(query, { action: PLAN_PATH, label: 'Count again' })}
<h2>What would be done</h2>
${planFacts(plan, view)}
${endpointTable([...plan.endpoints, ...plan.ofDeleted], query, view)}
${verdict(ask, plan, { query, diedBefore })}
<p><a href="${withFilter(PATH, query)}">Look at them one by one</a></p>`,
    };
  },
});

const countOf = (endpoints: readonly EndpointAndCount[]): number =>
  endpoints.reduce((sum, { deliveries }) => sum + deliveries, 0);

const planFacts = (plan: RetryPlan, view: View): Markup =>
  facts([
    ['Retried', deliveriesText(plan.deliveries, view)],
    ['Left alone', `${formatCount(countOf(plan.ofDeleted), view)} of deleted endpoints: nobody can attempt them`],
  ]);

function verdict(
  ask: Ask,
  plan: RetryPlan,
  { query, diedBefore }: { readonly query: TypedFilter; readonly diedBefore: string },
): Markup {
  if (plan.endpoints.some(({ enabled }) => !enabled)) {
    return html`<p class="warn">Some of them are of endpoints that are disabled, and nobody would attempt these: enable the endpoints (<code>liventix outbox endpoint enable</code>), or narrow the filter to one that is enabled. Nothing is retried before.</p>`;
  }
  if (plan.deliveries === 0) return html`<p class="empty">There is nothing to retry.</p>`;
  return button(ask, {
    action: PLAN_PATH,
    needs: 'retry deliveries',
    label: `Retry ${deliveriesText(plan.deliveries, ask.view)}`,
    fields: { ...fieldsOf(query), died_before: diedBefore },
  });
}

const endpointTable = (endpoints: readonly EndpointAndCount[], query: TypedFilter, view: View): Markup | string =>
  endpoints.length === 0
    ? ''
    : tableOf(
        'By endpoint',
        [
          {
            name: 'endpoint',
            title: 'Endpoint',
            text: ({ url }) => url,
            cell: ({ endpointId, url }) => html`<a href="/outbox/endpoints/${endpointId}">${url ?? 'gone'}</a>`,
          },
          {
            name: 'deliveries',
            title: 'Deliveries',
            isNumber: true,
            text: ({ deliveries }) => deliveries,
            cell: ({ deliveries }) => formatCount(deliveries, view),
          },
          { name: 'what', title: 'What becomes of them', text: () => '', cell: fateOf },
          {
            name: 'only',
            title: 'Narrow',
            text: () => '',
            cell: ({ endpointId }) =>
              html`<a href="${withFilter(PLAN_PATH, { ...query, endpoint: endpointId })}">only these</a>`,
          },
        ],
        endpoints,
      );

function fateOf({ enabled, isDeleted, disabledReason }: EndpointAndCount): Markup {
  if (isDeleted) return badge('left alone: it is deleted', 'warn');
  if (!enabled) return html`${badge('refused: it is disabled', 'bad')} ${disabledReason ?? ''}`;
  return badge('retried', 'good');
}

export const retryAllAction = defineAction({
  path: PLAN_PATH,
  name: 'retry dead letters',
  needs: 'retry deliveries',
  input: z.object({ ...DELIVERY_FILTER, died_before: serverInstant }),
  subject: (input) => withFilter(PATH, input),
  act: async ({ owner, view }, { died_before: diedBefore, ...typed }) => {
    const plan = await planRetry(owner, filterOf(typed), { diedBefore });
    assertEnabled(plan.endpoints);
    const { done, retried } = await runToEnd(owner, plan, AbortSignal.timeout(MAX_RUN_MS));
    const left = plan.deliveries - done;
    return {
      message: `${retriedText(retried, plan, view)}${left > 0 ? ` There was no time for ${formatCount(left, view)} more: count again, and press once more.` : ''}${retried > 0 ? await unsentNotice(owner) : ''}`,
      to: withFilter(left > 0 ? PLAN_PATH : PATH, typed),
    };
  },
});

function retriedText(retried: number, plan: RetryPlan, view: View): string {
  if (plan.deliveries === 0) {
    return 'Nothing was retried: none of those that the page counted is a dead letter any more. Somebody else may have retried them.';
  }
  if (retried === 0) return 'Somebody else retried them at this moment: nothing was done twice.';
  return `${deliveriesAre(retried, view)} attempted again.`;
}

/** By the clock of the database, to the microsecond. */
export async function serverNow(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ now: string }>(
    `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now`,
  );
  return rows[0]?.now ?? '';
}
