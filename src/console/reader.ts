import { setTimeout as pause } from 'node:timers/promises';
import { createPool, type Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/** A page that takes longer is worth nobody's waiting, nor the connection that it holds. */
const STATEMENT_TIMEOUT_MS = 20_000;
const REGRANT_MS = 10_000;
const [AGAIN_MS, REPLICA_PATIENCE_MS] = [200, 10_000];
/** There is none, or nobody has been made a member of it yet. */
const NO_SUCH_ROLE = ['22023', '42704', '42501'];

/** Connections that can read what the console shows, and nothing else, whatever is asked over them. */
export function createReader(
  databaseUrl: string,
  { role, max }: { readonly role: string; readonly max: number },
): Pool {
  return createPool({
    databaseUrl,
    max,
    applicationName: 'liventix-console',
    settings: `-c role=${role.replaceAll(/[\\ ]/g, '\\$&')} -c default_transaction_read_only=on -c statement_timeout=${STATEMENT_TIMEOUT_MS}`,
  });
}

/**
 * Makes the reading role where there is none, and lets it read what there is by now.
 * @param owner connects as the tables' owner
 * @returns its name, which is of this database
 * @throws AppError CONSOLE_READER_MISSING
 */
export async function installReader(owner: Pool): Promise<string> {
  const { rows } = await owner.query<{ role: string }>('select console.reader() as role');
  const role = rows[0]?.role ?? '';
  try {
    await owner.query('select console.install_reader()');
    return role;
  } catch (error) {
    const failure = toAppError(error);
    if (failure.code !== 'DB_PERMISSION_DENIED') throw failure;
    throw new AppError(
      'CONSOLE_READER_MISSING',
      `The console reads as the role ${role}, which could not be made or given rights: ${failure.message} Have somebody who may run: create role "${role}" nologin noinherit; grant "${role}" to the owner of the tables. Then start again.`,
      { cause: error },
    );
  }
}

/**
 * Waits for the place where pages read to know the role: a replica hears of it a moment after it was made.
 * @returns the database's name as it is shown on every page, and whether it is a replica's
 * @throws AppError CONSOLE_READER_MISSING, DB_*
 */
export async function awaitReader(reader: Pool): Promise<string> {
  for (let waitedMs = 0; ; waitedMs += AGAIN_MS) {
    try {
      const { rows } = await reader.query<{ name: string }>(
        `select current_database() || case when pg_is_in_recovery() then ' (replica)' else '' end as name`,
      );
      return rows[0]?.name ?? '';
    } catch (error) {
      const { code = '' } = error as { code?: string };
      if (!NO_SUCH_ROLE.includes(code)) throw toAppError(error);
      if (waitedMs >= REPLICA_PATIENCE_MS) {
        throw new AppError(
          'CONSOLE_READER_MISSING',
          `Where pages are read, there is no role to read as ${REPLICA_PATIENCE_MS / 1_000} s after it was made: the replica of REPLICA_URL is far behind, or follows another server. Start again when it has caught up.`,
          { cause: error },
        );
      }
      await pause(AGAIN_MS);
    }
  }
}

/** Has a book that was opened since be seen too, within seconds. That the primary is gone is no reason to show nothing of a replica. */
export function keepGranted(owner: Pool, onFailure: (error: unknown) => void): { stop(): void } {
  const timer = setInterval(() => installReader(owner).catch(onFailure), REGRANT_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}
