import type { Pool } from '../db/pool.ts';
import type { BackfillLock } from './backfill-lock.ts';
import type { Capture } from './capture.ts';
import type { LegacyTables } from './legacy.ts';
import type { Source } from './sources.ts';

export interface BackfillOptions {
  readonly bookId?: number;
  /** Legacy rows a database transaction. */
  readonly chunkRows?: number;
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
  readonly step: 'survey' | 'accounts' | 'rows' | 'changes' | 'balances';
  readonly source: Source['name'];
  readonly done: bigint;
  readonly total: bigint;
}

/** What a step may sort in; in the default 4 MB it would be sorted on disk. */
export const SORT_MEMORY = '32MB';

/** One run of the backfill: what its steps share. */
export interface Run {
  readonly pool: Pool;
  readonly bookId: number;
  readonly tables: LegacyTables;
  readonly capture: Capture;
  readonly options: BackfillOptions;
  readonly lock: BackfillLock;
  readonly chunkRows: number;
}

/** How much a source holds. */
export interface Totals {
  readonly rows: bigint;
  readonly wallets: bigint;
}

/** Whether the run was told to stop. Throws when it lost its lock, because another may be running by now. */
export function isStopped(run: Run): boolean {
  run.lock.assertHeld();
  return run.options.stop?.aborted === true;
}

export function report(run: Run, progress: BackfillProgress): void {
  run.options.onProgress?.(progress);
}
