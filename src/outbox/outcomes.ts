import type { Queryable } from '../db/pool.ts';
import { preparedName } from './prepared.ts';

/** What the relay has to know of an attempt that is over. */
export interface Outcome {
  readonly seq: bigint;
  readonly deliveryId: string;
  readonly attempt: number;
  readonly endpointId: string;
  /** null: there is none. */
  readonly retryInMs: number | null;
  /** null: it was delivered. */
  readonly errorClass: string | null;
  readonly statusCode: number | null;
  readonly day: string;
}

const OUTCOME = `
  select seq, delivery_id::text as "deliveryId", attempt, endpoint_id as "endpointId",
    (extract(epoch from retry_at - statement_timestamp()) * 1000)::float8 as "retryInMs",
    error_class as "errorClass", status_code as "statusCode", day::text
  from outbox.attempts`;

/**
 * The attempts that were recorded since, in the order of their numbers; not one that commits late.
 * @param options.fromDay the day of the oldest message that is under way
 */
export async function readOutcomes(
  db: Queryable,
  options: { since: bigint; fromDay: string; limit: number },
): Promise<readonly Outcome[]> {
  const { rows } = await db.query<Outcome>({
    name: preparedName(db, 'outcomes'),
    text: `${OUTCOME} where seq > $1 and day >= $2 order by seq limit $3`,
    values: [options.since, options.fromDay, options.limit],
  });
  return rows;
}

/** Where the numbers of attempts have come to. */
export async function currentSeq(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ seq: bigint }>(
    'select case when is_called then last_value else 0 end as seq from outbox.attempt_seqs',
  );
  return rows[0]?.seq ?? 0n;
}

/** Those of the attempts that are there by now. */
export async function readMissed(
  db: Queryable,
  options: { numbers: readonly bigint[]; fromDay: string },
): Promise<readonly Outcome[]> {
  const { rows } = await db.query<Outcome>({
    name: preparedName(db, 'missed'),
    text: `${OUTCOME} where seq = any ($1::bigint[]) and day >= $2 order by seq`,
    values: [options.numbers, options.fromDay],
  });
  return rows;
}
