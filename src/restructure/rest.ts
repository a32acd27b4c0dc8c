import { setTimeout as sleep } from 'node:timers/promises';

/** What liventix restructure takes. One request in a hundred meets a move where tables follow each other at once; so one in some hundreds does. */
export const REST_FACTOR = 8;
const LONGEST_REST_MS = 2_000;

/**
 * Leaves everybody alone after a table was locked. Moved one right after the other, some table is locked nearly all the time, and more than
 * one request in a hundred meets it.
 */
export async function rest(
  lockedMs: number,
  { restFactor = 0, stop }: { readonly restFactor?: number | undefined; readonly stop?: AbortSignal | undefined },
): Promise<void> {
  if (restFactor === 0 || stop?.aborted === true) return;
  await sleep(Math.min(lockedMs * restFactor, LONGEST_REST_MS), undefined, { signal: stop }).catch(() => undefined);
}
