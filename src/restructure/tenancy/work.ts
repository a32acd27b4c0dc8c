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
  readonly onProgress?: ((what: string, done: number, total: number) => void) | undefined;
  readonly onBusy?: ((what: string, tries: number) => void) | undefined;
}

/** What every step needs to know. */
export interface Work {
  readonly pool: Pool;
  readonly mapping: Mapping;
  readonly tenancy: Tenancy;
  readonly ground: Ground;
  /** `kind object` of the steps that stand. */
  readonly standing: Set<string>;
  readonly options: IsolateOptions;
}

export const objectOf = ({ mapping }: Work, { table }: TenantTable): string => `${mapping.from}.${table}`;

/** Does a step, unless it stands. */
export async function take(
  work: Work,
  step: Step & { kind: StepKind; object: string; relations: readonly number[] },
): Promise<void> {
  const key = `${step.kind} ${step.object}`;
  if (work.standing.has(key)) return;
  await inTurn(work, step.object, step.relations.length, (tx) => takeStep(tx, { ...step, plan: '', expected: null }));
  work.standing.add(key);
}

/** A statement that is no step of its own. */
export const alone = (work: Work, object: string, statement: string): Promise<unknown> =>
  inTurn(work, object, 1, (tx) => tx.query(statement));

const SHORTEST_LOCK_TIMEOUT_MS = 5;

/** Many locks one after the other make others wait for all of them, so each is waited for the less. */
export const lockTimeoutMs = (locks: number): number =>
  Math.max(SHORTEST_LOCK_TIMEOUT_MS, Math.floor(LOCK_TIMEOUT_MS / Math.max(locks, 1)));

function inTurn<T>(
  { pool, options: { stop, onBusy } }: Work,
  what: string,
  locks: number,
  statements: (tx: Tx) => Promise<T>,
): Promise<T> {
  return givingWay(
    pool,
    { stop, code: 'RESTRUCTURE_BUSY', what, onBusy: (tries) => onBusy?.(what, tries) },
    async (tx) => {
      await tx.query(`set local lock_timeout = ${lockTimeoutMs(locks)}`);
      return statements(tx);
    },
  );
}
