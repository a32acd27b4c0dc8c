import type { Pool } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { applyPlan } from '../restructure/apply.ts';
import { LIVENTIX_MAPPING, narrowMapping, readMapping } from '../restructure/mapping.ts';
import { makePlan } from '../restructure/plan.ts';
import { isolate } from '../restructure/tenancy/isolate.ts';
import { readChangedSince } from '../restructure/verify/changed-since.ts';
import { checkRestructuring } from '../restructure/verify/checks.ts';

/** What became of the old schema. */
export interface Restructured {
  /** Tables and partitions that are in another schema now, each with a view under its old name. */
  readonly moved: number;
  /** Tables that were not moved, or whose tenants are not kept apart. */
  readonly left: number;
  readonly schemas: number;
  /** For how long the one that was locked longest was. */
  readonly longestLockMs: number;
  /** Tables whose rows are kept apart by tenant. */
  readonly isolated: number;
  /** What of the proof afterwards does not hold. */
  readonly faults: readonly string[];
}

/** Moves the tables of the legacy database into their schemas, keeps tenants apart, and proves that nothing else changed. */
export async function restructureLegacy(
  pool: Pool,
  onProgress: (label: string, done: number, total: number) => void,
): Promise<Restructured> {
  const { rows } = await pool.query<{ table: string }>(
    `select c.relname as table from pg_class c where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace`,
  );
  const mapping = narrowMapping(await readMapping(LIVENTIX_MAPPING), new Set(rows.map(({ table }) => table)));
  const plan = await makePlan(pool, mapping, { now: new Date() });
  const { outcomes } = await applyPlan(pool, plan, {
    schemas: [],
    tables: [],
    onProgress: (table, done, total) => onProgress(`moving ${table}`, done, total),
  });
  const isolation = await isolate(pool, mapping, { onProgress });
  onProgress('proving that nothing else changed', 0, 0);
  const faults = await withTransaction(
    pool,
    async (tx) => [
      ...(await checkRestructuring(tx, {})).flatMap(({ first }) => first),
      ...(await readChangedSince(tx)),
    ],
    ONE_SNAPSHOT,
  );
  const moved = outcomes.filter(({ status }) => status === 'moved').map(({ table }) => table);
  return {
    moved: plan.tables
      .filter(({ table }) => moved.includes(table))
      .reduce((sum, { relations }) => sum + relations.length, 0),
    left:
      outcomes.length -
      moved.length +
      isolation.tables.filter(({ status }) => status === 'skipped').length +
      isolation.left.length,
    schemas: new Set(outcomes.map(({ target }) => target)).size,
    longestLockMs: Math.max(0, ...outcomes.map((outcome) => (outcome.status === 'moved' ? outcome.lockedMs : 0))),
    isolated: isolation.tables.filter(({ status }) => status === 'isolated').length,
    faults,
  };
}

/** Whether all went where they belong, and nothing else changed. */
export const isRestructured = ({ moved, left, faults }: Restructured): boolean =>
  moved > 0 && left === 0 && faults.length === 0;
