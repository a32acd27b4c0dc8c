import type { Pool } from '../db/pool.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { takeBackfillLock } from './backfill-lock.ts';
import { type BackfillOptions, isStopped, type Run } from './backfill-run.ts';
import { getLegacyTables } from './legacy.ts';
import { countRowsSql } from './mapping.ts';
import { importInOrder, importMissing, isComplete } from './row-steps.ts';
import { SOURCES, type Source } from './sources.ts';
import { prepare } from './survey.ts';
import { openPlatformAccounts, reconcileBalances } from './wallet-steps.ts';

export interface BackfillResult {
  /** False when it was stopped; run it again to go on. */
  readonly finished: boolean;
  /** Rows of the legacy tables. */
  readonly legacyTransactions: bigint;
  /** Rows that this run brought into the log. */
  readonly imported: bigint;
  readonly wallets: bigint;
  readonly seconds: number;
}

export const DEFAULT_CHUNK_ROWS = 5_000;
/** As long as a server may take to notice that a run was killed whose work somebody goes on with at once. */
const DEFAULT_PATIENCE_MS = 2_000;

/**
 * Replays every legacy wallet into the ledger. Each chunk commits together with its checkpoint, and every event's id is
 * made from its legacy row, so the run may be stopped or killed at any point and run again.
 * @throws AppError BACKFILL_RUNNING, LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function runBackfill(pool: Pool, options: BackfillOptions = {}): Promise<BackfillResult> {
  const bookId = options.bookId ?? MAIN_BOOK;
  const startedAt = performance.now();
  const tables = await getLegacyTables(pool);
  const lock = await takeBackfillLock(pool, bookId, options.patienceMs ?? DEFAULT_PATIENCE_MS);
  try {
    const run: Run = { pool, bookId, tables, options, lock, chunkRows: options.chunkRows ?? DEFAULT_CHUNK_ROWS };
    await openPlatformAccounts(run);
    const total = { rows: 0n, imported: 0n, wallets: 0n };
    for (const source of SOURCES) {
      const done = await replaySource(run, source);
      total.rows += done.rows;
      total.imported += done.imported;
      total.wallets += done.wallets;
    }
    return {
      finished: options.stop?.aborted !== true,
      legacyTransactions: total.rows,
      imported: total.imported,
      wallets: total.wallets,
      seconds: (performance.now() - startedAt) / 1_000,
    };
  } finally {
    await lock.release();
  }
}

/** What a run would find to do in one legacy table. */
export interface Remaining {
  readonly source: Source['name'];
  readonly wallets: bigint;
  readonly rowsInTable: bigint;
  /** Those that are not in the log yet. */
  readonly rowsLeft: bigint;
}

/**
 * What `runBackfill` would find to do; changes nothing.
 * @throws AppError LEGACY_TABLE_MISSING, LEGACY_COLUMN_MISMATCH, DB_*
 */
export async function findRemaining(
  pool: Pool,
  options: { readonly bookId?: number; readonly onBegin?: (source: Source['name']) => void } = {},
): Promise<Remaining[]> {
  const { bookId = MAIN_BOOK, onBegin = () => undefined } = options;
  const tables = await getLegacyTables(pool);
  const remaining: Remaining[] = [];
  for (const source of SOURCES) {
    onBegin(source.name);
    const { rows } = await pool.query<Omit<Remaining, 'source'>>(countRowsSql(source, tables), [bookId, source.name]);
    remaining.push(...rows.map((counts) => ({ source: source.name, ...counts })));
  }
  return remaining;
}

async function replaySource(run: Run, source: Source): Promise<{ rows: bigint; imported: bigint; wallets: bigint }> {
  const { pool, bookId, tables } = run;
  await pool.query('insert into replay.progress (book_id, source) values ($1, $2) on conflict do nothing', [
    bookId,
    source.name,
  ]);
  const rows = await countRows(pool, tables[source.transactions]);
  const wallets = await countRows(pool, tables[source.wallets]);
  const total = { rows, wallets };
  if (!isStopped(run)) await prepare(run, source, total);
  let imported = await importInOrder(run, source, total);
  // Rows that appeared behind the checkpoint: written with an earlier time, or committed later than their neighbours.
  if (!(await isComplete(run, source))) imported += await importMissing(run, source, total);
  await reconcileBalances(run, source, wallets);
  if (!isStopped(run)) {
    await pool.query(
      'update replay.progress set finished_at = coalesce(finished_at, clock_timestamp()) where book_id = $1 and source = $2',
      [bookId, source.name],
    );
  }
  return { rows, imported, wallets };
}

async function countRows(pool: Pool, table: string): Promise<bigint> {
  const { rows } = await pool.query<{ n: bigint }>(`select count(*) as n from ${table}`);
  return rows[0]?.n ?? 0n;
}
