import { AppError } from '../errors.ts';
import { within } from './deadline.ts';
import type { DeliveryJob } from './job.ts';
import { postgresBackend } from './postgres-backend.ts';
import type { AnyWorker, JobData, QueueOptions } from './queue-backend.ts';
import { redisBackend } from './redis-backend.ts';

/** The queue between relay and workers: a cache of work to do, which may be emptied at any moment. */
export interface DeliveryQueue {
  /** Whether the queue lost everything since `markIntact`; only Redis can. */
  wasEmptied(): Promise<boolean>;
  markIntact(): Promise<void>;
  enqueue(jobs: readonly DeliveryJob[]): Promise<void>;
  /** Whether jobs are there that nobody has taken yet. */
  hasWaiting(): Promise<boolean>;
  /** Whether all of its connections are there, as far as is known. */
  answers(): boolean;
  /** Starts taking jobs. `take` is waited for before many more are taken: it has to keep what it cannot begin with. */
  consume(take: (jobs: readonly DeliveryJob[]) => Promise<void>): Promise<void>;
  /** Takes no more jobs and waits until those that it has are taken, whether or not the queue still answers. */
  drain(): Promise<void>;
  /** Says goodbye where somebody answers, and otherwise leaves nothing behind that would wait for an answer. */
  close(): Promise<void>;
}

const JOB_NAME = 'attempts';
/** How many attempts are one job: what the queue costs is shared, and what a worker takes and cannot begin with is little. */
const ATTEMPTS_A_JOB = 32;
const JOBS_IN_HAND = 4;
/** For the queue to hear that the last jobs are done; a job that it does not hear of comes back and is not claimed. */
const ACKNOWLEDGE_MS = 1_000;

// The outcome is kept in the outbox's own tables. No job id: one that still exists would be dropped silently.
const JOB_OPTIONS = { removeOnComplete: true, removeOnFail: true };

/** @throws AppError QUEUE_UNREACHABLE, DB_*; what the queue's own methods throw is for `isQueueFailure` to tell */
export async function openQueue(options: QueueOptions): Promise<DeliveryQueue> {
  const backend = await (options.redisUrl === undefined
    ? postgresBackend(options)
    : redisBackend(options, options.redisUrl));
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
      await backend.answer(queue.addBulk(inJobs(jobs).map((data) => ({ name: JOB_NAME, data, opts: JOB_OPTIONS }))));
    },
    hasWaiting: async () => (await backend.answer(queue.getWaitingCount())) > 0,
    answers: backend.answers,
    consume: async (take) => {
      worker = backend.openWorker((job) => underWay.track(take(toJobs(job.data))), JOBS_IN_HAND);
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

function inJobs(deliveries: readonly DeliveryJob[]): JobData[] {
  const jobs: JobData[] = [];
  for (let start = 0; start < deliveries.length; start += ATTEMPTS_A_JOB) {
    const part = deliveries.slice(start, start + ATTEMPTS_A_JOB);
    jobs.push(part.map(({ deliveryId, day, attempt }) => [deliveryId, day, attempt]));
  }
  return jobs;
}

// One of an earlier version named its delivery otherwise; the relay has queued that again.
function toJobs(data: JobData): DeliveryJob[] {
  return Array.isArray(data) ? data.map(([deliveryId, day, attempt]) => ({ deliveryId, day, attempt })) : [];
}

/** Whether it was the queue that failed the relay, and not the database. */
export function isQueueFailure(error: unknown): boolean {
  return error instanceof AppError && error.code === 'QUEUE_UNREACHABLE';
}

/** What is under way, told by ourselves: BullMQ waits for Redis to hear of it. */
export function trackWork() {
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
    count: (): number => underWay.size,
    settled: async (): Promise<void> => {
      while (underWay.size > 0) await Promise.allSettled(underWay);
    },
  };
}
