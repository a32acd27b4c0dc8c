import type { Queryable } from '../db/pool.ts';
import type { Message } from './webhook.ts';

/** A job of the queue: which delivery, and which of its attempts. Everything else is read from the database. */
export interface DeliveryJob {
  readonly deliveryId: string;
  readonly attempt: number;
}

/** An attempt that this worker alone may make, until its lease ends. */
export interface ClaimedAttempt extends DeliveryJob {
  readonly message: Message;
  readonly endpointId: string;
  readonly url: string;
  readonly secret: string;
  readonly timeoutMs: number;
  /** Its number among the attempts that the endpoint had a part in, from 1: where the retry schedule stands. */
  readonly scheduleAttempt: number;
}

/** What becomes of the delivery after an attempt. */
export type NextStep =
  | { readonly state: 'delivered' }
  | { readonly state: 'pending'; readonly delayMs: number }
  | { readonly state: 'dead'; readonly disableEndpoint: boolean };

export interface AttemptRecord extends DeliveryJob {
  readonly startedAt: Date;
  readonly durationMs: number;
  readonly statusCode: number | null;
  readonly errorClass: string | null;
  readonly error: string | null;
  readonly response: string | null;
  readonly address: string | null;
  readonly next: NextStep;
}

// One statement: a crash leaves a message either unprocessed or with all of its deliveries. SKIP LOCKED lets any number
// of relays work side by side; consuming by identity lets a late commit be found whatever its seq is.
const FAN_OUT = `
  with claimed as (
    select id from public.outbox
    where processed_at is null
    order by seq
    limit $1
    for no key update skip locked
  ), processed as (
    update public.outbox set processed_at = clock_timestamp()
    from claimed
    where outbox.id = claimed.id
    returning outbox.id, outbox.topic
  ), fanned_out as (
    insert into outbox.deliveries (message_id, endpoint_id)
    select processed.id, endpoints.id
    from processed
    join outbox.endpoints on endpoints.enabled
      and exists (select from unnest(endpoints.topics) as pattern where outbox.topic_matches(pattern, processed.topic))
    returning 1
  ), awake as (
    update outbox.relay set sleeping = false where sleeping and exists (select from claimed)
  )
  select (select count(*) from processed)::integer as messages, (select count(*) from fanned_out)::integer as deliveries`;

/** Turns committed messages into deliveries, and says that the relay is awake when there were any. */
export async function fanOut(db: Queryable, limit: number): Promise<{ messages: number; deliveries: number }> {
  const { rows } = await db.query<{ messages: number; deliveries: number }>(FAN_OUT, [limit]);
  return rows[0] ?? { messages: 0, deliveries: 0 };
}

/** Moves due deliveries to `queued`, as many as their endpoints have room for; they are the caller's to enqueue. */
export async function admitDeliveries(
  db: Queryable,
  options: { limit: number; queueLeaseMs: number },
): Promise<readonly DeliveryJob[]> {
  const { rows } = await db.query<DeliveryJob>(
    `select delivery_id::text as "deliveryId", attempt from outbox.admit($1, $2 * interval '1 millisecond')`,
    [options.limit, options.queueLeaseMs],
  );
  return rows;
}

/** From now on an INSERT into public.outbox notifies. */
export async function sayAsleep(db: Queryable): Promise<void> {
  await db.query('update outbox.relay set sleeping = true where not sleeping');
}

/**
 * Claims an attempt by compare-and-set, so a job that comes twice or late is made once or not at all.
 * The lease is the endpoint's timeout and a margin for recording: one shorter than the request would duplicate every
 * slow delivery.
 * @returns undefined when it is somebody else's, already done, or its endpoint is disabled
 */
export async function claimAttempt(
  db: Queryable,
  job: DeliveryJob,
  leaseMarginMs: number,
): Promise<ClaimedAttempt | undefined> {
  const { rows } = await db.query<Omit<ClaimedAttempt, 'message'> & Message & { messageId: string }>(
    `update outbox.deliveries
     set state = 'delivering',
         lease_until = clock_timestamp() + (endpoints.timeout_ms + $3) * interval '1 millisecond'
     from outbox.endpoints, public.outbox
     where deliveries.id = $1 and deliveries.attempt = $2 and deliveries.state = 'queued'
       and endpoints.id = deliveries.endpoint_id and endpoints.enabled and outbox.id = deliveries.message_id
     returning outbox.id as "messageId", outbox.topic, outbox.created_at as "createdAt",
               outbox.payload::text as "payloadJson", endpoints.id as "endpointId", endpoints.url, endpoints.secret,
               endpoints.timeout_ms as "timeoutMs",
               (deliveries.attempt - (
                 select count(*) from outbox.attempts
                 where attempts.delivery_id = deliveries.id and attempts.error_class in ('worker_lost', 'worker_stopped')
               ))::integer as "scheduleAttempt"`,
    [job.deliveryId, job.attempt, leaseMarginMs],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  const { messageId, topic, createdAt, payloadJson, ...rest } = row;
  return { ...rest, ...job, message: { id: messageId, topic, createdAt, payloadJson } };
}

// The attempt happened, so it is written down even when its lease was lost meanwhile, over what the sweep assumed. The
// delivery moves, and the message counts, only when it is still this attempt's: else the sweep has done both.
const RECORD_ATTEMPT = `
  with delivery as (
    select id, message_id, endpoint_id from outbox.deliveries where id = $1
  ), moved as (
    update outbox.deliveries
    set state = $10,
        attempt = case when $10 = 'pending' then attempt + 1 else attempt end,
        next_attempt_at = case when $10 = 'pending' then clock_timestamp() + $11 * interval '1 millisecond' else next_attempt_at end,
        lease_until = null,
        finished_at = case when $10 <> 'pending' then clock_timestamp() end,
        last_error = coalesce($7, last_error)
    where id = $1 and attempt = $2 and state = 'delivering'
    returning id
  ), written as (
    insert into outbox.attempts (delivery_id, attempt, started_at, duration_ms, status_code, error_class, error, response, address)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    on conflict (delivery_id, attempt) do update
    set started_at = excluded.started_at, duration_ms = excluded.duration_ms, status_code = excluded.status_code,
        error_class = excluded.error_class, error = excluded.error, response = excluded.response, address = excluded.address
  ), counted as (
    update public.outbox
    set attempt_count = attempt_count + 1, last_error = coalesce($7, last_error)
    from delivery
    where outbox.id = delivery.message_id and exists (select from moved)
  ), disabled as (
    update outbox.endpoints
    set enabled = false, disabled_at = clock_timestamp(), disabled_reason = 'answered 410 Gone'
    from delivery
    where $12 and endpoints.id = delivery.endpoint_id and endpoints.enabled
  )
  select exists (select from moved) as moved`;

/**
 * Writes down what an attempt came to and moves its delivery on, in one statement.
 * @returns whether the delivery was still this attempt's; false after a lost lease
 */
export async function recordAttempt(db: Queryable, record: AttemptRecord): Promise<boolean> {
  const { next } = record;
  const { rows } = await db.query<{ moved: boolean }>(RECORD_ATTEMPT, [
    record.deliveryId,
    record.attempt,
    record.startedAt,
    record.durationMs,
    record.statusCode,
    record.errorClass,
    record.error,
    record.response,
    record.address,
    next.state,
    next.state === 'pending' ? next.delayMs : null,
    next.state === 'dead' && next.disableEndpoint,
  ]);
  return rows[0]?.moved === true;
}

// Messages in id order: two sweeps that share some would otherwise deadlock.
const RETURN_LOST = `
  with lost as (
    select id, state, message_id, attempt, lease_until from outbox.deliveries
    where state in ('queued', 'delivering') and lease_until < clock_timestamp()
    order by lease_until
    limit $1
    for no key update skip locked
  ), judged as (
    select id, state = 'delivering' as was_claimed, state = 'delivering' and 1 + (
        select count(*) from outbox.attempts
        where attempts.delivery_id = lost.id and attempts.error_class = 'worker_lost'
      ) >= $2 as is_last
    from lost
  ), returned as (
    update outbox.deliveries
    set state = case when is_last then 'dead' else 'pending' end,
        finished_at = case when is_last then clock_timestamp() end,
        attempt = attempt + (was_claimed and not is_last)::integer,
        next_attempt_at = clock_timestamp(),
        lease_until = null,
        last_error = case when was_claimed then $3 else last_error end
    from judged
    where deliveries.id = judged.id
    returning 1
  ), abandoned as (
    select id, message_id, attempt from lost where state = 'delivering'
  ), written as (
    insert into outbox.attempts (delivery_id, attempt, started_at, duration_ms, error_class, error)
    select id, attempt, clock_timestamp(), 0, 'worker_lost', $3 from abandoned
    on conflict (delivery_id, attempt) do nothing
  ), messages as (
    select outbox.id, counted.attempts
    from public.outbox
    join (select message_id, count(*)::integer as attempts from abandoned group by message_id) as counted
      on counted.message_id = outbox.id
    order by outbox.id
    for no key update of outbox
  ), counted as (
    update public.outbox set attempt_count = attempt_count + messages.attempts, last_error = $3
    from messages
    where outbox.id = messages.id
  )
  select count(*)::integer as returned from returned`;

/**
 * Takes back what lost its lease: queued and never started, or claimed by a worker that is gone. A lost attempt counts,
 * because its request may have been made; the next one is due at once.
 * @param options.maxLost how many of a delivery's attempts may be lost: a message must not kill workers for ever
 */
export async function returnLostDeliveries(
  db: Queryable,
  options: { limit: number; maxLost: number },
): Promise<number> {
  const { rows } = await db.query<{ returned: number }>(RETURN_LOST, [
    options.limit,
    options.maxLost,
    'the worker was lost before it recorded the answer',
  ]);
  return rows[0]?.returned ?? 0;
}

// What a worker is claiming this moment has left the queue, hence SKIP LOCKED.
/** Takes back deliveries that could not be enqueued, or all queued ones when the queue itself was emptied. */
export async function returnQueuedDeliveries(db: Queryable, jobs: readonly DeliveryJob[] | 'all'): Promise<number> {
  const { rowCount } = await db.query(
    `with queued as (
       select id from outbox.deliveries
       where state = 'queued' and ($1::bigint[] is null or id = any($1::bigint[]))
       for no key update skip locked
     )
     update outbox.deliveries set state = 'pending', lease_until = null
     from queued
     where deliveries.id = queued.id`,
    [jobs === 'all' ? null : jobs.map((job) => job.deliveryId)],
  );
  return rowCount ?? 0;
}
