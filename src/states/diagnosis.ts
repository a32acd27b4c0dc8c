import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { findMissingTriggers } from './install.ts';
import { findInstallations, type Installation } from './installations.ts';

/** Whether the triggers of every installed machine are in place, and its rows all taken in, for `liventix doctor`. */
export async function judgeMachines(db: Queryable): Promise<Finding> {
  try {
    return await judge(db, await findInstallations(db));
  } catch (error) {
    if (toAppError(error).code !== 'DB_PERMISSION_DENIED') throw error;
    return { result: 'skipped', found: 'this role may not read which machines are installed' };
  }
}

async function judge(db: Queryable, installations: readonly Installation[]): Promise<Finding> {
  if (installations.length === 0) return { result: 'skipped', found: 'no state machine is installed on a table' };
  const faults: string[] = [];
  for (const { machine, table } of installations) {
    const missing = await findMissingTriggers(db, machine, table);
    if (missing.length > 0)
      faults.push(`${machine.name} on ${table} lacks ${missing.join(', ')}, or it is not enabled always`);
    else if (await hasRowsLeft(db, table)) faults.push(`rows of ${table} are not taken into ${machine.name} yet`);
  }
  const names = installations.map(({ machine }) => machine.name).join(', ');
  if (faults.length === 0) return { result: 'ok', found: `${names}: each with its triggers` };
  return {
    result: 'failed',
    found: faults.join('; '),
    todo: `Run: liventix states install ${names.replaceAll(',', '')}. Then see what changed meanwhile: liventix states verify`,
  };
}

async function hasRowsLeft(db: Queryable, table: string): Promise<boolean> {
  const { rowCount } = await db.query(`select from ${table} where state is null limit 1`);
  return rowCount !== 0;
}
