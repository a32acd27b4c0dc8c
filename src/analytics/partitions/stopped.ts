import type { Pool } from '../../db/pool.ts';
import { untilStopped } from '../../db/until-stopped.ts';
import { AppError } from '../../errors.ts';

/** @throws AppError STOPPED */
export function assertNotStopped(stop: AbortSignal | undefined): void {
  if (stop?.aborted === true) throw new AppError('STOPPED', 'Stopped. Run it again: it goes on where it was.');
}

/** Runs what may take long; when it is stopped, the server ends it, and nothing is left of it. @throws AppError STOPPED, DB_* */
export const runUntilStopped = (pool: Pool, stop: AbortSignal | undefined, sql: string): Promise<unknown> =>
  untilStopped(pool, { stop, left: 'run it again, it goes on where it was.', maxTries: 1 }, (client) =>
    client.query(sql),
  );
