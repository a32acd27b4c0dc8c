import { AppError, type ErrorCode } from '../errors.ts';
import type { Pool, Tx } from './pool.ts';
import { withTransaction } from './transaction.ts';
import { LOCK_TIMEOUT_MS, tryUntilFree } from './try-until-free.ts';

export interface GivingWay {
  readonly stop?: AbortSignal | undefined;
  readonly maxTries?: number | undefined;
  /** Told how often the locks were not free. */
  readonly onBusy?: ((tries: number) => void) | undefined;
  readonly code: Extract<ErrorCode, `${string}_BUSY`>;
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
  const { stop, maxTries, onBusy } = options;
  return tryUntilFree({ stop, maxTries, onBusy, givenUp: (tries, cause) => givenUp(options, tries, cause) }, () =>
    withTransaction(pool, async (tx) => {
      await tx.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
      return work(tx);
    }),
  );
}

function givenUp({ code, what, left = 'Nothing was changed.' }: GivingWay, tries: number, cause: AppError): AppError {
  return new AppError(
    code,
    `${what} was in use each of ${tries} times, for ${LOCK_TIMEOUT_MS} ms. ${left} Run it again, when no long transaction holds it.`,
    { cause },
  );
}
