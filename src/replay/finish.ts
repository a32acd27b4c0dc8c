import type { Pool, Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { dropOurTriggers, findRetirement, getCapture, lockTables } from './capture.ts';
import { countCaptured } from './drain.ts';
import { givingWay } from './giving-way.ts';
import { getLegacyTables, type LegacyTables } from './legacy.ts';
import { turnMirrorOff } from './mirror.ts';
import { compareWallets } from './report.ts';
import { SOURCES } from './sources.ts';

/**
 * Retires the old tables: nothing is captured, mirrored or posted any more, and they stay as they are. There is no way back from it.
 * Done before, it does nothing.
 * Everything is compared first, while writers go on; they wait only for a last look at what may have changed since.
 * @throws AppError FINISH_REFUSED while an owner is kept by the old tables, or anything differs; CAPTURE_*, CUTOVER_BUSY, DB_*
 */
export async function finishCutOver(
  pool: Pool,
  options: { readonly bookId?: number; readonly dryRun?: boolean; readonly stop?: AbortSignal } = {},
): Promise<void> {
  const { bookId = MAIN_BOOK, stop, dryRun = false } = options;
  if ((await findRetirement(pool, bookId)) !== undefined) return;
  const tables = await getLegacyTables(pool);
  await getCapture(pool, { bookId, stop });
  refuseFor((await findUnflipped(pool, tables, bookId)) ?? (await findDifference(pool, bookId)));
  if (dryRun) return;
  await givingWay(pool, { stop, code: 'CUTOVER_BUSY', what: 'A wallet table' }, async (tx) => {
    await lockTables(tx, tables);
    if ((await findRetirement(tx, bookId)) !== undefined) return;
    // Waits for a flip that is under way, which stands on it.
    await tx.query('delete from replay.capture');
    refuseFor((await findUnflipped(tx, tables, bookId)) ?? (await findWaiting(tx)));
    await tx.query('update replay.progress set retired_at = clock_timestamp() where book_id = $1', [bookId]);
    await turnMirrorOff(tx);
    await dropOurTriggers(tx);
  });
}

function refuseFor(obstacle: string | undefined): void {
  if (obstacle !== undefined) throw new AppError('FINISH_REFUSED', obstacle);
}

/** A wallet that is gone is kept by nobody. */
async function findUnflipped(db: Queryable, tables: LegacyTables, bookId: number): Promise<string | undefined> {
  const counts = SOURCES.map(
    ({ name, wallets }) => `(select count(*) from ${tables[wallets]} w
       left join replay.wallets r on r.wallet_id = w.id and r.source = '${name}' and r.book_id = $1
       where r.mode is distinct from 'ledger')`,
  );
  const { rows } = await db.query<{ n: bigint }>(`select ${counts.join(' + ')} as n`, [bookId]);
  const left = rows[0]?.n ?? 0n;
  return left > 0n ? `${left} wallets are still kept by the old tables: liventix backfill cutover --all` : undefined;
}

async function findWaiting(db: Queryable): Promise<string | undefined> {
  const waiting = await countCaptured(db);
  return waiting > 0n ? `${waiting} changes wait that the log does not know yet: liventix backfill run` : undefined;
}

async function findDifference(db: Queryable, bookId: number): Promise<string | undefined> {
  const comparison = await compareWallets(db, bookId);
  if (comparison === undefined) return 'The backfill has not finished: liventix backfill run';
  const { differing, changing, first } = comparison;
  if (changing > 0n) return `${changing} wallets changed, which the log does not know yet: liventix backfill run`;
  if (differing > 0n) return `${differing} wallets differ from their accounts, the first: ${first[0]}`;
  return undefined;
}
