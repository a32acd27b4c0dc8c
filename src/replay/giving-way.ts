import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool, Tx } from '../db/pool.ts';
import { isLockTimeout } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';

/** How long the old platform's statements may have to wait for one of ours. */
export const LOCK_TIMEOUT_MS = 50;
/** Between two tries the old platform is left alone for this long, by chance, so that two who try do not keep meeting. */
const PAUSE_MS = { least: 50, most: 500 };
export const MAX_TRIES = 40;

export interface GivingWay {
  readonly stop?: AbortSignal | undefined;
  /** Told how often the locks were not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
  readonly code: 'CAPTURE_BUSY' | 'CUTOVER_BUSY';
  /** What was not free, as an error says it: `The ledger`. */
  readonly what: string;
  /** What there is of it when it is given up. */
  readonly left?: string;
}

/**
 * Runs a transaction that takes locks which the old platform needs too: it gives way, pauses, and tries again, so and so often.
 * @throws AppError of the given code, where the locks were never free; else what `work` threw, mapped
 */
export async function givingWay<T>(pool: Pool, options: GivingWay, work: (tx: Tx) => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await withTransaction(pool, async (tx) => {
        await tx.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
        return work(tx);
      });
    } catch (error) {
      if (!(error instanceof AppError) || !isLockTimeout(error.cause)) throw error;
      options.onBusy?.(tries);
      if (tries === MAX_TRIES || options.stop?.aborted === true) throw givenUp(options, tries, error);
      await sleep(PAUSE_MS.least + Math.random() * (PAUSE_MS.most - PAUSE_MS.least));
    }
  }
}

function givenUp({ code, what, left = 'Nothing was changed.' }: GivingWay, tries: number, cause: AppError): AppError {
  return new AppError(
    code,
    `${what} was in use each of ${tries} times, for ${LOCK_TIMEOUT_MS} ms. ${left} Run it again, when no long transaction holds it.`,
    { cause },
  );
}
