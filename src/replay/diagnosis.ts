import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { BEGIN_AGAIN, findCapture } from './capture.ts';
import { isMirrorOn } from './mirror.ts';
import { countByMode } from './report.ts';

/** Whether the triggers are in place that the capture and the mirror stand on, for `liventix doctor`. */
export async function judgeReplay(db: Queryable): Promise<Finding> {
  const { rows } = await db.query<{ mayRead: boolean | null }>(
    `select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as "mayRead"
     from pg_namespace n join pg_class c on c.relnamespace = n.oid
     where n.nspname = 'replay' and c.relname = 'capture'`,
  );
  if (rows[0] === undefined) return { result: 'skipped', found: 'the database has no ledger yet' };
  if (rows[0].mayRead !== true) return { result: 'skipped', found: 'this role may not read what is replayed' };
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
      todo: 'liventix backfill cutover --all puts it back, and mirrors what was missed',
    };
  }
  return {
    result: 'ok',
    found: `changes of the old tables are captured since ${since}; the ledger keeps ${ledger} wallets`,
  };
}
