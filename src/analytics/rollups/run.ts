import type { Pool } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { withStatement } from '../../db/transaction.ts';
import type { AppError } from '../../errors.ts';
import { rebuildOf } from './advice.ts';

export type Ran = { readonly rollup: string } & (
  | {
      readonly status: 'counted' | 'nothing' | 'under way' | 'building';
      readonly changes: bigint;
    }
  | { readonly status: 'to be rebuilt'; readonly changes: bigint; readonly todo: string }
  | { readonly status: 'failed'; readonly error: AppError }
);

/** How many rows a transaction counts, unless told otherwise. */
const MOST_ROWS = 50_000;

/**
 * Counts what came to each rollup since the last run, up to the horizon. What fails of one is told and written down, and the others go on. Any number may run at
 * once: each rollup is counted by one of them. For a worker, and for the command line.
 */
export async function runRollups(
  pool: Pool,
  { stop, mostRows = MOST_ROWS }: { stop?: AbortSignal; mostRows?: number } = {},
): Promise<readonly Ran[]> {
  await pool.query('select rollups.note_moves()');
  const { rows } = await pool.query<{ name: string }>(
    `select name from rollups.rollups where state <> 'installing' order by name`,
  );
  const ran = new Map<string, Ran>();
  // One step each in turn: one that is far behind keeps no other waiting.
  for (let behind = rows.map(({ name }) => name); behind.length > 0; ) {
    const still: string[] = [];
    for (const rollup of behind) {
      const step = await runStep(pool, rollup, mostRows).catch((error: unknown) =>
        failedStep(pool, rollup, toAppError(error)),
      );
      ran.set(rollup, together(ran.get(rollup), step));
      if (step.status !== 'failed' && step.isBehind && stop?.aborted !== true) still.push(rollup);
    }
    behind = still;
  }
  return [...ran.values()];
}

type Step = Ran & { readonly isBehind?: boolean };

async function runStep(pool: Pool, rollup: string, mostRows: number): Promise<Step> {
  const step = await withStatement(pool, async (tx) => {
    const { rows } = await tx.query<{
      status: Exclude<Ran['status'], 'failed'>;
      changes: bigint;
      isBehind: boolean;
      isEmptied: boolean;
    }>(
      `select status, changes, is_behind as "isBehind",
         exists (select from rollups.marks m where m.rollup = $1 and m.is_emptied) as "isEmptied"
       from rollups.run($1, $2)`,
      [rollup, mostRows],
    );
    return rows[0];
  });
  if (step === undefined) throw new Error('rollups.run answered nothing');
  const { status, isEmptied, ...counted } = step;
  return status === 'to be rebuilt'
    ? { rollup, status, ...counted, todo: rebuildOf(rollup, isEmptied) }
    : { rollup, status, ...counted };
}

/** Written down, for whoever has not this run's answer. Where that cannot be either, the answer is all there is. */
async function failedStep(pool: Pool, rollup: string, error: AppError): Promise<Step> {
  await pool.query('select rollups.note_failure($1, $2)', [rollup, error.message]).catch(() => undefined);
  return { rollup, status: 'failed', error };
}

/** What became of a rollup in all: what was counted is, whatever came after. */
function together(before: Ran | undefined, { isBehind: _, ...step }: Step): Ran {
  if (step.status === 'failed') return step;
  const changes = (before === undefined || before.status === 'failed' ? 0n : before.changes) + step.changes;
  return step.status === 'nothing' && changes > 0n ? { ...step, status: 'counted', changes } : { ...step, changes };
}
