import type { Config } from '../config.ts';
import { assertMigrated } from '../db/migrate.ts';
import { openPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Streams } from './output.ts';

/** What every command is given; made once by `main`. */
export interface CommandContext extends Streams {
  readonly config: Config;
  /** Aborted by SIGINT or SIGTERM: a long command stops at its next safe point. */
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

/** Runs `work` with a pool on a database whose migrations are all applied, and closes the pool. */
export async function withDatabase<T>(context: CommandContext, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = await openPool({ databaseUrl: requireDatabaseUrl(context.config), max: context.config.poolMax });
  try {
    await assertMigrated(pool);
    return await work(pool);
  } finally {
    await pool.end();
  }
}
