import type { Pool } from '../../db/pool.ts';
import { withStatement } from '../../db/transaction.ts';
import { untilStopped } from '../../db/until-stopped.ts';
import { AppError } from '../../errors.ts';
import type { Rollup } from './declaration.ts';
import { innerName, targetOf } from './names.ts';

export interface BuildWatch {
  readonly stop?: AbortSignal | undefined;
  /** Told how many months of a rollup are built, and of how many. */
  readonly onMonth?: ((rollup: string, built: number, of: number) => void) | undefined;
}

export interface RebuildPlan {
  /** Those that would be counted anew as a whole. */
  readonly months: number;
  /** Those that would be counted anew in part, as something is kept that the source has less of: a month of the zone, such as 2026-01-01 00:00:00. */
  readonly kept: readonly string[];
}

/**
 * What a rebuild would count anew, and what it would keep. Changes nothing; reads the whole source.
 * @throws AppError ROLLUP_UNKNOWN, ROLLUP_SOURCE_MISSING, DB_*
 */
export async function planRebuild(pool: Pool, rollup: string, everything: boolean): Promise<RebuildPlan> {
  const { rows } = await withStatement(pool, (tx) =>
    tx.query<{ month: string; isKept: boolean }>(
      `select m.month::text, not $2 and rollups.is_kept(r, s.source, m.month, o.range, o.days) as "isKept"
       from rollups.get($1) r cross join lateral rollups.source_of(r.sources) s (source)
       cross join lateral unnest(rollups.months_of(r, s.source)) m (month)
       cross join lateral rollups.month_ranges(m.month, r.declaration ->> 'zone') o
       order by m.month nulls first`,
      [rollup, everything],
    ),
  );
  const kept = rows.filter(({ isKept }) => isKept).map(({ month }) => month);
  return { months: rows.length - kept.length, kept };
}

interface Step {
  readonly status: 'built' | 'kept' | 'under way' | 'ready';
  readonly changes: bigint;
  readonly left: bigint;
}

/**
 * Builds a rollup, or goes on with that: month by month, each a transaction. Readers have the days as they were until theirs is there.
 * @param begin when it is begun, and not gone on with: whether days whose partitions are gone go too
 * @returns how many rows were counted, and of how many months something was kept
 * @throws AppError ROLLUP_UNKNOWN, ROLLUP_SOURCE_MISSING, ROLLUP_SOURCE_EMPTY, ROLLUP_BUSY, STOPPED, DB_*
 */
export async function buildRollup(
  pool: Pool,
  rollup: string,
  { stop, onMonth }: BuildWatch,
  begin?: { readonly everything: boolean },
): Promise<{ readonly rows: bigint; readonly keptMonths: number }> {
  const stopping = { stop, left: `${rollup} is built in part. Run apply again: it goes on.` };
  if (begin !== undefined)
    await untilStopped(pool, { stop, left: `${rollup} is as it was.` }, (client) =>
      client.query('select rollups.begin_build($1, $2)', [rollup, begin.everything]),
    ).catch((error: unknown) => {
      throw ofRollup(rollup, error);
    });
  let rows = 0n;
  let keptMonths = 0;
  for (let built = 0; ; built += 1) {
    const step = await untilStopped(pool, stopping, async (client) => {
      const answer = await client.query<Step>('select status, changes, months_left as left from rollups.build($1)', [
        rollup,
      ]);
      return answer.rows[0];
    }).catch((error: unknown) => {
      throw ofRollup(rollup, error);
    });
    if (step === undefined || step.status === 'under way')
      throw new AppError('ROLLUP_BUSY', `${rollup} is being counted or built by somebody else. Run it again.`);
    if (step.status === 'ready') {
      if (built > 0) await vacuumRollup(pool, rollup, stop);
      return { rows, keptMonths };
    }
    rows += step.changes;
    if (step.status === 'kept') keptMonths += 1;
    onMonth?.(rollup, built + 1, built + 1 + Number(step.left));
  }
}

/** What an expression of the file says of some row nobody knew before it was counted. */
function ofRollup(rollup: string, error: unknown): unknown {
  if (!(error instanceof AppError) || error.code !== 'DB_FAILED') return error;
  return new AppError(
    'DB_FAILED',
    `${rollup} cannot be counted: ${error.message} Writers are not kept waiting. Correct the rows and go on, or the file: liventix rollups remove --name ${rollup}, then apply.`,
    { details: error.details, cause: error.cause },
  );
}

/** Until autovacuum comes by, queries would be planned as if there were next to nothing, and indexes look up each of their rows. */
async function vacuumRollup(pool: Pool, name: string, stop: AbortSignal | undefined): Promise<void> {
  const left = `${name} is built, and not vacuumed yet: autovacuum does it.`;
  const { rows } = await pool.query<{ declaration: Rollup }>(
    'select declaration from rollups.rollups where name = $1',
    [name],
  );
  const declaration = rows[0]?.declaration;
  if (declaration === undefined) return;
  const inner = [
    ...(declaration.distinct === undefined ? [] : [innerName(declaration, 'viewers')]),
    ...(declaration.median === undefined ? [] : [innerName(declaration, 'buckets')]),
  ];
  const run = (sql: string) => untilStopped(pool, { stop, left }, (client) => client.query(sql));
  await run(`vacuum (analyze) ${targetOf(declaration)}`);
  if (inner.length > 0) await run(`analyze ${inner.join(', ')}`);
}
