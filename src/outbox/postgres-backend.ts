import { createPostgresBackend, Queue, Worker } from 'bullmq';
import { toAppError } from '../db/sqlstate.ts';
import { type Backend, CONNECT_TIMEOUT_MS, QUEUE_NAME, type QueueOptions, WORKER_OPTIONS } from './queue-backend.ts';

const POSTGRES_SCHEMA = 'outbox_queue';
/** Long enough for many workers that migrate its schema at once. */
const QUERY_TIMEOUT_MS = 15_000;
const POSTGRES_POOL_MAX = 4;

export function postgresBackend(options: QueueOptions): Backend {
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
