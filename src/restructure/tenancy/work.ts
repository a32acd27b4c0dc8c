import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Tx } from '../../db/pool.ts';
import { LOCK_TIMEOUT_MS } from '../../db/try-until-free.ts';
import type { StepKind } from '../journal.ts';
import type { Mapping } from '../mapping.ts';
import { takeStep } from '../move.ts';
import type { Step } from '../statements.ts';
import type { Tenancy, TenantTable } from './declaration.ts';
import type { Ground } from './ground.ts';

export interface IsolateOptions {
  readonly stop?: AbortSignal | undefined;
  /** How often what is in use is tried. */
  readonly maxTries?: number | undefined;
  /** Changes nothing, and says what it would do. */
  readonly dryRun?: boolean | undefined;
  readonly onProgress?: ((what: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((what: string, tries: number) => void) | undefined;
  /** Told for whom something waits that keeps nobody waiting. */
  readonly onWaiting?: ((what: string, holders: string) => void) | undefined;
  /** Told, before anything is changed, what will be otherwise than somebody may expect. */
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** What would be done to an object. */
export interface WouldDo {
  readonly object: string;
  readonly statements: readonly string[];
}

/** What every step needs to know. */
export interface Work {
  readonly pool: Pool;
  readonly mapping: Mapping;
  readonly tenancy: Tenancy;
  readonly ground: Ground;
  /** `kind object` of the steps that stand. */
  readonly standing: Set<string>;
  /** In place of doing it; null where it is done. */
  readonly wouldDo: WouldDo[] | null;
  readonly options: IsolateOptions;
}

export const objectOf = ({ mapping }: Work, { table }: TenantTable): string => `${mapping.from}.${table}`;

/**
 * Does a step, unless it stands.
 * @param what has to be free for it: the object, unless said otherwise
 * @throws AppError RESTRUCTURE_BUSY, RESTRUCTURE_CHANGED_MORE, DB_*
 */
export async function take(
  work: Work,
  step: Step & { kind: StepKind; object: string; relations: readonly number[] },
  what = step.object,
): Promise<void> {
  const key = `${step.kind} ${step.object}`;
  if (work.standing.has(key)) return;
  if (work.wouldDo === null)
    await inTurn(work, { what, locks: step.relations.length }, (tx) =>
      takeStep(tx, { ...step, plan: '', expected: null }),
    );
  else work.wouldDo.push({ object: key, statements: step.statements });
  work.standing.add(key);
}

/** A statement that is no step of its own. */
export async function alone(
  work: Work,
  object: string,
  statement: string,
  lockTimeout = lockTimeoutMs(1),
): Promise<void> {
  if (work.wouldDo === null) await inTurn(work, { what: object, lockTimeout }, (tx) => tx.query(statement));
  else work.wouldDo.push({ object, statements: [statement] });
}

const SHORTEST_LOCK_TIMEOUT_MS = 5;

/** Many locks one after the other make others wait for all of them, so each is waited for the less. */
export const lockTimeoutMs = (locks: number): number =>
  Math.max(SHORTEST_LOCK_TIMEOUT_MS, Math.floor(LOCK_TIMEOUT_MS / Math.max(locks, 1)));

/** Runs statements in a transaction that gives way. */
export function inTurn<T>(
  { pool, options: { stop, maxTries, onBusy } }: Work,
  { what, locks = 1, lockTimeout = lockTimeoutMs(locks) }: { what: string; locks?: number; lockTimeout?: number },
  statements: (tx: Tx) => Promise<T>,
): Promise<T> {
  return givingWay(
    pool,
    { stop, maxTries, code: 'RESTRUCTURE_BUSY', what, onBusy: (tries) => onBusy?.(what, tries) },
    async (tx) => {
      await tx.query(`set local lock_timeout = ${lockTimeout}`);
      return statements(tx);
    },
  );
}
