import type { Queryable } from '../db/pool.ts';
import type { DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';

// One that waits behind another of its key is due at no time; it becomes due when it is the first that is not finished.
const MOVE_UP = `
  update outbox.deliveries
  set due_at = statement_timestamp()
  from (
    select distinct finished.endpoint_id, finished.ordering_key
    from unnest($1::date[], $2::bigint[]) as job (day, id)
    join outbox.deliveries as finished on finished.day = job.day and finished.id = job.id
    where finished.ordering_key is not null
  ) as lines
  cross join lateral (
    select id, day from outbox.deliveries as waiting
    where waiting.endpoint_id = lines.endpoint_id and waiting.ordering_key = lines.ordering_key
      and waiting.state in ('pending', 'queued')
    order by id
    limit 1
  ) as head
  where deliveries.day = head.day and deliveries.id = head.id and deliveries.due_at is null`;

/** Deliveries of ordered endpoints are finished: whoever comes next in their lines is due. */
export async function moveLinesUp(
  db: Queryable,
  finished: readonly Pick<DeliveryJob, 'day' | 'deliveryId'>[],
): Promise<void> {
  await db.query({
    name: preparedName(db, 'move-up'),
    text: MOVE_UP,
    values: [finished.map(({ day }) => day), finished.map(({ deliveryId }) => deliveryId)],
  });
}

// The first of each key, one index probe a key: a line may be long.
const ALL_HEADS = `
  with recursive heads as (
    (select ordering_key, id, day from outbox.deliveries
     where endpoint_id = $1 and ordering_key is not null and state in ('pending', 'queued')
     order by ordering_key, id limit 1)
    union all
    select next.ordering_key, next.id, next.day
    from heads
    cross join lateral (
      select ordering_key, id, day from outbox.deliveries
      where endpoint_id = $1 and ordering_key > heads.ordering_key and state in ('pending', 'queued')
      order by ordering_key, id limit 1
    ) as next
  )
  update outbox.deliveries set due_at = statement_timestamp()
  from heads
  where deliveries.day = heads.day and deliveries.id = heads.id and deliveries.due_at is null`;

/** Finds lines of an ordered endpoint that nobody moved up: whoever led before was struck, or somebody else finished their head. */
export async function moveAllLinesUp(db: Queryable, endpointId: string): Promise<number> {
  const { rowCount } = await db.query({ name: preparedName(db, 'all-heads'), text: ALL_HEADS, values: [endpointId] });
  return rowCount ?? 0;
}
