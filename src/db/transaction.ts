import { setTimeout as pause } from 'node:timers/promises';
import { AppError } from '../errors.ts';
import type { Pool, Tx } from './pool.ts';
import { isRetryableConflict, toAppError } from './sqlstate.ts';

export interface TransactionOptions {
  /** SQL that follows BEGIN, such as `isolation level repeatable read read only`. */
  readonly mode?: string;
  readonly maxTries?: number;
  /** Between 0 and 1; an argument so that a test can fix it. */
  readonly random?: () => number;
}

const DEFAULT_MAX_TRIES = 5;
const BACKOFF_BASE_MS = 10;

/**
 * Runs `work` in one database transaction: commits what it returns, rolls back when it throws. A serialization failure
 * or a deadlock runs the whole of `work` again, at most `maxTries` times in all, so `work` must have no effect outside
 * the transaction.
 * @throws AppError DB_CONFLICT when every try met a conflict; else what `work` threw, mapped.
 */
export async function withTransaction<T>(
  pool: Pool,
  work: (tx: Tx) => Promise<T>,
  options: TransactionOptions = {},
): Promise<T> {
  const maxTries = options.maxTries ?? DEFAULT_MAX_TRIES;
  const random = options.random ?? Math.random;
  for (let tryNumber = 1; ; tryNumber += 1) {
    try {
      return await runOnce(pool, work, options.mode ?? '');
    } catch (error) {
      if (!isRetryableConflict(error)) throw toAppError(error);
      if (tryNumber >= maxTries) {
        throw new AppError(
          'DB_CONFLICT',
          `The transaction met a conflict with another one ${maxTries} times and was given up. Nothing was written: run it again.`,
          { details: { tries: maxTries }, cause: error },
        );
      }
      await pause(BACKOFF_BASE_MS * 2 ** tryNumber * (0.5 + random()));
    }
  }
}

async function runOnce<T>(pool: Pool, work: (tx: Tx) => Promise<T>, mode: string): Promise<T> {
  const tx = await pool.connect();
  let broken: Error | undefined;
  try {
    await tx.query(`begin ${mode}`);
    const result = await work(tx);
    await tx.query('commit');
    return result;
  } catch (error) {
    // A connection that cannot even roll back is closed, not given back to the pool.
    await tx.query('rollback').catch((failure: Error) => {
      broken = failure;
    });
    throw error;
  } finally {
    tx.release(broken);
  }
}
