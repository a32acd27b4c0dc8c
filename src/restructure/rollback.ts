import { givingWay } from '../db/giving-way.ts';
import type { Pool } from '../db/pool.ts';
import { isDependedOn } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { lockRestructuring, reloadPostgrest } from './apply.ts';
import { readStanding, type StandingStep } from './journal.ts';
import { lockTimeoutMs } from './move.ts';
import { rest } from './rest.ts';
import { dropViewsSetAside } from './set-aside.ts';
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
  readonly onProgress?: ((object: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((object: string, tries: number) => void) | undefined;
}

interface Undone {
  readonly id: bigint;
  readonly kind: string;
  readonly object: string;
  readonly status: 'undone' | 'skipped';
  /** Why it was skipped. */
  readonly reason?: string;
}

export interface RolledBack {
  readonly steps: readonly Undone[];
  readonly isStopped: boolean;
}

/**
 * Undoes what was done, the last first, each step in a transaction of its own that gives way. Rows that were written meanwhile stay, and
 * so does what others changed; where something stands on a view that would go, its table stays where it is, and is named.
 * @throws AppError RESTRUCTURE_STEP_UNKNOWN, RESTRUCTURE_TABLE_UNKNOWN, RESTRUCTURE_RUNNING, DB_*
 */
export async function rollBack(pool: Pool, options: RollbackOptions): Promise<RolledBack> {
  const lock = await lockRestructuring(pool);
  try {
    const chosen = chosenSteps(await readStanding(pool), options);
    const steps: Undone[] = [];
    for (const step of chosen) {
      if (options.stop?.aborted === true) break;
      lock.assertHeld();
      options.onProgress?.(step.object, steps.length, chosen.length);
      // What a table that stayed needs, stays: its schema, the roles that its grants name.
      const isNeeded =
        step.kind !== 'table' && step.kind !== 'search path' && steps.some(({ status }) => status === 'skipped');
      if (NEEDS_VIEWS_GONE.has(step.kind)) await dropViewsSetAside(pool, options);
      steps.push(isNeeded ? skipped(step, 'something that needs it stayed') : await undoOrSkip(pool, step, options));
    }
    await dropViewsSetAside(pool, options);
    await reloadPostgrest(pool);
    return { steps, isStopped: options.stop?.aborted === true };
  } finally {
    await lock.release();
  }
}

/** What a view that is set aside has grants to, or calls. */
const NEEDS_VIEWS_GONE: ReadonlySet<string> = new Set(['role', 'schema', 'usage', 'replacement']);

function chosenSteps(standing: readonly StandingStep[], { to, tables }: RollbackOptions): readonly StandingStep[] {
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
    await undoStep(pool, step, options);
    return { id: step.id, kind: step.kind, object: step.object, status: 'undone' };
  } catch (error) {
    if (!(error instanceof AppError) || !isOfStep(error)) throw error;
    return skipped(step, reasonOf(error));
  }
}

const isOfStep = (error: AppError): boolean =>
  ['RESTRUCTURE_BUSY', 'RESTRUCTURE_CHANGED_MORE', 'DB_FAILED', 'DB_CONFLICT', 'DB_PERMISSION_DENIED'].includes(
    error.code,
  );

function reasonOf(error: AppError): string {
  if (!isDependedOn(error.cause)) return error.message;
  const { detail = '' } = error.cause as { detail?: string };
  return `something stands on it: ${detail.replaceAll('\n', '; ')}. Drop that, or make it stand on the table itself, and run again`;
}

async function undoStep(pool: Pool, step: StandingStep, options: RollbackOptions): Promise<void> {
  const { stop, maxTries, onBusy } = options;
  let lockedAt = performance.now();
  await givingWay(
    pool,
    {
      stop,
      maxTries,
      onBusy: (tries) => onBusy?.(step.object, tries),
      code: 'RESTRUCTURE_BUSY',
      what: step.object,
    },
    async (tx) => {
      const { rows: views } = await tx.query<{ schema: string; name: string }>(
        `select n.nspname as schema, v.relname as name
         from unnest($1::oid[]) with ordinality r (oid, at) join pg_class c on c.oid = r.oid
         join restructure.steps s on s.id = $2
         join pg_class v on v.relname = c.relname and v.relkind = 'v'
         join pg_namespace n on n.oid = v.relnamespace and n.nspname = (s.before -> (r.oid || ' relation ' || c.relname) ->> 'schema')
         order by r.at`,
        [step.relations, step.id],
      );
      await tx.query(
        `set local lock_timeout = ${lockTimeoutMs(views.length + step.relations.length + step.sequences)}`,
      );
      // Views first, as whoever uses them locks them: LOCK takes the tables behind them too.
      if (views.length > 0) {
        const names = views.map(({ schema, name }) => qualified(schema, name)).join(', ');
        await tx.query(`lock table ${names} in access exclusive mode`);
      }
      lockedAt = performance.now();
      await tx.query('select restructure.undo_step($1)', [step.id]);
    },
  );
  if (step.kind === 'table') await rest(performance.now() - lockedAt, options);
}
