import { givingWay } from '../db/giving-way.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';

/** A view that could not be dropped, and why. */
export interface ViewLeft {
  readonly view: string;
  readonly reason: string;
}

/**
 * Drops views that stood in for tables that are back. One that is still in use is left to whoever moves tables next, and so is one that something
 * stands on, or that is somebody else's.
 * @returns those that are in nobody's use, and stay all the same
 * @throws AppError DB_UNREACHABLE and what else is not one view's
 */
export async function dropViewsSetAside(
  pool: Pool,
  { stop, maxTries }: { readonly stop?: AbortSignal | undefined; readonly maxTries?: number | undefined },
): Promise<readonly ViewLeft[]> {
  const { rows } = await pool.query<{ view: string }>(
    `select format('%I.%I', n.nspname, c.relname) as view from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'restructure' and c.relkind = 'v' and c.relname like 'aside\\_%'`,
  );
  const left: ViewLeft[] = [];
  for (const { view } of rows) {
    await givingWay(pool, { stop, maxTries, code: 'RESTRUCTURE_BUSY', what: view }, (tx) =>
      tx.query(`drop view if exists ${view}`),
    ).catch((error: unknown) => {
      if (!(error instanceof AppError) || !OF_A_VIEW.has(error.code)) throw error;
      if (error.code !== 'RESTRUCTURE_BUSY') left.push({ view, reason: error.message });
    });
  }
  return left;
}

const OF_A_VIEW: ReadonlySet<string> = new Set([
  'RESTRUCTURE_BUSY',
  'DB_FAILED',
  'DB_CONFLICT',
  'DB_PERMISSION_DENIED',
]);
