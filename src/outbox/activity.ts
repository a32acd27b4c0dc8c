import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { BY_INDEX } from './backlog.ts';

/** What ended within one part of the time that is looked at. */
export interface ActivityPart {
  readonly from: Date;
  readonly delivered: number;
  readonly failed: number;
  /** Of the attempts' duration; null: none ended. */
  readonly medianMs: number | null;
  readonly p95Ms: number | null;
  /** From announcement to first attempt, of those that began within it; null: none did. */
  readonly medianLagSeconds: number | null;
  readonly p95LagSeconds: number | null;
}

export interface Activity {
  readonly parts: readonly ActivityPart[];
  readonly partSeconds: number;
  readonly delivered: number;
  readonly failed: number;
  /** So many attempts were looked at, evenly over the time, and the numbers are estimates; null: all of them. */
  readonly sampleOf: number | null;
}

export interface ActivitySpan {
  readonly parts: number;
  readonly partSeconds: number;
}

/** Attempts are read in so many stretches of so many, each a probe of the index by number: all of them take a twentieth of a second. */
const SAMPLE = { stretches: 200, each: 25 };
/** Each needs its message, by two more probes. */
const LAGS = 1_000;

const ENDED_AT = `started_at + duration_ms * interval '1 millisecond'`;

// Attempts have no index by time, and are numbered as they end: the first that ended since is found by halving. Of a partitioned table
// each probe is one of every day that is kept.
const FIRST_SINCE = `
  with recursive known as (
    select min(seq) as least, max(seq) as most, statement_timestamp() - $1 * interval '1 second' as since from outbox.attempts
  ), halved (low, high) as (
    select least - 1, most + 1 from known where least is not null
    union all
    select coalesce(early.seq, low), case when early.seq is null then middle else high end
    from halved
    cross join lateral (select (low + high) / 2 as middle) as half
    left join lateral (
      select seq from (
        select seq, ${ENDED_AT} as ended_at from outbox.attempts where seq >= middle order by seq limit 1
      ) as next
      where ended_at < (select since from known) and seq < high
    ) as early on true
    where high - low > 1
  )
  select least, most, since, (select min(high) from halved) as first from known`;

const PARTS = `
  with stretches as (
    select number, $1::bigint + number * $3::bigint as first from generate_series(0, $2::integer - 1) as number
  ), looked_at as (
    select number, least($3, $9::bigint - stretches.first + 1)::float8 as of, attempts.*,
      row_number() over (partition by number order by seq) - 1 as nth, count(*) over (partition by number) as among
    from stretches
    cross join lateral (
      select seq, delivery_id, day, attempt, error_class is not null as is_failed, duration_ms, started_at, ${ENDED_AT} as ended_at
      from outbox.attempts
      where seq >= stretches.first and seq < stretches.first + $3::bigint
      order by seq
      limit $4::integer
    ) as attempts
  ), spans as (
    select number, begins, coalesce(lead(begins) over (order by number), (
        select max(${ENDED_AT}) from outbox.attempts where seq = $9
      )) as ends
    from (select number, min(ended_at) as begins from looked_at group by number) as stretch
  ), placed as (
    -- A stretch of which only the beginning was read stands for all of it, evenly over the time until the next.
    select is_failed, duration_ms,
      case when $3 > $4 then of / among else 1 end as weight,
      case when $3 > $4 then begins + (ends - begins) * (nth::float8 / among) else ended_at end as at
    from looked_at join spans using (number)
  ), ended as (
    select floor(extract(epoch from at - $5::timestamptz) / $6::integer)::integer as part,
      sum(weight) filter (where not is_failed) as delivered, sum(weight) filter (where is_failed) as failed,
      percentile_cont(array[0.5, 0.95]) within group (order by duration_ms) as durations
    from placed
    group by 1
  ), lags as (
    select floor(extract(epoch from started_at - $5::timestamptz) / $6::integer)::integer as part,
      percentile_cont(array[0.5, 0.95]) within group (order by extract(epoch from started_at - announced_at)::float8) as lags
    from looked_at
    cross join lateral (
      select greatest(outbox.created_at, deliver_after) as announced_at
      from outbox.deliveries join public.outbox on outbox.id = deliveries.message_id and outbox.day = looked_at.day
      where deliveries.id = looked_at.delivery_id and deliveries.day = looked_at.day and isfinite(outbox.created_at)
      limit 1
    ) as message
    where attempt = 1 and seq % $7::integer = 0
    group by 1
  )
  select $5::timestamptz + number * $6::integer * interval '1 second' as "from",
    round(coalesce(delivered, 0))::float8 as delivered, round(coalesce(failed, 0))::float8 as failed,
    durations[1] as "medianMs", durations[2] as "p95Ms", lags[1] as "medianLagSeconds", lags[2] as "p95LagSeconds"
  from generate_series(0, $8::integer - 1) as number
  left join ended on ended.part = number
  left join lags on lags.part = number
  order by number`;

/**
 * How many attempts ended of late, how long they took, and how long after the announcement the first ones began: in equal parts of the
 * time until now. Reads no more than 5,000 attempts, however many there were.
 */
export function readActivity(
  pool: Pool,
  span: ActivitySpan,
  { sample = SAMPLE }: { sample?: typeof SAMPLE } = {},
): Promise<Activity> {
  const read = async (tx: Queryable): Promise<Activity> => {
    await tx.query(BY_INDEX);
    const bounds = await boundsOf(tx, span);
    const count = bounds.most === null ? 0 : Number(bounds.most - bounds.first + 1n);
    const isSampled = count > sample.stretches * sample.each;
    const stride = isSampled ? Math.ceil(count / sample.stretches) : sample.each;
    const stretches = Math.ceil(count / stride);
    const lagEvery = Math.max(1, Math.ceil(Math.min(count, sample.stretches * sample.each) / LAGS));
    const { rows } = await tx.query<ActivityPart>(PARTS, [
      bounds.first,
      stretches,
      stride,
      sample.each,
      bounds.since,
      span.partSeconds,
      lagEvery,
      span.parts,
      bounds.most,
    ]);
    const sum = (of: (part: ActivityPart) => number) => rows.reduce((total, part) => total + of(part), 0);
    return {
      parts: rows,
      partSeconds: span.partSeconds,
      delivered: sum(({ delivered }) => delivered),
      failed: sum(({ failed }) => failed),
      sampleOf: isSampled ? sample.stretches * sample.each : null,
    };
  };
  return withTransaction(pool, read, { mode: 'isolation level repeatable read read only' });
}

async function boundsOf(tx: Queryable, { parts, partSeconds }: ActivitySpan) {
  const { rows } = await tx.query<{ most: bigint | null; first: bigint | null; since: Date }>(FIRST_SINCE, [
    parts * partSeconds,
  ]);
  const { most = null, first = null, since = new Date() } = rows[0] ?? {};
  return { most, first: first ?? 0n, since };
}

/** How it went with an endpoint last, among the latest attempts of all. */
export interface LastOutcome {
  readonly endpointId: string;
  readonly isDelivered: boolean;
  readonly at: Date;
  readonly statusCode: number | null;
  readonly error: string | null;
}

/** Attempts have no index by endpoint: so many of the latest are looked through. */
export const LATEST_ATTEMPTS = 10_000;

const LAST_OUTCOMES = `
  select distinct on (endpoint_id, error_class is null) endpoint_id as "endpointId", error_class is null as "isDelivered",
    started_at as at, status_code as "statusCode", error
  from (
    select seq, endpoint_id, error_class, error, status_code, started_at from outbox.attempts order by seq desc limit ${LATEST_ATTEMPTS}
  ) as latest
  order by endpoint_id, error_class is null, seq desc`;

/** Of each endpoint that any of the latest attempts was of: the last that was delivered, and the last that was not. */
export async function lastOutcomes(db: Queryable): Promise<readonly LastOutcome[]> {
  return (await db.query<LastOutcome>(LAST_OUTCOMES)).rows;
}

export interface LatestAttempt {
  readonly seq: bigint;
  readonly deliveryId: bigint;
  readonly attempt: number;
  readonly startedAt: Date;
  readonly durationMs: number;
  readonly statusCode: number | null;
  /** null: it was answered 2xx. */
  readonly errorClass: string | null;
  readonly error: string | null;
}

const LATEST_OF = `
  select seq, delivery_id as "deliveryId", attempt, started_at as "startedAt", duration_ms as "durationMs",
    status_code as "statusCode", error_class as "errorClass", error
  from (
    select seq, endpoint_id, delivery_id, attempt, started_at, duration_ms, status_code, error_class, error
    from outbox.attempts order by seq desc limit ${LATEST_ATTEMPTS}
  ) as latest
  where endpoint_id = $1
  order by seq desc
  limit $2`;

/** The last attempts of one endpoint among the latest of all, the newest first. */
export async function latestAttemptsOf(
  db: Queryable,
  { endpointId, limit }: { readonly endpointId: string; readonly limit: number },
): Promise<readonly LatestAttempt[]> {
  return (await db.query<LatestAttempt>(LATEST_OF, [endpointId, limit])).rows;
}
