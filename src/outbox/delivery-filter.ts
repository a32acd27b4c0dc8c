import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { assertTopicPatterns } from './topics.ts';

/** Which deliveries are meant; what is left out narrows nothing. */
export interface DeliveryFilter {
  /** Of the message: a topic, `ticket.*` or `*`. */
  readonly topic?: string | undefined;
  readonly endpointId?: string | undefined;
  /** Of the message. */
  readonly organizationId?: string | undefined;
  /** The first instant of announcement that is meant, and the first that is no longer. */
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

/** The parameters of `MESSAGE_MATCHES`, $1 to $4. */
export const messageValues = ({ topic, organizationId, from, to }: DeliveryFilter) => [
  topic ?? null,
  organizationId ?? null,
  from ?? null,
  to ?? null,
];

/** The parameters of `DELIVERY_MATCHES`, $1 to $5. */
export const deliveryValues = (filter: DeliveryFilter) => [...messageValues(filter), filter.endpointId ?? null];

// Instants bound the days too, so that the partitions of others are not touched. A message's day is read before its instant, and so
// may be that of the day before at midnight.
const onDays = (table: string) => `
  ($3::timestamptz is null or ${table}.day >= ($3::timestamptz at time zone 'UTC')::date - 1)
  and ($4::timestamptz is null or ${table}.day <= ($4::timestamptz at time zone 'UTC')::date)`;

// As `$1 = any (outbox.patterns_of(topic))`, which takes 40 µs a row.
const TOPIC_MATCHES = `
  ($1::text is null or $1 = '*' or outbox.topic = $1 or (right($1, 2) = '.*' and starts_with(outbox.topic, left($1, -1))))`;

/** SQL: whether a row of `public.outbox` is meant; of an endpoint it knows nothing. */
export const MESSAGE_MATCHES = `${TOPIC_MATCHES}
  and ($2::uuid is null or outbox.organization_id = $2)
  and ($3::timestamptz is null or outbox.created_at >= $3)
  and ($4::timestamptz is null or outbox.created_at < $4)
  and ${onDays('outbox')}`;

/** SQL: whether a row of `outbox.deliveries`, joined with its message, is meant. */
export const DELIVERY_MATCHES = `
  ($5::uuid is null or deliveries.endpoint_id = $5)
  and ${onDays('deliveries')}
  and ${MESSAGE_MATCHES}`;

/** Runs what joins deliveries with their messages: day by day, or each delivery would be looked for in the messages of every day. */
export function readByDay<T>(pool: Pool, read: (tx: Tx) => Promise<T>): Promise<T> {
  return withTransaction(
    pool,
    async (tx) => {
      await tx.query('set local enable_partitionwise_join = on');
      return read(tx);
    },
    { mode: 'read only' },
  );
}

/** @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_ENDPOINT_UNKNOWN */
export async function assertFilter(db: Queryable, { topic, endpointId }: DeliveryFilter): Promise<void> {
  if (topic !== undefined) assertTopicPatterns([topic]);
  if (endpointId === undefined) return;
  const { rowCount } = await db.query('select from outbox.endpoints where id = $1', [endpointId]);
  if (rowCount === 0) {
    throw new AppError(
      'OUTBOX_ENDPOINT_UNKNOWN',
      `There is no endpoint ${endpointId}. See which there are: liventix outbox endpoint list`,
    );
  }
}

export interface EndpointAndCount {
  readonly endpointId: string;
  readonly url: string | null;
  readonly enabled: boolean;
  readonly disabledReason: string | null;
  /** For good: nothing is attempted to it ever again. */
  readonly isDeleted: boolean;
  readonly deliveries: number;
}

/** SQL, of a left join: whether an endpoint is deleted; of one whose row somebody removed as well. */
export const IS_DELETED = '(endpoints.id is null or endpoints.deleted_at is not null)';

/** @throws AppError OUTBOX_ENDPOINT_DISABLED where nobody would attempt some of the deliveries */
export function assertEnabled(endpoints: readonly EndpointAndCount[]): void {
  const closed = endpoints.filter(({ enabled }) => !enabled);
  if (closed.length === 0) return;
  const disabled = closed.filter(({ isDeleted }) => !isDeleted);
  const deleted = closed.filter(({ isDeleted }) => isDeleted);
  const sentences = [
    ...(disabled.length === 0
      ? []
      : [
          `Nobody attempts deliveries to an endpoint that is disabled, and these are: ${disabled.map(disabledText).join(', ')}. Enable it, or name another.`,
        ]),
    ...(deleted.length === 0
      ? []
      : [
          `What goes to a deleted endpoint cannot be attempted again, and these are deleted for good: ${deleted.map(deletedText).join(', ')}. Send their messages to another endpoint: liventix outbox replay --endpoint`,
        ]),
  ];
  throw new AppError('OUTBOX_ENDPOINT_DISABLED', `Nothing was changed. ${sentences.join(' ')}`, {
    details: { endpoints: closed.map(({ endpointId }) => endpointId) },
  });
}

const disabledText = ({ endpointId, disabledReason, deliveries }: EndpointAndCount) =>
  `${endpointId} (${disabledReason ?? 'by hand'}; ${deliveries} deliveries)`;

const deletedText = ({ endpointId, deliveries }: EndpointAndCount) => `${endpointId} (${deliveries} deliveries)`;
