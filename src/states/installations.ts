import type { Queryable } from '../db/pool.ts';
import type { Machine } from './machine.ts';
import { MACHINES } from './machines.ts';

/** A machine on the table that it is installed on. */
export interface Installation {
  readonly machine: Machine;
  /** With its schema, quoted where it must be. */
  readonly table: string;
}

/** Machines that are on a table of this database; none where the database has no machines at all yet. */
export async function findInstallations(db: Queryable): Promise<readonly Installation[]> {
  const { rowCount } = await db.query(`select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'states' and c.relname = 'machines'`);
  if (rowCount === 0) return [];
  const { rows } = await db.query<{ name: string; table: string }>(
    `select m.name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as "table"
     from states.machines m
     join pg_class c on c.oid = m.relation
     join pg_namespace n on n.oid = c.relnamespace`,
  );
  return MACHINES.flatMap((machine) =>
    rows.filter(({ name }) => name === machine.name).map(({ table }) => ({ machine, table })),
  );
}
