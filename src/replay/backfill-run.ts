import type { Pool } from '../db/pool.ts';
import type { BackfillLock } from './backfill-lock.ts';
import type { LegacyTables } from './legacy.ts';
import type { Source } from './sources.ts';

export interface BackfillOptions {
  readonly bookId?: number;
  /** Legacy rows a database transaction. */
  readonly chunkRows?: number;
  /** How long to wait for another run of the same book to end. */
  readonly patienceMs?: number;
  readonly stop?: AbortSignal;
  readonly onProgress?: (progress: BackfillProgress) => void;
}

export interface BackfillProgress {
  readonly step: 'survey' | 'accounts' | 'rows' | 'balances';
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
  readonly options: BackfillOptions;
  readonly lock: BackfillLock;
  readonly chunkRows: number;
}

/** Whether the run was told to stop. Throws when it lost its lock, because another may be running by now. */
export function isStopped(run: Run): boolean {
  run.lock.assertHeld();
  return run.options.stop?.aborted === true;
}

export function report(run: Run, progress: BackfillProgress): void {
  run.options.onProgress?.(progress);
}
