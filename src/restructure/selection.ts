import type { Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { CALLER_FINDINGS } from './callers.ts';
import { readStanding, standingKeys } from './journal.ts';
import type { Moving } from './move.ts';
import { makePlan } from './plan.ts';
import type { Plan, PlannedTable } from './planned.ts';
import { isBlocking } from './readiness.ts';

/** Target schemas and tables; all of the plan when both are empty. */
export interface Selection {
  readonly schemas: readonly string[];
  readonly tables: readonly string[];
}

/**
 * Those that were asked for, where each that can move is still what the plan says; one that something blocks since is blocked.
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
  const waiting = await readWaiting(pool, selected, plan);
  assertNotDrifted(waiting, plan.mapping.from);
  const now = new Map(waiting.tables.map((each) => [each.planned, each.now]));
  return selected.map((table) => blockedSince(table, now.get(table)));
}

async function assertSameDatabase(pool: Pool, plan: Plan): Promise<void> {
  const { rows } = await pool.query<{ database: string }>('select current_database() as database');
  if (rows[0]?.database === plan.database) return;
  throw new AppError(
    'RESTRUCTURE_OTHER_DATABASE',
    `The plan was made for the database ${plan.database}, and this is ${rows[0]?.database}. Make one for it: liventix restructure plan`,
  );
}

/** Those that were not moved yet, each beside what a plan of this moment says of it. */
async function readWaiting(pool: Pool, selected: readonly PlannedTable[], plan: Plan) {
  const standing = await readStanding(pool);
  const keys = standingKeys(standing);
  const now = await makePlan(pool, plan.mapping, { now: new Date(plan.madeAt) });
  const byName = new Map(now.tables.map((table) => [table.table, table]));
  const waiting = selected.filter(
    ({ table, readiness }) =>
      readiness !== 'moved' && readiness !== 'blocked' && !keys.has(`table ${plan.mapping.from}.${table}`),
  );
  return {
    tables: waiting.map((planned) => ({ planned, now: byName.get(planned.table) })),
    replaced: Object.entries(plan.replaced)
      .filter(([name]) => !keys.has(`replacement ${name}`))
      .map(([name, body]) => ({ name, isAsPlanned: now.replaced[name] === body })),
  };
}

function assertNotDrifted({ tables, replaced }: Awaited<ReturnType<typeof readWaiting>>, from: string): void {
  const drifted = tables
    .filter(({ planned, now }) => planned.fingerprint !== now?.fingerprint)
    .map(({ planned }) => planned.table);
  const functions = replaced.filter(({ isAsPlanned }) => !isAsPlanned).map(({ name }) => name);
  if (drifted.length + functions.length === 0) return;
  const names = [...drifted.map((table) => `${from}.${table}`), ...functions].join(', ');
  throw new AppError(
    'RESTRUCTURE_DRIFTED',
    `Since the plan was made, ${names} changed. Nothing was moved. Make another plan, and read what it says: liventix restructure plan`,
    { details: { tables: drifted, functions } },
  );
}

/** What stored texts do since is none of a table's facts; what else would block it is, or the server refuses it. */
function blockedSince(planned: PlannedTable, now: PlannedTable | undefined): PlannedTable {
  const blocking = (now?.findings ?? []).filter((each) => isBlocking(each) && each.finding in CALLER_FINDINGS);
  if (blocking.length === 0) return planned;
  const since = blocking.map((finding) => ({
    ...finding,
    text: `since the plan was made: ${finding.text}. Make another: liventix restructure plan`,
  }));
  return { ...planned, readiness: 'blocked', findings: [...since, ...planned.findings] };
}

/** What there is to move; undefined where it is not there. */
export const movingOf = ({ table, target, relations, fingerprint }: PlannedTable): Moving | undefined =>
  fingerprint === null ? undefined : { table, target, fingerprint, relations: relations.map(({ oid }) => oid) };
