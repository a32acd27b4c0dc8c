import { AppError } from '../errors.ts';
import type { Pool, Tx } from './pool.ts';
import { isCanceled, toAppError } from './sqlstate.ts';
import { withStatement } from './transaction.ts';

export interface Stopping {
  readonly stop: AbortSignal | undefined;
  /** What is left when it is stopped, and what to do next, as an error says it. */
  readonly left: string;
  /** As of `withStatement`. */
  readonly maxTries?: number;
}

/**
 * As `withStatement`, for what may take long.
 * @throws AppError STOPPED, DB_*
 */
export const untilStopped = <T>(
  pool: Pool,
  { stop, left, ...options }: Stopping,
  work: (client: Tx) => Promise<T>,
): Promise<T> =>
  withStatement(pool, (client) => endedWhenStopped(pool, client, { stop, left }, () => work(client)), options);

/**
 * Works on a connection, in a transaction or not: when it is stopped, the server is told to end the statement that runs, of which nothing is left then.
 * @param pool of which another connection tells it
 * @throws AppError STOPPED, what `work` throws
 */
export async function endedWhenStopped<T>(
  pool: Pool,
  client: Tx,
  { stop, left }: Omit<Stopping, 'maxTries'>,
  work: () => Promise<T>,
): Promise<T> {
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
  const isStopped = () => stop?.aborted === true;
  if (isStopped()) throw stopped(stop, left);
  let canceling: Promise<unknown> = Promise.resolve();
  const cancel = () => {
    canceling = pool.query('select pg_cancel_backend($1)', [rows[0]?.pid]).catch(() => undefined);
  };
  stop?.addEventListener('abort', cancel, { once: true });
  try {
    return await work();
  } catch (error) {
    throw isStopped() && isCanceled(toAppError(error).cause) ? stopped(stop, left, error) : error;
  } finally {
    stop?.removeEventListener('abort', cancel);
    // Of a statement that was done meanwhile, it must not come to whoever has the connection next.
    await canceling;
  }
}

const stopped = (stop: AbortSignal | undefined, left: string, cause?: unknown): AppError =>
  new AppError('STOPPED', `${String(stop?.reason)} stopped it: ${left}`, { cause });
