import { createPostgresBackend, Queue, runMigrations, Worker } from 'bullmq';
import pg from 'pg';
import { connectionConfig } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { type Backend, CONNECT_TIMEOUT_MS, QUEUE_NAME, type QueueOptions, WORKER_OPTIONS } from './queue-backend.ts';

export const POSTGRES_SCHEMA = 'outbox_queue';
/** Many workers that start at once wait for the one that makes its schema. */
const MIGRATION_TIMEOUT_MS = 15_000;
const QUERY_TIMEOUT_MS = 5_000;
const POSTGRES_POOL_MAX = 4;

/** @throws AppError DB_* */
export async function postgresBackend(options: QueueOptions): Promise<Backend> {
  await migrate(options);
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
    openQueue: () => new Queue(QUEUE_NAME, { connection }, createPostgresBackend),
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

async function migrate({ databaseUrl, sockets }: QueueOptions): Promise<void> {
  const client = new pg.Client({
    ...connectionConfig({ databaseUrl, applicationName: 'liventix-queue' }),
    query_timeout: MIGRATION_TIMEOUT_MS,
    stream: sockets.open,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await runMigrations(client, POSTGRES_SCHEMA);
  } catch (error) {
    throw toAppError(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}
