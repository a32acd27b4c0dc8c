import { setTimeout as sleep } from 'node:timers/promises';

const LONGEST_REST_MS = 2_000;

export interface Resting {
  /** For how many times as long as a step took everybody is left alone after it; 0 when left out. */
  readonly restFactor?: number | undefined;
  readonly stop?: AbortSignal | undefined;
}

/** Leaves everybody alone after a step, for 2 s at most: one right after the other, they keep the processor, the disk or a lock nearly all the time. */
export async function rest(tookMs: number, { restFactor = 0, stop }: Resting): Promise<void> {
  if (restFactor === 0 || stop?.aborted === true) return;
  await sleep(Math.min(tookMs * restFactor, LONGEST_REST_MS), undefined, { signal: stop }).catch(() => undefined);
}

/** Does a step, and rests after it. */
export async function withRest<Result>(resting: Resting, step: () => Promise<Result>): Promise<Result> {
  const began = performance.now();
  const result = await step();
  await rest(performance.now() - began, resting);
  return result;
}
