import { setTimeout as pause } from 'node:timers/promises';
import { givingWay } from '../db/giving-way.ts';
import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { ENDPOINT_DELETED } from './attempts.ts';
import { type Endpoint, lockEndpoint, NOTIFY_CHANGED } from './endpoints.ts';

const BATCH = 2_000;
const IN_OTHER_HANDS_MS = 20;

/** How many deliveries would become dead letters, were the endpoint deleted now. */
export async function countWaiting(db: Queryable, endpointId: string): Promise<number> {
  const { rows } = await db.query<{ waiting: number }>(
    `select count(*)::integer as waiting from outbox.deliveries
     where endpoint_id = $1 and (state = 'pending' or state = 'queued' and claimed_by is null)`,
    [endpointId],
  );
  return rows[0]?.waiting ?? 0;
}

/**
 * From the first commit on nothing new is sent to it; what waits becomes a dead letter, batch by batch, and what is under way may finish.
 * Struck in between, it is finished by running it again.
 * @returns how many became dead letters
 * @throws AppError OUTBOX_ENDPOINT_UNKNOWN, OUTBOX_ENDPOINT_BUSY
 */
export async function deleteEndpoint(
  pool: Pool,
  { id, deletedAt }: Pick<Endpoint, 'id' | 'deletedAt'>,
  onProgress?: (buried: number) => void,
): Promise<number> {
  if (deletedAt === null) await markDeleted(pool, id);
  await awaitWriters(pool);
  let buried = 0;
  while ((await countWaiting(pool, id)) > 0) {
    const { rowCount } = await pool.query(BURY, [id, BATCH]);
    buried += rowCount ?? 0;
    onProgress?.(buried);
    if (rowCount === 0) await pause(IN_OTHER_HANDS_MS);
  }
  return buried;
}

// Passing over what somebody else is just moving: it would be waited for in another order than his, and he sees the endpoint deleted.
const BURY = `
  with waiting as (
    select id, day from outbox.deliveries
    where endpoint_id = $1 and (state = 'pending' or state = 'queued' and claimed_by is null)
    order by id
    limit $2
    for no key update skip locked
  )
  update outbox.deliveries
  set state = 'dead', finished_at = clock_timestamp(), lease_until = null, last_error = '${ENDPOINT_DELETED}'
  from waiting
  where deliveries.id = waiting.id and deliveries.day = waiting.day`;

async function markDeleted(pool: Pool, endpointId: string): Promise<void> {
  await withTransaction(pool, async (tx) => {
    await lockEndpoint(tx, endpointId);
    await tx.query(
      `update outbox.endpoints
       set enabled = false, disabled_at = coalesce(disabled_at, clock_timestamp()), disabled_reason = coalesce(disabled_reason, 'deleted'),
         deleted_at = clock_timestamp(), secret = null
       where id = $1`,
      [endpointId],
    );
    await tx.query('delete from outbox.endpoint_secrets where endpoint_id = $1', [endpointId]);
    await tx.query(NOTIFY_CHANGED);
  });
}

// A statement that began before the endpoint was deleted may still add deliveries for it, or let one wait. Each is short; behind this lock
// there is none any more.
async function awaitWriters(pool: Pool): Promise<void> {
  const options = {
    code: 'OUTBOX_ENDPOINT_BUSY',
    what: 'outbox.deliveries',
    left: 'The endpoint is deleted and is sent nothing, but what waits for it is not yet a dead letter.',
  } as const;
  await givingWay(pool, options, (tx) => tx.query('lock table outbox.deliveries in share mode'));
}
