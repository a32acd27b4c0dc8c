import type { Queryable } from '../db/pool.ts';

/** What says of a delivery whether it waits in a line, and in which. */
interface InLine {
  readonly endpointId: string;
  readonly orderingKey: string | null;
  /** null: not before those in front of it in its line. */
  readonly dueAt: Date | null;
}

interface Head {
  readonly endpointId: string;
  readonly orderingKey: string;
  readonly id: bigint;
}

// One probe of the lines' index for each line.
const HEADS_OF = `
  select line.endpoint_id as "endpointId", line.ordering_key as "orderingKey", head.id
  from (select distinct endpoint_id, ordering_key from unnest($1::uuid[], $2::text[]) as given (endpoint_id, ordering_key)) as line
  cross join lateral (
    select id from outbox.deliveries
    where endpoint_id = line.endpoint_id and ordering_key = line.ordering_key and state in ('pending', 'queued')
    order by id
    limit 1
  ) as head`;

/** Says of each delivery that waits in a line behind which it does: the first, which all others of its key wait for. */
export async function withHeads<T extends InLine & { readonly id: bigint }>(
  db: Queryable,
  deliveries: readonly T[],
): Promise<readonly (T & { readonly behind: bigint | null })[]> {
  const waiting = deliveries.filter(({ dueAt, orderingKey }) => dueAt === null && orderingKey !== null);
  const heads = waiting.length === 0 ? [] : await findHeads(db, waiting);
  const lineOf = (endpointId: string, orderingKey: string) => `${endpointId} ${orderingKey}`;
  const byLine = new Map(heads.map((head) => [lineOf(head.endpointId, head.orderingKey), head.id]));
  return deliveries.map((delivery) => {
    const { id, endpointId, orderingKey, dueAt } = delivery;
    const isInLine = dueAt === null && orderingKey !== null;
    const head = isInLine ? (byLine.get(lineOf(endpointId, orderingKey)) ?? null) : null;
    return { ...delivery, behind: head === id ? null : head };
  });
}

async function findHeads(db: Queryable, waiting: readonly InLine[]): Promise<readonly Head[]> {
  const lines = [waiting.map(({ endpointId }) => endpointId), waiting.map(({ orderingKey }) => orderingKey)];
  return (await db.query<Head>(HEADS_OF, lines)).rows;
}
