import { setTimeout as pause } from 'node:timers/promises';
import type { Pool } from '../db/pool.ts';
import { withStatement } from '../db/transaction.ts';
import { NOTIFY_CHANGED } from './endpoints.ts';
import { byDay } from './job.ts';
import { moveLinesUp } from './lines.ts';

/** One transaction's: so long nobody waits, and so much Ctrl-C waits for. */
const BATCH = 500;
const SECOND_MS = 1_000;

/** A delivery by its id and its partition. */
export interface DeliveryKey {
  readonly deliveryId: string;
  readonly day: string;
}

/**
 * SQL, of deliveries `chosen` to be opened: when each is due that is wanted at `wanted_at`. At no time, where another of its line is in
 * front of it, whether that is open already or opened beside it: admission would ask after each of them whether it is its turn (lines.ts).
 * A `chosen` without an `id` is a new one, behind all.
 */
export const DUE_AT = `
  case when chosen.line is null or (
    row_number() over (partition by chosen.endpoint_id, chosen.line order by chosen.id nulls last, chosen.seq) = 1
    and not exists (
      select from outbox.deliveries as front
      where front.endpoint_id = chosen.endpoint_id and front.ordering_key = chosen.line and front.state in ('pending', 'queued')
        and (chosen.id is null or front.id < chosen.id)
    )
  ) then chosen.wanted_at end`;

/** SQL: what a delivery becomes that is to be attempted once more, of a row `lined` that says when. Numbers of attempts go on. */
export const REOPENED = `
  state = 'pending',
  schedule_from = case when deliveries.state = 'pending' then deliveries.attempt - 1 else deliveries.attempt end,
  attempt = deliveries.attempt + (deliveries.state <> 'pending')::integer,
  due_at = lined.due_at,
  finished_at = null`;

/** SQL, of how many there are in `changed`: tells the relay, when this commits, that there is something to look at. */
export const notifyIfAny = (changed: string) =>
  `(select pg_notify('liventix_outbox', 'changed') where exists (select from ${changed}))`;

// What somebody holds he is moving himself, so it is passed over. To wait for it could end in a deadlock with the relay, which admits
// in an order of its own. Nobody would attempt what goes to a deleted endpoint, and its day could never be dropped.
const REOPEN = `
  with chosen as (
    select deliveries.id, outbox.seq, deliveries.endpoint_id, case when endpoints.ordered then deliveries.ordering_key end as line,
      greatest(statement_timestamp(), outbox.deliver_after) as wanted_at
    from outbox.deliveries
    join public.outbox on outbox.day = $1 and outbox.id = deliveries.message_id
    join outbox.endpoints on endpoints.id = deliveries.endpoint_id and endpoints.deleted_at is null
    where deliveries.day = $1 and deliveries.id = any ($2::bigint[])
      and (deliveries.state = 'dead'
        or (deliveries.state = 'pending' and deliveries.due_at > greatest(statement_timestamp(), outbox.deliver_after)))
    order by deliveries.id
    for no key update of deliveries skip locked
  ), lined as (
    select chosen.id, ${DUE_AT} as due_at from chosen
  ), reopened as (
    update outbox.deliveries set ${REOPENED}
    from lined
    where deliveries.day = $1 and deliveries.id = lined.id
    returning deliveries.id, deliveries.due_at
  )
  select (select count(*) from reopened)::integer as reopened, array(select id from reopened where due_at is null) as behind,
    ${notifyIfAny('reopened')}`;

/**
 * Lets dead deliveries, and pending ones that are due later, be attempted now: each day's in one statement.
 * @returns how many; none of them twice, whatever runs beside
 */
export async function reopen(pool: Pool, keys: readonly DeliveryKey[]): Promise<number> {
  let reopened = 0;
  for (const [day, ofDay] of byDay(keys)) {
    const ids = ofDay.map(({ deliveryId }) => deliveryId);
    const { rows } = await withStatement(pool, (client) =>
      client.query<{ reopened: number; behind: readonly bigint[] }>(REOPEN, [day, ids]),
    );
    reopened += rows[0]?.reopened ?? 0;
    await moveOpenedUp(pool, { day, behind: rows[0]?.behind ?? [] });
  }
  return reopened;
}

/**
 * Looks once more after those that were opened behind others: where these were finished before that was committed, the relay moved their
 * lines up without seeing anybody in them.
 */
export async function moveOpenedUp(
  pool: Pool,
  { day, behind }: { readonly day: string; readonly behind: readonly bigint[] },
): Promise<void> {
  if (behind.length === 0) return;
  const opened = behind.map((id) => ({ day, deliveryId: id.toString() }));
  await withStatement(pool, (client) => moveLinesUp(client, opened));
  await pool.query(NOTIFY_CHANGED);
}

/** How fast something is done that goes in batches. */
export interface Pace {
  readonly batch: number;
  /** Waits until so many may have been done. Ends early when the work is to stop. */
  await(done: number): Promise<void>;
}

/** @param options.rate how many a second; undefined: as fast as it goes */
export function createPace(options: { rate?: number | undefined; stop: AbortSignal }): Pace {
  const { rate, stop } = options;
  const startedAt = performance.now();
  return {
    batch: Math.min(BATCH, rate ?? BATCH),
    await: async (done) => {
      if (rate === undefined) return;
      const waitMs = startedAt + (done / rate) * SECOND_MS - performance.now();
      if (waitMs > 0) await pause(waitMs, undefined, { signal: stop }).catch(() => undefined);
    },
  };
}
