import type { Pool } from '../db/pool.ts';
import { readFinish } from './apply.ts';
import { type FoundationStep, readFoundation } from './foundation.ts';
import { readStanding, standingKeys } from './journal.ts';
import { readMoveStep } from './move.ts';
import type { Plan } from './planned.ts';
import { chosenSteps, type RollbackOptions } from './rollback.ts';
import { movingOf, type Selection, selectTables } from './selection.ts';
import { lockStatement } from './statements.ts';

/** What would be done, as `table public.orders`; nothing, with a reason, where apply would leave it. */
export interface WouldDo {
  readonly object: string;
  readonly statements: readonly string[];
}

/**
 * The SQL that would run, step by step, and that runs as it is in one transaction; nothing is changed.
 * @throws AppError RESTRUCTURE_DRIFTED, RESTRUCTURE_OTHER_DATABASE, RESTRUCTURE_TABLE_UNKNOWN, DB_*
 */
export async function dryRun(pool: Pool, plan: Plan, selection: Selection): Promise<readonly WouldDo[]> {
  const { from } = plan.mapping;
  const selected = await selectTables(pool, plan, selection);
  const standing = standingKeys(await readStanding(pool));
  const isStanding = ({ kind, object }: FoundationStep) => standing.has(`${kind} ${object}`);
  const tables: WouldDo[] = [];
  const moved = new Set<string>();
  for (const table of selected) {
    const moving = movingOf(table);
    if (table.readiness === 'blocked' || moving === undefined || standing.has(`table ${from}.${table.table}`)) continue;
    const { step } = await readMoveStep(pool, moving, plan.mapping);
    tables.push({
      object: `table ${from}.${table.table}`,
      statements: [lockStatement(from, table.table), ...step.statements],
    });
    moved.add(table.table);
  }
  const finish = await readFinish(pool, plan, {
    isAll: selected.every(({ readiness }) => readiness !== 'blocked'),
    isMoved: (table) => moved.has(table) || standing.has(`table ${from}.${table}`),
  });
  const stepsOf = (steps: readonly FoundationStep[]): readonly WouldDo[] =>
    steps
      .filter((step) => !isStanding(step))
      .map(({ kind, object, statements }) => ({ object: `${kind} ${object}`, statements }));
  return [...stepsOf(await readFoundation(pool, plan)), ...tables, ...stepsOf(finish)];
}

/**
 * The SQL by which rollback would undo what stands, in its order; nothing is changed.
 * @throws AppError RESTRUCTURE_STEP_UNKNOWN, RESTRUCTURE_TABLE_UNKNOWN, DB_*
 */
export async function dryRunBack(
  pool: Pool,
  selection: Pick<RollbackOptions, 'to' | 'tables'>,
): Promise<readonly WouldDo[]> {
  const chosen = chosenSteps(await readStanding(pool), selection);
  return chosen.map(({ kind, object, inverse }) => ({ object: `${kind} ${object}`, statements: inverse }));
}
