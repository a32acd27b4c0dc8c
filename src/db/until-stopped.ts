import { AppError } from '../errors.ts';
import type { Pool, Tx } from './pool.ts';
import { isCanceled } from './sqlstate.ts';
import { withStatement } from './transaction.ts';

export interface Stopping {
  readonly stop: AbortSignal | undefined;
  /** What is left when it is stopped, and what to do next, as an error says it. */
  readonly left: string;
  /** As of `withStatement`. */
  readonly maxTries?: number;
}

/**
 * As `withStatement`, for what may take long: when it is stopped, the server is told to end the statement that runs, of which nothing is left then.
 * @throws AppError STOPPED, DB_*
 */
export async function untilStopped<T>(
  pool: Pool,
  { stop, left, ...options }: Stopping,
  work: (client: Tx) => Promise<T>,
): Promise<T> {
  try {
    return await withStatement(pool, run, options);
  } catch (error) {
    if (stop?.aborted !== true || !isCanceled((error as AppError).cause)) throw error;
    throw stopped(stop, left, error);
  }

  async function run(client: Tx): Promise<T> {
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid');
    if (stop?.aborted === true) throw stopped(stop, left);
    let canceling: Promise<unknown> = Promise.resolve();
    const cancel = () => {
      canceling = pool.query('select pg_cancel_backend($1)', [rows[0]?.pid]).catch(() => undefined);
    };
    stop?.addEventListener('abort', cancel, { once: true });
    try {
      return await work(client);
    } finally {
      stop?.removeEventListener('abort', cancel);
      // Of a statement that was done meanwhile, it must not come to whoever has the connection next.
      await canceling;
    }
  }
}

const stopped = (stop: AbortSignal, left: string, cause?: unknown): AppError =>
  new AppError('STOPPED', `${String(stop.reason)} stopped it: ${left}`, { cause });
