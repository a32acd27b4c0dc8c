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

/** What a verification runs in: everything it reads is of one instant, and it changes nothing. */
export const ONE_SNAPSHOT = { mode: 'isolation level repeatable read read only' } as const;

const DEFAULT_MAX_TRIES = 5;
const BACKOFF_BASE_MS = 10;

/**
 * Runs `work` in one database transaction: commits what it returns, rolls back when it throws. A serialization failure
 * or a deadlock runs the whole of `work` again, at most `maxTries` times in all, so `work` must have no effect outside
 * the transaction.
 * @throws AppError DB_CONFLICT when every try met a conflict; else what `work` threw, mapped.
 */
export function withTransaction<T>(
  pool: Pool,
  work: (tx: Tx) => Promise<T>,
  options: TransactionOptions = {},
): Promise<T> {
  return retryConflicts(() => inTransaction(pool, work, options.mode ?? ''), options);
}

/**
 * As `withTransaction`, for work that is a single statement, which is a transaction by itself: it commits as soon as it is
 * done on the server, and lets go of its locks without waiting for us to read the answer and say so.
 */
export function withStatement<T>(
  pool: Pool,
  statement: (client: Tx) => Promise<T>,
  options: Omit<TransactionOptions, 'mode'> = {},
): Promise<T> {
  return retryConflicts(() => onConnection(pool, statement), options);
}

async function retryConflicts<T>(
  work: () => Promise<T>,
  { maxTries = DEFAULT_MAX_TRIES, random = Math.random }: Omit<TransactionOptions, 'mode'>,
): Promise<T> {
  for (let tryNumber = 1; ; tryNumber += 1) {
    try {
      return await work();
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

/**
 * Runs `work` in a savepoint of an open transaction: what it throws is thrown on, mapped, with nothing of it left and the
 * transaction as usable as before.
 */
export async function withSavepoint<T>(tx: Tx, work: (tx: Tx) => Promise<T>): Promise<T> {
  await tx.query('savepoint attempt');
  try {
    const result = await work(tx);
    await tx.query('release savepoint attempt');
    return result;
  } catch (error) {
    // A connection that cannot do that says so at its next statement.
    await tx.query('rollback to savepoint attempt; release savepoint attempt').catch(() => undefined);
    throw toAppError(error);
  }
}

async function onConnection<T>(pool: Pool, work: (client: Tx) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    return await work(client);
  } catch (error) {
    // After a conflict the connection is as good as before; after anything else nobody knows.
    if (!isRetryableConflict(error)) broken = toAppError(error);
    throw error;
  } finally {
    client.release(broken);
  }
}

async function inTransaction<T>(pool: Pool, work: (tx: Tx) => Promise<T>, mode: string): Promise<T> {
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
