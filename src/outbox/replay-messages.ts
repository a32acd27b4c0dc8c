import type { Pool } from '../db/pool.ts';
import { withStatement } from '../db/transaction.ts';
import { createPace, DUE_AT, moveOpenedUp, notifyIfAny, REOPENED } from './reopen.ts';
import type { ReplayPlan } from './replay-plan.ts';
import { IS_SENT_AGAIN, messagesOf, type ReplayRequest, replayValues, toWhom } from './replay-scope.ts';

interface Replayed {
  readonly again: number;
  readonly added: number;
  readonly behind: readonly bigint[];
}

// Messages are locked as a foreign key would, so that their day is not dropped before these deliveries of theirs are to be seen.
// A delivery is in the line that its endpoint would put it in now.
const REPLAY = `${toWhom('order by id for key share')}, chosen as (
    select deliveries.id, addressed.id as message_id, addressed.seq, addressed.endpoint_id, addressed.ordering_key as line,
      addressed.due_at as wanted_at
    from addressed
    left join outbox.deliveries on deliveries.day = $1 and deliveries.message_id = addressed.id
      and deliveries.endpoint_id = addressed.endpoint_id
    where deliveries.id is null or ${IS_SENT_AGAIN}
  ), lined as (
    select chosen.*, ${DUE_AT} as due_at from chosen
  ), reopened as (
    update outbox.deliveries set ${REOPENED}, ordering_key = lined.line
    from lined
    where deliveries.day = $1 and deliveries.id = lined.id and ${IS_SENT_AGAIN}
    returning deliveries.id, deliveries.due_at
  ), added as (
    insert into outbox.deliveries (message_id, day, endpoint_id, ordering_key, state, due_at)
    select message_id, $1, endpoint_id, line, 'pending', due_at
    from lined
    where id is null
    order by seq
    on conflict (message_id, endpoint_id, day) do nothing
    returning id, due_at
  ), changed as (
    select id, due_at from reopened union all select id, due_at from added
  )
  select (select count(*) from reopened)::float8 as again, (select count(*) from added)::float8 as added,
    array(select id from changed where due_at is null) as behind, ${notifyIfAny('changed')}`;

export interface ReplayProgress {
  readonly messages: number;
  readonly added: number;
  readonly again: number;
}

/** Sends the planned messages, batch by batch, each a transaction of its own; ends after the one under way when it is to stop. */
export async function* replayPlanned(
  pool: Pool,
  request: ReplayRequest,
  options: { plan: Pick<ReplayPlan, 'days'>; rate?: number | undefined; stop: AbortSignal },
): AsyncGenerator<ReplayProgress> {
  const pace = createPace(options);
  let [messages, added, again] = [0, 0, 0];
  const { days } = options.plan;
  for await (const { day, ids } of messagesOf(pool, request, { days, batch: pace.batch, stop: options.stop })) {
    const { rows } = await withStatement(pool, (client) =>
      client.query<Replayed>(REPLAY, replayValues(request, day, ids)),
    );
    messages += ids.length;
    added += rows[0]?.added ?? 0;
    again += rows[0]?.again ?? 0;
    await moveOpenedUp(pool, { day, behind: rows[0]?.behind ?? [] });
    yield { messages, added, again };
    await pace.await(added + again);
  }
}
