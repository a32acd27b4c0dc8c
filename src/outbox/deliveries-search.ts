import type { Pool } from '../db/pool.ts';
import { type DeliveryPage, type ListedDelivery, listDeliveries } from './deliveries-list.ts';

export interface FoundDeliveries {
  readonly rows: readonly ListedDelivery[];
  /** Where to go on: below this id; undefined: there are no more. The page may have fewer rows than it has room, or none. */
  readonly goOnBelow: bigint | undefined;
}

/** So many are looked through at once; and at most so many times as many the next time, as far as there is time for them. */
const STRETCH = 10_000;
const WIDER = 4;

/**
 * As `listDeliveries`, for whoever waits no longer than so: what has no index, such as an endpoint's that were delivered, is looked for
 * stretch by stretch, and where few are found in time, the page ends early and says where to go on.
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_ENDPOINT_UNKNOWN
 */
export async function searchDeliveries(
  pool: Pool,
  page: DeliveryPage,
  { budgetMs }: { readonly budgetMs: number },
): Promise<FoundDeliveries> {
  const areFew = page.state === 'pending' && (await fewWait(pool));
  if (areFew || isByIndex(page)) {
    const rows = await listDeliveries(pool, page, { areFew });
    return { rows, goOnBelow: rows.length < page.limit ? undefined : rows.at(-1)?.id };
  }
  const { rows: bounds } = await pool.query<{ least: bigint | null; most: bigint | null }>(
    'select min(id) as least, max(id) as most from outbox.deliveries',
  );
  const least = bounds[0]?.least ?? 0n;
  const beganAt = performance.now();
  const rows: ListedDelivery[] = [];
  let below = page.before ?? (bounds[0]?.most ?? 0n) + 1n;
  for (let stretch = STRETCH; below > least; ) {
    const above = below - BigInt(stretch) - 1n;
    const askedAt = performance.now();
    rows.push(...(await listDeliveries(pool, { ...page, limit: page.limit - rows.length, before: below, above })));
    if (rows.length >= page.limit) return { rows, goOnBelow: rows.at(-1)?.id };
    below = above + 1n;
    const now = performance.now();
    const restMs = beganAt + budgetMs - now;
    if (restMs <= 0) return { rows, goOnBelow: below > least ? below : undefined };
    stretch = Math.min(stretch * WIDER, Math.max(STRETCH, Math.floor((stretch / (now - askedAt)) * restMs)));
  }
  return { rows, goOnBelow: undefined };
}

/** So many that wait are found, joined with their messages and sorted in some 50 ms. */
const FEW = 10_000;

async function fewWait(pool: Pool): Promise<boolean> {
  const { rowCount } = await pool.query(`select from outbox.deliveries where state = 'pending' limit 1 offset ${FEW}`);
  return rowCount === 0;
}

/** What is queued or dead is in indexes by id; and without anything that narrows, the first rows are the page. */
function isByIndex({ state, topic, endpointId, organizationId, from, to, orderingKey }: DeliveryPage): boolean {
  if (state === 'queued' || state === 'delivering' || state === 'dead') return true;
  return [state, topic, endpointId, organizationId, from, to, orderingKey].every((each) => each === undefined);
}
