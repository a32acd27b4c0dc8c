import type { Queryable } from '../db/pool.ts';
import { findInstallations } from './installations.ts';
import { statesOf } from './machine.ts';
import { MACHINES } from './machines.ts';

export interface ListedMachine {
  readonly machine: string;
  readonly about: string;
  /** The table that it is installed on; null before. */
  readonly table: string | null;
  /** How many rows are in each state, in the order of the states; null before it is installed. */
  readonly rows: Readonly<Record<string, number>> | null;
}

/** Every machine, and how its rows stand. Reads the tables that they are on. */
export async function listMachines(db: Queryable): Promise<readonly ListedMachine[]> {
  const installations = await findInstallations(db);
  const listed: ListedMachine[] = [];
  for (const machine of MACHINES) {
    const { name, about } = machine;
    const table = installations.find((each) => each.machine === machine)?.table ?? null;
    listed.push({
      machine: name,
      about,
      table,
      rows: table === null ? null : await countStates(db, table, statesOf(machine)),
    });
  }
  return listed;
}

async function countStates(db: Queryable, table: string, states: readonly string[]): Promise<Record<string, number>> {
  const { rows } = await db.query<{ state: string; count: bigint }>(
    `select coalesce(state::text, 'not taken in') as state, count(*) as count from ${table} group by 1`,
  );
  const counted = new Map(rows.map(({ state, count }) => [state, Number(count)]));
  const shown = counted.has('not taken in') ? [...states, 'not taken in'] : states;
  return Object.fromEntries(shown.map((state) => [state, counted.get(state) ?? 0]));
}
