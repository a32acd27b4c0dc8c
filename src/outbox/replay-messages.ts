import type { Pool } from '../db/pool.ts';
import { withStatement } from '../db/transaction.ts';
import {
  assertEnabled,
  assertFilter,
  type DeliveryFilter,
  type EndpointAndCount,
  MESSAGE_MATCHES,
  messageValues,
} from './delivery-filter.ts';
import { IS_ADDRESSED, ORDERING_KEY, SUBSCRIBED } from './fan-out.ts';
import { createPace, notifyIfAny, REOPENED } from './reopen.ts';

/** Which messages are sent again, and to whom: whoever subscribes to them now. */
export interface ReplayRequest extends DeliveryFilter {
  readonly topic: string;
  readonly from: string;
  readonly to: string;
  /** A delivery that was finished since then is left alone: what an earlier run has sent already. */
  readonly unlessSince?: string | undefined;
}

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
  readonly days: readonly { readonly day: string; readonly messages: number }[];
  readonly endpoints: readonly ReplayCounts[];
  /** By the database's clock: what a run that is broken off goes on from. */
  readonly startedAt: Date;
}

/** Ids are read by the page, so that a day is not sorted anew for every batch. */
const PAGE = 20_000;
const COUNT_BATCH = 2_000;

// A message that is not yet turned into deliveries is the relay's: it would meet ours.
const MEANT = `outbox.processed_at is not null and ${MESSAGE_MATCHES}`;

const DAYS = `
  select day::text, count(*)::float8 as messages, statement_timestamp() as "startedAt"
  from public.outbox where ${MEANT}
  group by day order by day`;

const KEYS = `
  select id, seq from public.outbox
  where day = $5 and seq > $6 and ${MEANT}
  order by seq
  limit $7`;

const TO_WHOM = `
  with taken as (
    select id, day, seq, topic, payload, organization_id, ordering_key, deliver_after
    from public.outbox where day = $1 and id = any ($2::uuid[])
  ), subscribed as (
    select * from (${SUBSCRIBED}) as subscribed where enabled and ($3::uuid is null or id = $3)
  ), addressed as (
    select taken.id, taken.day, taken.seq, subscribed.id as endpoint_id, ${ORDERING_KEY} as ordering_key,
      greatest(statement_timestamp(), taken.deliver_after) as due_at
    from taken
    join subscribed on ${IS_ADDRESSED}
  )`;

/** SQL: whether a delivery is sent once more. */
const IS_SENT_AGAIN = `deliveries.state in ('delivered', 'dead') and ($4::timestamptz is null or deliveries.finished_at < $4)`;

const COUNT = `${TO_WHOM}
  select endpoints.id as "endpointId", endpoints.url, (count(*) filter (where deliveries.id is null))::float8 as added,
    (count(*) filter (where ${IS_SENT_AGAIN}))::float8 as again,
    (count(*) filter (where deliveries.id is not null and not (${IS_SENT_AGAIN})))::float8 as "leftAlone"
  from addressed
  join outbox.endpoints on endpoints.id = addressed.endpoint_id
  left join outbox.deliveries on deliveries.day = $1 and deliveries.message_id = addressed.id
    and deliveries.endpoint_id = addressed.endpoint_id
  group by endpoints.id
  order by endpoints.id`;

const REPLAY = `${TO_WHOM}, reopened as (
    update outbox.deliveries set ${REOPENED}
    from addressed as chosen
    where deliveries.day = $1 and deliveries.message_id = chosen.id and deliveries.endpoint_id = chosen.endpoint_id
      and ${IS_SENT_AGAIN}
    returning 1
  ), added as (
    insert into outbox.deliveries (message_id, day, endpoint_id, ordering_key, state, due_at)
    select id, day, endpoint_id, ordering_key, 'pending', due_at
    from addressed
    order by seq
    on conflict (message_id, endpoint_id, day) do nothing
    returning 1
  ), changed as (
    select from reopened union all select from added
  )
  select (select count(*) from reopened)::float8 as again, (select count(*) from added)::float8 as added, ${notifyIfAny('changed')}`;

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
  const { rows: days } = await pool.query<{ day: string; messages: number; startedAt: Date }>(
    DAYS,
    messageValues(request),
  );
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
    `select id as "endpointId", url, enabled, disabled_reason as "disabledReason", 0 as deliveries
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

const replayValues = (request: ReplayRequest, day: string, ids: readonly string[]) => [
  day,
  ids,
  request.endpointId ?? null,
  request.unlessSince ?? null,
];

/** In the order of their announcement. */
async function* messagesOf(
  pool: Pool,
  request: ReplayRequest,
  options: { days: ReplayPlan['days']; batch: number; stop: AbortSignal },
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

export interface ReplayProgress {
  readonly messages: number;
  readonly added: number;
  readonly again: number;
}

/** Sends the planned messages, batch by batch, each a transaction of its own; ends after the one under way when it is to stop. */
export async function* replayPlanned(
  pool: Pool,
  request: ReplayRequest,
  options: { plan: ReplayPlan; rate?: number | undefined; stop: AbortSignal },
): AsyncGenerator<ReplayProgress> {
  const pace = createPace(options);
  let [messages, added, again] = [0, 0, 0];
  const { days } = options.plan;
  for await (const { day, ids } of messagesOf(pool, request, { days, batch: pace.batch, stop: options.stop })) {
    const { rows } = await withStatement(pool, (client) =>
      client.query<{ added: number; again: number }>(REPLAY, replayValues(request, day, ids)),
    );
    messages += ids.length;
    added += rows[0]?.added ?? 0;
    again += rows[0]?.again ?? 0;
    yield { messages, added, again };
    await pace.await(added + again);
  }
}
