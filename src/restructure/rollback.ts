import type { Pool, Tx } from '../db/pool.ts';
import { rest } from '../db/rest.ts';
import { isDependedOn } from '../db/sqlstate.ts';
import { reloadPostgrest, underLock } from '../db/under-lock.ts';
import { AppError } from '../errors.ts';
import { asOnlyRun } from './apply.ts';
import { whatHoldsBack } from './held-back.ts';
import { readStanding, type StandingStep } from './journal.ts';
import { lockHolders } from './lock-holders.ts';
import { dropViewsSetAside, type ViewLeft } from './set-aside.ts';
import { qualified } from './statements.ts';

export interface RollbackOptions {
  /** The step that is the last to stay; nothing stays when left out. */
  readonly to?: bigint | undefined;
  /** Tables that go back alone, by their bare names; all when empty. */
  readonly tables: readonly string[];
  readonly stop?: AbortSignal | undefined;
  /** See ApplyOptions. */
  readonly restFactor?: number | undefined;
  /** How often a table that is in use is tried. */
  readonly maxTries?: number | undefined;
  /** See ApplyOptions. */
  readonly lockedForAtMostMs?: number | undefined;
  readonly onProgress?: ((object: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((object: string, tries: number) => void) | undefined;
  readonly onOutcome?: ((outcome: Undone) => void) | undefined;
}

export interface Undone {
  readonly id: bigint;
  readonly kind: string;
  readonly object: string;
  readonly status: 'undone' | 'skipped';
  /** Why it was skipped, or why there was nothing to undo. */
  readonly reason?: string;
}

export interface RolledBack {
  readonly steps: readonly Undone[];
  /** Views that stood in for tables that are back, and could not be dropped. */
  readonly viewsLeft: readonly ViewLeft[];
  readonly isStopped: boolean;
}

/**
 * Undoes what was done, the last first, each step in a transaction of its own that gives way. Rows that were written meanwhile stay, and
 * so does what others changed; where something stands on a view that would go, its table stays where it is, and is named.
 * @throws AppError RESTRUCTURE_STEP_UNKNOWN, RESTRUCTURE_TABLE_UNKNOWN, RESTRUCTURE_RUNNING, DB_*
 */
export const rollBack = (pool: Pool, given: RollbackOptions): Promise<RolledBack> =>
  asOnlyRun(pool, given, async (options) => {
    const standing = await readStanding(pool);
    const chosen = chosenSteps(standing, options);
    const steps: Undone[] = [];
    const undone = new Set<bigint>();
    for (const step of chosen) {
      if (options.stop?.aborted === true) break;
      options.onProgress?.(step.object, steps.length, chosen.length);
      if (NEEDS_VIEWS_GONE.has(step.kind)) await dropViewsSetAside(pool, options);
      const later = standing.filter(({ id }) => id > step.id && !undone.has(id));
      const holding = await whatHoldsBack(pool, step, later);
      const outcome = holding === undefined ? await undoOrSkip(pool, step, options) : skipped(step, holding);
      if (outcome.status === 'undone') undone.add(step.id);
      steps.push(outcome);
      options.onOutcome?.(outcome);
    }
    const viewsLeft = await dropViewsSetAside(pool, options);
    await reloadPostgrest(pool);
    return { steps, viewsLeft, isStopped: options.stop?.aborted === true };
  });

/** What a view that is set aside has grants to, or calls. */
const NEEDS_VIEWS_GONE: ReadonlySet<string> = new Set(['role', 'schema', 'usage', 'replacement']);

/** @throws AppError RESTRUCTURE_STEP_UNKNOWN, RESTRUCTURE_TABLE_UNKNOWN */
export function chosenSteps(
  standing: readonly StandingStep[],
  { to, tables }: Pick<RollbackOptions, 'to' | 'tables'>,
): readonly StandingStep[] {
  if (to !== undefined && !standing.some(({ id }) => id === to)) {
    throw new AppError('RESTRUCTURE_STEP_UNKNOWN', `No step ${to} stands. What stands: liventix restructure status`);
  }
  const isOf = (step: StandingStep, table: string) => step.kind === 'table' && step.table === table;
  for (const table of tables) {
    if (standing.some((step) => isOf(step, table))) continue;
    throw new AppError('RESTRUCTURE_TABLE_UNKNOWN', `${table} was not moved. What was: liventix restructure status`);
  }
  return standing
    .filter((step) => to === undefined || step.id > to)
    .filter((step) => tables.length === 0 || tables.some((table) => isOf(step, table)))
    .toReversed();
}

const skipped = ({ id, kind, object }: StandingStep, reason: string): Undone => ({
  id,
  kind,
  object,
  status: 'skipped',
  reason,
});

async function undoOrSkip(pool: Pool, step: StandingStep, options: RollbackOptions): Promise<Undone> {
  try {
    const isGone = await undoStep(pool, step, options);
    const undone = { id: step.id, kind: step.kind, object: step.object, status: 'undone' } as const;
    return isGone ? { ...undone, reason: 'it was dropped meanwhile: there is nothing left of it to put back' } : undone;
  } catch (error) {
    if (!(error instanceof AppError) || !isOfStep(error)) throw error;
    const holders = error.code === 'RESTRUCTURE_BUSY' ? await lockHolders(pool, step.relations) : [];
    return skipped(step, [reasonOf(error), ...holders.map((holder) => `held by ${holder}`)].join('; '));
  }
}

const isOfStep = (error: AppError): boolean => NOT_UNDONE.has(error.code);

const NOT_UNDONE: ReadonlySet<string> = new Set([
  'RESTRUCTURE_BUSY',
  'RESTRUCTURE_TOO_LONG',
  'RESTRUCTURE_CHANGED_MORE',
  'RESTRUCTURE_NAMES_DIFFER',
  'DB_FAILED',
  'DB_CONFLICT',
  'DB_PERMISSION_DENIED',
]);

function reasonOf(error: AppError): string {
  if (!isDependedOn(error.cause)) return error.message;
  const { detail = '' } = error.cause as { detail?: string };
  return `something stands on it: ${detail.replaceAll('\n', '; ')}. Drop that, or make it stand on the table itself, and run again`;
}

/** Whether there was nothing to undo: everything that the step was done to is gone. */
async function undoStep(pool: Pool, step: StandingStep, options: RollbackOptions): Promise<boolean> {
  const { stop, maxTries, onBusy, lockedForAtMostMs } = options;
  const isTable = step.kind === 'table';
  let isGone = false;
  const lockedMs = await underLock(
    pool,
    {
      room: 'RESTRUCTURE',
      what: step.object,
      stop,
      maxTries,
      onBusy: (tries) => onBusy?.(step.object, tries),
      lockedForAtMostMs,
    },
    async (tx) => {
      const names = isTable ? await readNames(tx, step) : [];
      isGone = isTable && names.length === 0;
      return {
        names,
        locksLater: step.sequences + (isTable ? 0 : step.relations.length),
        work: () => tx.query('select restructure.undo_step($1)', [step.id]),
      };
    },
  );
  if (isTable) await rest(lockedMs, options);
  return isGone;
}

/** Views first, as whoever uses them locks them: LOCK takes the tables behind them too. Where a view is gone, its table. */
async function readNames(tx: Tx, { id }: StandingStep): Promise<readonly string[]> {
  const { rows } = await tx.query<{ schema: string; name: string }>(
    `select n.nspname as schema, l.relname as name
     from restructure.steps s
     cross join unnest(s.relations) with ordinality r (oid, at)
     left join restructure.stand_ins(s) v on v.relation = r.oid
     join pg_class l on l.oid = coalesce(v.view, r.oid)
     join pg_namespace n on n.oid = l.relnamespace
     where s.id = $1
     order by v.view is null, r.at`,
    [id],
  );
  return rows.map(({ schema, name }) => qualified(schema, name));
}
