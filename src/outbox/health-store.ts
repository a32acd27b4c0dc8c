import type { Queryable } from '../db/pool.ts';
import { HEALTHY, type Health } from './health.ts';

interface HealthRow {
  readonly endpointId: string;
  readonly breaker: Health['breaker'];
  readonly failuresInRow: number;
  readonly failingSince: Date | null;
  readonly probeInMs: number;
  readonly openForMs: number;
}

/** How endpoints did when the relay that led before last wrote it down. Nobody waits for longer than it said, whatever the clock did since. */
export async function readHealth(db: Queryable, now: number): Promise<ReadonlyMap<string, Health>> {
  const { rows } = await db.query<HealthRow>(
    `select endpoint_id as "endpointId", case when breaker = 'closed' then 'closed' else 'open' end as breaker,
       failures_in_row as "failuresInRow", failing_since as "failingSince",
       coalesce(extract(epoch from least(probe_at - statement_timestamp(), probe_at - opened_at)) * 1000, 0)::float8 as "probeInMs",
       coalesce(extract(epoch from probe_at - opened_at) * 1000, 0)::float8 as "openForMs"
     from outbox.endpoint_health`,
  );
  return new Map(
    rows.map(({ endpointId, breaker, failuresInRow, failingSince, probeInMs, openForMs }) => [
      endpointId,
      {
        ...HEALTHY,
        breaker,
        failuresInRow,
        failingSince: failingSince?.getTime() ?? null,
        probeAt: now + probeInMs,
        openForMs,
      },
    ]),
  );
}

const WRITE = `
  insert into outbox.endpoint_health (endpoint_id, breaker, failures_in_row, failing_since, opened_at, probe_at)
  select health.endpoint_id, health.breaker, health.failures_in_row, to_timestamp(health.failing_since / 1000),
    case when health.breaker <> 'closed' then statement_timestamp() + (probe_in_ms - open_for_ms) * interval '1 millisecond' end,
    case when health.breaker <> 'closed' then statement_timestamp() + probe_in_ms * interval '1 millisecond' end
  from unnest($1::uuid[], $2::text[], $3::integer[], $4::float8[], $5::float8[], $6::float8[])
    as health (endpoint_id, breaker, failures_in_row, failing_since, probe_in_ms, open_for_ms)
  join outbox.endpoints on endpoints.id = health.endpoint_id
  on conflict (endpoint_id) do update
  set breaker = excluded.breaker, failures_in_row = excluded.failures_in_row, failing_since = excluded.failing_since,
    opened_at = excluded.opened_at, probe_at = excluded.probe_at, changed_at = clock_timestamp()`;

/** Writes down how endpoints do, for whoever looks, and for the relay that leads next. */
export async function writeHealth(db: Queryable, health: ReadonlyMap<string, Health>, now: number): Promise<void> {
  const column = <T>(of: (one: Health) => T) => [...health.values()].map(of);
  await db.query({
    name: 'write-health',
    text: WRITE,
    values: [
      [...health.keys()],
      column(({ breaker }) => breaker),
      column(({ failuresInRow }) => failuresInRow),
      column(({ failingSince }) => failingSince),
      column(({ probeAt }) => probeAt - now),
      column(({ openForMs }) => openForMs),
    ],
  });
}

const DISABLE = `
  update outbox.endpoints
  set enabled = false, disabled_at = clock_timestamp(), disabled_reason = $2
  where id = $1 and enabled`;

/** Disables an endpoint that took nothing for so long. */
export async function disableHopeless(db: Queryable, endpointId: string, days: number): Promise<boolean> {
  const { rowCount } = await db.query(DISABLE, [endpointId, `nothing but failures for ${days} days`]);
  return rowCount === 1;
}
