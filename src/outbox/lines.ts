import type { Queryable } from '../db/pool.ts';
import type { DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';

// SQL: the order of the locks of deliveries that move up. The relay moves them, and so does whoever sends dead letters again.
const IN_ORDER = 'order by deliveries.id for no key update of deliveries';

// One that waits behind another of its key is due at no time; it becomes due when it is the first that is not finished. So does one that
// was due before, and was passed over for whoever was under way: the relay looks no more where it was.
const MOVE_UP = `
  with lines as (
    select distinct finished.endpoint_id, finished.ordering_key
    from unnest($1::date[], $2::bigint[]) as job (day, id)
    join outbox.deliveries as finished on finished.day = job.day and finished.id = job.id
    where finished.ordering_key is not null
  ), heads as (
    select id, day
    from lines
    cross join lateral (
      select id, day from outbox.deliveries as waiting
      where waiting.endpoint_id = lines.endpoint_id and waiting.ordering_key = lines.ordering_key
        and waiting.state in ('pending', 'queued')
      order by id
      limit 1
    ) as head
  ), locked as (
    select deliveries.id, deliveries.day
    from heads join outbox.deliveries on deliveries.day = heads.day and deliveries.id = heads.id
    where state = 'pending' and (due_at is null or due_at < statement_timestamp())
    ${IN_ORDER}
  )
  update outbox.deliveries set due_at = statement_timestamp()
  from locked
  where deliveries.day = locked.day and deliveries.id = locked.id`;

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

// The first of each key, one index probe a key: a line may be long. A part of them at a time: there may be many lines.
const HEADS = `
  with recursive heads as (
    (select ordering_key, id, day, 1 as turn from outbox.deliveries
     where endpoint_id = $1 and ordering_key > $2 and state in ('pending', 'queued')
     order by ordering_key, id limit 1)
    union all
    select next.ordering_key, next.id, next.day, turn + 1
    from heads
    cross join lateral (
      select ordering_key, id, day from outbox.deliveries
      where endpoint_id = $1 and ordering_key > heads.ordering_key and state in ('pending', 'queued')
      order by ordering_key, id limit 1
    ) as next
    where turn < $3
  ), locked as (
    select deliveries.id, deliveries.day
    from heads join outbox.deliveries on deliveries.day = heads.day and deliveries.id = heads.id
    where deliveries.due_at is null
    ${IN_ORDER}
  ), moved as (
    update outbox.deliveries set due_at = statement_timestamp()
    from locked
    where deliveries.day = locked.day and deliveries.id = locked.id
    returning 1
  )
  select (select count(*)::integer from moved) as moved, (select ordering_key from heads where turn = $3) as last`;

/** Nobody waits behind another at an endpoint that is not ordered, or is not any more. */
const SCATTER = `
  with waiting as (
    select waiting.id, waiting.day
    from unnest($1::uuid[]) as endpoint (id)
    cross join lateral (
      select id, day from outbox.deliveries
      where endpoint_id = endpoint.id and ordering_key is not null and state = 'pending'
      limit $2
    ) as waiting
    limit $2
  ), locked as (
    select deliveries.id, deliveries.day
    from waiting join outbox.deliveries on deliveries.day = waiting.day and deliveries.id = waiting.id
    where state = 'pending'
    ${IN_ORDER}
  )
  update outbox.deliveries set ordering_key = null, due_at = coalesce(due_at, statement_timestamp())
  from locked
  where deliveries.day = locked.day and deliveries.id = locked.id
  returning endpoint_id as "endpointId"`;

/** So many lines or deliveries at a time, so that nobody waits long for the relay. */
const PART = 500;

/**
 * Finds deliveries that wait behind nobody, and lets them be due: whoever led before was struck, somebody else finished the head of their
 * line, or their endpoint is not ordered any more. Part by part.
 */
export class LineCheck {
  readonly #db: Queryable;
  /** Endpoints, and up to which key their lines were looked at. */
  readonly #ordered = new Map<string, string>();
  #unordered: readonly string[] = [];

  constructor(db: Queryable) {
    this.#db = db;
  }

  get isUnderWay(): boolean {
    return this.#ordered.size + this.#unordered.length > 0;
  }

  begin({ ordered, unordered }: { readonly ordered: readonly string[]; readonly unordered: readonly string[] }): void {
    for (const endpointId of ordered) if (!this.#ordered.has(endpointId)) this.#ordered.set(endpointId, '');
    this.#unordered = [...new Set([...this.#unordered, ...unordered])];
  }

  /** Looks at the next part; answers the endpoints at which something is due now. */
  async go(): Promise<readonly string[]> {
    const [next] = this.#ordered;
    if (next !== undefined) return await this.#goAlong(...next);
    if (this.#unordered.length === 0) return [];
    const found = await scatter(this.#db, this.#unordered);
    if (found.length < PART) this.#unordered = [];
    return found;
  }

  async #goAlong(endpointId: string, after: string): Promise<readonly string[]> {
    const { moved, last } = await moveHeadsUp(this.#db, { endpointId, after });
    if (last === null) this.#ordered.delete(endpointId);
    else this.#ordered.set(endpointId, last);
    return moved > 0 ? [endpointId] : [];
  }
}

async function moveHeadsUp(
  db: Queryable,
  { endpointId, after }: { endpointId: string; after: string },
): Promise<{ moved: number; last: string | null }> {
  const { rows } = await db.query<{ moved: number; last: string | null }>({
    name: preparedName(db, 'heads'),
    text: HEADS,
    values: [endpointId, after, PART],
  });
  return rows[0] ?? { moved: 0, last: null };
}

/** Answers the endpoint of each that is due now. */
async function scatter(db: Queryable, endpointIds: readonly string[]): Promise<readonly string[]> {
  const { rows } = await db.query<{ endpointId: string }>({
    name: preparedName(db, 'scatter'),
    text: SCATTER,
    values: [endpointIds, PART],
  });
  return rows.map(({ endpointId }) => endpointId);
}
