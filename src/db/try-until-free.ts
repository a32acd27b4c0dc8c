import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../errors.ts';
import { isCanceled, isLockTimeout } from './sqlstate.ts';

/** How long others may have to wait for a lock that is not free, when it is wanted by something that gives way. */
export const LOCK_TIMEOUT_MS = 50;
/** Between two tries they are left alone for this long, by chance, so that two who try do not keep meeting. */
const PAUSE_MS = { least: 50, most: 500 };
export const MAX_TRIES = 40;

export interface Trying {
  readonly stop?: AbortSignal | undefined;
  /** MAX_TRIES when left out. */
  readonly maxTries?: number | undefined;
  /** Told how often the locks were not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
  /** What is thrown when the last try is over. */
  givenUp(tries: number, cause: AppError): AppError;
}

/** One lock was waited for too long, or, where somebody bounds the wait for all of them, all together. */
const isNotFree = (error: AppError): boolean =>
  isLockTimeout(error.cause) || (error.code === 'DB_CONFLICT' && isCanceled(error.cause));

/**
 * Tries until no lock timed out, so and so often, with pauses. An attempt is a transaction that bounds its waits by LOCK_TIMEOUT_MS.
 * @throws AppError what `givenUp` makes, where the locks were never free; else what the attempt threw
 */
export async function tryUntilFree<T>(options: Trying, attempt: (tries: number) => Promise<T>): Promise<T> {
  const { stop, maxTries = MAX_TRIES } = options;
  for (let tries = 1; ; tries += 1) {
    try {
      return await attempt(tries);
    } catch (error) {
      if (!(error instanceof AppError) || !isNotFree(error)) throw error;
      options.onBusy?.(tries);
      if (tries >= maxTries || stop?.aborted === true) throw options.givenUp(tries, error);
      await sleep(PAUSE_MS.least + Math.random() * (PAUSE_MS.most - PAUSE_MS.least));
    }
  }
}
