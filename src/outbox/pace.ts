import type { Queryable } from '../db/pool.ts';

/** What was attempted since somebody last asked. */
export interface Pace {
  /** To ask from the next time. */
  readonly seq: bigint;
  readonly delivered: number;
  readonly failed: number;
  /** Median of the last first attempts, from announcement to request; null: there was none. */
  readonly lagSeconds: number | null;
}

const LAG_OF_LAST = 100;

const PACE = `
  with made as (
    select seq, day, delivery_id, attempt, error_class, started_at from outbox.attempts where seq > $1
  )
  select coalesce(max(seq), $1) as seq, count(*) filter (where error_class is null)::float8 as delivered,
    count(error_class)::float8 as failed, (
      select percentile_cont(0.5) within group (order by extract(epoch from last.started_at - greatest(outbox.created_at, deliver_after)))
      from (select * from made where attempt = 1 order by seq desc limit ${LAG_OF_LAST}) as last
      join outbox.deliveries on deliveries.id = last.delivery_id and deliveries.day = last.day
      join public.outbox on outbox.id = deliveries.message_id and outbox.day = last.day and isfinite(outbox.created_at)
    )::float8 as "lagSeconds"
  from made`;

/** The attempts that were recorded since; one whose transaction was still open when it was asked before is left out. */
export async function paceSince(db: Queryable, seq: bigint): Promise<Pace> {
  const { rows } = await db.query<Pace>(PACE, [seq]);
  return rows[0] ?? { seq, delivered: 0, failed: 0, lagSeconds: null };
}
