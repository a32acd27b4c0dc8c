import type { Queryable } from '../db/pool.ts';
import { type DeliveryState, STATE, withinCalendar } from './deliveries-list.ts';

/** A message by which a posting announced itself, and how its deliveries stand. */
export interface LedgerMessage {
  readonly id: string;
  readonly topic: string;
  readonly createdAt: Date;
  /** null: nobody has turned it into deliveries yet. */
  readonly processedAt: Date | null;
  readonly deliveries: readonly { readonly state: DeliveryState; readonly count: number }[];
}

export type LedgerMessages =
  | { readonly kind: 'found'; readonly messages: readonly LedgerMessage[] }
  /** To find it, all messages of its day would be read. */
  | { readonly kind: 'too_many'; readonly bytes: bigint }
  /** Messages of its day are kept no longer. */
  | { readonly kind: 'gone' };

interface Posting {
  readonly bookId: number;
  readonly transactionId: string;
  /** When it was recorded: its message was written in the same database transaction, after it. */
  readonly recordedAt: string;
}

/**
 * What a posting announced. No index leads from a posting to its message, so that every announcement need not pay for one: the messages of
 * the day are read, where they have no more than so many bytes.
 * @param mostBytes null: however many
 */
export async function findLedgerMessages(
  db: Queryable,
  { bookId, transactionId, recordedAt }: Posting,
  mostBytes: number | null,
): Promise<LedgerMessages> {
  const { rows } = await db.query<{ days: readonly string[]; bytes: bigint | null }>(
    `select array_agg(d.day::date::text) as days, sum(pg_relation_size(t.table))::bigint as bytes
     from (select $1::timestamptz at time zone 'UTC' as recorded_at offset 0) e
     -- One just before midnight may have its message after it.
     cross join generate_series(date_trunc('day', e.recorded_at), e.recorded_at + interval '1 minute', '1 day') as d (day)
     left join lateral (select o.tableoid as table from public.outbox o where o.day = d.day::date limit 1) t on true`,
    [recordedAt],
  );
  const { days = [], bytes = null } = rows[0] ?? {};
  if (bytes === null) return { kind: 'gone' };
  if (mostBytes !== null && bytes > mostBytes) return { kind: 'too_many', bytes };
  const found = await db.query<LedgerMessage>(
    `select o.id, o.topic, ${withinCalendar('o.created_at')} as "createdAt", o.processed_at as "processedAt", (
              select coalesce(jsonb_agg(jsonb_build_object('state', s.state, 'count', s.count) order by s.state), '[]')
              from (
                select ${STATE} as state, count(*) as count from outbox.deliveries
                where deliveries.message_id = o.id and deliveries.day = o.day
                group by 1
              ) s
            ) as deliveries
     from public.outbox o
     where o.day = any ($1::date[]) and o.ledger_book_id = $2 and o.payload ->> 'transaction_id' = $3
     order by o.seq`,
    [days, bookId, transactionId],
  );
  return { kind: 'found', messages: found.rows };
}
