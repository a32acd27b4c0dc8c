import type { Job, Queue, Worker } from 'bullmq';
import type { Queryable } from '../db/pool.ts';
import type { Sockets } from '../db/sockets.ts';
import type { OutageLog } from './outage-log.ts';

export interface QueueOptions {
  readonly databaseUrl: string;
  /** BullMQ runs on PostgreSQL when there is none. */
  readonly redisUrl: string | undefined;
  readonly db: Queryable;
  readonly outage: OutageLog;
  readonly sockets: Sockets;
}

export const QUEUE_NAME = 'deliveries';
export const CONNECT_TIMEOUT_MS = 5_000;
const RETRY_DELAY_MS = 1_000;

/**
 * How long one wait for a job lasts: then the queue is asked whether there is one, whatever it said meanwhile. On Redis, BullMQ's timer on
 * it, a second longer, outlives a connection that was lost.
 */
const BLOCK_SECONDS = 1;

// A stalled job comes back to the queue, where the claim tells whether it is still wanted.
export const WORKER_OPTIONS = {
  runRetryDelay: RETRY_DELAY_MS,
  maxStalledCount: 100,
  lockDuration: 120_000,
  drainDelay: BLOCK_SECONDS,
};

/** Deliveries as a job holds them: ids, day and attempt of each. */
export type JobData = readonly (readonly [deliveryId: string, day: string, attempt: number])[];
type Process = (job: Job<JobData>) => Promise<void>;
// What both backends' classes share: each is a type of its own.
type AnyQueue = Pick<Queue<JobData>, 'waitUntilReady' | 'addBulk' | 'getWaitingCount' | 'close'> & ErrorSource;
export type AnyWorker = Pick<Worker<JobData>, 'waitUntilReady' | 'pause' | 'close'> & ErrorSource;
interface ErrorSource {
  on(event: 'error', listener: (error: Error) => void): unknown;
}

/** What differs between BullMQ on Redis and BullMQ on PostgreSQL. */
export interface Backend {
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
