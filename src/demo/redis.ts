import { createHash } from 'node:crypto';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import type { Queryable } from '../db/pool.ts';

const TIMEOUT_MS = 5_000;
/** As in src/outbox/queue.ts, like the prefix. */
const QUEUE_NAME = 'deliveries';

/**
 * Removes from Redis what the workers of this database left there, and nothing else: when the database goes, nobody else
 * ever will. Call it when they have stopped.
 */
export async function removeQueue(db: Queryable, redisUrl: string): Promise<void> {
  const prefix = await queuePrefix(db);
  const connection = new Redis(redisUrl, {
    lazyConnect: true,
    connectTimeout: TIMEOUT_MS,
    commandTimeout: TIMEOUT_MS,
    retryStrategy: () => null,
  });
  connection.on('error', () => undefined);
  try {
    await connection.connect();
    const queue = new Queue(QUEUE_NAME, { connection, prefix });
    queue.on('error', () => undefined);
    await queue.obliterate({ force: true });
    await queue.close();
    await connection.del(`${prefix}:epoch`, `${prefix}:${QUEUE_NAME}:stalled-check`);
  } finally {
    connection.disconnect();
  }
}

async function queuePrefix(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    `select installation_id || ' ' || current_database() as name from outbox.relay`,
  );
  const digest = createHash('sha256')
    .update(rows[0]?.name ?? '')
    .digest('hex');
  return `{liventix-${digest.slice(0, 16)}}`;
}
