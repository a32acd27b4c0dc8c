import type { Pool, Queryable } from '../db/pool.ts';
import { takeSessionLock } from '../db/session-lock.ts';
import { AppError } from '../errors.ts';
import { type Denied, functionSteps, readFoundation, readSearchPaths, takeFoundation } from './foundation.ts';
import { readStanding } from './journal.ts';
import { lockHolders } from './lock-holders.ts';
import { type Moving, moveTable, readMoveStep } from './move.ts';
import { readFingerprints } from './plan.ts';
import type { Plan, PlannedTable } from './planned.ts';
import { isBlocking } from './readiness.ts';
import { lockStatement } from './statements.ts';

export interface ApplyOptions {
  /** Target schemas and tables to move; all of the plan when both are empty. */
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
  readonly stop?: AbortSignal | undefined;
  readonly onProgress?: ((table: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((table: string, tries: number) => void) | undefined;
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
export async function applyPlan(pool: Pool, plan: Plan, options: ApplyOptions): Promise<Applied> {
  const lock = await lockRestructuring(pool);
  try {
    const selected = await selectTables(pool, plan, options);
    const standing = await readStanding(pool);
    const keys = new Set(standing.map(({ kind, object }) => `${kind} ${object}`));
    await takeFoundation(pool, await readFoundation(pool, plan), { plan: plan.digest, standing: keys });
    const outcomes: Outcome[] = [];
    for (const table of selected) {
      if (options.stop?.aborted === true) break;
      lock.assertHeld();
      options.onProgress?.(table.table, outcomes.length, selected.length);
      outcomes.push(
        keys.has(`table ${plan.mapping.from}.${table.table}`)
          ? { table: table.table, target: table.target, status: 'already' }
          : await moveOrSkip(pool, table, plan, options),
      );
    }
    const isStopped = options.stop?.aborted === true;
    const denied = isStopped ? [] : await finish(pool, plan, outcomes);
    await reloadPostgrest(pool);
    return { outcomes, denied, isStopped };
  } finally {
    await lock.release();
  }
}

/** What comes after the tables: functions whose tables have all gone, and, when all of the plan have, how roles look names up. */
async function finish(pool: Pool, plan: Plan, outcomes: readonly Outcome[]): Promise<readonly Denied[]> {
  const standing = await readStanding(pool);
  const keys = new Set(standing.map(({ kind, object }) => `${kind} ${object}`));
  const isMoved = (table: string) => keys.has(`table ${plan.mapping.from}.${table}`);
  const isAll =
    outcomes.every(({ status }) => status !== 'skipped') && plan.tables.every(({ table }) => isMoved(table));
  const steps = [
    ...functionSteps(
      plan.mapping.from,
      plan.functions.filter(({ tables }) => tables.every(isMoved)),
    ),
    ...(isAll ? await readSearchPaths(pool, plan) : []),
  ];
  return takeFoundation(pool, steps, { plan: plan.digest, standing: keys });
}

/** Keeps a second run away from the same database. @throws AppError RESTRUCTURE_RUNNING */
export function lockRestructuring(pool: Pool) {
  return takeSessionLock(pool, {
    name: 'liventix.restructure',
    number: 0,
    patienceMs: PATIENCE_MS,
    taken: (cause) =>
      new AppError(
        'RESTRUCTURE_RUNNING',
        'Another restructuring is under way in this database. Wait for it, or stop it.',
        { cause },
      ),
  });
}

/** What PostgREST listens to; where there is none, nobody hears it. */
export const reloadPostgrest = (db: Queryable) => db.query(`notify pgrst, 'reload schema'`);

/** The SQL that would run, table by table; nothing is changed. */
export async function dryRun(pool: Pool, plan: Plan, options: Pick<ApplyOptions, 'schemas' | 'tables'>) {
  const selected = await selectTables(pool, plan, options);
  const standing = new Set((await readStanding(pool)).map(({ kind, object }) => `${kind} ${object}`));
  const foundation = (await readFoundation(pool, plan)).filter(
    ({ kind, object }) => !standing.has(`${kind} ${object}`),
  );
  const steps: { object: string; statements: readonly string[] }[] = foundation.map(({ kind, object, statements }) => ({
    object: `${kind} ${object}`,
    statements,
  }));
  for (const table of selected) {
    const moving = movingOf(table);
    if (table.readiness === 'moved' || moving === undefined) continue;
    const step = await readMoveStep(pool, moving, plan.mapping);
    const statements = [lockStatement(plan.mapping.from, table.table), ...step.statements];
    steps.push({ object: `table ${plan.mapping.from}.${table.table}`, statements });
  }
  return steps;
}

/** Those that were asked for, where each is still what the plan says. */
async function selectTables(
  pool: Pool,
  plan: Plan,
  { schemas, tables }: Pick<ApplyOptions, 'schemas' | 'tables'>,
): Promise<readonly PlannedTable[]> {
  await assertSameDatabase(pool, plan);
  for (const [names, known] of [
    [schemas, plan.mapping.schemas.map(({ name }) => name)],
    [tables, plan.tables.map(({ table }) => table)],
  ] as const) {
    const unknown = names.find((name) => !known.includes(name));
    if (unknown === undefined) continue;
    throw new AppError(
      'RESTRUCTURE_TABLE_UNKNOWN',
      `The plan has no ${unknown}. Its tables and schemas: liventix restructure plan`,
    );
  }
  const selected = plan.tables.filter(
    ({ table, target }) =>
      (schemas.length === 0 && tables.length === 0) || schemas.includes(target) || tables.includes(table),
  );
  await assertNotDrifted(pool, selected, plan);
  return selected;
}

async function assertSameDatabase(pool: Pool, plan: Plan): Promise<void> {
  const { rows } = await pool.query<{ database: string }>('select current_database() as database');
  if (rows[0]?.database === plan.database) return;
  throw new AppError(
    'RESTRUCTURE_OTHER_DATABASE',
    `The plan was made for the database ${plan.database}, and this is ${rows[0]?.database}. Make one for it: liventix restructure plan`,
  );
}

async function assertNotDrifted(pool: Pool, selected: readonly PlannedTable[], plan: Plan): Promise<void> {
  const standing = new Set((await readStanding(pool)).map(({ object }) => object));
  const waiting = selected.filter(
    ({ table, readiness }) => readiness !== 'moved' && !standing.has(`${plan.mapping.from}.${table}`),
  );
  const fingerprints = await readFingerprints(
    pool,
    waiting.flatMap(({ relations }) => (relations.length === 0 ? [] : [relations.map(({ oid }) => oid)])),
  );
  const drifted = waiting.filter(({ relations: [first], fingerprint }) => {
    return first !== undefined && fingerprints.get(first.oid) !== fingerprint;
  });
  if (drifted.length === 0) return;
  const names = drifted.map(({ table }) => `${plan.mapping.from}.${table}`).join(', ');
  throw new AppError(
    'RESTRUCTURE_DRIFTED',
    `Since the plan was made, ${names} changed. Nothing was moved. Make another plan, and read what it says: liventix restructure plan`,
    { details: { tables: drifted.map(({ table }) => table) } },
  );
}

const movingOf = ({ table, target, relations, fingerprint }: PlannedTable): Moving | undefined =>
  fingerprint === null ? undefined : { table, target, fingerprint, relations: relations.map(({ oid }) => oid) };

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
      onBusy: (tries) => options.onBusy?.(table, tries),
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
  'RESTRUCTURE_DRIFTED',
  'RESTRUCTURE_CHANGED_MORE',
  'DB_FAILED',
]);
