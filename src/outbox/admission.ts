import type { Queryable } from '../db/pool.ts';
import type { DeliveryJob } from './job.ts';

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
