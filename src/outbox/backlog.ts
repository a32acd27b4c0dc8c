import { findHorizonHolders, type HorizonHolder } from '../db/horizon.ts';
import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { IS_DELETED } from './delivery-filter.ts';
import type { Health } from './health.ts';
import { WORKER_LOCK } from './presence.ts';
import { LEADS } from './relay.ts';
import { holdersOf } from './session-lock.ts';

/** Of deliveries that are not delivered. */
export interface BacklogCounts {
  readonly pending: number;
  readonly queued: number;
  readonly delivering: number;
  readonly dead: number;
}

export interface EndpointBacklog extends BacklogCounts {
  readonly id: string;
  readonly url: string;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  readonly breaker: Health['breaker'];
  /** When one delivery tries an endpoint whose breaker is open; null where it is closed. */
  readonly probeAt: Date | null;
}

/** What is still to be done and by whom: found by partial indexes alone, however much was delivered. */
export interface Backlog {
  readonly unprocessed: number;
  /** Since the announcement of the message that has waited longest for an enabled endpoint, in the order of fan-out; null: none waits. */
  readonly oldestUndeliveredSeconds: number | null;
  /**
   * For how long something has been due that nobody attempts: a delivery for an enabled endpoint whose breaker is closed, or a message that
   * is no delivery yet, while there is such an endpoint. What waits for its next attempt, or behind what does, is not.
   */
  readonly overdueSeconds: number;
  /** There are more than `COUNT_LIMIT` of a kind: those of the oldest days were counted, and there are at least so many. */
  readonly isCut: boolean;
  readonly endpoints: readonly EndpointBacklog[];
  /** Of all that were deleted together: what died with them is missing from no total. */
  readonly deletedEndpoints: BacklogCounts;
  /** The session of the relay that leads. */
  readonly relay: { readonly pid: number; readonly address: string | null; readonly since: Date | null } | null;
  readonly workers: number;
  /** How many whole days from today have partitions of their own, today included. */
  readonly daysAhead: number;
}

/** So many entries of an index that was never vacuumed are counted in a quarter of a second; more say no more to whoever looks. */
export const COUNT_LIMIT = 250_000;
/** A shorter transaction holds back nothing that anybody could notice. */
const HORIZON_SECONDS = 1;

const UNPROCESSED = `
  select
    (select count(*) from (select from public.outbox where processed_at is null limit $1) as found)::float8 as unprocessed,
    (select extract(epoch from clock_timestamp() - created_at) from public.outbox
     where processed_at is null and isfinite(created_at) order by seq limit 1)::float8 as "oldestSeconds"`;

const BY_ENDPOINT = `
  with pending as (
    select endpoint_id, count(*) as pending, min(id) as first
    from (select endpoint_id, id from outbox.deliveries where state = 'pending' limit $1) as found
    group by endpoint_id
  ), queued as (
    select endpoint_id, count(*) filter (where claimed_by is null) as queued, count(claimed_by) as delivering, min(id) as first
    from outbox.deliveries where state = 'queued'
    group by endpoint_id
  ), dead as (
    select endpoint_id, count(*) as dead
    from (select endpoint_id from outbox.deliveries where state = 'dead' limit $1) as found
    group by endpoint_id
  ), counted as (
    select endpoint_id, sum(pending) as pending, sum(queued) as queued, sum(delivering) as delivering, sum(dead) as dead, min(first) as first
    from (
      select endpoint_id, pending, 0 as queued, 0 as delivering, 0 as dead, first from pending
      union all select endpoint_id, 0, queued, delivering, 0, first from queued
      union all select endpoint_id, 0, 0, 0, dead, null from dead
    ) as kinds
    group by endpoint_id
  )
  select endpoints.id, ${IS_DELETED} as "isDeleted", url, enabled, disabled_reason as "disabledReason", coalesce(breaker, 'closed') as breaker, probe_at as "probeAt",
    coalesce(pending, 0)::float8 as pending, coalesce(queued, 0)::float8 as queued, coalesce(delivering, 0)::float8 as delivering,
    coalesce(dead, 0)::float8 as dead, first::text as first
  from outbox.endpoints
  full join counted on counted.endpoint_id = endpoints.id
  left join outbox.endpoint_health on endpoint_health.endpoint_id = endpoints.id
  where counted.endpoint_id is not null or endpoints.deleted_at is null
  order by endpoints.created_at, endpoints.id`;

const ANNOUNCED = `
  select extract(epoch from clock_timestamp() - outbox.created_at)::float8 as seconds
  from outbox.deliveries join public.outbox on outbox.id = deliveries.message_id and outbox.day = deliveries.day
  where deliveries.id = $1 and isfinite(outbox.created_at)`;

/** SQL: how many workers are there, of all processes. @param lock the parameter that names their lock */
const workersOf = (lock: string) => `select count(*)::integer as workers from (${holdersOf(lock)}) as holders`;

const AT_WORK = `
  select
    (${workersOf('$2')}) as workers,
    (select max(to_date(right(relname, 8), 'YYYYMMDD')) - (clock_timestamp() at time zone 'UTC')::date + 1
     from pg_inherits join pg_class on pg_class.oid = inhrelid
     where inhparent = 'outbox.attempts'::regclass and relname ~ '^attempts_\\d{8}$') as "daysAhead",
    leader.pid, host(client_addr) as address, backend_start as since
  from (select) as once
  left join (${holdersOf('$1')}) as leader on true`;

interface FoundBacklog extends EndpointBacklog {
  readonly first: string | null;
  readonly isDeleted: boolean;
}

/** So many of an endpoint's deliveries that are due are looked at for one that waits behind no other of its line. */
const LOOKED_AT = 100;

// One probe of the index for each endpoint that is sent to. While all of them have an open breaker messages are left to wait for these.
const OVERDUE = `
  with sent_to as (
    select id from outbox.endpoints left join outbox.endpoint_health on endpoint_id = id
    where enabled and deleted_at is null and coalesce(breaker, 'closed') = 'closed'
  ), waits as (
    select created_at as since from (
      select created_at from public.outbox where processed_at is null and isfinite(created_at) order by seq limit 1
    ) as message
    where exists (select from sent_to) or not exists (select from outbox.endpoints where enabled and deleted_at is null)
    union all
    select due.since
    from sent_to
    cross join lateral (
      select due_at as since
      from (
        select id, ordering_key, due_at from outbox.deliveries
        where endpoint_id = sent_to.id and state = 'pending' and due_at <= clock_timestamp()
        order by due_at
        limit ${LOOKED_AT}
      ) as first
      where ordering_key is null or not exists (
        select from outbox.deliveries as earlier
        where earlier.endpoint_id = sent_to.id and earlier.ordering_key = first.ordering_key
          and earlier.state in ('pending', 'queued') and earlier.id < first.id
      )
      order by due_at
      limit 1
    ) as due
  )
  select coalesce(greatest(extract(epoch from clock_timestamp() - min(since)), 0), 0)::float8 as seconds from waits`;

/** A plan made before anybody counted a new day's rows would read all of them; and who asks is told when somebody holds a whole table. */
export const BY_INDEX = `set local enable_seqscan = off; set local enable_bitmapscan = off; set local lock_timeout = '5s'`;

/** @throws AppError DB_* */
export function readBacklog(pool: Pool): Promise<Backlog> {
  return withTransaction(pool, backlogOf, { mode: 'isolation level repeatable read read only' });
}

export async function backlogOf(tx: Queryable): Promise<Backlog> {
  await tx.query(BY_INDEX);
  const messages = (await tx.query<{ unprocessed: number; oldestSeconds: number | null }>(UNPROCESSED, [COUNT_LIMIT]))
    .rows[0];
  const { rows } = await tx.query<FoundBacklog>(BY_ENDPOINT, [COUNT_LIMIT]);
  const firsts = rows.flatMap(({ enabled, first }) => (enabled && first !== null ? BigInt(first) : []));
  const oldest = [messages?.oldestSeconds ?? null, await announcedFor(tx, firsts)].filter((age) => age !== null);
  const { pending, dead } = sumOf(rows);
  const unprocessed = messages?.unprocessed ?? 0;
  return {
    unprocessed,
    oldestUndeliveredSeconds: oldest.length === 0 ? null : Math.max(...oldest),
    overdueSeconds: (await tx.query<{ seconds: number }>(OVERDUE)).rows[0]?.seconds ?? 0,
    isCut: [unprocessed, pending, dead].some((count) => count >= COUNT_LIMIT),
    endpoints: rows
      .filter(({ isDeleted }) => !isDeleted)
      .map(({ first: _first, isDeleted: _isDeleted, ...endpoint }) => endpoint),
    deletedEndpoints: sumOf(rows.filter(({ isDeleted }) => isDeleted)),
    ...(await whoIsAtWork(tx)),
  };
}

/** How many workers are there, of all processes. */
export async function countWorkers(db: Queryable): Promise<number> {
  return (await db.query<{ workers: number }>(workersOf('$1'), [WORKER_LOCK])).rows[0]?.workers ?? 0;
}

async function announcedFor(tx: Queryable, deliveryIds: readonly bigint[]): Promise<number | null> {
  const [oldest] = deliveryIds.toSorted((a, b) => (a < b ? -1 : 1));
  if (oldest === undefined) return null;
  return (await tx.query<{ seconds: number }>(ANNOUNCED, [oldest])).rows[0]?.seconds ?? null;
}

/** Asked of the primary: locks are not there on a replica. */
export async function whoIsAtWork(db: Queryable): Promise<Pick<Backlog, 'relay' | 'workers' | 'daysAhead'>> {
  const { rows } = await db.query<{
    workers: number;
    daysAhead: number | null;
    pid: number | null;
    address: string | null;
    since: Date | null;
  }>(AT_WORK, [LEADS.name, WORKER_LOCK]);
  const found = rows[0];
  return {
    workers: found?.workers ?? 0,
    daysAhead: Math.max(0, found?.daysAhead ?? 0),
    relay: found?.pid == null ? null : { pid: found.pid, address: found.address, since: found.since },
  };
}

/** What holds the horizon back and has done so for a second: oldest first. */
export async function horizonHolders(db: Queryable): Promise<readonly HorizonHolder[]> {
  return (await findHorizonHolders(db, HORIZON_SECONDS)).holders;
}

/**
 * Numbers of deliveries by what they wait for: `paused` are pending at a disabled endpoint, and nobody attempts them. Those of deleted
 * endpoints are among them.
 */
export function countByState({ endpoints, deletedEndpoints }: Pick<Backlog, 'endpoints' | 'deletedEndpoints'>) {
  const ofEnabled = sumOf(endpoints.filter(({ enabled }) => enabled));
  const { pending, queued, delivering, dead } = sumOf([...endpoints, deletedEndpoints]);
  return { pending: ofEnabled.pending, paused: pending - ofEnabled.pending, queued, delivering, dead };
}

function sumOf(counts: readonly BacklogCounts[]): BacklogCounts {
  const sum = (of: (each: BacklogCounts) => number) => counts.reduce((total, each) => total + of(each), 0);
  return {
    pending: sum(({ pending }) => pending),
    queued: sum(({ queued }) => queued),
    delivering: sum(({ delivering }) => delivering),
    dead: sum(({ dead }) => dead),
  };
}
