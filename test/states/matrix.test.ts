import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { type Machine, statesOf } from '../../src/states/machine.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { canTransition, type Judgement, judgeBeginning, judgeChange, judgeEvent } from '../../src/states/mirror.ts';
import type { TestDatabase } from '../support/database.ts';
import { createMachinesDatabase, givenRow, givenRowIn } from '../support/machines.ts';

// Every ordered pair of states, every event in every state and every beginning, in the database and in the mirror: both say the same.

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachinesDatabase();
});
afterAll(() => database.drop());

/** What the database says, of which nothing stays: `ok`, or the code of its refusal. */
async function asked(pool: Pool, work: (tx: Tx) => Promise<unknown>): Promise<string> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    await work(tx);
    return 'ok';
  } catch (error) {
    return toAppError(error).code;
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

const told = (judgement: Judgement) => (judgement.allowed ? 'ok' : judgement.code);

/** One line a row, one column a cell, as a person reads it where the two differ. */
function matrix(rows: readonly string[], columns: readonly string[], cell: (row: string, column: string) => string) {
  const lines = rows.map(
    (row) => `${row.padEnd(10)} ${columns.map((column) => cell(row, column).padEnd(22)).join(' ')}`,
  );
  return ['', `${''.padEnd(10)} ${columns.map((column) => column.padEnd(22)).join(' ')}`, ...lines, ''].join('\n');
}

async function fill(
  rows: readonly string[],
  columns: readonly string[],
  ask: (row: string, column: string) => Promise<string>,
): Promise<string> {
  const cells = new Map<string, string>();
  for (const row of rows) for (const column of columns) cells.set(`${row} ${column}`, await ask(row, column));
  return matrix(rows, columns, (row, column) => cells.get(`${row} ${column}`) ?? '');
}

describe.each(MACHINES.map((machine) => [machine.name, machine] as const))('%s', (_name, machine: Machine) => {
  const states = statesOf(machine);
  const events = Object.keys(machine.events);
  const ids = new Map<string, string>();
  beforeAll(async () => {
    for (const state of states) ids.set(state, await givenRowIn(database.pool, machine, state));
  });
  const idIn = (state: string) => ids.get(state) ?? '';

  it('goes from a state to another by an UPDATE exactly where the mirror says so', async () => {
    // To the state that it is in is no change, of which nobody is asked.
    const inDatabase = await fill(states, states, (from, to) =>
      from === to
        ? Promise.resolve('-')
        : asked(database.pool, (tx) =>
            tx.query(`update ${machine.table} set state = $1 where id = $2`, [to, idIn(from)]),
          ),
    );
    const inMirror = matrix(states, states, (from, to) => (from === to ? '-' : told(judgeChange(machine, from, to))));
    expect(inDatabase).toBe(inMirror);
  });

  it('has no way out of it for null', async () => {
    for (const state of states) {
      const set = (tx: Tx) => tx.query(`update ${machine.table} set state = null where id = $1`, [idIn(state)]);
      expect(await asked(database.pool, set)).toBe('STATE_NULL_REFUSED');
      expect(told(judgeChange(machine, state, null))).toBe('STATE_NULL_REFUSED');
    }
  });

  it('takes an event in a state exactly where the mirror says so', async () => {
    const inDatabase = await fill(states, [...events, 'misspelt'], (from, event) =>
      asked(database.pool, (tx) => tx.query('select states.transition($1, $2, $3)', [machine.name, idIn(from), event])),
    );
    const inMirror = matrix(states, [...events, 'misspelt'], (from, event) => told(judgeEvent(machine, from, event)));
    expect(inDatabase).toBe(inMirror);
  });

  it('begins exactly where the mirror says so', async () => {
    const beginnings = [...states, 'null'];
    const state = (column: string) => (column === 'null' ? null : column);
    const inDatabase = await fill(['insert'], beginnings, (_, column) =>
      asked(database.pool, (tx) => givenRow(tx, machine, { state: state(column) })),
    );
    expect(inDatabase).toBe(
      matrix(['insert'], beginnings, (_, column) => told(judgeBeginning(machine, state(column)))),
    );
  });

  it('says the same of an edge as of the events', () => {
    for (const from of states) {
      for (const to of states) {
        expect(canTransition(machine, from, to), `${from} -> ${to}`).toBe(
          machine.edges.some((edge) => edge.from === from && edge.to === to),
        );
      }
    }
  });

  it('refuses in the same words, and tells programs what is allowed', async () => {
    for (const from of states) {
      const id = idIn(from);
      const allowed = machine.edges.filter((edge) => edge.from === from).map(({ to }) => to);
      for (const to of states.filter((state) => state !== from && !allowed.includes(state))) {
        const judgement = judgeChange(machine, from, to, { id });
        const changed = database.pool.query(`update ${machine.table} set state = $1 where id = $2`, [to, id]);
        await expect(changed.catch((error: unknown) => Promise.reject(toAppError(error)))).rejects.toMatchObject({
          code: 'STATE_EDGE_REFUSED',
          message: judgement.allowed ? '' : judgement.message,
          details: { machine: machine.name, id, from, to, allowed: allowed.toSorted() },
        });
      }
    }
  });

  it('has names of its own: no other case, no other label', async () => {
    const [state = ''] = states;
    for (const wrong of [state.toUpperCase(), `${state} `, 'unheard_of']) {
      expect(told(judgeChange(machine, state, wrong))).toBe('STATE_UNKNOWN');
      const set = (tx: Tx) => tx.query(`update ${machine.table} set state = $1 where id = $2`, [wrong, idIn(state)]);
      // Its type does not have it, which PostgreSQL says before any trigger.
      expect(await asked(database.pool, set)).toBe('STATE_UNKNOWN');
    }
  });
});
