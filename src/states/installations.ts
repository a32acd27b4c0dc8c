import type { Queryable } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import type { Machine } from './machine.ts';
import { MACHINES } from './machines.ts';

/** A machine on the table that it is installed on. */
export interface Installation {
  readonly machine: Machine;
  /** With its schema, quoted where it must be. */
  readonly table: string;
}

/** What the database says of a machine that was installed. */
export interface Present {
  readonly oid: string;
  /** With its schema, quoted where it must be; null where the table is gone. */
  readonly table: string | null;
  /** Definitions of the checks that were taken off, by name. */
  readonly dropped: Readonly<Record<string, string>>;
}

const RELATION = `quote_ident(n.nspname) || '.' || quote_ident(c.relname)`;

/** Machines that are on a table of this database; none where the database has no machines at all yet. */
export async function findInstallations(db: Queryable): Promise<readonly Installation[]> {
  const found: Installation[] = [];
  if (!(await hasMachines(db))) return found;
  for (const machine of MACHINES) {
    const table = (await findPresent(db, machine))?.table ?? null;
    if (table !== null) found.push({ machine, table });
  }
  return found;
}

/** Machines that were put on a table which is gone. */
export async function findOrphans(db: Queryable): Promise<readonly Machine[]> {
  if (!(await hasMachines(db))) return [];
  const found: Machine[] = [];
  for (const machine of MACHINES) {
    const present = await findPresent(db, machine);
    if (present != null && present.table === null) found.push(machine);
  }
  return found;
}

/** Null before it is installed. @throws AppError STATE_MACHINE_UNKNOWN where its migration is not applied */
export async function presentOn(db: Queryable, machine: Machine): Promise<Present | null> {
  const present = await findPresent(db, machine);
  if (present !== undefined) return present;
  throw new AppError('STATE_MACHINE_UNKNOWN', `The database has no machine ${machine.name} yet. Run: liventix migrate`);
}

/** Undefined where the database does not have the machine. */
async function findPresent(db: Queryable, { name }: Machine): Promise<Present | null | undefined> {
  const { rows } = await db.query<{ oid: string | null; table: string | null; dropped: Record<string, string> }>(
    `select m.relation::oid::text as oid, ${RELATION} as "table", m.dropped_constraints as dropped
     from states.machines m
     left join (pg_class c join pg_namespace n on n.oid = c.relnamespace) on c.oid = m.relation
     where m.name = $1`,
    [name],
  );
  const [found] = rows;
  if (found === undefined) return undefined;
  return found.oid === null ? null : { oid: found.oid, table: found.table, dropped: found.dropped };
}

async function hasMachines(db: Queryable): Promise<boolean> {
  const { rowCount } = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'states' and c.relname = 'machines'`,
  );
  return rowCount !== 0;
}
