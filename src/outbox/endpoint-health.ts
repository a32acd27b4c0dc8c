import type { Queryable } from '../db/pool.ts';
import { NOT_ITS_OWN } from './health.ts';

export interface EndpointHealth {
  /** Deliveries that are to be attempted, or attempted again. */
  readonly waiting: number;
  /** Among so many of the latest attempts, of all endpoints, success and failure were looked for. */
  readonly amongAttempts: number;
  readonly lastSuccess: { readonly at: Date; readonly statusCode: number; readonly durationMs: number } | null;
  /** Of the endpoint's doing: an attempt that a worker lost or broke off, or that a payload was not fit for, is none. */
  readonly lastFailure: { readonly at: Date; readonly errorClass: string; readonly error: string } | null;
}

/** As many are read in a tenth of a second. Attempts have no index by endpoint, because each one would have to be entered. */
const LATEST_ATTEMPTS = 100_000;
const LATEST = '(select * from outbox.attempts order by seq desc limit $2) as latest';

const HEALTH = `
  select
    (select count(*)::integer from outbox.deliveries
     where endpoint_id = $1 and (state = 'pending' or state = 'queued' and claimed_by is null)) as waiting,
    to_json(success) as "lastSuccess", to_json(failure) as "lastFailure"
  from (values (1)) as one (n)
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

/** How it went of late, from the latest attempts. */
export async function endpointHealth(
  db: Queryable,
  endpointId: string,
  { latest = LATEST_ATTEMPTS } = {},
): Promise<EndpointHealth> {
  const { rows } = await db.query<EndpointHealth>(HEALTH, [endpointId, latest, [...NOT_ITS_OWN]]);
  const { waiting = 0, lastSuccess = null, lastFailure = null } = rows[0] ?? {};
  return {
    waiting,
    amongAttempts: latest,
    lastSuccess: withInstant(lastSuccess),
    lastFailure: withInstant(lastFailure),
  };
}

// In JSON an instant is a text.
function withInstant<T extends { readonly at: Date }>(attempt: T | null): T | null {
  return attempt && { ...attempt, at: new Date(attempt.at) };
}
