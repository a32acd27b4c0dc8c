import type { Queryable } from '../db/pool.ts';
import { ENDPOINT_DELETED, IS_QUEUED } from './attempts.ts';
import type { DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';

/** Days, ids and attempts, each as an array, for `unnest`. */
const columnsOf = (jobs: readonly DeliveryJob[]) => [
  jobs.map(({ day }) => day),
  jobs.map(({ deliveryId }) => deliveryId),
  jobs.map(({ attempt }) => attempt),
];

/** How a delivery stands that the relay believes to be queued. */
export interface Standing {
  readonly deliveryId: string;
  /** `over`: it is finished, or pending again; `expired`: its lease is; `waiting`, `unwanted`: nobody has claimed it, or should. */
  readonly standing: 'over' | 'expired' | 'waiting' | 'unwanted' | 'claimed';
  readonly claimedBy: number | null;
}

const STANDING = `
  select job.id::text as "deliveryId", deliveries.claimed_by as "claimedBy", case
    when deliveries.id is null then 'over'
    when deliveries.lease_until < statement_timestamp() then 'expired'
    when deliveries.claimed_by is not null then 'claimed'
    when endpoints.enabled then 'waiting'
    else 'unwanted'
  end as standing
  from unnest($1::date[], $2::bigint[], $3::integer[]) as job (day, id, attempt)
  left join outbox.deliveries on deliveries.day = job.day and deliveries.id = job.id and deliveries.attempt = job.attempt
    and ${IS_QUEUED}
  left join outbox.endpoints on endpoints.id = deliveries.endpoint_id`;

export async function inspectQueued(db: Queryable, jobs: readonly DeliveryJob[]): Promise<readonly Standing[]> {
  const { rows } = await db.query<Standing>({
    name: preparedName(db, 'inspect'),
    text: STANDING,
    values: columnsOf(jobs),
  });
  return rows;
}

/** Takes back deliveries that could not be enqueued or are not wanted any more; one that a worker has claimed meanwhile stays his. */
export async function returnUnclaimed(db: Queryable, jobs: readonly DeliveryJob[]): Promise<number> {
  const { rowCount } = await db.query(
    `update outbox.deliveries set state = 'pending', lease_until = null
     from unnest($1::date[], $2::bigint[], $3::integer[]) as job (day, id, attempt)
     where deliveries.day = job.day and deliveries.id = job.id and deliveries.attempt = job.attempt
       and ${IS_QUEUED} and deliveries.claimed_by is null`,
    columnsOf(jobs),
  );
  return rowCount ?? 0;
}

// Messages in id order: workers that record what came of others would otherwise deadlock with it.
const RETURN_LOST = `
  with lost as (
    select deliveries.id, deliveries.day, deliveries.message_id, deliveries.endpoint_id, deliveries.attempt,
      deliveries.schedule_from, deliveries.claimed_by is not null as was_claimed
    from unnest($1::date[], $2::bigint[], $3::integer[]) as job (day, id, attempt)
    join outbox.deliveries on deliveries.day = job.day and deliveries.id = job.id and deliveries.attempt = job.attempt
    where ${IS_QUEUED}
      and (deliveries.lease_until < statement_timestamp() or not deliveries.claimed_by = any ($4::integer[]))
    for no key update of deliveries skip locked
  ), judged as (
    select lost.*, is_deleted, is_deleted or was_claimed and 1 + (
        select count(*) from outbox.attempts
        where attempts.delivery_id = lost.id and attempts.day = lost.day and attempts.attempt > lost.schedule_from
          and attempts.error_class = 'worker_lost'
      ) >= $5 as is_last
    from lost
    cross join lateral (
      select exists (select from outbox.endpoints where id = lost.endpoint_id and deleted_at is not null) as is_deleted
    ) as endpoint
  ), returned as (
    update outbox.deliveries
    set state = case when is_last then 'dead' else 'pending' end,
        finished_at = case when is_last then clock_timestamp() end,
        attempt = deliveries.attempt + (was_claimed and not is_last)::integer,
        due_at = statement_timestamp(),
        lease_until = null,
        claimed_by = null,
        last_error = case when is_deleted then '${ENDPOINT_DELETED}' when was_claimed then $6 else last_error end
    from judged
    where deliveries.id = judged.id and deliveries.day = judged.day
    returning 1
  ), written as (
    insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, error_class, error, retry_at)
    select id, attempt, day, endpoint_id, clock_timestamp(), 0, 'worker_lost', $6,
      case when not is_last then statement_timestamp() end
    from judged where was_claimed
    on conflict (delivery_id, attempt, day) do nothing
  ), messages as (
    select outbox.id, outbox.day, lost_ones.attempts
    from public.outbox
    join (select message_id, day, count(*)::integer as attempts from judged where was_claimed group by message_id, day) as lost_ones
      on lost_ones.message_id = outbox.id and lost_ones.day = outbox.day
    order by outbox.id
    for no key update of outbox
  ), counted as (
    update public.outbox set attempt_count = attempt_count + messages.attempts, last_error = $6
    from messages
    where outbox.id = messages.id and outbox.day = messages.day
  )
  select count(*)::integer as returned from returned`;

/**
 * Takes back what lost its lease or its worker. A lost attempt counts, because its request may have been made; the next one is due
 * at once.
 * @param options.workers the numbers of those that are there
 * @param options.maxLost how many of a delivery's attempts may be lost since its schedule began: a message must not kill workers for ever
 */
export async function returnLost(
  db: Queryable,
  options: { jobs: readonly DeliveryJob[]; workers: readonly number[]; maxLost: number },
): Promise<number> {
  const { rows } = await db.query<{ returned: number }>(RETURN_LOST, [
    ...columnsOf(options.jobs),
    options.workers,
    options.maxLost,
    'the worker was lost before it recorded the answer',
  ]);
  return rows[0]?.returned ?? 0;
}
