import type { Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { withStatement } from '../../db/transaction.ts';
import type { AppError } from '../../errors.ts';

export type Ran = { readonly rollup: string } & (
  | {
      readonly status: 'counted' | 'nothing' | 'under way' | 'building' | 'to be rebuilt';
      readonly changes: bigint;
    }
  | { readonly status: 'failed'; readonly error: AppError }
);

/** How many rows a transaction counts. */
const MOST_ROWS = 50_000;

/**
 * Counts what came to each rollup since the last run, up to the horizon. What fails of one is told, and the others go on. Any number may run at
 * once: each rollup is counted by one of them. For a worker, and for the command line.
 */
export async function runRollups(pool: Pool, { stop }: { stop?: AbortSignal } = {}): Promise<readonly Ran[]> {
  const { rows } = await pool.query<{ name: string }>(
    `select name from rollups.rollups where state <> 'installing' order by name`,
  );
  const ran: Ran[] = [];
  for (const { name } of rows) {
    ran.push(
      await runRollup(pool, name, stop).catch(
        (error: unknown): Ran => ({ rollup: name, status: 'failed', error: toAppError(error) }),
      ),
    );
  }
  return ran;
}

async function runRollup(pool: Pool, rollup: string, stop: AbortSignal | undefined): Promise<Ran> {
  let changes = 0n;
  for (;;) {
    const step = await withStatement(pool, async (tx) => {
      const { rows } = await tx.query<{
        status: Exclude<Ran['status'], 'failed'>;
        changes: bigint;
        isBehind: boolean;
      }>('select status, changes, is_behind as "isBehind" from rollups.run($1, $2)', [rollup, MOST_ROWS]);
      return rows[0];
    });
    if (step === undefined) throw new Error('rollups.run answered nothing');
    changes += step.changes;
    if (!step.isBehind || stop?.aborted === true) {
      return { rollup, status: changes > 0n ? 'counted' : step.status, changes };
    }
  }
}
