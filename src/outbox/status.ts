import type { Queryable } from '../db/pool.ts';

interface EndpointStatus {
  readonly id: string;
  readonly url: string;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  readonly waiting: number;
  /** Pending, and not to be attempted before the endpoint is enabled again. */
  readonly paused: number;
  readonly delivered: number;
  readonly dead: number;
  readonly lastError: string | null;
}

export interface OutboxStatus {
  readonly messages: { readonly total: number; readonly unprocessed: number };
  readonly deliveries: {
    readonly pending: number;
    /** Pending too, but for a disabled endpoint: nobody attempts them. */
    readonly paused: number;
    readonly queued: number;
    readonly delivering: number;
    readonly delivered: number;
    readonly dead: number;
  };
  readonly attempts: number;
  /** Since the announcement of the oldest message that some enabled endpoint has still to receive; null when none has. */
  readonly oldestUndeliveredSeconds: number | null;
  readonly endpoints: readonly EndpointStatus[];
}

const COUNTS = `
  select
    (select count(*) from public.outbox)::float8 as messages,
    (select count(*) from public.outbox where processed_at is null)::float8 as unprocessed,
    (select count(*) from outbox.attempts)::float8 as attempts,
    extract(epoch from clock_timestamp() - least(
      (select min(created_at) from public.outbox where processed_at is null),
      (select min(outbox.created_at)
       from outbox.deliveries
       join outbox.endpoints on endpoints.id = deliveries.endpoint_id and endpoints.enabled
       join public.outbox on outbox.id = deliveries.message_id and outbox.day = deliveries.day
       where deliveries.state in ('pending', 'queued'))
    ))::float8 as "oldestUndeliveredSeconds"`;

const BY_STATE = `
  select
    count(*) filter (where state = 'pending' and endpoints.enabled)::float8 as pending,
    count(*) filter (where state = 'pending' and not endpoints.enabled)::float8 as paused,
    count(*) filter (where state = 'queued' and claimed_by is null)::float8 as queued,
    count(*) filter (where claimed_by is not null)::float8 as delivering,
    count(*) filter (where state = 'delivered')::float8 as delivered,
    count(*) filter (where state = 'dead')::float8 as dead
  from outbox.deliveries
  join outbox.endpoints on endpoints.id = deliveries.endpoint_id`;

const BY_ENDPOINT = `
  select endpoints.id, endpoints.url, endpoints.enabled, endpoints.disabled_reason as "disabledReason",
    count(deliveries.id) filter (
      where deliveries.state = 'queued' or (deliveries.state = 'pending' and endpoints.enabled)
    )::float8 as waiting,
    count(deliveries.id) filter (where deliveries.state = 'pending' and not endpoints.enabled)::float8 as paused,
    count(deliveries.id) filter (where deliveries.state = 'delivered')::float8 as delivered,
    count(deliveries.id) filter (where deliveries.state = 'dead')::float8 as dead,
    (array_agg(deliveries.last_error order by deliveries.id desc) filter (where deliveries.last_error is not null))[1] as "lastError"
  from outbox.endpoints
  left join outbox.deliveries on deliveries.endpoint_id = endpoints.id
  where endpoints.deleted_at is null
  group by endpoints.id
  order by endpoints.created_at, endpoints.id`;

interface Counts {
  readonly messages: number;
  readonly unprocessed: number;
  readonly attempts: number;
  readonly oldestUndeliveredSeconds: number | null;
}

/** Where everything stands, counted from the tables; each of the three parts is consistent in itself. */
export async function outboxStatus(db: Queryable): Promise<OutboxStatus> {
  const counts = (await db.query<Counts>(COUNTS)).rows[0];
  const deliveries = (await db.query<OutboxStatus['deliveries']>(BY_STATE)).rows[0];
  const { rows: endpoints } = await db.query<EndpointStatus>(BY_ENDPOINT);
  return {
    messages: { total: counts?.messages ?? 0, unprocessed: counts?.unprocessed ?? 0 },
    deliveries: deliveries ?? { pending: 0, paused: 0, queued: 0, delivering: 0, delivered: 0, dead: 0 },
    attempts: counts?.attempts ?? 0,
    oldestUndeliveredSeconds: counts?.oldestUndeliveredSeconds ?? null,
    endpoints,
  };
}
