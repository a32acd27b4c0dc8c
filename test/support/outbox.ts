import { pino } from 'pino';
import { inject } from 'vitest';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { addEndpoint, type NewEndpoint } from '../../src/outbox/endpoints.ts';
import { createKeyRing } from '../../src/outbox/key-ring.ts';
import { type OutboxStatus, outboxStatus } from '../../src/outbox/status.ts';
import { type RunningWorker, startWorker } from '../../src/outbox/worker.ts';
import type { WorkerOptions } from '../../src/outbox/worker-options.ts';
import { eventually } from './eventually.ts';
import { TEST_ENCRYPTION_KEY } from './liventix.ts';

/** By which every endpoint of a test keeps its secret, and every worker reads it. */
export const TEST_KEY_RING = createKeyRing([Buffer.from(TEST_ENCRYPTION_KEY, 'base64')]);

export const LOOPBACK = ['127.0.0.0/8'];

/**
 * What carries the jobs. In the short run the older server carries them itself alone: how it stands beside Redis does not depend on
 * its version, and the long run looks all the same.
 */
export const BACKENDS: readonly ('PostgreSQL' | 'Redis')[] =
  process.env['LIVENTIX_DRILLS'] === 'full' || inject('postgresMajor') > 15 ? ['PostgreSQL', 'Redis'] : ['PostgreSQL'];

/** Those, and a Redis Cluster on the newer server: how it delivers is Redis' own, but for who holds the keys. */
export const BACKENDS_AND_CLUSTER: readonly ('PostgreSQL' | 'Redis' | 'Redis Cluster')[] =
  inject('postgresMajor') > 15 ? [...BACKENDS, 'Redis Cluster'] : BACKENDS;

/** For what has little to do with who carries the jobs: all of them where there is time, and one where there is none. */
export const BACKENDS_IN_SHORT = process.env['LIVENTIX_DRILLS'] === 'full' ? BACKENDS : BACKENDS.slice(-1);

/** A worker in this process with short waits, that may reach loopback. */
export function startTestWorker(
  options: Pick<WorkerOptions, 'databaseUrl'> & Partial<WorkerOptions>,
): Promise<RunningWorker> {
  return startWorker({
    egressAllow: LOOPBACK,
    keyRing: TEST_KEY_RING,
    log: pino({ level: process.env['LOG_LEVEL'] ?? 'silent' }, pino.destination(2)),
    pollMs: 200,
    sweepMs: 100,
    leaseMarginMs: 500,
    retryDelaysMs: [20, 40],
    breaker: { openMs: 50, maxOpenMs: 200 },
    ...options,
  });
}

/** An endpoint for every topic, unless the test says otherwise. */
export function addTestEndpoint(
  db: Queryable,
  endpoint: Pick<NewEndpoint, 'url'> & Partial<NewEndpoint>,
): Promise<{ id: string; secret: string }> {
  return addEndpoint(db, { topics: ['*'], egressAllow: LOOPBACK, keyRing: TEST_KEY_RING, ...endpoint });
}

/** Announces in a transaction of its own. Returns the message's id. */
export async function announce(
  db: Queryable,
  message: { topic?: string; payload?: Record<string, unknown> } = {},
): Promise<string> {
  const { rows } = await db.query<{ id: string }>(
    'insert into public.outbox (topic, payload) values ($1, $2) returning id',
    [message.topic ?? 'test.happened', message.payload ?? {}],
  );
  return rows[0]?.id ?? '';
}

/** Announces `count` messages in one statement; payload.n counts from 1. */
export async function announceMany(db: Queryable, count: number, topic = 'test.happened'): Promise<void> {
  await db.query(
    `insert into public.outbox (topic, payload) select $2, jsonb_build_object('n', n) from generate_series(1, $1) as n`,
    [count, topic],
  );
}

export function settled(db: Pool, deadlineMs?: number): Promise<OutboxStatus> {
  return eventually(
    'every delivery is delivered or dead',
    async () => {
      const status = await outboxStatus(db, { exact: true });
      const { pending, queued, delivering } = status.deliveries;
      return status.messages.unprocessed + pending + queued + delivering === 0 ? status : undefined;
    },
    deadlineMs,
  );
}

export async function deliveryStates(db: Queryable, endpointId: string): Promise<Record<string, number>> {
  const { rows } = await db.query<{ state: string; count: number }>(
    'select state, count(*)::integer as count from outbox.deliveries where endpoint_id = $1 group by state',
    [endpointId],
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
}

/** Tried again where a worker that still sweeps the tables holds one of them, and waits for another. */
export async function clearOutbox(pool: Pool): Promise<void> {
  await withTransaction(pool, (tx) =>
    tx.query('truncate outbox.attempts, outbox.deliveries, outbox.endpoints, public.outbox cascade'),
  );
}

/** Until the relay has said that it sleeps, and waits for a notification or its next poll. */
export async function relayAsleep(db: Queryable): Promise<void> {
  await eventually('the relay says that it sleeps', async () => {
    const { rows } = await db.query<{ sleeps: boolean }>(
      `select exists (
         select from pg_locks
         where locktype = 'advisory' and mode = 'ExclusiveLock' and granted
           and database = (select oid from pg_database where datname = current_database())
           and classid = (hashtext('liventix.relay.sleeps')::bigint & 4294967295)::oid
       ) as sleeps`,
    );
    return rows[0]?.sleeps === true;
  });
}
