import type { Pool } from '../db/pool.ts';
import { type DeliveryFilter, MESSAGE_MATCHES, messageValues } from './delivery-filter.ts';
import { IS_ADDRESSED, ORDERING_KEY, SUBSCRIBED } from './fan-out.ts';

/** Which messages are sent again, and to whom: whoever subscribes to them now. */
export interface ReplayRequest extends DeliveryFilter {
  readonly topic: string;
  readonly from: string;
  readonly to: string;
  /** A delivery that was finished since then is left alone: what an earlier run has sent already. */
  readonly unlessSince?: string | undefined;
}

/** A day of which something is sent again, and of how many messages. */
export interface ReplayDay {
  readonly day: string;
  readonly messages: number;
}

/** Ids are read by the page, so that a day is not sorted anew for every batch. */
const PAGE = 20_000;

/** SQL: whether a message is sent again. One that is not yet turned into deliveries is the relay's: it would meet ours. */
export const MEANT = `outbox.processed_at is not null and ${MESSAGE_MATCHES}`;

const KEYS = `
  select id, seq from public.outbox
  where day = $5 and seq > $6 and ${MEANT}
  order by seq
  limit $7`;

/** SQL, of `replayValues`: who is sent which of the messages, `addressed`. @param lock what is locked of the messages, and how */
export const toWhom = (lock = '') => `
  with taken as (
    select id, day, seq, topic, payload, organization_id, ordering_key, deliver_after
    from public.outbox where day = $1 and id = any ($2::uuid[])
    ${lock}
  ), subscribed as materialized (
    select * from (${SUBSCRIBED}) as subscribed where enabled and ($3::uuid is null or id = $3)
  ), addressed as (
    select taken.id, taken.day, taken.seq, subscribed.id as endpoint_id, ${ORDERING_KEY} as ordering_key,
      greatest(statement_timestamp(), taken.deliver_after) as due_at
    from taken
    join subscribed on ${IS_ADDRESSED}
  )`;

/** SQL: whether a delivery is sent once more. */
export const IS_SENT_AGAIN = `deliveries.state in ('delivered', 'dead') and ($4::timestamptz is null or deliveries.finished_at < $4)`;

export const replayValues = (request: ReplayRequest, day: string, ids: readonly string[]) => [
  day,
  ids,
  request.endpointId ?? null,
  request.unlessSince ?? null,
];

/** The messages that are meant, in the order of their announcement. */
export async function* messagesOf(
  pool: Pool,
  request: ReplayRequest,
  options: { days: readonly ReplayDay[]; batch: number; stop: AbortSignal },
): AsyncGenerator<{ day: string; ids: readonly string[] }> {
  const { days, batch, stop } = options;
  for (const { day } of days) {
    for (let [after, isMore]: [bigint, boolean] = [-1n, true]; isMore; ) {
      const values = [...messageValues(request), day, after, PAGE];
      const { rows } = await pool.query<{ id: string; seq: bigint }>(KEYS, values);
      for (let at = 0; at < rows.length; at += batch) {
        if (stop.aborted) return;
        yield { day, ids: rows.slice(at, at + batch).map(({ id }) => id) };
      }
      isMore = rows.length === PAGE;
      after = rows.at(-1)?.seq ?? after;
    }
  }
}
