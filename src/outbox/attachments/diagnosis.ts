import type { Finding } from '../../db/diagnosis.ts';
import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { listAttachments } from './list.ts';

/** Whether every table that was attached announces its changes, for `liventix doctor`. */
export async function judgeAttachments(db: Queryable): Promise<Finding> {
  const { rowCount } = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'outbox' and c.relname = 'attachments'`,
  );
  if (rowCount === 0) return { result: 'skipped', found: 'the database has no attachments yet' };
  try {
    return await judge(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read what is attached' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const attachments = await listAttachments(db);
  const silent = attachments.filter(({ state }) => state !== 'attached');
  if (silent.length > 0) {
    return {
      result: 'failed',
      found: `changes are not announced by ${silent.map(({ name }) => name).join(', ')}: a trigger was dropped or disabled, or the table is gone`,
      todo: 'liventix outbox list says which; attach again, or detach.',
    };
  }
  const lacking = attachments.filter(({ missingColumns }) => missingColumns.length > 0);
  if (lacking.length > 0) {
    return {
      result: 'warning',
      found: `messages of ${lacking.map(({ name }) => name).join(', ')} lack columns that were renamed or dropped`,
      todo: 'liventix outbox list says which; detach, and attach with the present columns.',
    };
  }
  return { result: 'ok', found: `${attachments.length} attachments, each with its triggers` };
}
