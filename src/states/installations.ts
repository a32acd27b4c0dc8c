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

/** Machines that are on a table of this database; none where the database has no machines at all yet. */
export async function findInstallations(db: Queryable): Promise<readonly Installation[]> {
  const all = await readPresent(db);
  return MACHINES.flatMap((machine) => {
    const table = all.get(machine.name)?.table ?? null;
    return table === null ? [] : [{ machine, table }];
  });
}

/** Machines that were put on a table which is gone. */
export async function findOrphans(db: Queryable): Promise<readonly Machine[]> {
  const all = await readPresent(db);
  return MACHINES.filter(({ name }) => all.get(name)?.table === null);
}

/** Null before it is installed. @throws AppError STATE_MACHINE_UNKNOWN where its migration is not applied */
export async function presentOn(db: Queryable, { name }: Machine): Promise<Present | null> {
  const present = (await readPresent(db)).get(name);
  if (present !== undefined) return present;
  throw new AppError('STATE_MACHINE_UNKNOWN', `The database has no machine ${name} yet. Run: liventix migrate`);
}

/** Every machine that the database has, by name; null where it is on no table. */
async function readPresent(db: Queryable): Promise<ReadonlyMap<string, Present | null>> {
  const { rowCount } = await db.query(
    `select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'states' and c.relname = 'machines'`,
  );
  if (rowCount === 0) return new Map();
  const { rows } = await db.query<Present & { readonly name: string; readonly oid: string | null }>(
    `select m.name, m.relation::oid::text as oid, case when c.oid is not null then format('%I.%I', n.nspname, c.relname) end as "table",
            m.dropped_constraints as dropped
     from states.machines m
     left join (pg_class c join pg_namespace n on n.oid = c.relnamespace) on c.oid = m.relation`,
  );
  return new Map(rows.map(({ name, oid, table, dropped }) => [name, oid === null ? null : { oid, table, dropped }]));
}
