import type { Pool } from '../db/pool.ts';
import { assertEnabled, assertFilter, type EndpointAndCount, messageValues } from './delivery-filter.ts';
import {
  IS_SENT_AGAIN,
  MEANT,
  messagesOf,
  type ReplayDay,
  type ReplayRequest,
  replayValues,
  toWhom,
} from './replay-scope.ts';

/** What becomes of an endpoint's deliveries. */
export interface ReplayCounts {
  readonly endpointId: string;
  readonly url: string;
  /** Messages that it never had. */
  readonly added: number;
  /** Those that it had, or that died on the way. */
  readonly again: number;
  /** Those that are on their way already, or were finished since `unlessSince`. */
  readonly leftAlone: number;
}

export interface ReplayPlan {
  readonly messages: number;
  readonly days: readonly ReplayDay[];
  readonly endpoints: readonly ReplayCounts[];
  /** By the database's clock: what a run that is broken off goes on from. */
  readonly startedAt: Date;
}

const COUNT_BATCH = 2_000;

const DAYS = `
  select day::text, count(*)::float8 as messages, statement_timestamp() as "startedAt"
  from public.outbox where ${MEANT}
  group by day order by day`;

const COUNT = `${toWhom()}
  select endpoints.id as "endpointId", endpoints.url, (count(*) filter (where deliveries.id is null))::float8 as added,
    (count(*) filter (where ${IS_SENT_AGAIN}))::float8 as again,
    (count(*) filter (where deliveries.id is not null and not (${IS_SENT_AGAIN})))::float8 as "leftAlone"
  from addressed
  join outbox.endpoints on endpoints.id = addressed.endpoint_id
  left join outbox.deliveries on deliveries.day = $1 and deliveries.message_id = addressed.id
    and deliveries.endpoint_id = addressed.endpoint_id
  group by endpoints.id
  order by endpoints.id`;

/**
 * What a replay is about to do: reads every message that it would send, and writes nothing.
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_ENDPOINT_UNKNOWN, OUTBOX_ENDPOINT_DISABLED
 */
export async function planReplay(
  pool: Pool,
  request: ReplayRequest,
  options: { stop: AbortSignal; onBatch?: (messages: number, total: number) => void },
): Promise<ReplayPlan> {
  await assertFilter(pool, request);
  if (request.endpointId !== undefined) await assertOneEnabled(pool, request.endpointId);
  const { rows: days } = await pool.query<ReplayDay & { startedAt: Date }>(DAYS, messageValues(request));
  const messages = days.reduce((sum, day) => sum + day.messages, 0);
  const counts = new Map<string, ReplayCounts>();
  let done = 0;
  for await (const { day, ids } of messagesOf(pool, request, { days, batch: COUNT_BATCH, stop: options.stop })) {
    const { rows } = await pool.query<ReplayCounts>(COUNT, replayValues(request, day, ids));
    for (const row of rows) counts.set(row.endpointId, sumOf(counts.get(row.endpointId), row));
    done += ids.length;
    options.onBatch?.(done, messages);
  }
  return { messages, days, endpoints: [...counts.values()], startedAt: days[0]?.startedAt ?? new Date() };
}

async function assertOneEnabled(pool: Pool, endpointId: string): Promise<void> {
  const { rows } = await pool.query<EndpointAndCount>(
    `select id as "endpointId", url, enabled, disabled_reason as "disabledReason", deleted_at is not null as "isDeleted", 0 as deliveries
     from outbox.endpoints where id = $1`,
    [endpointId],
  );
  assertEnabled(rows);
}

const sumOf = (before: ReplayCounts | undefined, row: ReplayCounts): ReplayCounts => ({
  ...row,
  added: row.added + (before?.added ?? 0),
  again: row.again + (before?.again ?? 0),
  leftAlone: row.leftAlone + (before?.leftAlone ?? 0),
});
