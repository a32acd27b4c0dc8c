import type { Config } from '../config.ts';
import { interruptible } from '../db/interrupt.ts';
import { assertMigrated } from '../db/migrate.ts';
import { connectionsOf, openPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Streams } from './output.ts';

/** What every command is given; made once by `main`. */
export interface CommandContext extends Streams {
  readonly config: Config;
  /** Aborted by SIGINT or SIGTERM: a long command stops at its next safe point. */
  readonly stop: AbortSignal;
  /** What the process ends with, when the command neither succeeds (0) nor throws. */
  exitWith(code: 1 | 2 | 3): void;
  /** The command that is running, such as `backfill run`; without it, a stop is left to the command. */
  readonly command?: () => string;
}

/** Those that watch `stop` themselves, to end at a safe point and say how far they came. */
const STOP_THEMSELVES: readonly string[] = ['backfill run'];

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

/**
 * Runs `work` with a pool on a database whose migrations are all applied, and closes the pool. A stop ends the pool's
 * connections, unless the command stops itself.
 * @throws AppError STOPPED
 */
export async function withDatabase<T>(context: CommandContext, work: (pool: Pool) => Promise<T>): Promise<T> {
  const databaseUrl = requireDatabaseUrl(context.config);
  const pool = await openPool({ databaseUrl, max: context.config.poolMax });
  const checked = async () => {
    await assertMigrated(pool);
    return await work(pool);
  };
  try {
    const command = context.command?.();
    if (command === undefined || STOP_THEMSELVES.includes(command)) return await checked();
    return await interruptible({ signal: context.stop, databaseUrl, connections: () => connectionsOf(pool) }, checked);
  } finally {
    await pool.end();
  }
}
