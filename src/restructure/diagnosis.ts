import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { readStanding } from './journal.ts';
import { VIEW_CHECKS } from './verify/checks.ts';

/** Whether every table that was moved has its view under the old name, as it should be, for `liventix doctor`. */
export async function judgeRestructuring(db: Queryable): Promise<Finding> {
  try {
    return await judge(db);
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read which tables were moved' };
  }
}

async function judge(db: Queryable): Promise<Finding> {
  const { rows: found } = await db.query<{ isThere: boolean }>(
    `select to_regclass('restructure.steps') is not null as "isThere"`,
  );
  if (found[0]?.isThere !== true) return NOTHING;
  const moved = (await readStanding(db)).filter(({ kind }) => kind === 'table');
  if (moved.length === 0) return NOTHING;
  const faults: string[] = [];
  for (const check of VIEW_CHECKS) {
    const { rows } = await db.query<{ fault: string }>(`select f.fault from (${check.faults}) f (fault)`);
    faults.push(...rows.map(({ fault }) => fault));
  }
  if (faults.length === 0)
    return { result: 'ok', found: `${moved.length} tables were moved, each with its view under the old name` };
  return {
    result: 'failed',
    found: faults.slice(0, MOST_NAMED).join('; '),
    todo: 'See all of it: liventix restructure verify. Put a table back and move it again: liventix restructure rollback --table <table>',
  };
}

const MOST_NAMED = 3;
const NOTHING: Finding = { result: 'skipped', found: 'no table was moved into another schema' };
