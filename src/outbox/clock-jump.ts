import type { Queryable } from '../db/pool.ts';
import { preparedName } from './prepared.ts';
import type { ClockJump } from './server-clock.ts';

export interface Followed {
  /** How many leases end, and how many deliveries are due, when they were meant to. */
  readonly leases: number;
  readonly deliveries: number;
}

/** Behind its own by less than this the clock makes nobody wait for longer. */
const BEHIND_MS = 1_000;
/** In one statement, which must not take as long as one that nobody answers. */
const MOVED_AT_ONCE = 5_000;

// What was valid when the clock jumped; not what was claimed since, which is by the new time. Should it be handed back, it is due.
const LEASES = `
  update outbox.deliveries
  set lease_until = lease_until + $1 * interval '1 millisecond', due_at = least(due_at, $2::timestamptz)
  where state = 'queued' and lease_until > $2::timestamptz - $1 * interval '1 millisecond'
    and ($1 < 0 or lease_until < clock_timestamp())`;

// Else it would seem to begin after what is announced from now on.
const ENDPOINTS = 'update outbox.endpoints set created_at = $1 where created_at > $1';

// Up the index, from where the part before it ended: what was moved is below that. When a message is to be delivered is said by a
// calendar, and stays. A wait that began in the moment before the jump was noticed is cut short, which is one attempt too early.
const DUE = `
  with waiting as (
    select id, day, message_id, endpoint_id, due_at
    from outbox.deliveries
    where state = 'pending' and due_at > $2 and (endpoint_id, due_at, id) > ($3::uuid, $4::timestamptz, $5::bigint)
    order by endpoint_id, due_at, id
    limit ${MOVED_AT_ONCE}
    for no key update skip locked
  ), moved as (
    update outbox.deliveries
    set due_at = greatest(waiting.due_at + $1 * interval '1 millisecond', outbox.deliver_after)
    from waiting join public.outbox on outbox.id = waiting.message_id and outbox.day = waiting.day
    where deliveries.id = waiting.id and deliveries.day = waiting.day
    returning 1
  )
  select endpoint_id as "endpointId", due_at::text as "dueAt", id, (select count(*)::integer from moved) as moved
  from waiting
  order by endpoint_id desc, waiting.due_at desc, id desc
  limit 1`;

// The newest by their order, whatever their instants say.
const NEWEST = `
  select (extract(epoch from created_at - clock_timestamp()) * 1000)::float8 as "aheadMs", clock_timestamp() as now
  from outbox.deliveries
  order by id desc
  limit 1`;

/** What nobody saw, as while all workers stood still: the newest delivery is of the future, so that the clock went back since. */
export async function findSetBack(db: Queryable): Promise<ClockJump | undefined> {
  const { rows } = await db.query<{ aheadMs: number; now: Date }>(NEWEST);
  const [newest] = rows;
  if (newest === undefined || newest.aheadMs < BEHIND_MS) return undefined;
  return { byMs: -Math.round(newest.aheadMs), since: newest.now };
}

// So that whoever leads next does not find the same jump.
const NEWEST_IS_OF_NOW = `
  update outbox.deliveries set created_at = $1
  from (select id, day from outbox.deliveries order by id desc limit 1) as newest
  where deliveries.id = newest.id and deliveries.day = newest.day and created_at > $1`;

/**
 * The server's clock jumped: what was to end or to be due in a while is still to do so in that while. Where it went ahead, what waits is
 * due sooner, and stays so; where it went back, nothing waits for it to come there again. Whoever is struck while he follows has not moved
 * what waits: it is moved once, and not a part of it twice. What somebody else holds at that moment is not moved.
 * @param session a single connection, in no transaction
 */
export async function followJump(session: Queryable, { byMs, since }: ClockJump): Promise<Followed> {
  const { rowCount } = await session.query(LEASES, [byMs, since]);
  const leases = rowCount ?? 0;
  if (byMs > 0) return { leases, deliveries: 0 };
  await session.query(ENDPOINTS, [since]);
  await session.query('begin');
  try {
    const deliveries = await moveDue(session, { byMs, since });
    await session.query(NEWEST_IS_OF_NOW, [since]);
    await session.query('commit');
    return { leases, deliveries };
  } catch (error) {
    // A connection that cannot do that is lost, and its transaction with it.
    await session.query('rollback').catch(() => undefined);
    throw error;
  }
}

async function moveDue(tx: Queryable, { byMs, since }: ClockJump): Promise<number> {
  let deliveries = 0;
  let last = { endpointId: '00000000-0000-0000-0000-000000000000', dueAt: '-infinity', id: 0n };
  for (;;) {
    const { rows } = await tx.query<typeof last & { moved: number }>({
      name: preparedName(tx, 'follow-jump'),
      text: DUE,
      values: [byMs, since, last.endpointId, last.dueAt, last.id],
    });
    if (rows[0] === undefined) return deliveries;
    last = rows[0];
    deliveries += rows[0].moved;
  }
}
