import type { Pool } from '../db/pool.ts';
import { ENDPOINT_DELETED } from './attempts.ts';
import { assertFilter, DELIVERY_MATCHES, type DeliveryFilter, deliveryValues, readByDay } from './delivery-filter.ts';
import { withHeads } from './line-heads.ts';

export const DELIVERY_STATES = ['pending', 'queued', 'delivering', 'delivered', 'dead'] as const;
/** As a person sees it: `delivering` is what the tables call queued, and claimed by a worker. */
export type DeliveryState = (typeof DELIVERY_STATES)[number];

export interface ListedDelivery {
  readonly id: bigint;
  readonly messageId: string;
  readonly topic: string;
  readonly endpointId: string;
  readonly state: DeliveryState;
  /** Those that were made. */
  readonly attempts: number;
  readonly lastError: string | null;
  /** When the next attempt may be made, or might have been; null: not before those in front of it in its line. */
  readonly dueAt: Date | null;
  /** Of a delivery that waits in a line: the first in it. */
  readonly behind: bigint | null;
  /** Its line; null where its endpoint is not ordered, or its message has no key. */
  readonly orderingKey: string | null;
  readonly finishedAt: Date | null;
  readonly createdAt: Date;
}

/** SQL of a delivery's state, as a person sees it. */
export const STATE = `case when deliveries.claimed_by is not null then 'delivering' else deliveries.state end`;
/**
 * SQL of how many attempts were made: all but the one that is next or under way. That of a delivery which died with its endpoint was made
 * or not, as it was under way or waited, and only the attempts say which.
 */
export const ATTEMPTS = `deliveries.attempt - case
    when deliveries.state in ('pending', 'queued') then 1
    when deliveries.state = 'dead' and deliveries.last_error = '${ENDPOINT_DELETED}' and not exists (
      select from outbox.attempts
      where attempts.day = deliveries.day and attempts.delivery_id = deliveries.id and attempts.attempt = deliveries.attempt
    ) then 1
    else 0
  end`;

/**
 * SQL of an instant that anybody may have written, as JavaScript can say it: what is beyond the years 1 to 9999, and infinity, reads as
 * where they end.
 */
export const withinCalendar = (instant: string) =>
  `case when ${instant} is not null then greatest(least(${instant}, '9999-12-31 00:00+00'), '0001-01-01 00:00+00') end`;

// The state is compared as the table has it, or no partial index would be found.
const list = (order: string) => `
  select deliveries.id, deliveries.message_id as "messageId", outbox.topic, deliveries.endpoint_id as "endpointId",
    ${STATE} as state, ${ATTEMPTS} as attempts, deliveries.last_error as "lastError",
    ${withinCalendar('deliveries.due_at')} as "dueAt", deliveries.finished_at as "finishedAt", deliveries.created_at as "createdAt",
    deliveries.ordering_key as "orderingKey"
  from outbox.deliveries
  join public.outbox on outbox.id = deliveries.message_id and outbox.day = deliveries.day
  where ${DELIVERY_MATCHES}
    and ($6::text is null or deliveries.state = $6)
    and ($7::boolean is null or (deliveries.claimed_by is not null) = $7)
    and ($8::bigint is null or deliveries.id < $8)
    and ($9::text is null or deliveries.ordering_key = $9)
    and ($10::bigint is null or deliveries.id > $10)
  order by ${order} desc
  limit $11`;

const LIST = list('deliveries.id');
// What waits is in no index by id: with the id itself, the table is read from its end until as many as are wanted were found, through
// every day in which none waits any more. This way those that wait are found, and sorted.
const LIST_OF_FEW = list('deliveries.id + 0');

export interface DeliveryPage extends DeliveryFilter {
  readonly state?: DeliveryState | undefined;
  /** Of this line, at whichever endpoint. */
  readonly orderingKey?: string | undefined;
  readonly limit: number;
  /** Only older ones: with a lower id. */
  readonly before?: bigint | undefined;
  /** Only younger ones: with a higher id. */
  readonly above?: bigint | undefined;
}

/**
 * Deliveries, the newest first.
 * @param options.areFew of its state: found and sorted, instead of read in their order
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_ENDPOINT_UNKNOWN
 */
export async function listDeliveries(
  pool: Pool,
  page: DeliveryPage,
  { areFew = false }: { readonly areFew?: boolean } = {},
): Promise<readonly ListedDelivery[]> {
  await assertFilter(pool, page);
  return readByDay(pool, async (tx) => {
    const text = areFew ? LIST_OF_FEW : LIST;
    const { rows } = await tx.query<Omit<ListedDelivery, 'behind'>>(text, listValues(page));
    return withHeads(tx, rows);
  });
}

function listValues({ state, limit, before, above, orderingKey, ...filter }: DeliveryPage): unknown[] {
  const isClaimed = state === 'delivering' ? true : state === 'queued' ? false : null;
  const stored = state === 'delivering' ? 'queued' : (state ?? null);
  return [...deliveryValues(filter), stored, isClaimed, before ?? null, orderingKey ?? null, above ?? null, limit];
}
