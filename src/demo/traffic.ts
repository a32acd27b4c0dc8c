import { applyPartitions } from '../analytics/partitions/apply.ts';
import { LIVENTIX_PARTITIONS, readPartitionsMapping } from '../analytics/partitions/mapping.ts';
import { readStatus } from '../analytics/partitions/status.ts';
import { applyRollups } from '../analytics/rollups/apply.ts';
import { LIVENTIX_ROLLUPS, readDeclarations } from '../analytics/rollups/declaration.ts';
import { runRollups } from '../analytics/rollups/run.ts';
import { verifyRollups } from '../analytics/rollups/verify.ts';
import type { Pool } from '../db/pool.ts';

/** What became of what visitors leave behind. */
export interface Traffic {
  /** Tables that are kept by month. */
  readonly tables: number;
  readonly months: number;
  /** For how long the one that was locked longest was. */
  readonly longestLockMs: number;
  /** Statistics that are kept by day. */
  readonly rollups: number;
  /** What does not hold: a table that was left, a statistic that is not what its rows say. */
  readonly faults: readonly string[];
}

/**
 * Turns the tables of traffic into months, and keeps their statistics. The part of the legacy database that every demo has knows none of them.
 * @returns undefined where they are not there
 */
export async function keepTraffic(
  pool: Pool,
  onProgress: (label: string, done: number, total: number) => void,
): Promise<Traffic | undefined> {
  const { tables: entries } = await readPartitionsMapping(LIVENTIX_PARTITIONS);
  const { rows } = await pool.query<{ all: boolean }>(
    'select bool_and(to_regclass(name) is not null) as all from unnest($1::text[]) t (name)',
    [entries.map(({ table }) => table)],
  );
  if (rows[0]?.all !== true) return undefined;
  const outcomes = await applyPartitions(pool, { entries, now: new Date(), onStep: onProgress });
  const rollups = await applyRollups(pool, await readDeclarations(LIVENTIX_ROLLUPS), {
    onMonth: (rollup, done, total) => onProgress(`counting ${rollup}, months`, done, total),
  });
  await runRollups(pool);
  const verified = await verifyRollups(pool);
  const { tables } = await readStatus(pool);
  return {
    tables: outcomes.filter(({ status }) => status === 'partitioned').length,
    months: tables.reduce((sum, { months }) => sum + months.filter(({ isDefault }) => !isDefault).length, 0),
    longestLockMs: Math.max(0, ...outcomes.flatMap((outcome) => ('lockedMs' in outcome ? outcome.lockedMs : []))),
    rollups: rollups.length,
    faults: [
      ...outcomes.flatMap((outcome) =>
        outcome.status === 'skipped' ? [`${outcome.table}: ${outcome.reasons.join('; ')}`] : [],
      ),
      ...verified.flatMap(({ rollup, holds, first }) => (holds ? [] : [`${rollup}: ${first.join('; ')}`])),
    ],
  };
}
