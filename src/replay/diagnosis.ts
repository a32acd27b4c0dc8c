import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { BEGIN_AGAIN, findCapture } from './capture.ts';
import { isMirrorOn, MIRROR_AGAIN } from './mirror.ts';
import { countByMode } from './report.ts';

/** Whether the triggers are in place that the capture and the mirror stand on, for `liventix doctor`. */
export async function judgeReplay(db: Queryable): Promise<Finding> {
  const { rows } = await db.query<{ hasReplay: boolean }>(
    `select exists (select from pg_namespace where nspname = 'replay') as "hasReplay"`,
  );
  if (rows[0]?.hasReplay !== true) return { result: 'skipped', found: 'the database has no ledger yet' };
  try {
    return await judgeTriggers(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read what is replayed' };
  }
}

async function judgeTriggers(db: Queryable): Promise<Finding> {
  const capture = await findCapture(db);
  if (capture === undefined) return { result: 'ok', found: 'no changes of old tables are captured' };
  const since = capture.installedAt.toISOString();
  if (!capture.isWhole) {
    return {
      result: 'failed',
      found: `a trigger of the capture of ${since} was dropped, disabled or made anew, so that changes may be missing`,
      todo: BEGIN_AGAIN,
    };
  }
  const { ledger } = await countByMode(db, capture.bookId);
  if (ledger > 0n && !(await isMirrorOn(db))) {
    return {
      result: 'failed',
      found: `a trigger of the mirror is gone: what is posted to the ${ledger} wallets that the ledger keeps does not reach the old tables`,
      todo: MIRROR_AGAIN,
    };
  }
  return {
    result: 'ok',
    found: `changes of the old tables are captured since ${since}; the ledger keeps ${ledger} wallets`,
  };
}
