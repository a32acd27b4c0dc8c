import { createHash, randomUUID } from 'node:crypto';
import { createPostgresBackend, type Job, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { inTime, within } from './deadline.ts';
import type { DeliveryJob } from './deliveries.ts';
import type { OutageLog } from './outage-log.ts';
import type { Sockets } from './sockets.ts';

/** The queue between relay and workers: a cache of work to do, which may be emptied at any moment. */
export interface DeliveryQueue {
  /** Whether the queue lost everything since `markIntact`; only Redis can. */
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  enqueue(jobs: readonly DeliveryJob[]): Promise<void>;
  /** Starts taking jobs, `concurrency` at once. */
  consume(options: { concurrency: number; process: (job: DeliveryJob) => Promise<void> }): Promise<void>;
  /** Takes no more jobs and waits for those that are being processed, whether or not the queue still answers. */
  drain(): Promise<void>;
  /** Says goodbye where somebody answers, and otherwise leaves nothing behind that would wait for an answer. */
  close(): Promise<void>;
}

export interface QueueOptions {
  readonly databaseUrl: string;
  /** BullMQ runs on PostgreSQL when there is none. */
  readonly redisUrl: string | undefined;
  readonly db: Queryable;
  readonly outage: OutageLog;
  readonly sockets: Sockets;
}

const QUEUE_NAME = 'deliveries';
const JOB_NAME = 'attempt';
const POSTGRES_SCHEMA = 'outbox_queue';
const DEFAULT_REDIS_PORT = 6379;
const CONNECT_TIMEOUT_MS = 5_000;
const ANSWER_TIMEOUT_MS = 5_000;
/** Long enough for many workers that migrate its schema at once. */
const QUERY_TIMEOUT_MS = 15_000;
const MAX_RECONNECT_DELAY_MS = 1_000;
const RETRY_DELAY_MS = 1_000;
/** For the queue to hear that the last jobs are done; a job that it does not hear of comes back and is not claimed. */
const ACKNOWLEDGE_MS = 1_000;
/** How long one wait for a job lasts. BullMQ's timer on it, a second longer, outlives a connection that was lost. */
const BLOCK_SECONDS = 1;
/** For Redis to close a connection, before it is broken. */
const DISCONNECT_TIMEOUT_MS = 500;
const POSTGRES_POOL_MAX = 4;

// The outcome is kept in the outbox's own tables. No job id: one that still exists would be dropped silently.
const JOB_OPTIONS = { removeOnComplete: true, removeOnFail: true };
// A stalled job comes back to the queue, where the claim tells whether it is still wanted.
const WORKER_OPTIONS = { runRetryDelay: RETRY_DELAY_MS, maxStalledCount: 100, lockDuration: 120_000 };

/** @throws AppError QUEUE_UNREACHABLE, DB_*; what the queue's own methods throw is for `isQueueFailure` to tell */
export async function openQueue(options: QueueOptions): Promise<DeliveryQueue> {
  const backend =
    options.redisUrl === undefined ? postgresBackend(options) : await redisBackend(options, options.redisUrl);
  // The relay asks the queue at every look, so it will find out.
  const onError = (error: Error) => options.outage.failed('relay', error);
  const queue = backend.openQueue();
  queue.on('error', onError);
  const underWay = trackWork();
  let worker: AnyWorker | undefined;
  try {
    await backend.answer(queue.waitUntilReady());
  } catch (error) {
    await backend.disconnect();
    await queue.close().catch(() => undefined);
    throw error;
  }
  return {
    wasEmptied: () => backend.answer(backend.wasEmptied()),
    markIntact: () => backend.answer(backend.markIntact()),
    enqueue: async (jobs) => {
      await backend.answer(queue.addBulk(jobs.map((data) => ({ name: JOB_NAME, data, opts: JOB_OPTIONS }))));
    },
    consume: async ({ concurrency, process }) => {
      worker = backend.openWorker((job) => underWay.track(process(job.data)), concurrency);
      worker.on('error', onError);
      await backend.answer(worker.waitUntilReady());
    },
    drain: async () => {
      await worker?.pause(true);
      await underWay.settled();
      // Closing waits for ever for a Redis that is away, and cannot be called a second time to force it.
      if (worker !== undefined && backend.answers()) await within(ACKNOWLEDGE_MS, worker.close());
    },
    close: async () => {
      await backend.disconnect();
      await worker?.close(true);
      await queue.close();
    },
  };
}

/** Whether it was the queue that failed the relay, and not the database. */
export function isQueueFailure(error: unknown): boolean {
  return error instanceof AppError && error.code === 'QUEUE_UNREACHABLE';
}

/** What is being processed, told by ourselves: BullMQ waits for Redis to hear of it. */
function trackWork() {
  const underWay = new Set<Promise<unknown>>();
  return {
    track: async (work: Promise<void>): Promise<void> => {
      underWay.add(work);
      try {
        await work;
      } finally {
        underWay.delete(work);
      }
    },
    settled: async (): Promise<void> => {
      while (underWay.size > 0) await Promise.allSettled(underWay);
    },
  };
}

type Process = (job: Job<DeliveryJob>) => Promise<void>;
// What both backends' classes share: each is a type of its own.
type AnyQueue = Pick<Queue<DeliveryJob>, 'waitUntilReady' | 'addBulk' | 'close'> & ErrorSource;
type AnyWorker = Pick<Worker<DeliveryJob>, 'waitUntilReady' | 'pause' | 'close'> & ErrorSource;
interface ErrorSource {
  on(event: 'error', listener: (error: Error) => void): unknown;
}

interface Backend {
  openQueue(): AnyQueue;
  openWorker(process: Process, concurrency: number): AnyWorker;
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  /** Whether it is connected, as far as is known. */
  answers(): boolean;
  /** Ends its connections in whatever state they are, and fails what waits for them. */
  disconnect(): Promise<void>;
  /** @throws AppError what `work` failed with, or that it was not done in time or before `disconnect` */
  answer<T>(work: Promise<T>): Promise<T>;
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
    stream: options.sockets.open,
    schema: POSTGRES_SCHEMA,
  };
  return {
    openQueue: () => new Queue(QUEUE_NAME, { connection: { ...connection, migrate: true } }, createPostgresBackend),
    openWorker: (process, concurrency) =>
      new Worker(QUEUE_NAME, process, { connection, concurrency, ...WORKER_OPTIONS }, createPostgresBackend),
    // Its jobs live and die with the deliveries, in one database.
    wasEmptied: async () => false,
    markIntact: async () => undefined,
    // Its connections tell no state, and all of them are broken with their sockets.
    answers: () => true,
    disconnect: async () => undefined,
    answer: (work) =>
      work.catch((cause: unknown) => {
        throw toAppError(cause);
      }),
  };
}

async function redisBackend(options: QueueOptions, redisUrl: string): Promise<Backend> {
  const prefix = await queuePrefix(options.db);
  const epochKey = `${prefix}:epoch`;
  const closing = new AbortController();
  let connectionError: Error | undefined;
  const connect = (maxRetriesPerRequest: number | null) => {
    const client = new Redis(redisUrl, {
      maxRetriesPerRequest,
      lazyConnect: true,
      connectTimeout: CONNECT_TIMEOUT_MS,
      disconnectTimeout: DISCONNECT_TIMEOUT_MS,
      // Ending its tries is the one way to stop a client between two of them that also fails what waits for it.
      retryStrategy: (times) => (closing.signal.aborted ? null : Math.min(100 * times, MAX_RECONNECT_DELAY_MS)),
    });
    client.on('error', (error) => {
      connectionError = error;
    });
    return client;
  };
  // The relay wants to be told soon that Redis is away; a worker's blocking commands wait for ever.
  const producer = connect(1);
  const consumer = connect(null);
  const clients: RedisClient[] = [producer, consumer];
  const answer = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await inTime(work, { ms: ANSWER_TIMEOUT_MS, signal: closing.signal });
    } catch (cause) {
      // A command says only that the connection was closed; the connection said why.
      throw queueUnreachable(redisUrl, producer.status === 'ready' ? cause : (connectionError ?? cause));
    }
  };
  try {
    await answer(producer.connect());
  } catch (error) {
    producer.disconnect();
    throw error;
  }
  return {
    openQueue: () => new Queue(QUEUE_NAME, { connection: producer, prefix }),
    openWorker: (process, concurrency) => {
      const worker = new Worker(QUEUE_NAME, process, {
        connection: consumer,
        prefix,
        concurrency,
        drainDelay: BLOCK_SECONDS,
        ...WORKER_OPTIONS,
      });
      // BullMQ waits for jobs on a copy of the connection.
      void worker.getBackend().blockingClient?.then(
        (client) => clients.push(client),
        () => undefined,
      );
      return worker;
    },
    wasEmptied: async () => (await producer.exists(epochKey)) === 0,
    markIntact: async () => {
      await producer.set(epochKey, randomUUID(), 'NX');
    },
    answers: () => clients.every(({ status }) => status === 'ready'),
    disconnect: async () => {
      closing.abort();
      await Promise.all(clients.map(endClient));
    },
    answer,
  };
}

interface RedisClient {
  readonly status: string;
  disconnect(): void;
  once(event: 'end', listener: () => void): unknown;
}

async function endClient(client: RedisClient): Promise<void> {
  if (client.status === 'end') return;
  const ended = new Promise<void>((resolve) => {
    client.once('end', resolve);
  });
  // Between two tries to connect it would forget to say that it ended: there its next try is its last.
  if (client.status !== 'reconnecting') client.disconnect();
  await ended;
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

/** One sentence that names the server, and never its password. */
export function queueUnreachable(redisUrl: string, cause: unknown): AppError {
  const { hostname, port } = new URL(redisUrl);
  return new AppError(
    'QUEUE_UNREACHABLE',
    `Redis at ${hostname}:${port === '' ? DEFAULT_REDIS_PORT : port} cannot be used (${reasonOf(cause)}): check that it runs and that REDIS_URL names its host, port, user and password, or unset REDIS_URL to queue in PostgreSQL.`,
    { cause },
  );
}

// A name with several addresses fails with an error whose message is empty.
function reasonOf(cause: unknown): string {
  const inner: unknown = cause instanceof AggregateError ? cause.errors[0] : cause;
  const text = inner instanceof Error ? inner.message : String(inner);
  return text.replace(/\s+/g, ' ').replace(/[\s.]+$/, '');
}
