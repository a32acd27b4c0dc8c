import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import type { BackfillLock } from './backfill-lock.ts';
import type { Capture } from './capture.ts';
import type { LegacyTables } from './legacy.ts';
import type { Pacing } from './pace/pacing.ts';
import type { Limits, Pace } from './pace/throttle.ts';
import type { Source } from './sources.ts';

export interface BackfillOptions {
  readonly bookId?: number;
  /** Legacy rows a database transaction, at most. */
  readonly chunkRows?: number;
  /** What somebody else may notice of it; left out, it goes at full speed. */
  readonly limits?: Limits;
  /** How long to wait for another run of the same book to end. */
  readonly patienceMs?: number;
  /**
   * How long a wallet must have been left alone before its difference is booked: old code writes a row and the balance one after the
   * other, and between the two they differ.
   */
  readonly settleMs?: number;
  readonly stop?: AbortSignal;
  readonly onProgress?: (progress: BackfillProgress) => void;
}

export interface BackfillProgress {
  readonly step: 'survey' | 'accounts' | 'rows' | 'changes' | 'balances' | 'paused';
  /** Undefined where the step is of all of them. */
  readonly source?: Source['name'];
  readonly done: bigint;
  readonly total: bigint;
  readonly pace: Pace;
}

/** What a step may sort in; in the default 4 MB it would be sorted on disk. */
export const SORT_MEMORY = '32MB';

/** Counts a whole table on one processor: as many as the server has would be noticed by others. */
export async function countWhole<T extends object>(
  { pool }: Pick<Run, 'pool'>,
  sql: string,
  values: readonly unknown[] = [],
): Promise<T | undefined> {
  return withTransaction(pool, async (tx) => {
    await tx.query('set local max_parallel_workers_per_gather = 0');
    return (await tx.query<T>(sql, [...values])).rows[0];
  });
}

/** One run of the backfill: what its steps share. */
export interface Run {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly capture: Capture;
  readonly options: BackfillOptions;
  readonly lock: BackfillLock;
  readonly chunkRows: number;
  readonly pacing: Pacing;
}

/** How much a source holds. */
export interface Totals {
  readonly rows: bigint;
  readonly wallets: bigint;
}

/** What a progress bar calls it. */
export function labelOf({ source, step }: BackfillProgress): string {
  return source === undefined ? step : `${source}: ${step}`;
}

const PAUSE_POLL_MS = 500;

/**
 * Leaves the server alone for as long as the pace asks for, and waits while the backfill is paused; false once the run was told to
 * stop. Asked before each chunk.
 */
export async function mayGoOn(run: Run): Promise<boolean> {
  await run.pacing.rest(run.options.stop);
  while (!isStopped(run)) {
    const { rowCount } = await run.pool.query('select from replay.pause where book_id = $1', [run.bookId]);
    run.pacing.standStill(rowCount === 1);
    if (rowCount === 0) return true;
    report(run, { step: 'paused', done: 0n, total: 0n });
    await sleep(PAUSE_POLL_MS, undefined, { signal: run.options.stop }).catch(() => undefined);
  }
  return false;
}

/** Whether the run was told to stop. Throws when it lost its lock, because another may be running by now. */
export function isStopped(run: Run): boolean {
  run.lock.assertHeld();
  return run.options.stop?.aborted === true;
}

export function report(run: Run, progress: Omit<BackfillProgress, 'pace'>): void {
  run.options.onProgress?.({ ...progress, pace: run.pacing.pace() });
}
