import { createHash, randomUUID } from 'node:crypto';
import { createPostgresBackend, type Job, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import type { DeliveryJob } from './deliveries.ts';

/** The queue between relay and workers: a cache of work to do, which may be emptied at any moment. */
export interface DeliveryQueue {
  /** Whether the queue lost everything since `markIntact`; only Redis can. */
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  enqueue(jobs: readonly DeliveryJob[]): Promise<void>;
  /** Starts taking jobs, `concurrency` at once. */
  consume(options: { concurrency: number; process: (job: DeliveryJob) => Promise<void> }): Promise<void>;
  /** Takes no more jobs and waits for those that are being processed. */
  drain(): Promise<void>;
  close(): Promise<void>;
}

export interface QueueOptions {
  readonly databaseUrl: string;
  /** BullMQ runs on PostgreSQL when there is none. */
  readonly redisUrl: string | undefined;
  readonly db: Queryable;
  readonly log: Logger;
}

const QUEUE_NAME = 'deliveries';
const JOB_NAME = 'attempt';
const POSTGRES_SCHEMA = 'outbox_queue';
const CONNECT_TIMEOUT_MS = 5_000;
const COMMAND_TIMEOUT_MS = 5_000;
/** Long enough for many workers that migrate its schema at once. */
const QUERY_TIMEOUT_MS = 15_000;
const MAX_RECONNECT_DELAY_MS = 1_000;
const RETRY_DELAY_MS = 1_000;
const POSTGRES_POOL_MAX = 4;

// The outcome is kept in the outbox's own tables. No job id: one that still exists would be dropped silently.
const JOB_OPTIONS = { removeOnComplete: true, removeOnFail: true };
// A stalled job comes back to the queue, where the claim tells whether it is still wanted.
const WORKER_OPTIONS = { runRetryDelay: RETRY_DELAY_MS, maxStalledCount: 100, lockDuration: 120_000 };

/** @throws AppError QUEUE_UNREACHABLE, DB_* */
export async function openQueue(options: QueueOptions): Promise<DeliveryQueue> {
  const backend =
    options.redisUrl === undefined ? postgresBackend(options) : await redisBackend(options, options.redisUrl);
  const onError = (error: Error) => options.log.warn({ err: error }, 'queue: connection trouble, trying again');
  const queue = backend.openQueue();
  queue.on('error', onError);
  let worker: AnyWorker | undefined;
  try {
    await queue.waitUntilReady();
  } catch (cause) {
    await queue.close().catch(() => undefined);
    await backend.close();
    throw options.redisUrl === undefined ? toAppError(cause) : unreachable(cause);
  }
  return {
    wasEmptied: backend.wasEmptied,
    markIntact: backend.markIntact,
    enqueue: async (jobs) => {
      await queue.addBulk(jobs.map((data) => ({ name: JOB_NAME, data, opts: JOB_OPTIONS })));
    },
    consume: async ({ concurrency, process }) => {
      worker = backend.openWorker((job) => process(job.data), concurrency);
      worker.on('error', onError);
      await worker.waitUntilReady();
    },
    drain: async () => {
      await worker?.close();
    },
    close: async () => {
      await worker?.close(true);
      await queue.close();
      await backend.close();
    },
  };
}

type Process = (job: Job<DeliveryJob>) => Promise<void>;
// What both backends' classes share: each is a type of its own.
type AnyQueue = Pick<Queue<DeliveryJob>, 'waitUntilReady' | 'addBulk' | 'close'> & ErrorSource;
type AnyWorker = Pick<Worker<DeliveryJob>, 'waitUntilReady' | 'close'> & ErrorSource;
interface ErrorSource {
  on(event: 'error', listener: (error: Error) => void): unknown;
}

interface Backend {
  openQueue(): AnyQueue;
  openWorker(process: Process, concurrency: number): AnyWorker;
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  close(): Promise<void>;
}

function postgresBackend(options: QueueOptions): Backend {
  const connection = {
    connectionString: options.databaseUrl,
    application_name: 'liventix-queue',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    // A job that a crash of the server takes is brought back by its delivery's lease.
    options: '-c synchronous_commit=off',
    query_timeout: QUERY_TIMEOUT_MS,
    max: POSTGRES_POOL_MAX,
    schema: POSTGRES_SCHEMA,
  };
  return {
    openQueue: () => new Queue(QUEUE_NAME, { connection: { ...connection, migrate: true } }, createPostgresBackend),
    openWorker: (process, concurrency) =>
      new Worker(QUEUE_NAME, process, { connection, concurrency, ...WORKER_OPTIONS }, createPostgresBackend),
    // Its jobs live and die with the deliveries, in one database.
    wasEmptied: async () => false,
    markIntact: async () => undefined,
    close: async () => undefined,
  };
}

async function redisBackend(options: QueueOptions, redisUrl: string): Promise<Backend> {
  const prefix = await queuePrefix(options.db);
  const epochKey = `${prefix}:epoch`;
  const connect = (settings: { maxRetriesPerRequest: number | null; commandTimeout?: number }) => {
    const client = new Redis(redisUrl, {
      ...settings,
      lazyConnect: true,
      connectTimeout: CONNECT_TIMEOUT_MS,
      retryStrategy: (times) => Math.min(100 * times, MAX_RECONNECT_DELAY_MS),
    });
    client.on('error', () => undefined);
    return client;
  };
  // The relay wants to be told soon that Redis is away; a worker's blocking commands wait for ever.
  const producer = connect({ maxRetriesPerRequest: 1, commandTimeout: COMMAND_TIMEOUT_MS });
  const consumer = connect({ maxRetriesPerRequest: null });
  try {
    await producer.connect();
  } catch (cause) {
    producer.disconnect();
    throw unreachable(cause);
  }
  return {
    openQueue: () => new Queue(QUEUE_NAME, { connection: producer, prefix }),
    openWorker: (process, concurrency) =>
      new Worker(QUEUE_NAME, process, { connection: consumer, prefix, concurrency, ...WORKER_OPTIONS }),
    wasEmptied: async () => (await producer.exists(epochKey)) === 0,
    markIntact: async () => {
      await producer.set(epochKey, randomUUID(), 'NX');
    },
    close: async () => {
      producer.disconnect();
      consumer.disconnect();
    },
  };
}

// Braces: on Redis Cluster all keys of a queue must hash to one slot.
async function queuePrefix(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    `select installation_id || ' ' || current_database() as name from outbox.relay`,
  );
  const digest = createHash('sha256')
    .update(rows[0]?.name ?? '')
    .digest('hex');
  return `{liventix-${digest.slice(0, 16)}}`;
}

function unreachable(cause: unknown): AppError {
  const reason = cause instanceof Error ? cause.message.replace(/\s+/g, ' ') : String(cause);
  return new AppError(
    'QUEUE_UNREACHABLE',
    `Redis did not answer: ${reason}. Check that it runs and that REDIS_URL names its host and port, or unset REDIS_URL to queue in PostgreSQL.`,
    { cause },
  );
}
