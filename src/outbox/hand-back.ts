import type { Queryable } from '../db/pool.ts';
import { NOTIFY_CHANGED } from './endpoints.ts';
import type { DeliveryJob } from './job.ts';
import { returnUnclaimed } from './taking-back.ts';

/**
 * Hands back what a worker took from the queue and will not begin. Nothing else would bring it back before its lease is over, while other
 * jobs wait: so the relay is told to look from the beginning.
 */
export async function handBack(db: Queryable, jobs: readonly DeliveryJob[]): Promise<void> {
  if ((await returnUnclaimed(db, jobs)) > 0) await db.query(NOTIFY_CHANGED);
}
