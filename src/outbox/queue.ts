import { AppError } from '../errors.ts';
import { within } from './deadline.ts';
import type { DeliveryJob } from './deliveries.ts';
import { postgresBackend } from './postgres-backend.ts';
import type { AnyWorker, QueueOptions } from './queue-backend.ts';
import { redisBackend } from './redis-backend.ts';

/** The queue between relay and workers: a cache of work to do, which may be emptied at any moment. */
export interface DeliveryQueue {
  /** Whether the queue lost everything since `markIntact`; only Redis can. */
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  enqueue(jobs: readonly DeliveryJob[]): Promise<void>;
  /** Whether all of its connections are there, as far as is known. */
  answers(): boolean;
  /** Starts taking jobs, `concurrency` at once. */
  consume(options: { concurrency: number; process: (job: DeliveryJob) => Promise<void> }): Promise<void>;
  /** Takes no more jobs and waits for those that are being processed, whether or not the queue still answers. */
  drain(): Promise<void>;
  /** Says goodbye where somebody answers, and otherwise leaves nothing behind that would wait for an answer. */
  close(): Promise<void>;
}

const JOB_NAME = 'attempt';
/** For the queue to hear that the last jobs are done; a job that it does not hear of comes back and is not claimed. */
const ACKNOWLEDGE_MS = 1_000;

// The outcome is kept in the outbox's own tables. No job id: one that still exists would be dropped silently.
const JOB_OPTIONS = { removeOnComplete: true, removeOnFail: true };

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
    answers: backend.answers,
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
