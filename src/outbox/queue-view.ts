import { createPostgresBackend, Queue } from 'bullmq';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import type { AppError } from '../errors.ts';
import { inTime, within } from './deadline.ts';
import { POSTGRES_SCHEMA } from './postgres-backend.ts';
import { CONNECT_TIMEOUT_MS, QUEUE_NAME } from './queue-backend.ts';
import { queuePrefix } from './redis-backend.ts';
import { findRedis, queueUnreachable, redisClient } from './redis-servers.ts';

/** The queue of the deliveries, to be looked at: nothing is written, not even that somebody looks. */
export interface QueueView {
  readonly queue: AnyQueue;
  /** How many jobs there are, by what BullMQ calls their state. @throws AppError QUEUE_UNREACHABLE, DB_* */
  count(): Promise<Readonly<Record<string, number>>>;
  close(): Promise<void>;
}

// What both backends' classes share: each is a type of its own.
type AnyQueue = Queue | ReturnType<typeof postgresQueue>;

export interface QueueViewOptions {
  readonly databaseUrl: string;
  /** The queue is in PostgreSQL when there is none. */
  readonly redisUrl: string | undefined;
  /** The database that the queue belongs to. */
  readonly db: Queryable;
}

const ANSWER_MS = 3_000;
const GOODBYE_MS = 500;
const MAX_RECONNECT_DELAY_MS = 1_000;
const MAX_CONNECTIONS = 2;

/**
 * @returns undefined where there is no queue yet, because no worker was ever there
 * @throws AppError QUEUE_UNREACHABLE, DB_*
 */
export function openQueueView(options: QueueViewOptions): Promise<QueueView | undefined> {
  return options.redisUrl === undefined ? onPostgres(options) : onRedis(options, options.redisUrl);
}

async function onRedis({ db }: QueueViewOptions, redisUrl: string): Promise<QueueView> {
  const prefix = await queuePrefix(db);
  const closing = new AbortController();
  const servers = await findRedis(redisUrl, closing.signal);
  const connection = redisClient(servers, {
    isPatient: false,
    timeouts: { connectTimeout: CONNECT_TIMEOUT_MS, commandTimeout: ANSWER_MS },
    retryStrategy: (times) => (closing.signal.aborted ? null : Math.min(100 * times, MAX_RECONNECT_DELAY_MS)),
  });
  // Whoever asks is told.
  connection.on('error', () => undefined);
  const disconnect = () => {
    closing.abort();
    connection.disconnect();
  };
  try {
    await inTime(connection.connect(), { ms: CONNECT_TIMEOUT_MS, signal: closing.signal });
  } catch (cause) {
    disconnect();
    throw queueUnreachable(redisUrl, cause);
  }
  const queue = new Queue(QUEUE_NAME, { connection, prefix, skipMetasUpdate: true });
  return viewOf(queue, {
    unreachable: (cause) => queueUnreachable(redisUrl, cause),
    close: async () => {
      disconnect();
      await within(GOODBYE_MS, queue.close());
    },
  });
}

async function onPostgres({ databaseUrl, db }: QueueViewOptions): Promise<QueueView | undefined> {
  // By the catalog: whoever asks may have no right to the schema.
  const { rows } = await db.query<{ isThere: boolean }>(
    `select exists (
       select from pg_class join pg_namespace on pg_namespace.oid = relnamespace where nspname = $1 and relname = 'migration'
     ) as "isThere"`,
    [POSTGRES_SCHEMA],
  );
  if (rows[0]?.isThere !== true) return undefined;
  const queue = postgresQueue(databaseUrl);
  return viewOf(queue, { unreachable: toAppError, close: () => queue.close() });
}

const postgresQueue = (databaseUrl: string) =>
  new Queue(
    QUEUE_NAME,
    {
      connection: {
        connectionString: databaseUrl,
        application_name: 'liventix-console',
        connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
        query_timeout: ANSWER_MS,
        // Its tables are nobody's but the owner's.
        options: `-c default_transaction_read_only=on -c statement_timeout=${ANSWER_MS}`,
        max: MAX_CONNECTIONS,
        schema: POSTGRES_SCHEMA,
      },
      skipMetasUpdate: true,
    },
    createPostgresBackend,
  );

function viewOf(
  queue: AnyQueue,
  { unreachable, close }: { readonly unreachable: (cause: unknown) => AppError; readonly close: () => Promise<void> },
): QueueView {
  queue.on('error', () => undefined);
  const stopping = new AbortController();
  return {
    queue,
    count: async () => {
      try {
        return await inTime(queue.getJobCounts(), { ms: ANSWER_MS, signal: stopping.signal });
      } catch (cause) {
        throw unreachable(cause);
      }
    },
    close: async () => {
      stopping.abort();
      await close();
    },
  };
}
