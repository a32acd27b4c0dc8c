import type { Config } from '../config.ts';
import { interruptible } from '../db/interrupt.ts';
import { assertMigrated } from '../db/migrate.ts';
import { connectionsOf, openPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Streams } from './output.ts';

/** What every command is given; made once by `main`. */
export interface CommandContext extends Streams {
  readonly config: Config;
  /** Aborted by SIGINT, SIGTERM or SIGHUP: a long command stops at its next safe point. */
  readonly stop: AbortSignal;
  /** What the process ends with, when the command neither succeeds (0) nor throws. */
  exitWith(code: 1 | 2 | 3): void;
}

/** @throws AppError CONFIG_DATABASE_URL_MISSING */
export function requireDatabaseUrl(config: Config): string {
  if (config.databaseUrl === undefined) {
    throw new AppError(
      'CONFIG_DATABASE_URL_MISSING',
      'DATABASE_URL is not set. Set it to postgresql://user:password@host:5432/database, or try: liventix demo --keep',
    );
  }
  return config.databaseUrl;
}

interface WithDatabase {
  /** The command watches `stop`, to end at a safe point and to say how far it came. */
  readonly stopsItself?: boolean;
  /** The command asks nothing of ours, and may run before `migrate`. */
  readonly isBeforeMigrations?: boolean;
}

/**
 * Runs `work` with a pool on a database whose migrations are all applied, unless told otherwise, and closes the pool. A stop ends the pool's
 * connections, unless the command stops itself.
 * @throws AppError STOPPED
 */
export async function withDatabase<T>(
  context: CommandContext,
  work: (pool: Pool) => Promise<T>,
  options: WithDatabase = {},
): Promise<T> {
  const databaseUrl = requireDatabaseUrl(context.config);
  const pool = await openPool({ databaseUrl, max: context.config.poolMax });
  const checked = async () => {
    if (options.isBeforeMigrations !== true) await assertMigrated(pool);
    return await work(pool);
  };
  try {
    if (options.stopsItself === true) return await checked();
    return await interruptible({ signal: context.stop, databaseUrl, connections: () => connectionsOf(pool) }, checked);
  } finally {
    await pool.end();
  }
}
