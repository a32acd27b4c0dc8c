import type { Pool, Queryable } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { isStopped, type Run, report } from './backfill-run.ts';
import { SOURCES } from './sources.ts';

/** Captured changes a database transaction. */
const CHANGES_A_BATCH = 500;

export interface Drained {
  /** Rows that came into the log. */
  readonly imported: bigint;
  /** Changes to rows that were in the log already. */
  readonly corrected: bigint;
}

/** Brings what is captured into the log, until nothing is left or the run is told to stop. */
export async function drain(run: Run): Promise<Drained> {
  const [source] = SOURCES;
  const total = await countCaptured(run.pool);
  let done = 0n;
  let [imported, corrected] = [0n, 0n];
  while (source !== undefined && !isStopped(run)) {
    const batch = await drainBatch(run.pool, run.bookId);
    if (batch.taken === 0n) break;
    imported += batch.imported;
    corrected += batch.corrected;
    done += batch.taken;
    report(run, { step: 'changes', source: source.name, done, total: done > total ? done : total });
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
