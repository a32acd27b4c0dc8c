import { givingWay } from '../db/giving-way.ts';
import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';

/** Views that stood in for tables that are back. One that is still in use is left to whoever moves tables next. */
export async function dropViewsSetAside(
  pool: Pool,
  { stop, maxTries }: { readonly stop?: AbortSignal | undefined; readonly maxTries?: number | undefined },
): Promise<void> {
  const { rows } = await pool.query<{ view: string }>(
    `select format('%I.%I', n.nspname, c.relname) as view from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'restructure' and c.relkind = 'v' and c.relname like 'aside\\_%'`,
  );
  for (const { view } of rows) {
    await givingWay(pool, { stop, maxTries, code: 'RESTRUCTURE_BUSY', what: view }, (tx) =>
      tx.query(`drop view if exists ${view}`),
    ).catch((error: unknown) => {
      if (!(error instanceof AppError) || error.code !== 'RESTRUCTURE_BUSY') throw error;
    });
  }
}
