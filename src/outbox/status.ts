import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { type Backlog, backlogOf, countByState, type EndpointBacklog } from './backlog.ts';

export interface EndpointStatus extends Pick<EndpointBacklog, 'id' | 'url' | 'enabled' | 'disabledReason' | 'breaker'> {
  readonly waiting: number;
  /** Pending, and not to be attempted before the endpoint is enabled again. */
  readonly paused: number;
  /** null where it was not counted. */
  readonly delivered: number | null;
  readonly dead: number;
  /** Of the last attempts of all endpoints. */
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
  /** Since the announcement of the message that has waited longest for an enabled endpoint; null when none does. */
  readonly oldestUndeliveredSeconds: number | null;
  /** Who leads, and how many workers there are. */
  readonly relay: Backlog['relay'];
  readonly workers: number;
  readonly endpoints: readonly EndpointStatus[];
  /** Of all that were deleted together: the totals above have these as well. */
  readonly deletedEndpoints: Pick<EndpointStatus, 'waiting' | 'delivered' | 'dead'>;
  /** Messages, delivered and attempts are as many as the server thinks that there are. What waits and what is dead is counted always. */
  readonly isEstimate: boolean;
  /** So much waits that it was not counted to its end. */
  readonly isCut: boolean;
}

/** Tables of so many bytes are counted in a tenth of a second. */
const COUNTED_BELOW_BYTES = 64 * 1024 * 1024;
const LAST_ATTEMPTS = 10_000;

const SIZES = `
  select sum(pg_relation_size(oid))::float8 as bytes,
    sum(rows) filter (where parent = 'public.outbox'::regclass)::float8 as messages,
    sum(rows) filter (where parent = 'outbox.deliveries'::regclass)::float8 as deliveries,
    sum(rows) filter (where parent = 'outbox.attempts'::regclass)::float8 as attempts
  from (
    select pg_class.oid, inhparent as parent, round(case when relpages > 0
      then greatest(reltuples, 0) * pg_relation_size(pg_class.oid) / current_setting('block_size')::integer / relpages else 0 end) as rows
    from pg_inherits join pg_class on pg_class.oid = inhrelid
    where inhparent in ('public.outbox'::regclass, 'outbox.deliveries'::regclass, 'outbox.attempts'::regclass)
  ) as partitions`;

const TOTALS = `
  select (select count(*) from public.outbox)::float8 as messages, (select count(*) from outbox.attempts)::float8 as attempts`;

const DELIVERED = `
  select endpoint_id as "endpointId", count(*)::float8 as delivered from outbox.deliveries where state = 'delivered' group by endpoint_id`;

const LAST_ERRORS = `
  select distinct on (endpoint_id) endpoint_id as "endpointId", error
  from (select endpoint_id, error, seq from outbox.attempts order by seq desc limit ${LAST_ATTEMPTS}) as last
  where error is not null
  order by endpoint_id, seq desc`;

/**
 * Where everything stands, as of one moment.
 * @param options.exact counts what was delivered too, however much that is; else large tables are estimated
 * @throws AppError DB_*
 */
export function outboxStatus(pool: Pool, options: { exact?: boolean } = {}): Promise<OutboxStatus> {
  return withTransaction(pool, (tx) => statusOf(tx, options.exact === true), {
    mode: 'isolation level repeatable read read only',
  });
}

async function statusOf(tx: Queryable, exact: boolean): Promise<OutboxStatus> {
  const backlog = await backlogOf(tx);
  const states = countByState(backlog);
  const { rows: errors } = await tx.query<{ endpointId: string; error: string }>(LAST_ERRORS);
  const lastErrors = new Map(errors.map(({ endpointId, error }) => [endpointId, error]));
  const totals = await countTotals(tx, { exact, undelivered: Object.values(states).reduce((a, b) => a + b, 0) });
  return {
    messages: { total: totals.messages, unprocessed: backlog.unprocessed },
    deliveries: { ...states, delivered: totals.delivered },
    attempts: totals.attempts,
    oldestUndeliveredSeconds: backlog.oldestUndeliveredSeconds,
    relay: backlog.relay,
    workers: backlog.workers,
    endpoints: backlog.endpoints.map((endpoint) => endpointStatus(endpoint, lastErrors, totals.byEndpoint)),
    deletedEndpoints: deletedStatus(backlog, totals),
    isEstimate: totals.byEndpoint === undefined,
    isCut: backlog.isCut,
  };
}

interface Totals {
  readonly messages: number;
  readonly delivered: number;
  readonly attempts: number;
  /** What was delivered to each; undefined where it was not counted. */
  readonly byEndpoint: ReadonlyMap<string, number> | undefined;
}

async function countTotals(tx: Queryable, options: { exact: boolean; undelivered: number }): Promise<Totals> {
  const size = (await tx.query<{ bytes: number; messages: number; deliveries: number; attempts: number }>(SIZES))
    .rows[0];
  if (!options.exact && size !== undefined && size.bytes > COUNTED_BELOW_BYTES) {
    return { ...size, delivered: Math.max(0, size.deliveries - options.undelivered), byEndpoint: undefined };
  }
  await tx.query('set local enable_seqscan = on');
  const counted = (await tx.query<{ messages: number; attempts: number }>(TOTALS)).rows[0];
  const { rows } = await tx.query<{ endpointId: string; delivered: number }>(DELIVERED);
  return {
    messages: counted?.messages ?? 0,
    attempts: counted?.attempts ?? 0,
    delivered: rows.reduce((sum, { delivered }) => sum + delivered, 0),
    byEndpoint: new Map(rows.map(({ endpointId, delivered }) => [endpointId, delivered])),
  };
}

function deletedStatus(
  { endpoints, deletedEndpoints }: Backlog,
  { delivered, byEndpoint }: Totals,
): OutboxStatus['deletedEndpoints'] {
  const { pending, queued, delivering, dead } = deletedEndpoints;
  const ofOthers = endpoints.reduce((sum, { id }) => sum + (byEndpoint?.get(id) ?? 0), 0);
  return {
    waiting: pending + queued + delivering,
    delivered: byEndpoint === undefined ? null : delivered - ofOthers,
    dead,
  };
}

function endpointStatus(
  { id, url, enabled, disabledReason, breaker, ...counts }: EndpointBacklog,
  lastErrors: ReadonlyMap<string, string>,
  delivered: ReadonlyMap<string, number> | undefined,
): EndpointStatus {
  return {
    ...{ id, url, enabled, disabledReason, breaker },
    waiting: counts.queued + counts.delivering + (enabled ? counts.pending : 0),
    paused: enabled ? 0 : counts.pending,
    delivered: delivered === undefined ? null : (delivered.get(id) ?? 0),
    dead: counts.dead,
    lastError: lastErrors.get(id) ?? null,
  };
}
