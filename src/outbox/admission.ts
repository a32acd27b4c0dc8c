import type { Queryable } from '../db/pool.ts';
import { ENDPOINT_DELETED, IS_QUEUED } from './attempts.ts';
import type { DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';

/** A delivery that is queued, or that some worker has claimed. */
export interface QueuedDelivery extends DeliveryJob {
  readonly endpointId: string;
}

interface JobRow {
  readonly id: bigint;
  readonly day: string;
  readonly attempt: number;
  readonly endpointId: string;
}

const toQueued = ({ id, day, attempt, endpointId }: JobRow): QueuedDelivery => ({
  deliveryId: id.toString(),
  day,
  attempt,
  endpointId,
});

/** Days, ids and attempts, each as an array, for `unnest`. */
const columnsOf = (jobs: readonly DeliveryJob[]) => [
  jobs.map(({ day }) => day),
  jobs.map(({ deliveryId }) => deliveryId),
  jobs.map(({ attempt }) => attempt),
];

export interface Wanted {
  readonly endpointId: string;
  /** How many may be queued. */
  readonly free: number;
  /** Below which nothing was due any more when it was last looked at; saves passing again what was there. */
  readonly dueFrom: Date | undefined;
}

export interface Admitted {
  /** Everybody's first before anybody's second. */
  readonly queued: readonly (QueuedDelivery & { readonly dueAt: Date })[];
  /** In how long each endpoint's next delivery is due that was not admitted. */
  readonly nextDueInMs: ReadonlyMap<string, number>;
  /** By the database's clock. */
  readonly askedAt: Date | undefined;
  /** Whether all was admitted that was due then and had a place. */
  readonly isComplete: boolean;
}

// Of an ordered endpoint the first of each key alone, and none of a key that has one under way, as when a dead letter is sent again.
// What somebody else holds is passed over: all endpoints would wait for him.
// Planned each time: its plan depends on how much waits more than any other, and a bad one is a hundred times dearer than planning it.
// What is to be delivered never is due next to nobody. `statement_timestamp`, because an index is not asked for what changes while it is read.
const ADMIT = `
  with wanted as (
    select * from unnest($1::uuid[], $2::integer[], $3::timestamptz[]) as wanted (endpoint_id, free, due_from)
  ), due as (
    select waiting.*, wanted.endpoint_id,
      row_number() over (partition by wanted.endpoint_id order by waiting.due_at, waiting.id) as turn
    from wanted
    cross join lateral (
      select id, day, due_at from outbox.deliveries
      where endpoint_id = wanted.endpoint_id and state = 'pending'
        and due_at >= wanted.due_from and due_at <= statement_timestamp()
        and (ordering_key is null or not exists (
          select from outbox.deliveries as other
          where other.endpoint_id = wanted.endpoint_id and other.ordering_key = deliveries.ordering_key
            and other.state in ('pending', 'queued') and (other.id < deliveries.id or other.state = 'queued')
        ))
      order by due_at, id
      limit wanted.free
    ) as waiting
  ), chosen as (
    select * from due order by turn, due_at, id limit $4
  ), taken as (
    select chosen.* from chosen
    join outbox.deliveries on deliveries.id = chosen.id and deliveries.day = chosen.day and deliveries.state = (select 'pending')
    for no key update of deliveries skip locked
  ), admitted as (
    update outbox.deliveries
    set state = 'queued', lease_until = statement_timestamp() + $5 * interval '1 millisecond'
    from taken
    where deliveries.id = taken.id and deliveries.day = taken.day
    returning deliveries.id, deliveries.day, deliveries.attempt, deliveries.endpoint_id, deliveries.due_at, taken.turn
  )
  select id, day::text, attempt, endpoint_id as "endpointId", due_at as "dueAt", null::float8 as "dueInMs", turn from admitted
  union all
  select null, null, null, wanted.endpoint_id, null, (extract(epoch from next.due_at - statement_timestamp()) * 1000)::float8, null
  from wanted
  cross join lateral (
    select due_at from outbox.deliveries
    where endpoint_id = wanted.endpoint_id and state = 'pending' and due_at >= wanted.due_from
      and due_at < 'infinity' and (ordering_key is null or due_at > statement_timestamp())
      and not exists (select from taken where taken.id = deliveries.id)
    order by due_at, id
    limit 1
  ) as next
  union all
  select null, null, null, null, statement_timestamp(), null, null
  order by turn, id`;

/** Moves due deliveries to `queued`, as many as their endpoints have places for; they are the caller's to enqueue. */
export async function admitDue(
  db: Queryable,
  options: { wanted: readonly Wanted[]; limit: number; queueLeaseMs: number },
): Promise<Admitted> {
  const { wanted } = options;
  const { rows } = await db.query<
    | (JobRow & { dueAt: Date })
    | { id: null; endpointId: string; dueInMs: number }
    | { id: null; endpointId: null; dueAt: Date }
  >({
    text: ADMIT,
    values: [
      wanted.map(({ endpointId }) => endpointId),
      wanted.map(({ free }) => free),
      wanted.map(({ dueFrom }) => dueFrom ?? '-infinity'),
      options.limit,
      options.queueLeaseMs,
    ],
  });
  const queued = rows.filter((row) => row.id !== null).map((row) => ({ ...toQueued(row), dueAt: row.dueAt }));
  const asked = rows.find((row) => row.endpointId === null);
  return {
    queued,
    nextDueInMs: new Map(
      rows.flatMap((row) =>
        row.id === null && row.endpointId !== null ? [[row.endpointId, row.dueInMs] as const] : [],
      ),
    ),
    askedAt: asked?.dueAt,
    isComplete: queued.length < options.limit,
  };
}

/** What is queued or claimed, in the order of its announcement. */
export async function findQueued(
  db: Queryable,
): Promise<readonly (QueuedDelivery & { readonly claimedBy: number | null })[]> {
  const { rows } = await db.query<JobRow & { claimedBy: number | null }>(
    `select id, day::text, attempt, endpoint_id as "endpointId", claimed_by as "claimedBy"
     from outbox.deliveries where state = 'queued' order by id`,
  );
  return rows.map((row) => ({ ...toQueued(row), claimedBy: row.claimedBy }));
}

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
