import { setTimeout as pause } from 'node:timers/promises';
import type { Pool } from '../db/pool.ts';
import { withStatement } from '../db/transaction.ts';
import { byDay } from './job.ts';

/** One transaction's: so long nobody waits, and so much Ctrl-C waits for. */
const BATCH = 500;
const SECOND_MS = 1_000;

/** A delivery by its id and its partition. */
export interface DeliveryKey {
  readonly deliveryId: string;
  readonly day: string;
}

/** SQL: what a delivery becomes that is to be attempted once more, of a row `chosen` that says when. Numbers of attempts go on. */
export const REOPENED = `
  state = 'pending',
  schedule_from = case when deliveries.state = 'pending' then deliveries.attempt - 1 else deliveries.attempt end,
  attempt = deliveries.attempt + (deliveries.state <> 'pending')::integer,
  due_at = chosen.due_at,
  finished_at = null`;

/** SQL, of how many there are in `changed`: tells the relay, when this commits, that there is something to look at. */
export const notifyIfAny = (changed: string) =>
  `(select pg_notify('liventix_outbox', 'changed') where exists (select from ${changed}))`;

// What somebody holds he is moving himself, so it is passed over. To wait for it could end in a deadlock with the relay, which admits
// in an order of its own.
const REOPEN = `
  with chosen as (
    select deliveries.id, greatest(statement_timestamp(), outbox.deliver_after) as due_at
    from outbox.deliveries
    join public.outbox on outbox.day = $1 and outbox.id = deliveries.message_id
    where deliveries.day = $1 and deliveries.id = any ($2::bigint[])
      and (deliveries.state = 'dead'
        or (deliveries.state = 'pending' and deliveries.due_at > greatest(statement_timestamp(), outbox.deliver_after)))
    order by deliveries.id
    for no key update of deliveries skip locked
  ), reopened as (
    update outbox.deliveries set ${REOPENED}
    from chosen
    where deliveries.day = $1 and deliveries.id = chosen.id
    returning 1
  )
  select count(*)::integer as reopened, ${notifyIfAny('reopened')} from reopened`;

/**
 * Lets dead deliveries, and pending ones that are due later, be attempted now: each day's in one statement.
 * @returns how many; none of them twice, whatever runs beside
 */
export async function reopen(pool: Pool, keys: readonly DeliveryKey[]): Promise<number> {
  let reopened = 0;
  for (const [day, ofDay] of byDay(keys)) {
    const ids = ofDay.map(({ deliveryId }) => deliveryId);
    const { rows } = await withStatement(pool, (client) => client.query<{ reopened: number }>(REOPEN, [day, ids]));
    reopened += rows[0]?.reopened ?? 0;
  }
  return reopened;
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
