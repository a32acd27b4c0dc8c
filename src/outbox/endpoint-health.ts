import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { BY_INDEX, COUNT_LIMIT } from './backlog.ts';
import { type Health, NOT_ITS_OWN } from './health.ts';

export interface EndpointHealth {
  /** As the relay that leads wrote it down last. */
  readonly breaker: Health['breaker'];
  /** When one delivery tries an endpoint whose breaker is not closed; null where it is. */
  readonly probeAt: Date | null;
  /** Its first failure since it last took a delivery; null when it took the last. */
  readonly failingSince: Date | null;
  /** Deliveries that are to be attempted, or attempted again. */
  readonly waiting: number;
  readonly dead: number;
  /** There are more than `COUNT_LIMIT` of a kind, and at least so many. */
  readonly isCut: boolean;
  /** Among so many of the latest attempts, of all endpoints, success and failure were looked for. */
  readonly amongAttempts: number;
  readonly lastSuccess: { readonly at: Date; readonly statusCode: number; readonly durationMs: number } | null;
  /** Of the endpoint's doing: an attempt that a worker lost or broke off, or that a payload was not fit for, is none. */
  readonly lastFailure: { readonly at: Date; readonly errorClass: string; readonly error: string } | null;
}

/** As many are read in a tenth of a second. Attempts have no index by endpoint, because each one would have to be entered. */
const LATEST_ATTEMPTS = 100_000;
const LATEST = '(select * from outbox.attempts order by seq desc limit $2) as latest';

// Each of its own partial index: of several states at once it would be all rows.
const countOf = (state: string) =>
  `(select count(*)::integer from (select from outbox.deliveries where endpoint_id = $1 and ${state} limit $4) as found)`;

const HEALTH = `
  select coalesce(breaker, 'closed') as breaker, probe_at as "probeAt", failing_since as "failingSince",
    ${countOf("state = 'pending'")} + ${countOf("state = 'queued' and claimed_by is null")} as waiting,
    ${countOf("state = 'dead'")} as dead,
    to_json(success) as "lastSuccess", to_json(failure) as "lastFailure"
  from (values (1)) as one (n)
  left join outbox.endpoint_health on endpoint_health.endpoint_id = $1
  left join lateral (
    select started_at as at, status_code as "statusCode", duration_ms as "durationMs"
    from ${LATEST} where endpoint_id = $1 and error_class is null
    order by seq desc limit 1
  ) as success on true
  left join lateral (
    select started_at as at, error_class as "errorClass", error
    from ${LATEST} where endpoint_id = $1 and error_class <> all ($3)
    order by seq desc limit 1
  ) as failure on true`;

type Row = Omit<EndpointHealth, 'amongAttempts' | 'isCut'>;

/** How it does: as the relay judges it, what waits and what is dead, and how it went in the latest attempts. */
export function endpointHealth(
  pool: Pool,
  endpointId: string,
  { latest = LATEST_ATTEMPTS, countLimit = COUNT_LIMIT } = {},
): Promise<EndpointHealth> {
  const look = async (tx: Queryable): Promise<EndpointHealth> => {
    await tx.query(BY_INDEX);
    const { rows } = await tx.query<Row>(HEALTH, [endpointId, latest, [...NOT_ITS_OWN], countLimit]);
    const found = rows[0] as Row;
    return {
      ...found,
      isCut: found.waiting >= countLimit || found.dead >= countLimit,
      amongAttempts: latest,
      lastSuccess: withInstant(found.lastSuccess),
      lastFailure: withInstant(found.lastFailure),
    };
  };
  return withTransaction(pool, look, { mode: 'isolation level repeatable read read only' });
}

// In JSON an instant is a text.
function withInstant<T extends { readonly at: Date }>(attempt: T | null): T | null {
  return attempt && { ...attempt, at: new Date(attempt.at) };
}
