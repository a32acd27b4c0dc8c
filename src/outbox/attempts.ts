import type { Queryable } from '../db/pool.ts';
import { byDay, type DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';
import type { Message } from './webhook.ts';

/** An attempt that this worker alone may make, until its lease ends. */
export interface ClaimedAttempt extends DeliveryJob {
  readonly message: Message;
  readonly endpointId: string;
  /** Of its endpoint, which may have become another one since. */
  readonly endpointVersion: bigint;
  /** As the lease allows for it. */
  readonly timeoutMs: number;
  /** Its number among the attempts that the endpoint had a part in since the retry schedule began, from 1: where that stands. */
  readonly scheduleAttempt: number;
  /** From when on its message was to be sent, in ms; null where no clock will ever be. */
  readonly wantedAtMs: number | null;
  /** Which change of outbox.topics was the last then. */
  readonly topicsVersion: bigint;
}

/** Why a delivery is a dead letter whose endpoint was deleted while it waited. */
export const ENDPOINT_DELETED = 'endpoint deleted';

/** What becomes of the delivery after an attempt. */
export type NextStep =
  | { readonly state: 'delivered' }
  | { readonly state: 'pending'; readonly delayMs: number }
  | { readonly state: 'dead'; readonly disableEndpoint: boolean };

export interface AttemptRecord extends DeliveryJob {
  readonly messageId: string;
  readonly endpointId: string;
  /** Of its endpoint, with which the request was made. */
  readonly endpointVersion: bigint;
  readonly startedAt: Date;
  readonly durationMs: number;
  readonly statusCode: number | null;
  readonly errorClass: string | null;
  readonly error: string | null;
  readonly response: string | null;
  readonly address: string | null;
  readonly next: NextStep;
}

/**
 * SQL, of deliveries that are named by day and number: whether one is queued. In these words, which match no index of what is queued:
 * that would be taken for a small one and read from end to end, and while an old snapshot is held it has an entry for all that ever was.
 */
export const IS_QUEUED = `deliveries.state = (select 'queued')`;

/** Of a message, which may be written with any: more than all of them that could be sent. */
const MAX_HEADERS_BYTES = 65_536;

// By day, so that a statement touches the partitions of one. An endpoint that is deleted is disabled too.
const CLAIM = `
  update outbox.deliveries
  set claimed_by = $1, lease_until = clock_timestamp() + (endpoints.timeout_ms + $2) * interval '1 millisecond'
  from unnest($4::bigint[], $5::integer[]) as job (id, attempt), outbox.endpoints, public.outbox
  where deliveries.day = $3 and deliveries.id = job.id and deliveries.attempt = job.attempt
    and ${IS_QUEUED} and coalesce(deliveries.claimed_by, $1) = $1
    and endpoints.id = deliveries.endpoint_id and endpoints.enabled
    and outbox.day = $3 and outbox.id = deliveries.message_id
  returning deliveries.id::text as "deliveryId", deliveries.attempt, outbox.id as "messageId", outbox.topic,
    outbox.created_at as "createdAt", outbox.payload::text as "payloadJson", endpoints.id as "endpointId",
    case when octet_length(outbox.headers::text) > ${MAX_HEADERS_BYTES} then to_jsonb('too large'::text) else outbox.headers end as headers,
    endpoints.version as "endpointVersion", endpoints.timeout_ms as "timeoutMs",
    case when isfinite(outbox.created_at) then extract(epoch from greatest(outbox.created_at, outbox.deliver_after)) * 1000 end::float8
      as "wantedAtMs",
    (select topics_version from outbox.relay) as "topicsVersion",
    case when deliveries.attempt = deliveries.schedule_from + 1 then 1 else deliveries.attempt - deliveries.schedule_from - (
      select count(*) from outbox.attempts
      where attempts.day = $3 and attempts.delivery_id = deliveries.id and attempts.attempt > deliveries.schedule_from
        and attempts.error_class in ('worker_lost', 'worker_stopped')
    )::integer end as "scheduleAttempt"`;

/**
 * Claims attempts by compare-and-set, so that a job which comes twice or late is made once or not at all. What this worker has claimed
 * already it gets again: the answer may have been lost on its way. It must not ask for what it has under way.
 * The lease is the endpoint's timeout and a margin for recording: one shorter than the request would duplicate every
 * slow delivery.
 * @returns those that are this worker's; not what is somebody else's, already done, or of a disabled endpoint
 */
export async function claimAttempts(
  db: Queryable,
  jobs: readonly DeliveryJob[],
  options: { worker: number; leaseMarginMs: number },
): Promise<readonly ClaimedAttempt[]> {
  const claimed: ClaimedAttempt[] = [];
  for (const [day, ofDay] of byDay(jobs)) {
    const { rows } = await db.query<Omit<ClaimedAttempt, 'message' | 'day'> & Message & { messageId: string }>({
      name: preparedName(db, 'claim'),
      text: CLAIM,
      values: [
        options.worker,
        options.leaseMarginMs,
        day,
        ofDay.map(({ deliveryId }) => deliveryId),
        ofDay.map(({ attempt }) => attempt),
      ],
    });
    for (const { messageId, topic, createdAt, payloadJson, headers, ...rest } of rows) {
      claimed.push({ ...rest, day, message: { id: messageId, topic, createdAt, payloadJson, headers } });
    }
  }
  return claimed;
}

// The attempt happened, so it is written down even when its lease was lost meanwhile, over what the relay assumed. The delivery moves,
// and the message counts, only when it is still this attempt's: else the relay has done both. A server that crashed has forgotten what
// was not on its disk yet: the claim, so that is not asked for; and which numbers it had given to deliveries, so one may be another's by
// now: message and endpoint are compared too. What would be tried again at an endpoint that
// was deleted is a dead letter. An endpoint is disabled as it was when the request was made: what an URL answers that it had before
// says nothing of the one that it has.
const RECORD = `
  with given as (
    select * from unnest($2::bigint[], $3::integer[], $4::uuid[], $5::uuid[], $6::timestamptz[], $7::integer[], $8::integer[],
      $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::integer[])
    as given (id, attempt, message_id, endpoint_id, started_at, duration_ms, status_code, error_class, error, response, address,
      wanted_state, delay_ms)
  ), made as (
    select given.*, case when is_deleted then 'dead' else wanted_state end as next_state,
      case when is_deleted then '${ENDPOINT_DELETED}' else given.error end as last_error
    from given
    cross join lateral (
      select wanted_state = 'pending' and exists (
        select from outbox.endpoints where endpoints.id = given.endpoint_id and deleted_at is not null
      ) as is_deleted
    ) as judged
  ), moved as (
    update outbox.deliveries
    set state = next_state,
        attempt = deliveries.attempt + (next_state = 'pending')::integer,
        due_at = case when next_state = 'pending' then clock_timestamp() + delay_ms * interval '1 millisecond' else due_at end,
        lease_until = null,
        claimed_by = null,
        finished_at = case when next_state <> 'pending' then clock_timestamp() end,
        last_error = coalesce(made.last_error, deliveries.last_error)
    from made
    where deliveries.day = $1 and deliveries.id = made.id and deliveries.attempt = made.attempt and ${IS_QUEUED}
      and deliveries.message_id = made.message_id and deliveries.endpoint_id = made.endpoint_id
    returning deliveries.id, made.message_id, made.error, due_at, next_state
  ), written as (
    insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error,
      response, address, retry_at)
    select made.id, made.attempt, $1, endpoint_id, started_at, duration_ms, status_code, error_class, made.error, response, address,
      case when moved.next_state = 'pending' then moved.due_at end
    from made left join moved on moved.id = made.id
    where moved.id is not null or exists (
      select from outbox.deliveries
      where deliveries.day = $1 and deliveries.id = made.id and deliveries.message_id = made.message_id
        and deliveries.endpoint_id = made.endpoint_id
    )
    on conflict (delivery_id, attempt, day) do update
    set started_at = excluded.started_at, duration_ms = excluded.duration_ms, status_code = excluded.status_code,
        error_class = excluded.error_class, error = excluded.error, response = excluded.response, address = excluded.address
  ), messages as (
    select outbox.id, attempts.count, attempts.error
    from public.outbox
    join (select message_id, count(*)::integer, max(error) as error from moved group by message_id) as attempts
      on attempts.message_id = outbox.id
    where outbox.day = $1
    order by outbox.id
    for no key update of outbox
  ), counted as (
    update public.outbox set attempt_count = attempt_count + messages.count, last_error = coalesce(messages.error, last_error)
    from messages
    where outbox.day = $1 and outbox.id = messages.id
  ), disabled as (
    update outbox.endpoints
    set enabled = false, disabled_at = clock_timestamp(), disabled_reason = 'answered 410 Gone'
    where (id, version) in (select * from unnest($15::uuid[], $16::bigint[])) and enabled
  )
  select id::text from moved`;

/**
 * Writes down what attempts came to and moves their deliveries on, in one statement for each day.
 * @returns the deliveries that were still these attempts'; not those whose lease was lost
 */
export async function recordAttempts(db: Queryable, records: readonly AttemptRecord[]): Promise<ReadonlySet<string>> {
  const moved = new Set<string>();
  for (const [day, ofDay] of byDay(records)) {
    const column = <K extends keyof AttemptRecord>(name: K) => ofDay.map((record) => record[name]);
    const gone = ofDay.filter(({ next }) => next.state === 'dead' && next.disableEndpoint);
    const { rows } = await db.query<{ id: string }>({
      name: preparedName(db, 'record'),
      text: RECORD,
      values: [
        day,
        column('deliveryId'),
        column('attempt'),
        column('messageId'),
        column('endpointId'),
        column('startedAt'),
        column('durationMs'),
        column('statusCode'),
        column('errorClass'),
        column('error'),
        column('response'),
        column('address'),
        ofDay.map(({ next }) => next.state),
        ofDay.map(({ next }) => (next.state === 'pending' ? next.delayMs : null)),
        gone.map(({ endpointId }) => endpointId),
        gone.map(({ endpointVersion }) => endpointVersion),
      ],
    });
    for (const { id } of rows) moved.add(id);
  }
  return moved;
}

/**
 * Hands back what was claimed and cannot be attempted now: it counts as no attempt, and is looked at again after a while.
 * @param options.worker who claimed it
 */
export async function postponeAttempt(
  db: Queryable,
  job: DeliveryJob,
  options: { worker: number; delayMs: number },
): Promise<void> {
  await db.query({
    name: 'postpone',
    text: `
      update outbox.deliveries
      set state = case when is_deleted then 'dead' else 'pending' end,
          due_at = clock_timestamp() + $5 * interval '1 millisecond',
          lease_until = null,
          claimed_by = null,
          finished_at = case when is_deleted then clock_timestamp() end,
          last_error = case when is_deleted then '${ENDPOINT_DELETED}' else last_error end
      from (select id, deleted_at is not null as is_deleted from outbox.endpoints) as endpoint
      where day = $1 and deliveries.id = $2 and attempt = $3 and ${IS_QUEUED} and claimed_by = $4
        and endpoint.id = endpoint_id`,
    values: [job.day, job.deliveryId, job.attempt, options.worker, options.delayMs],
  });
}
