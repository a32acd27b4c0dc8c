import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { dropOurTriggers, getCapture } from './capture.ts';
import { givingWay } from './giving-way.ts';
import { turnMirrorOff } from './mirror.ts';
import { compareWallets } from './report.ts';

/**
 * Retires the old tables: nothing is captured, mirrored or posted any more, and they stay as they are. There is no way back from it.
 * @throws AppError FINISH_REFUSED while an owner is kept by the old tables, or anything differs; CAPTURE_*, CUTOVER_BUSY, DB_*
 */
export async function finishCutOver(
  pool: Pool,
  options: { readonly bookId?: number; readonly dryRun?: boolean; readonly stop?: AbortSignal } = {},
): Promise<void> {
  const { bookId = MAIN_BOOK, stop, dryRun = false } = options;
  await getCapture(pool, stop === undefined ? { bookId } : { bookId, stop });
  const fault = await findObstacle(pool, bookId);
  if (fault !== undefined) throw new AppError('FINISH_REFUSED', fault);
  if (dryRun) return;
  await givingWay(pool, { stop, givenUp: busy }, async (tx) => {
    await dropOurTriggers(tx);
    await turnMirrorOff(tx);
    // Since the look before, which nothing kept from changing.
    const late = await findObstacle(tx, bookId);
    if (late !== undefined) throw new AppError('FINISH_REFUSED', late);
    await tx.query('delete from replay.capture');
    await tx.query('update replay.progress set retired_at = clock_timestamp() where book_id = $1', [bookId]);
  });
}

async function findObstacle(db: Parameters<typeof compareWallets>[0], bookId: number): Promise<string | undefined> {
  const { rows } = await db.query<{ n: bigint }>(
    `select count(*) as n from replay.wallets where book_id = $1 and mode = 'legacy'`,
    [bookId],
  );
  const left = rows[0]?.n ?? 0n;
  if (left > 0n) return `${left} wallets are still kept by the old tables: liventix backfill cutover --all`;
  const comparison = await compareWallets(db, bookId);
  if (comparison === undefined) return 'The backfill has not finished: liventix backfill run';
  const { differing, changing, first } = comparison;
  if (changing > 0n) return `${changing} wallets changed, which the log does not know yet: liventix backfill run`;
  if (differing > 0n) return `${differing} wallets differ from their accounts, the first: ${first[0]}`;
  return undefined;
}

function busy(tries: number, cause: AppError): AppError {
  return new AppError(
    'CUTOVER_BUSY',
    `The wallet tables were in use each of ${tries} times. Nothing was changed. Run it again.`,
    {
      cause,
    },
  );
}
