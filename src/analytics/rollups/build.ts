import type { Pool, Tx } from '../../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../db/transaction.ts';
import { untilStopped } from '../../db/until-stopped.ts';
import { AppError } from '../../errors.ts';
import { anewOf } from './advice.ts';
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
  /** What it would lose, as the source has it no more; refused but with `everything` or `mayLose`. */
  readonly lost: Lost | null;
}

/** Rows of days of which a rollup counts more than its source has, though no partition of theirs is gone. */
export interface Lost {
  readonly rows: bigint;
  /** In words. */
  readonly days: string;
}

/** Reads the whole source. */
export async function findLosses(tx: Tx, rollup: string, everything: boolean): Promise<Lost | null> {
  const { rows } = await tx.query<Lost>(
    `select l.rows, l.days from rollups.get($1) r cross join lateral rollups.source_of(r.sources) s (source)
     cross join lateral rollups.losses(r, s.source, $2) l where l.rows > 0`,
    [rollup, everything],
  );
  return rows[0] ?? null;
}

/**
 * What a rebuild would count anew, what it would keep, and what it would lose. Changes nothing; reads the whole source.
 * @throws AppError ROLLUP_UNKNOWN, ROLLUP_SOURCE_MISSING, ROLLUP_TABLE_MISSING, DB_*
 */
export function planRebuild(pool: Pool, rollup: string, everything: boolean): Promise<RebuildPlan> {
  return withTransaction(
    pool,
    async (tx) => {
      const { rows } = await tx.query<{ month: string; isKept: boolean }>(
        `select m.month::text, not $2 and rollups.is_kept(r, s.source, m.month, o.range, o.days) as "isKept"
         from rollups.get($1) r cross join lateral rollups.source_of(r.sources) s (source)
         cross join lateral unnest(rollups.months_of(r, s.source)) m (month)
         cross join lateral rollups.month_ranges(m.month, r.declaration ->> 'zone') o
         order by m.month nulls first`,
        [rollup, everything],
      );
      const kept = rows.filter(({ isKept }) => isKept).map(({ month }) => month);
      return { months: rows.length - kept.length, kept, lost: await findLosses(tx, rollup, everything) };
    },
    ONE_SNAPSHOT,
  );
}

interface Step {
  readonly status: 'built' | 'kept' | 'under way' | 'ready';
  readonly changes: bigint;
  readonly left: bigint;
}

/**
 * Builds a rollup, or goes on with that: month by month, each a transaction. Readers have the days as they were until theirs is there.
 * @param begin when it is begun, and not gone on with: whether days whose partitions are gone go too, and whether what the source has less of for no such reason may
 * @returns how many rows were counted, and of how many months something was kept
 * @throws AppError ROLLUP_UNKNOWN, ROLLUP_SOURCE_MISSING, ROLLUP_SOURCE_EMPTY, ROLLUP_TABLE_MISSING, ROLLUP_WOULD_LOSE, ROLLUP_BUSY, STOPPED,
 * DB_*
 */
export async function buildRollup(
  pool: Pool,
  rollup: string,
  { stop, onMonth }: BuildWatch,
  begin?: { readonly everything: boolean; readonly mayLose?: boolean },
): Promise<{ readonly rows: bigint; readonly keptMonths: number }> {
  const stopping = { stop, left: `${rollup} is built in part. Run apply again: it goes on.` };
  if (begin !== undefined)
    await untilStopped(pool, { stop, left: `${rollup} is as it was.` }, async (client) => {
      await client.query('select rollups.note_moves()');
      await client.query('select rollups.begin_build($1, $2, $3)', [rollup, begin.everything, begin.mayLose ?? false]);
    }).catch((error: unknown) => {
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
    `${rollup} cannot be counted: ${error.message} Writers are not kept waiting. Correct the rows and go on, or the file: ${anewOf(rollup)}.`,
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
