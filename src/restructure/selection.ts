import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { readStanding } from './journal.ts';
import type { Moving } from './move.ts';
import { readFingerprints } from './plan.ts';
import type { Plan, PlannedTable } from './planned.ts';

/** Target schemas and tables; all of the plan when both are empty. */
export interface Selection {
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
}

/**
 * Those that were asked for, where each that can move is still what the plan says.
 * @throws AppError RESTRUCTURE_OTHER_DATABASE, RESTRUCTURE_TABLE_UNKNOWN, RESTRUCTURE_DRIFTED, DB_*
 */
export async function selectTables(
  pool: Pool,
  plan: Plan,
  { schemas, tables }: Selection,
): Promise<readonly PlannedTable[]> {
  await assertSameDatabase(pool, plan);
  for (const [names, known] of [
    [schemas, plan.mapping.schemas.map(({ name }) => name)],
    [tables, plan.tables.map(({ table }) => table)],
  ] as const) {
    const unknown = names.find((name) => !known.includes(name));
    if (unknown === undefined) continue;
    throw new AppError(
      'RESTRUCTURE_TABLE_UNKNOWN',
      `The plan has no ${unknown}. Its tables and schemas: liventix restructure plan`,
    );
  }
  const selected = plan.tables.filter(
    ({ table, target }) =>
      (schemas.length === 0 && tables.length === 0) || schemas.includes(target) || tables.includes(table),
  );
  await assertNotDrifted(pool, selected, plan);
  return selected;
}

async function assertSameDatabase(pool: Pool, plan: Plan): Promise<void> {
  const { rows } = await pool.query<{ database: string }>('select current_database() as database');
  if (rows[0]?.database === plan.database) return;
  throw new AppError(
    'RESTRUCTURE_OTHER_DATABASE',
    `The plan was made for the database ${plan.database}, and this is ${rows[0]?.database}. Make one for it: liventix restructure plan`,
  );
}

async function assertNotDrifted(pool: Pool, selected: readonly PlannedTable[], plan: Plan): Promise<void> {
  const standing = new Set((await readStanding(pool)).map(({ object }) => object));
  const waiting = selected.filter(
    ({ table, readiness }) =>
      readiness !== 'moved' && readiness !== 'blocked' && !standing.has(`${plan.mapping.from}.${table}`),
  );
  const fingerprints = await readFingerprints(
    pool,
    waiting.flatMap(({ relations }) => (relations.length === 0 ? [] : [relations.map(({ oid }) => oid)])),
  );
  const drifted = waiting.filter(({ relations: [first], fingerprint }) => {
    return first !== undefined && fingerprints.get(first.oid) !== fingerprint;
  });
  if (drifted.length === 0) return;
  const names = drifted.map(({ table }) => `${plan.mapping.from}.${table}`).join(', ');
  throw new AppError(
    'RESTRUCTURE_DRIFTED',
    `Since the plan was made, ${names} changed. Nothing was moved. Make another plan, and read what it says: liventix restructure plan`,
    { details: { tables: drifted.map(({ table }) => table) } },
  );
}

/** What there is to move; undefined where it is not there. */
export const movingOf = ({ table, target, relations, fingerprint }: PlannedTable): Moving | undefined =>
  fingerprint === null ? undefined : { table, target, fingerprint, relations: relations.map(({ oid }) => oid) };
