import type { Pool, Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { ATTEMPTS, type DeliveryState, STATE, withinCalendar } from './deliveries-list.ts';
import { withHeads } from './line-heads.ts';
import { findPassedOver, type PassedOver } from './passed-over.ts';

export interface AttemptStory {
  readonly attempt: number;
  readonly startedAt: Date;
  readonly durationMs: number;
  readonly statusCode: number | null;
  /** null: it was answered 2xx. */
  readonly errorClass: string | null;
  readonly error: string | null;
  readonly address: string | null;
  readonly retryAt: Date | null;
  /** The first 8 kB. */
  readonly response: string | null;
}

export interface DeliveryStory {
  readonly id: bigint;
  readonly endpointId: string;
  readonly url: string | null;
  readonly state: DeliveryState;
  readonly attemptsMade: number;
  /** null: not before those in front of it in its line. */
  readonly dueAt: Date | null;
  /** Of a delivery that waits in a line: the first in it. */
  readonly behind: bigint | null;
  readonly finishedAt: Date | null;
  readonly lastError: string | null;
  readonly orderingKey: string | null;
  readonly createdAt: Date;
  readonly attempts: readonly AttemptStory[];
}

export interface MessageStory {
  readonly id: string;
  readonly topic: string;
  readonly organizationId: string | null;
  readonly orderingKey: string | null;
  readonly headers: Readonly<Record<string, string>> | null;
  readonly deliverAfter: Date | null;
  readonly createdAt: Date;
  readonly processedAt: Date | null;
  /** As PostgreSQL prints it: parsing would round numbers beyond a double's precision. */
  readonly payloadJson: string;
  readonly deliveries: readonly DeliveryStory[];
  /** Of a message that was turned into no delivery: to whom it was not sent. null: it has some, or nobody has looked yet. */
  readonly passedOver: PassedOver | null;
}

/** A message with all of its deliveries, or a delivery alone, with its message. */
export type Shown = { readonly messageId: string } | { readonly deliveryId: bigint };

/**
 * A message, its deliveries and their attempts.
 * @throws AppError OUTBOX_MESSAGE_UNKNOWN, OUTBOX_DELIVERY_UNKNOWN
 */
export async function getMessageStory(pool: Pool, shown: Shown): Promise<MessageStory> {
  const messageId = 'messageId' in shown ? shown.messageId : await messageOf(pool, shown.deliveryId);
  const { rows } = await pool.query<Omit<MessageStory, 'deliveries' | 'passedOver'> & { day: string }>(
    `select id, day::text, topic, organization_id as "organizationId", ordering_key as "orderingKey", headers,
       ${withinCalendar('deliver_after')} as "deliverAfter", ${withinCalendar('created_at')} as "createdAt",
       processed_at as "processedAt", payload::text as "payloadJson"
     from public.outbox where id = $1`,
    [messageId],
  );
  const [found] = rows;
  if (found === undefined) {
    throw new AppError(
      'OUTBOX_MESSAGE_UNKNOWN',
      `There is no message ${messageId}, or not any more. A receiver knows it as webhook-id, behind msg_.`,
    );
  }
  const { day, ...message } = found;
  const deliveries = await deliveriesOf(pool, {
    day,
    messageId,
    only: 'deliveryId' in shown ? shown.deliveryId : null,
  });
  const isPassedOver = deliveries.length === 0 && message.processedAt !== null;
  return { ...message, deliveries, passedOver: isPassedOver ? await findPassedOver(pool, messageId) : null };
}

/** A message's payload over several lines, every number as PostgreSQL keeps it; empty where there is no such message. */
export async function prettyPayload(db: Queryable, messageId: string): Promise<string> {
  const { rows } = await db.query<{ payload: string }>(
    'select jsonb_pretty(payload) as payload from public.outbox where id = $1',
    [messageId],
  );
  return rows[0]?.payload ?? '';
}

async function messageOf(db: Queryable, deliveryId: bigint): Promise<string> {
  const { rows } = await db.query<{ messageId: string }>(
    'select message_id as "messageId" from outbox.deliveries where id = $1',
    [deliveryId],
  );
  if (rows[0] !== undefined) return rows[0].messageId;
  throw new AppError(
    'OUTBOX_DELIVERY_UNKNOWN',
    `There is no delivery ${deliveryId}. See which there are: liventix outbox deliveries`,
  );
}

async function deliveriesOf(
  db: Queryable,
  of: { day: string; messageId: string; only: bigint | null },
): Promise<readonly DeliveryStory[]> {
  const { rows } = await db.query<Omit<DeliveryStory, 'attempts' | 'behind'>>(
    `select deliveries.id, endpoint_id as "endpointId", endpoints.url, ${STATE} as state, ${ATTEMPTS} as "attemptsMade",
       ${withinCalendar('due_at')} as "dueAt", finished_at as "finishedAt", last_error as "lastError", ordering_key as "orderingKey",
       deliveries.created_at as "createdAt"
     from outbox.deliveries
     left join outbox.endpoints on endpoints.id = deliveries.endpoint_id
     where deliveries.day = $1 and message_id = $2 and ($3::bigint is null or deliveries.id = $3)
     order by deliveries.id`,
    [of.day, of.messageId, of.only],
  );
  const attempts = await db.query<AttemptStory & { deliveryId: bigint }>(
    `select delivery_id as "deliveryId", attempt, started_at as "startedAt", duration_ms as "durationMs",
       status_code as "statusCode", error_class as "errorClass", error, address, retry_at as "retryAt", response
     from outbox.attempts where day = $1 and delivery_id = any ($2::bigint[])
     order by delivery_id, attempt`,
    [of.day, rows.map(({ id }) => id)],
  );
  return (await withHeads(db, rows)).map((delivery) => ({
    ...delivery,
    attempts: attempts.rows
      .filter(({ deliveryId }) => deliveryId === delivery.id)
      .map(({ deliveryId: _deliveryId, ...attempt }) => attempt),
  }));
}
