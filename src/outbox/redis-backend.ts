import { createHash, randomUUID } from 'node:crypto';
import { setImmediate as immediately, setTimeout as pause } from 'node:timers/promises';
import { Queue, Worker } from 'bullmq';
import type { Queryable } from '../db/pool.ts';
import { inTime } from './deadline.ts';
import { type Backend, CONNECT_TIMEOUT_MS, QUEUE_NAME, type QueueOptions, WORKER_OPTIONS } from './queue-backend.ts';
import { ANSWER_TIMEOUT_MS, findRedis, queueUnreachable, redisClient } from './redis-servers.ts';

const MAX_RECONNECT_DELAY_MS = 1_000;
/** Longer than any wait for a job, which is answered when it is over. */
const SILENCE_MS = 2_500;
/** For Redis to close a connection, before it is broken. */
const DISCONNECT_TIMEOUT_MS = 500;
/** Between two questions to a cluster that failed. */
const DOUBT_MS = 500;

/** @throws AppError QUEUE_UNREACHABLE */
export async function redisBackend(options: QueueOptions, redisUrl: string): Promise<Backend> {
  const prefix = await queuePrefix(options.db);
  const epochKey = epochKeyOf(prefix);
  const closing = new AbortController();
  const servers = await findRedis(redisUrl, closing.signal);
  let connectionError: Error | undefined;
  const open = (isPatient: boolean) => {
    const client = redisClient(servers, {
      isPatient,
      timeouts: {
        connectTimeout: CONNECT_TIMEOUT_MS,
        // A connection that went silent is not one: what waits for it is asked of the next.
        socketTimeout: SILENCE_MS,
        disconnectTimeout: DISCONNECT_TIMEOUT_MS,
      },
      // Ending its tries is the one way to stop a client between two of them that also fails what waits for it.
      retryStrategy: (times) => (closing.signal.aborted ? null : Math.min(100 * times, MAX_RECONNECT_DELAY_MS)),
    });
    const onError = (error: Error) => {
      connectionError = error;
    };
    client.on('error', onError).on('node error', onError);
    return client;
  };
  // The relay wants to be told soon that Redis is away; a worker's blocking commands wait for ever.
  const producer = open(false);
  const consumer = open(true);
  const clients: RedisClient[] = [producer, consumer];
  const soon = <T>(work: Promise<T>) => inTime(work, { ms: ANSWER_TIMEOUT_MS, signal: closing.signal });
  const doubt = createDoubt(() => soon(producer.exists(epochKey)), closing.signal);
  const onFailure = () => {
    // A single Redis is there when it is connected; of a cluster, any node that is connected will do.
    if (servers.kind === 'cluster') void doubt.begin();
  };
  const answer = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await soon(work);
    } catch (cause) {
      onFailure();
      // A command says only that the connection was closed; the connection said why.
      const saysWhy = producer.status === 'ready' && !`${cause}`.includes('Connection is closed');
      throw queueUnreachable(redisUrl, saysWhy ? cause : (connectionError ?? cause));
    }
  };
  try {
    await answer(producer.connect());
    // Nodes answer when their cluster is down, and say so of keys alone.
    await answer(producer.exists(epochKey));
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
        ...WORKER_OPTIONS,
      });
      worker.on('error', onFailure);
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
    answers: () => !doubt.lasts() && clients.every(({ status }) => status === 'ready'),
    disconnect: async () => {
      closing.abort();
      // A client says what became of it in the same turn, and a cluster's might take back what it said.
      await immediately();
      await Promise.all(clients.map(endClient));
    },
    answer,
  };
}

/** From a failure on until a question is answered. */
function createDoubt(ask: () => Promise<unknown>, until: AbortSignal) {
  let lasts = false;
  const isAnswered = () =>
    ask().then(
      () => true,
      () => false,
    );
  return {
    lasts: () => lasts,
    begin: async (): Promise<void> => {
      if (lasts) return;
      lasts = true;
      do await pause(DOUBT_MS, undefined, { signal: until }).catch(() => undefined);
      while (!until.aborted && !(await isAnswered()));
      lasts = false;
    },
  };
}

interface RedisClient {
  readonly status: string;
  disconnect(): void;
  once(event: 'end' | 'connect', listener: () => void): unknown;
}

async function endClient(client: RedisClient): Promise<void> {
  if (client.status === 'end') return;
  const ended = new Promise<void>((resolve) => {
    client.once('end', resolve);
  });
  // Between two tries to connect it would forget to say that it ended: there its next try is its last, and whom it reaches
  // may say nothing.
  if (client.status === 'reconnecting') client.once('connect', () => client.disconnect());
  else client.disconnect();
  await ended;
}

/**
 * Removes from Redis what the workers of this database left there, and nothing else: when the database goes, nobody else
 * ever will. Call it when they have stopped.
 */
export async function removeQueue(db: Queryable, redisUrl: string): Promise<void> {
  const prefix = await queuePrefix(db);
  const connection = redisClient(await findRedis(redisUrl, new AbortController().signal), {
    isPatient: false,
    timeouts: { connectTimeout: ANSWER_TIMEOUT_MS, commandTimeout: ANSWER_TIMEOUT_MS },
    retryStrategy: () => null,
  });
  connection.on('error', () => undefined);
  try {
    await connection.connect();
    const queue = new Queue(QUEUE_NAME, { connection, prefix });
    queue.on('error', () => undefined);
    await queue.obliterate({ force: true });
    await queue.close();
    await connection.del(epochKeyOf(prefix), `${prefix}:${QUEUE_NAME}:stalled-check`);
  } finally {
    connection.disconnect();
  }
}

/** Gone when Redis was emptied. */
const epochKeyOf = (prefix: string) => `${prefix}:epoch`;

/** What all keys of the queue begin with. Braces: on Redis Cluster all keys of a queue must hash to one slot. */
export async function queuePrefix(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    `select installation_id || ' ' || current_database() as name from outbox.relay`,
  );
  const digest = createHash('sha256')
    .update(rows[0]?.name ?? '')
    .digest('hex');
  return `{liventix-${digest.slice(0, 16)}}`;
}
