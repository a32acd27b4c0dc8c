import { setTimeout as pause } from 'node:timers/promises';
import { createBatcher } from './batcher.ts';
import type { DeliveryJob } from './job.ts';
import { type AttemptContext, idsOf, makeAttempt, type ReadyAttempt } from './make-attempt.ts';
import { createPermits } from './permits.ts';
import { trackWork } from './queue.ts';
import { watchSlowRequests } from './slow-requests.ts';

export interface RunningAttempts {
  /** Claims what the jobs name, as there are permits, and makes the attempts; answers when all are begun. */
  take(jobs: readonly DeliveryJob[]): Promise<void>;
  /** How many are under way. */
  count(): number;
  /** Begins no more, hands back what it took and has not claimed, and waits for what is under way. */
  settle(): Promise<void>;
}

export interface AttemptRunnerOptions {
  /** How many requests are on their way at once, beside those that are slow. */
  readonly concurrency: number;
  readonly claim: (jobs: readonly DeliveryJob[]) => Promise<readonly ReadyAttempt[]>;
  /** Hands back what was taken and is not begun. */
  readonly handBack: (jobs: readonly DeliveryJob[]) => Promise<void>;
  readonly context: AttemptContext;
  readonly onFailure: (error: unknown) => void;
  readonly onFailed: () => void;
}

const CLAIMS_AT_ONCE = 500;
const CLAIM_RETRY_MS = 300;
/** Then the delivery's lease brings it back. */
const MAX_CLAIM_TRIES = 60;
/** As most receivers are done by then, and a worker is not held up for longer by one that it did not know to be slow. */
const SLOW_MS = 500;
const SLOW_A_PERMIT = 20;
/** Each is a socket: with a thousand permits fewer than 4,096, which is as many files as Linux lets a process open unless told otherwise. */
const MAX_SLOW = 2_000;
/** Of payloads, which are kept as text and as what is sent, so two or three times as much. */
const MAX_SLOW_BYTES = 64 * 1024 * 1024;

export function startAttempts({
  concurrency,
  claim,
  handBack,
  context,
  onFailure,
  onFailed,
}: AttemptRunnerOptions): RunningAttempts {
  const { log, observer } = context;
  const permits = createPermits(concurrency);
  const slow = watchSlowRequests({
    slowMs: SLOW_MS,
    max: Math.min(MAX_SLOW, SLOW_A_PERMIT * concurrency),
    maxBytes: MAX_SLOW_BYTES,
  });
  const claiming = trackWork();
  const underWay = trackWork();
  /** Two jobs may name one delivery; what this worker has already, it does not ask for again. */
  const held = new Set<string>();
  let isSettling = false;
  const claimOne = createBatcher(
    async (jobs: readonly DeliveryJob[]) => {
      const byId = new Map((await claim(jobs)).map((attempt) => [attempt.deliveryId, attempt]));
      return jobs.map(({ deliveryId }) => byId.get(deliveryId));
    },
    { maxItems: CLAIMS_AT_ONCE },
  );

  // The statement may have been done although its answer was lost: then this worker has it, and learns so by asking once more.
  async function claimPatiently(job: DeliveryJob): Promise<ReadyAttempt | undefined> {
    for (let tries = 1; tries <= MAX_CLAIM_TRIES && !isSettling; tries += 1) {
      try {
        return await claimOne(job);
      } catch (error) {
        onFailure(error);
        await pause(CLAIM_RETRY_MS);
      }
    }
    return undefined;
  }

  // The next may begin when the request is over: what is written down of it then takes nobody's place.
  async function make(claimed: ReadyAttempt): Promise<void> {
    const { endpointId, message } = claimed;
    const requestIsOver = slow.watch({ endpointId, bytes: message.payloadJson.length }, () => permits.give(1));
    const record: AttemptContext['record'] = (made) => {
      requestIsOver();
      return context.record(made);
    };
    try {
      if ((await makeAttempt(claimed, { ...context, record })) === 'failed') onFailed();
    } catch (error) {
      // Not the endpoint's failure but the database's. The delivery's lease brings it back.
      log.warn(idsOf(claimed), 'worker: what an attempt came to could not be recorded, and it is made again');
      onFailure(error);
    } finally {
      requestIsOver();
      held.delete(claimed.deliveryId);
      observer.beat('attempts');
    }
  }

  async function beginAll(jobs: readonly DeliveryJob[]): Promise<void> {
    const begun = await Promise.all(jobs.map(begin));
    if (isSettling) await leave(jobs.filter((_job, index) => !begun[index]));
  }

  /** Answers whether this worker has it. */
  async function begin(job: DeliveryJob): Promise<boolean> {
    if (held.has(job.deliveryId)) {
      permits.give(1);
      return true;
    }
    held.add(job.deliveryId);
    const claimed = await claimPatiently(job);
    if (claimed !== undefined) {
      void underWay.track(make(claimed));
      return true;
    }
    held.delete(job.deliveryId);
    permits.give(1);
    return false;
  }

  async function leave(jobs: readonly DeliveryJob[]): Promise<void> {
    if (jobs.length === 0) return;
    try {
      await handBack(jobs);
    } catch (error) {
      // Then the lease brings them back.
      onFailure(error);
    }
  }

  return {
    count: underWay.count,
    take: async (jobs) => {
      observer.beat('attempts');
      for (let rest = jobs; rest.length > 0; ) {
        const granted = await permits.take(rest.length);
        if (granted === 0) {
          await leave(rest);
          return;
        }
        await claiming.track(beginAll(rest.slice(0, granted)));
        rest = rest.slice(granted);
      }
    },
    settle: async () => {
      isSettling = true;
      permits.close();
      // What is being claimed will be under way.
      await claiming.settled();
      await underWay.settled();
    },
  };
}
