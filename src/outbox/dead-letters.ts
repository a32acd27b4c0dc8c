import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type DeliveryState, STATE, withinCalendar } from './deliveries-list.ts';
import {
  assertFilter,
  DELIVERY_MATCHES,
  type DeliveryFilter,
  deliveryValues,
  type EndpointAndCount,
  IS_DELETED,
  readByDay,
} from './delivery-filter.ts';
import { withHeads } from './line-heads.ts';
import { createPace, type DeliveryKey, reopen } from './reopen.ts';

/** What a retry is about to do. */
export interface RetryPlan {
  readonly deliveries: number;
  readonly endpoints: readonly EndpointAndCount[];
  /** Dead letters that are meant and left alone: nobody can attempt them any more. */
  readonly ofDeleted: readonly EndpointAndCount[];
  /** How many of those that were named are left alone, by state: they are on their way, or there. */
  readonly leftAlone: Readonly<Partial<Record<DeliveryState, number>>>;
  /** Of those that were named and are left alone: which wait, and for what a retry does not change. */
  readonly waiting: readonly WaitingDelivery[];
  /** What is to be opened again, some at a time, in the order of the ids. */
  readonly keys: (limit: number) => AsyncIterable<readonly DeliveryKey[]>;
}

export interface WaitingDelivery {
  readonly deliveryId: string;
  readonly messageId: string;
  /** The first in its line, which goes before it; null: it is that itself. */
  readonly behind: bigint | null;
  /** What its message says; null: that is no more in the way. */
  readonly notBefore: Date | null;
}

interface Named extends DeliveryKey {
  readonly id: bigint;
  readonly messageId: string;
  readonly orderingKey: string | null;
  readonly dueAt: Date | null;
  readonly notBefore: Date | null;
  readonly state: DeliveryState;
  readonly isToReopen: boolean;
  readonly endpointId: string;
  readonly url: string | null;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  readonly isDeleted: boolean;
}

const NAMED = `
  select deliveries.id, deliveries.id::text as "deliveryId", deliveries.day::text, deliveries.message_id as "messageId",
    deliveries.ordering_key as "orderingKey", ${withinCalendar('deliveries.due_at')} as "dueAt",
    case when outbox.deliver_after > statement_timestamp() then ${withinCalendar('outbox.deliver_after')} end as "notBefore", ${STATE} as state, deliveries.endpoint_id as "endpointId",
    deliveries.state = 'dead'
      or (deliveries.state = 'pending' and deliveries.due_at > greatest(statement_timestamp(), outbox.deliver_after)) as "isToReopen",
    endpoints.url, coalesce(endpoints.enabled, false) as enabled, endpoints.disabled_reason as "disabledReason",
    ${IS_DELETED} as "isDeleted"
  from outbox.deliveries
  join public.outbox on outbox.id = deliveries.message_id and outbox.day = deliveries.day
  left join outbox.endpoints on endpoints.id = deliveries.endpoint_id
  where deliveries.id = any ($1::bigint[])
  order by deliveries.id`;

/**
 * Of deliveries that are named. Those that are delivered, on their way or due are left alone.
 * @throws AppError OUTBOX_DELIVERY_UNKNOWN
 */
export async function planRetryOf(pool: Pool, ids: readonly bigint[]): Promise<RetryPlan> {
  const { rows } = await readByDay(pool, (tx) => tx.query<Named>(NAMED, [ids]));
  const known = new Set(rows.map(({ deliveryId }) => BigInt(deliveryId)));
  const unknown = ids.filter((id) => !known.has(id));
  if (unknown.length > 0) {
    throw new AppError(
      'OUTBOX_DELIVERY_UNKNOWN',
      `There is no delivery ${unknown.join(', ')}; nothing was changed. See which there are: liventix outbox deliveries`,
    );
  }
  const meant = rows.filter(({ isToReopen }) => isToReopen);
  const leftAlone: Partial<Record<DeliveryState, number>> = {};
  for (const { state, isToReopen } of rows) if (!isToReopen) leftAlone[state] = (leftAlone[state] ?? 0) + 1;
  return {
    deliveries: meant.length,
    endpoints: countByEndpoint(meant),
    ofDeleted: [],
    leftAlone,
    waiting: await waitingOf(pool, rows),
    keys: async function* (limit) {
      for (let at = 0; at < meant.length; at += limit) yield meant.slice(at, at + limit);
    },
  };
}

async function waitingOf(pool: Pool, named: readonly Named[]): Promise<readonly WaitingDelivery[]> {
  const pending = named.filter(({ state, isToReopen }) => state === 'pending' && !isToReopen);
  return (await withHeads(pool, pending))
    .filter(({ behind, notBefore }) => behind !== null || notBefore !== null)
    .map(({ deliveryId, messageId, behind, notBefore }) => ({ deliveryId, messageId, behind, notBefore }));
}

function countByEndpoint(named: readonly Named[]): readonly EndpointAndCount[] {
  const counts = new Map<string, EndpointAndCount>();
  for (const { endpointId, url, enabled, disabledReason, isDeleted } of named) {
    const deliveries = (counts.get(endpointId)?.deliveries ?? 0) + 1;
    counts.set(endpointId, { endpointId, url, enabled, disabledReason, isDeleted, deliveries });
  }
  return [...counts.values()];
}

const OF_THE_DEAD = `
  from outbox.deliveries
  join public.outbox on outbox.id = deliveries.message_id and outbox.day = deliveries.day
  where deliveries.state = 'dead' and ${DELIVERY_MATCHES}
    and ($6::timestamptz is null or deliveries.finished_at < $6)`;

const COUNT_DEAD = `
  select counted.endpoint_id as "endpointId", endpoints.url, coalesce(endpoints.enabled, false) as enabled,
    endpoints.disabled_reason as "disabledReason", ${IS_DELETED} as "isDeleted", counted.deliveries::float8 as deliveries, counted.newest
  from (
    select deliveries.endpoint_id, count(*) as deliveries, max(deliveries.id) as newest ${OF_THE_DEAD} group by 1
  ) as counted
  left join outbox.endpoints on endpoints.id = counted.endpoint_id
  order by counted.endpoint_id`;

const DEAD_KEYS = `
  select deliveries.id::text as "deliveryId", deliveries.day::text ${OF_THE_DEAD} and deliveries.id > $7 and deliveries.id <= $8
    and exists (select from outbox.endpoints where endpoints.id = deliveries.endpoint_id and endpoints.deleted_at is null)
  order by deliveries.id
  limit $9`;

/**
 * Of the dead letters that are meant, as they are now: what dies meanwhile is left to the next run. Those of deleted endpoints are left
 * alone: else one deletion would refuse every retry, until their day is dropped.
 * @param options.diedBefore leaves alone what died at this instant or later, as after another retry of the same
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_ENDPOINT_UNKNOWN
 */
export async function planRetry(
  pool: Pool,
  filter: DeliveryFilter,
  options: { readonly diedBefore?: string | undefined } = {},
): Promise<RetryPlan> {
  await assertFilter(pool, filter);
  const meant = [...deliveryValues(filter), options.diedBefore ?? null];
  const { rows } = await readByDay(pool, (tx) => tx.query<EndpointAndCount & { newest: bigint }>(COUNT_DEAD, meant));
  const counted = rows.map(({ newest: _newest, ...endpoint }) => endpoint);
  const endpoints = counted.filter(({ isDeleted }) => !isDeleted);
  let newest = 0n;
  for (const row of rows) if (row.newest > newest) newest = row.newest;
  return {
    deliveries: endpoints.reduce((sum, { deliveries }) => sum + deliveries, 0),
    endpoints,
    ofDeleted: counted.filter(({ isDeleted }) => isDeleted),
    leftAlone: {},
    waiting: [],
    keys: async function* (limit) {
      for (let after = '0'; ; ) {
        const values = [...meant, after, newest, limit];
        const page = await readByDay(pool, (tx) => tx.query<DeliveryKey>(DEAD_KEYS, values));
        if (page.rows.length > 0) yield page.rows;
        if (page.rows.length < limit) return;
        after = page.rows.at(-1)?.deliveryId ?? after;
      }
    },
  };
}

export interface RetryProgress {
  /** How many of the plan's were looked at, and of those opened again. */
  readonly done: number;
  readonly retried: number;
}

/** Does what was planned, batch by batch, each a transaction of its own; ends after the one under way when it is to stop. */
export async function* retryPlanned(
  pool: Pool,
  plan: RetryPlan,
  options: { rate?: number | undefined; stop: AbortSignal },
): AsyncGenerator<RetryProgress> {
  const pace = createPace(options);
  let [done, retried] = [0, 0];
  for await (const keys of plan.keys(pace.batch)) {
    if (options.stop.aborted) return;
    retried += await reopen(pool, keys);
    done += keys.length;
    yield { done, retried };
    await pace.await(done);
  }
}
