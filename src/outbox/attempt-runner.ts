import { setTimeout as pause } from 'node:timers/promises';
import { createBatcher } from './batcher.ts';
import type { DeliveryJob } from './job.ts';
import { type AttemptContext, idsOf, makeAttempt, type ReadyAttempt } from './make-attempt.ts';
import { createPermits } from './permits.ts';
import { trackWork } from './queue.ts';

export interface RunningAttempts {
  /** Claims what the jobs name, as there are permits, and makes the attempts; answers when all are begun. */
  take(jobs: readonly DeliveryJob[]): Promise<void>;
  /** How many are under way. */
  count(): number;
  /** Begins no more, and waits for those that are under way. */
  settle(): Promise<void>;
}

export interface AttemptRunnerOptions {
  /** How many are made at once. */
  readonly concurrency: number;
  readonly claim: (jobs: readonly DeliveryJob[]) => Promise<readonly ReadyAttempt[]>;
  readonly context: AttemptContext;
  readonly onFailure: (error: unknown) => void;
  readonly onFailed: () => void;
}

const CLAIMS_AT_ONCE = 500;
const CLAIM_RETRY_MS = 300;
/** Then the delivery's lease brings it back. */
const MAX_CLAIM_TRIES = 60;

export function startAttempts({
  concurrency,
  claim,
  context,
  onFailure,
  onFailed,
}: AttemptRunnerOptions): RunningAttempts {
  const { log, observer } = context;
  const permits = createPermits(concurrency);
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
    let isOver = false;
    const requestIsOver = () => {
      if (!isOver) permits.give(1);
      isOver = true;
    };
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

  async function begin(job: DeliveryJob): Promise<void> {
    if (held.has(job.deliveryId)) {
      permits.give(1);
      return;
    }
    held.add(job.deliveryId);
    const claimed = await claimPatiently(job);
    if (claimed !== undefined) {
      void underWay.track(make(claimed));
      return;
    }
    held.delete(job.deliveryId);
    permits.give(1);
  }

  return {
    count: underWay.count,
    take: async (jobs) => {
      observer.beat('attempts');
      for (let rest = jobs; rest.length > 0; ) {
        const granted = await permits.take(rest.length);
        if (granted === 0) return;
        await Promise.all(rest.slice(0, granted).map(begin));
        rest = rest.slice(granted);
      }
    },
    settle: async () => {
      isSettling = true;
      permits.close();
      await underWay.settled();
    },
  };
}
