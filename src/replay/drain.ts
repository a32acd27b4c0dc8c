import type { Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { mayGoOn, type Run, report } from './backfill-run.ts';
import { findCapture } from './capture.ts';
import { doOneByOne, refusalOf, type WalletKey } from './held-back.ts';

/** Captured changes a database transaction, at most. */
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
    const { batches, heldBack } = await drainBatch(run, run.pacing.rows(CHANGES_A_BATCH));
    const taken = batches.reduce((sum, batch) => sum + batch.taken, 0n);
    if (taken + heldBack === 0n) break;
    for (const batch of batches) {
      imported += batch.imported;
      corrected += batch.corrected;
    }
    done += taken;
    report(run, { step: 'changes', done, total });
  }
  return { imported, corrected };
}

type Batch = Drained & { readonly taken: bigint };

/** The next changes, all at once, or wallet by wallet where the ledger refuses one of them. */
async function drainBatch({ pool, bookId }: Run, limit: number): Promise<{ batches: Batch[]; heldBack: bigint }> {
  const wallets = await withTransaction(pool, (tx) => drainWallets(tx, { bookId, limit }));
  try {
    const rows = await withTransaction(pool, (tx) => drainRows(tx, { bookId, limit, walletIds: null }));
    return { batches: [wallets, rows], heldBack: 0n };
  } catch (error) {
    if (refusalOf(error) === undefined) throw error;
    const next = await findNextWallets(pool, { bookId, limit });
    const drainOne = (tx: Tx, { id }: WalletKey) => drainRows(tx, { bookId, limit, walletIds: [id] });
    const { answers, heldBack } = await doOneByOne(pool, next, drainOne);
    return { batches: [wallets, ...answers], heldBack };
  }
}

interface Part {
  readonly bookId: number;
  /** Changes at most. */
  readonly limit: number;
}

async function drainWallets(tx: Tx, { bookId, limit }: Part): Promise<Batch> {
  const { rows } = await tx.query<{ taken: number }>('select replay.drain_wallets($1, $2) as taken', [bookId, limit]);
  return { taken: BigInt(rows[0]?.taken ?? 0), imported: 0n, corrected: 0n };
}

async function drainRows(
  tx: Tx,
  { bookId, limit, walletIds }: Part & { readonly walletIds: readonly string[] | null },
): Promise<Batch> {
  const { rows } = await tx.query<{ taken: number; imported: number; corrected: number }>(
    'select taken, imported, corrected from replay.drain_rows($1, $2, $3)',
    [bookId, limit, walletIds],
  );
  const { taken = 0, imported = 0, corrected = 0 } = rows[0] ?? {};
  return { taken: BigInt(taken), imported: BigInt(imported), corrected: BigInt(corrected) };
}

async function findNextWallets(db: Queryable, { bookId, limit }: Part): Promise<WalletKey[]> {
  const { rows } = await db.query<Omit<WalletKey, 'bookId'>>(
    `select distinct n.wallet_id as id, n.source
     from (
       select c.wallet_id, c.source from replay.captured_rows c
       left join replay.held_back h on h.wallet_id = c.wallet_id and h.source = c.source and h.book_id = $1
       where h.wallet_id is null order by c.id limit $2
     ) n
     order by 1`,
    [bookId, limit],
  );
  return rows.map((row) => ({ ...row, bookId }));
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
