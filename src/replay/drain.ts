import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { mayGoOn, type Run, report } from './backfill-run.ts';
import { findCapture } from './capture.ts';

/** Captured changes a database transaction. */
const CHANGES_A_BATCH = 500;

export interface Drained {
  /** Rows that came into the log. */
  readonly imported: bigint;
  /** Changes to rows that were in the log already. */
  readonly corrected: bigint;
}

/**
 * Brings what is captured by now into the log; what comes meanwhile is left to the next time, or it would not end while the old
 * platform writes faster.
 */
export async function drain(run: Run): Promise<Drained> {
  const total = await countCaptured(run.pool);
  let done = 0n;
  let [imported, corrected] = [0n, 0n];
  while (done < total && (await mayGoOn(run))) {
    const batch = await drainBatch(run.pool, run.bookId);
    if (batch.taken === 0n) break;
    imported += batch.imported;
    corrected += batch.corrected;
    done += batch.taken;
    report(run, { step: 'changes', done, total });
  }
  return { imported, corrected };
}

async function drainBatch(pool: Pool, bookId: number): Promise<Drained & { taken: bigint }> {
  return withTransaction(pool, async (tx) => {
    const wallets = await tx.query<{ taken: number }>('select replay.drain_wallets($1, $2) as taken', [
      bookId,
      CHANGES_A_BATCH,
    ]);
    const { rows } = await tx.query<{ taken: number; imported: number; corrected: number }>(
      'select taken, imported, corrected from replay.drain_rows($1, $2)',
      [bookId, CHANGES_A_BATCH],
    );
    const { taken = 0, imported = 0, corrected = 0 } = rows[0] ?? {};
    return {
      taken: BigInt(taken + (wallets.rows[0]?.taken ?? 0)),
      imported: BigInt(imported),
      corrected: BigInt(corrected),
    };
  });
}

/** How many changes are captured and not in the log yet. */
export async function countCaptured(db: Queryable): Promise<bigint> {
  const { rows } = await db.query<{ n: bigint }>(
    'select (select count(*) from replay.captured_rows) + (select count(*) from replay.captured_wallets) as n',
  );
  return rows[0]?.n ?? 0n;
}

export interface CaptureStatus {
  readonly installedAt: Date;
  /** False when a trigger was dropped, disabled or made anew since: changes may be missing. */
  readonly isWhole: boolean;
  /** Changes that are not in the log yet, and the age of the oldest. */
  readonly waiting: bigint;
  readonly oldestSeconds: number;
}

/** Null where nothing is captured. */
export async function captureStatus(db: Queryable): Promise<CaptureStatus | null> {
  const capture = await findCapture(db);
  if (capture === undefined) return null;
  const { rows } = await db.query<{ oldestSeconds: number }>(
    `select coalesce(extract(epoch from clock_timestamp() - min(captured_at)), 0)::float8 as "oldestSeconds"
     from (select captured_at from replay.captured_rows union all select captured_at from replay.captured_wallets) captured`,
  );
  const { installedAt, isWhole } = capture;
  return { installedAt, isWhole, waiting: await countCaptured(db), oldestSeconds: rows[0]?.oldestSeconds ?? 0 };
}
