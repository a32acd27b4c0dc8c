import { setTimeout as pause } from 'node:timers/promises';
import { nowMs } from './clock.ts';
import { type Contender, type Place, PRODUCER_CONNECTIONS, type Producer } from './contender.ts';
import type { Receiver } from './receiver.ts';
import type { Stage } from './stage.ts';

/** When each message was begun and was committed, on the receiver's clock. */
export interface Offered {
  readonly begunAtMs: Float64Array;
  readonly committedAtMs: Float64Array;
}

/** Whoever was to commit so many a second could not. */
export class CommitFailed extends Error {
  constructor(cause: unknown) {
    super((cause as Error).message, { cause });
  }
}

/** So many that the worker always has more to do, and so few that its backlog is no part of what is measured. */
const MOST_OUTSTANDING = 500;
/** What caches, plans and connections need before they are at their speed, as a part of what is measured afterwards. */
const WARM_UP_SHARE = 0.25;
const TICK_MS = 1;
/** More than anybody here commits in a second. */
const MOST_PER_SECOND = 20_000;

/** Message after message, each at its time whatever became of those before (an open loop), from number 0. */
export async function offer(producer: Producer, load: { messages: number; perSecond: number }): Promise<Offered> {
  const [begunAtMs, committedAtMs] = [new Float64Array(load.messages), new Float64Array(load.messages)];
  const startedAtMs = nowMs();
  const commits: Promise<void>[] = [];
  const failures: unknown[] = [];
  const commit = async (n: number) => {
    begunAtMs[n] = nowMs();
    await producer.announce(n);
    committedAtMs[n] = nowMs();
  };
  while (commits.length < load.messages && failures.length === 0) {
    const due = Math.min(load.messages, Math.ceil(((nowMs() - startedAtMs) / 1_000) * load.perSecond));
    while (commits.length < due) commits.push(commit(commits.length).catch((error) => void failures.push(error)));
    await pause(TICK_MS);
  }
  await Promise.all(commits);
  if (failures.length > 0) throw new CommitFailed(failures[0]);
  return { begunAtMs, committedAtMs };
}

/** How long after the last commit a message may still come to be counted. */
export const GRACE_MS = 5_000;

/** From `since` to the arrival, of one place of `arrivals` each; what has not come by now has taken so long at least. */
export function waitsOf(
  arrivals: Float64Array,
  messages: readonly { readonly at: number; readonly sinceMs: number }[],
): { readonly tookMs: readonly number[]; readonly missing: number } {
  const presentMs = nowMs();
  return {
    tookMs: messages.map(({ at, sinceMs }) => (arrivals[at] || presentMs) - sinceMs),
    missing: messages.filter(({ at }) => arrivals[at] === 0).length,
  };
}

/** How many messages a load is of, and which of them is the first that counts. */
export function lengthOf({ perSecond, seconds }: { perSecond: number; seconds: number }): {
  messages: number;
  from: number;
} {
  const from = Math.ceil(perSecond * seconds * WARM_UP_SHARE);
  return { messages: from + Math.ceil(perSecond * seconds), from };
}

/** Deliveries a second while somebody commits just as many: what a worker that shares its machine with its producers gets through. */
export function saturationWhileCommitting(stage: Stage, contender: Contender, ms: number): Promise<number> {
  return stage.play(contender, async (place) => {
    await stage.receiver.expect({
      messages: Math.ceil((MOST_PER_SECOND * ms * (1 + WARM_UP_SHARE)) / 1_000),
      endpoints: 1,
      hangMs: 0,
    });
    return withWorker(stage, contender, place, async (producer) => {
      const told = { stop: false };
      const committing = commitUntil(producer, stage.receiver, told);
      await pause(WARM_UP_SHARE * ms);
      const [before, startedAtMs] = [stage.receiver.requests(), nowMs()];
      await pause(ms);
      const perSecond = ((stage.receiver.requests() - before) / (nowMs() - startedAtMs)) * 1_000;
      told.stop = true;
      await committing;
      return perSecond;
    });
  });
}

async function commitUntil(producer: Producer, receiver: Receiver, told: { readonly stop: boolean }): Promise<void> {
  let begun = 0;
  await Promise.all(
    Array.from({ length: PRODUCER_CONNECTIONS }, async () => {
      while (!told.stop) {
        if (begun - receiver.requests() >= MOST_OUTSTANDING) await pause(TICK_MS);
        else await producer.announce(begun++);
      }
    }),
  );
}

/** A worker that has started, and whoever announces to it, for as long as `act` takes. */
export async function withWorker<T>(
  stage: Stage,
  contender: Contender,
  place: Place,
  act: (producer: Producer) => Promise<T>,
): Promise<T> {
  const producer = await contender.open(place);
  const worker = await stage.startWorker(contender, place);
  try {
    return await act(producer);
  } finally {
    await worker.kill();
    await producer.close();
  }
}
