import type { Pool, Queryable } from '../db/pool.ts';
import { rest } from '../db/rest.ts';
import { underSessionLock } from '../db/session-lock.ts';
import { reloadPostgrest } from '../db/under-lock.ts';
import { AppError } from '../errors.ts';
import { type Denied, type FoundationStep, functionSteps, readFoundation, takeFoundation } from './foundation.ts';
import { readStanding, standingKeys } from './journal.ts';
import { lockHolders } from './lock-holders.ts';
import { moveTable } from './move.ts';
import type { Plan, PlannedTable } from './planned.ts';
import { isBlocking } from './readiness.ts';
import { readSearchPaths } from './search-paths.ts';
import { movingOf, selectTables } from './selection.ts';
import { dropViewsSetAside, type ViewLeft } from './set-aside.ts';

export interface ApplyOptions {
  /** Target schemas and tables to move; all of the plan when both are empty. */
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
  readonly stop?: AbortSignal | undefined;
  /** For how many times as long as a table was locked everybody is left alone after it; not at all when left out. */
  readonly restFactor?: number | undefined;
  /** How often a table that is in use is tried. */
  readonly maxTries?: number | undefined;
  /** For how long a table is locked at most; LOCKED_FOR_AT_MOST_MS when left out. */
  readonly lockedForAtMostMs?: number | undefined;
  readonly onProgress?: ((table: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((table: string, tries: number) => void) | undefined;
  readonly onOutcome?: ((outcome: Outcome) => void) | undefined;
}

/** What became of a table. `lockedMs`: for how long it was locked. */
export type Outcome = { readonly table: string; readonly target: string } & (
  | { readonly status: 'moved'; readonly lockedMs: number }
  | { readonly status: 'already' }
  | { readonly status: 'skipped'; readonly reasons: readonly string[] }
);

export interface Applied {
  readonly outcomes: readonly Outcome[];
  readonly denied: readonly Denied[];
  /** Views of an earlier rollback that could not be dropped. */
  readonly viewsLeft: readonly ViewLeft[];
  /** Whether it was stopped before all were looked at. */
  readonly isStopped: boolean;
}

/** Waits so long for a run that was killed to be noticed by the server. */
const PATIENCE_MS = 2_000;

/**
 * Moves the tables of a plan, one a transaction. What cannot move is skipped, and says why; a table that is locked is tried again and
 * again, and skipped in the end. Killed at any point and run again, it goes on where it was.
 * @throws AppError RESTRUCTURE_DRIFTED before anything is changed; RESTRUCTURE_RUNNING, RESTRUCTURE_OTHER_DATABASE, DB_*
 */
export const applyPlan = (pool: Pool, plan: Plan, given: ApplyOptions): Promise<Applied> =>
  asOnlyRun(pool, given, async (options) => {
    const viewsLeft = await dropViewsSetAside(pool, options);
    const selected = await selectTables(pool, plan, options);
    const standing = await readStanding(pool);
    const keys = standingKeys(standing);
    await takeFoundation(pool, await readFoundation(pool, plan), { plan: plan.digest, standing: keys });
    const outcomes: Outcome[] = [];
    for (const table of selected) {
      if (options.stop?.aborted === true) break;
      options.onProgress?.(table.table, outcomes.length, selected.length);
      const outcome: Outcome =
        table.readiness !== 'blocked' && keys.has(`table ${plan.mapping.from}.${table.table}`)
          ? { table: table.table, target: table.target, status: 'already' }
          : await moveOrSkip(pool, table, plan, options);
      outcomes.push(outcome);
      options.onOutcome?.(outcome);
      if (outcome.status === 'moved') await rest(outcome.lockedMs, options);
    }
    const isStopped = options.stop?.aborted === true;
    const denied = isStopped ? [] : await finish(pool, plan, outcomes);
    // Of the tables it was told one by one; functions and search_paths it knows too.
    await reloadPostgrest(pool);
    return { outcomes, denied, viewsLeft, isStopped };
  });

/** What comes after the tables. */
async function finish(pool: Pool, plan: Plan, outcomes: readonly Outcome[]): Promise<readonly Denied[]> {
  const standing = await readStanding(pool);
  const keys = standingKeys(standing);
  const isAll = outcomes.every(({ status }) => status !== 'skipped');
  const steps = await readFinish(pool, plan, {
    isAll,
    isMoved: (table) => keys.has(`table ${plan.mapping.from}.${table}`),
  });
  return takeFoundation(pool, steps, { plan: plan.digest, standing: keys });
}

/** Functions whose tables have all gone, and, when all of the plan have, how roles look names up. @throws AppError DB_* */
export async function readFinish(
  db: Queryable,
  { mapping, functions, tables: planned }: Plan,
  { isAll, isMoved }: { isAll: boolean; isMoved: (table: string) => boolean },
): Promise<readonly FoundationStep[]> {
  const going = functions.filter(({ tables }) => tables.every(isMoved));
  return [
    ...functionSteps(mapping.from, going),
    ...(isAll && planned.every(({ table }) => isMoved(table)) ? await readSearchPaths(db, mapping) : []),
  ];
}

/**
 * Does something while no other run does anything in the same database.
 * @param work told to stop, by its options, where it is no longer alone, too
 * @throws AppError RESTRUCTURE_RUNNING, DB_UNREACHABLE, what `work` throws
 */
export const asOnlyRun = <Options extends { readonly stop?: AbortSignal | undefined }, Result>(
  pool: Pool,
  options: Options,
  work: (options: Options) => Promise<Result>,
): Promise<Result> =>
  underSessionLock(
    pool,
    {
      name: 'liventix.restructure',
      number: 0,
      stop: options.stop,
      patienceMs: PATIENCE_MS,
      taken: (cause, holder) =>
        new AppError(
          'RESTRUCTURE_RUNNING',
          `Another restructuring is under way in this database: ${holder}. Wait for it, or end it with pg_terminate_backend: it can be run again.`,
          { cause },
        ),
    },
    (stop) => work({ ...options, stop }),
  );

async function moveOrSkip(pool: Pool, planned: PlannedTable, plan: Plan, options: ApplyOptions): Promise<Outcome> {
  const { table, target, findings } = planned;
  const moving = movingOf(planned);
  const blocking = findings.filter(isBlocking).map(({ text }) => text);
  if (moving === undefined || blocking.length > 0) return { table, target, status: 'skipped', reasons: blocking };
  try {
    const lockedMs = await moveTable(pool, moving, {
      mapping: plan.mapping,
      plan: plan.digest,
      stop: options.stop,
      maxTries: options.maxTries,
      onBusy: (tries) => options.onBusy?.(table, tries),
      lockedForAtMostMs: options.lockedForAtMostMs,
    });
    return { table, target, status: 'moved', lockedMs };
  } catch (error) {
    if (!(error instanceof AppError) || !SKIPPED.has(error.code)) throw error;
    const holders = error.code === 'RESTRUCTURE_BUSY' ? await lockHolders(pool, moving.relations) : [];
    return {
      table,
      target,
      status: 'skipped',
      reasons: [error.message, ...holders.map((holder) => `held by ${holder}`)],
    };
  }
}

/** What concerns one table alone: the others can go on. */
const SKIPPED: ReadonlySet<string> = new Set([
  'RESTRUCTURE_BUSY',
  'RESTRUCTURE_TOO_LONG',
  'RESTRUCTURE_DRIFTED',
  'RESTRUCTURE_CHANGED_MORE',
  'DB_FAILED',
  'DB_CONFLICT',
  'DB_PERMISSION_DENIED',
]);
