import type { Queryable } from '../db/pool.ts';
import { SUBSCRIBED } from './fan-out.ts';

/** An endpoint that subscribes to a message's topic now, and was not sent the message. */
export interface PassedOverEndpoint {
  readonly endpointId: string;
  readonly url: string;
  /** `changed`: it would be sent it as it is now, so it was disabled then, or its topics or its filter were others. */
  readonly why: 'filter' | 'added_later' | 'disabled' | 'changed';
  /** When it was added, or disabled, where that is why. */
  readonly since: Date | null;
  readonly enabled: boolean;
}

export interface PassedOver {
  /** The first of them, as they were added. */
  readonly endpoints: readonly PassedOverEndpoint[];
  /** There are more. */
  readonly isCut: boolean;
}

const MAX_PASSED_OVER = 20;

// As the fan-out asks, in FAN_OUT. What endpoints were like before is kept nowhere.
const PASSED_OVER = `
  with taken as (
    select id, day, topic, payload, organization_id, created_at from public.outbox where id = $1
  ), subscribed as materialized (${SUBSCRIBED}
  ), judged as (
    select subscribed.*, case
      when not taken.payload @> coalesce(subscribed.filter, '{}') then 'filter'
      when subscribed.created_at > taken.created_at then 'added_later'
      when not subscribed.enabled and subscribed.disabled_at <= taken.created_at then 'disabled'
      else 'changed'
    end as why
    from taken
    join subscribed on subscribed.topic = taken.topic
  )
  select judged.id as "endpointId", endpoints.url, why,
    case why when 'added_later' then judged.created_at when 'disabled' then judged.disabled_at end as since, judged.enabled
  from judged
  join outbox.endpoints on endpoints.id = judged.id
  order by judged.created_at, judged.id
  limit ${MAX_PASSED_OVER + 1}`;

/** Who might have been meant by a message that became no delivery, and why it was not, as far as endpoints tell as they are now. */
export async function findPassedOver(db: Queryable, messageId: string): Promise<PassedOver> {
  const { rows } = await db.query<PassedOverEndpoint>(PASSED_OVER, [messageId]);
  return { endpoints: rows.slice(0, MAX_PASSED_OVER), isCut: rows.length > MAX_PASSED_OVER };
}
