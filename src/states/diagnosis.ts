import type { Finding } from '../db/diagnosis.ts';
import type { Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { findMissingTriggers } from './install.ts';
import { findInstallations, findOrphans, type Installation } from './installations.ts';

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
  const orphans = (await findOrphans(db)).map(({ name }) => name);
  if (orphans.length > 0) {
    return {
      result: 'failed',
      found: `the table of ${orphans.join(', ')} is gone, and what its accounts keep is posted to by nobody`,
      todo: `Bring it back, or run: liventix states uninstall ${orphans.join(' ')}`,
    };
  }
  if (installations.length === 0) return { result: 'skipped', found: 'no state machine is installed on a table' };
  const faults: { machine: string; what: string }[] = [];
  for (const { machine, table } of installations) {
    const missing = await findMissingTriggers(db, machine, table);
    const what =
      missing.length > 0
        ? `lacks ${missing.join(', ')}, or it is not enabled always, or of another declaration`
        : (await hasRowsLeft(db, table))
          ? 'has rows that are not taken in yet'
          : undefined;
    if (what !== undefined) faults.push({ machine: machine.name, what: `${machine.name} on ${table} ${what}` });
  }
  const names = installations.map(({ machine }) => machine.name).join(', ');
  if (faults.length === 0) return { result: 'ok', found: `${names}: each with its triggers` };
  return {
    result: 'failed',
    found: faults.map(({ what }) => what).join('; '),
    todo: `Run: liventix states install ${faults.map(({ machine }) => machine).join(' ')}. Then see what changed meanwhile: liventix states verify`,
  };
}

async function hasRowsLeft(db: Queryable, table: string): Promise<boolean> {
  const { rowCount } = await db.query(`select from ${table} where state is null limit 1`);
  return rowCount !== 0;
}
