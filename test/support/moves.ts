import { type Applied, type ApplyOptions, applyPlan } from '../../src/restructure/apply.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import type { Plan, PlannedTable } from '../../src/restructure/planned.ts';
import { type RollbackOptions, type RolledBack, rollBack } from '../../src/restructure/rollback.ts';
import type { TestDatabase } from './database.ts';

const NOW = new Date('2026-01-01T00:00:00Z');

export const planOf = ({ pool }: TestDatabase, mapping: Mapping): Promise<Plan> =>
  makePlan(pool, mapping, { now: NOW });

/** What the plan says of a table, or fails. */
export function planned(plan: Plan, table: string): PlannedTable {
  const found = plan.tables.find((each) => each.table === table);
  if (found === undefined) throw new Error(`The plan has no ${table}.`);
  return found;
}

/** What it finds about a table, as `blocks missing`. */
export const findingsFor = (plan: Plan, table: string): readonly string[] =>
  planned(plan, table).findings.map(({ severity, finding }) => `${severity} ${finding}`);

/** Plans and applies. */
export async function moveAll(
  database: TestDatabase,
  mapping: Mapping,
  options: Partial<ApplyOptions> = {},
): Promise<Applied> {
  return applyPlan(database.pool, await planOf(database, mapping), { schemas: [], tables: [], ...options });
}

/** What was left where it is, and why. */
export const left = ({ outcomes }: Applied): Readonly<Record<string, string>> =>
  Object.fromEntries(
    outcomes.flatMap((each) => (each.status === 'skipped' ? [[each.table, each.reasons.join('; ')]] : [])),
  );

export const putBack = ({ pool }: TestDatabase, options: Partial<RollbackOptions> = {}) =>
  rollBack(pool, { tables: [], ...options });

/** What rollback left as it was, and why. */
export const notUndone = ({ steps }: RolledBack): readonly string[] =>
  steps.flatMap(({ kind, object, status, reason }) => (status === 'undone' ? [] : [`${kind} ${object}: ${reason}`]));

export async function standingSteps({ pool }: TestDatabase): Promise<readonly string[]> {
  const { rows } = await pool.query<{ step: string }>(
    `select kind || ' ' || object as step from restructure.steps where undone_at is null order by id`,
  );
  return rows.map(({ step }) => step);
}
