import type { Queryable } from '../db/pool.ts';
import type { DeliveryJob } from './job.ts';
import { preparedName } from './prepared.ts';

/** From where the relay looks for messages; what committed late below it is found by the next look without one. */
export interface Floor {
  readonly day: string;
  readonly seq: bigint;
}

/** Below everything. */
export const NO_FLOOR: Floor = { day: '-infinity', seq: 0n };

export interface FannedOut {
  readonly messages: number;
  /** What became of them, queued or not. */
  readonly deliveries: number;
  /** The last of the messages in the order of insertion, and where all those before it were seen. */
  readonly reached: Floor | undefined;
  /** Queued already, because their endpoint had a place: the caller's to enqueue. */
  readonly queued: readonly (DeliveryJob & { readonly endpointId: string })[];
  /** The endpoints that have something to wait for now. */
  readonly waiting: readonly string[];
}

const ENDPOINT = `endpoints.id, endpoints.organization_id, endpoints.filter, endpoints.ordered, endpoints.created_at,
      endpoints.enabled, endpoints.disabled_at`;

/**
 * SQL, for whoever has messages called `taken`: the endpoints that any of their topics goes to, disabled ones too. To be materialized, as
 * the patterns are: else each message is compared with all endpoints, and the patterns are made again for each of these. Endpoints of an
 * organization are found by it: there may be as many as organizations, and each message is for one of them.
 */
export const SUBSCRIBED = `
    with topics as materialized (
      select topic, outbox.patterns_of(topic) as patterns from (select distinct topic from taken) as named
    ), topics_of_organizations as materialized (
      select topic, organization_id, outbox.patterns_of(topic) as patterns
      from (select distinct topic, organization_id from taken where organization_id is not null) as named
    )
    select topic, ${ENDPOINT}
    from topics
    join outbox.endpoints on endpoints.organization_id is null and deleted_at is null and endpoints.topics && patterns
    union all
    select topic, ${ENDPOINT}
    from topics_of_organizations as owned
    join outbox.endpoints on endpoints.organization_id = owned.organization_id and deleted_at is null and endpoints.topics && patterns`;

/** SQL, of `taken` and `subscribed`: whether an endpoint receives a message. */
export const IS_ADDRESSED = `subscribed.topic = taken.topic
      and (subscribed.organization_id is null or subscribed.organization_id = taken.organization_id)
      and (subscribed.filter is null or taken.payload @> subscribed.filter)`;

/** SQL, of the same: what its deliveries are kept in order by. */
export const ORDERING_KEY = 'case when subscribed.ordered then taken.ordering_key end';

// What was announced while an endpoint was enabled is for it, although it was disabled before anybody came to turn that into deliveries.
// An endpoint of the future is one of before the server's clock went back.
// At an ordered endpoint, whoever comes behind another of its key is due at no time yet: lines.ts.
// One statement: a crash leaves a message either unprocessed or with all of its deliveries. The one relay that leads runs it, so
// nobody else takes messages; a late commit is found whatever its seq is, because what tells is `processed_at` and no position.
const FAN_OUT = `
  with taken as (
    update public.outbox set processed_at = clock_timestamp()
    where processed_at is null and day >= $1 and seq > $2 and seq <= (
      select max(seq) from (
        select seq from public.outbox
        where processed_at is null and day >= $1 and seq > $2
        order by seq
        limit $3
      ) as next
    )
    returning id, day, seq, topic, payload, organization_id, ordering_key, deliver_after, created_at
  ), subscribed as materialized (${SUBSCRIBED}
  ), addressed as (
    select taken.id, taken.day, taken.seq, taken.deliver_after, subscribed.id as endpoint_id,
      ${ORDERING_KEY} as ordering_key,
      row_number() over (partition by subscribed.id order by taken.seq) as turn,
      row_number() over (partition by subscribed.id, ${ORDERING_KEY} order by taken.seq) as turn_of_key
    from taken
    join subscribed on ${IS_ADDRESSED}
      and (subscribed.created_at <= taken.created_at or subscribed.created_at > clock_timestamp())
      and (subscribed.enabled or subscribed.disabled_at > taken.created_at)
  ), fanned_out as (
    insert into outbox.deliveries (message_id, day, endpoint_id, ordering_key, state, due_at, lease_until)
    select addressed.id, addressed.day, addressed.endpoint_id, addressed.ordering_key,
      case when has_place then 'queued' else 'pending' end,
      case when not is_behind then greatest(statement_timestamp(), addressed.deliver_after) end,
      case when has_place then statement_timestamp() + $5 * interval '1 millisecond' end
    from addressed
    cross join lateral (
      select addressed.ordering_key is not null and (turn_of_key > 1 or exists (
        select from outbox.deliveries as earlier
        where earlier.endpoint_id = addressed.endpoint_id and earlier.ordering_key = addressed.ordering_key
          and earlier.state in ('pending', 'queued')
      )) as is_behind
    ) as line
    cross join lateral (
      select coalesce(addressed.turn <= ($4::jsonb ->> addressed.endpoint_id::text)::integer, false)
        and addressed.deliver_after is null and not is_behind as has_place
    ) as judged
    order by addressed.seq
    returning id, day, endpoint_id, state
  )
  select 'queued' as kind, id, day::text, endpoint_id as "endpointId", null::integer as messages,
    null::integer as deliveries
  from fanned_out where state = 'queued'
  union all
  select distinct 'waiting', null::bigint, null, endpoint_id, null::integer, null::integer from fanned_out where state = 'pending'
  union all
  select 'taken', max(seq), min(day)::text, null, count(*)::integer, (select count(*)::integer from fanned_out) from taken`;

type Row =
  | { kind: 'queued'; id: bigint; day: string; endpointId: string }
  | { kind: 'waiting'; endpointId: string }
  | { kind: 'taken'; id: bigint | null; day: string | null; messages: number; deliveries: number };

/**
 * Turns committed messages into deliveries, in the order of their insertion, at most `limit` messages.
 * @param options.places how many deliveries of an endpoint may be queued at once; of an endpoint that is not named, none
 */
export async function fanOut(
  db: Queryable,
  options: { limit: number; floor: Floor; places: ReadonlyMap<string, number>; queueLeaseMs: number },
): Promise<FannedOut> {
  const { floor, places } = options;
  const { rows } = await db.query<Row>({
    name: preparedName(db, 'fan-out'),
    text: FAN_OUT,
    values: [floor.day, floor.seq, options.limit, JSON.stringify(Object.fromEntries(places)), options.queueLeaseMs],
  });
  const taken = rows.find((row) => row.kind === 'taken');
  return {
    messages: taken?.messages ?? 0,
    deliveries: taken?.deliveries ?? 0,
    reached: taken?.id == null || taken.day === null ? undefined : { day: taken.day, seq: taken.id },
    queued: rows
      .filter((row) => row.kind === 'queued')
      .map(({ id, day, endpointId }) => ({ deliveryId: id.toString(), day, attempt: 1, endpointId })),
    waiting: rows.filter((row) => row.kind === 'waiting').map(({ endpointId }) => endpointId),
  };
}
