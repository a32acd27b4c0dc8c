import { createPool, type Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

const READER = 'liventix_reader';

/** A page that takes longer is worth nobody's waiting, nor the connection that it holds. */
const STATEMENT_TIMEOUT_MS = 20_000;
const REGRANT_MS = 10_000;

/** Connections that can read what the console shows, and nothing else, whatever is asked over them. */
export function createReader(databaseUrl: string, max: number): Pool {
  return createPool({
    databaseUrl,
    max,
    applicationName: 'liventix-console',
    settings: `-c role=${READER} -c default_transaction_read_only=on -c statement_timeout=${STATEMENT_TIMEOUT_MS}`,
  });
}

/**
 * Makes the reading role where there is none, and lets it read what there is by now.
 * @param owner connects as the tables' owner
 * @throws AppError CONSOLE_READER_MISSING
 */
export async function installReader(owner: Pool): Promise<void> {
  try {
    await owner.query('select console.install_reader()');
  } catch (error) {
    const failure = toAppError(error);
    if (failure.code !== 'DB_PERMISSION_DENIED') throw failure;
    throw new AppError(
      'CONSOLE_READER_MISSING',
      `The console reads as the role ${READER}, which could not be made or given rights: ${failure.message} Have somebody who may run: create role ${READER} nologin noinherit; grant ${READER} to the owner of the tables. Then start again.`,
      { cause: error },
    );
  }
}

/** Has a book that was opened since be seen too, within seconds. That the primary is gone is no reason to show nothing of a replica. */
export function keepGranted(owner: Pool, onFailure: (error: unknown) => void): { stop(): void } {
  const timer = setInterval(() => installReader(owner).catch(onFailure), REGRANT_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}
