import type { Pool, Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';

export type Runner = 'worker' | 'pg_cron' | 'command';

export interface Upkept {
  readonly table: string;
  readonly action: string;
  readonly partition: string | null;
  readonly detail: string | null;
}

/**
 * Sees to the months of all tables, and says what was done and what was left. Of the worker and pg_cron only who is meant to does anything.
 * @throws AppError DB_*
 */
export async function maintain(pool: Pool, runner: Runner, { isConfirmed = false } = {}): Promise<readonly Upkept[]> {
  const { rows } = await pool.query<{ last: bigint }>('select coalesce(max(id), 0) as last from partitions.log');
  await pool.query('call partitions.maintain($1, now(), $2)', [runner, isConfirmed]).catch((error: unknown) => {
    throw toAppError(error);
  });
  const { rows: done } = await pool.query<Upkept>(
    'select table_name as table, action, partition, detail from partitions.log where id > $1 order by id',
    [rows[0]?.last],
  );
  return done;
}

const JOB = 'liventix partitions';

/**
 * Says who sees to the months from now on: pg_cron, with a job of its own each hour, or the worker. Never both: each asks first whether it is meant.
 * @param options.dryRun finds out whether it could be, and changes nothing
 * @throws AppError PARTITIONS_NO_CRON, DB_*
 */
export async function chooseRunner(
  pool: Pool,
  runner: Exclude<Runner, 'command'>,
  { dryRun = false } = {},
): Promise<void> {
  const hasCron = await hasPgCron(pool);
  if (runner === 'pg_cron' && !hasCron) {
    throw new AppError(
      'PARTITIONS_NO_CRON',
      'The extension pg_cron is not in this database. Have it created (create extension pg_cron), or leave the months to the worker: liventix partitions schedule worker',
    );
  }
  if (dryRun) return;
  if (runner === 'pg_cron')
    await pool.query(`select cron.schedule($1, '7 * * * *', $2)`, [JOB, `call partitions.maintain('pg_cron')`]);
  else if (hasCron) await pool.query('select cron.unschedule(jobid) from cron.job where jobname = $1', [JOB]);
  await pool.query('update partitions.settings set runner = $1', [runner]);
}

async function hasPgCron(db: Queryable): Promise<boolean> {
  const { rows } = await db.query(`select from pg_extension where extname = 'pg_cron'`);
  return rows.length > 0;
}
