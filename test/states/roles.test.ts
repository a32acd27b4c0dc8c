import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import type { Edge, Machine } from '../../src/states/machine.ts';
import { MACHINES, machineNamed } from '../../src/states/machines.ts';
import { judgeEvent } from '../../src/states/mirror.ts';
import { asCaller, type Caller, callersPool } from '../support/callers.ts';
import type { TestDatabase } from '../support/database.ts';
import { createMachinesDatabase, givenRow, givenRowIn, historyOf, PEOPLE } from '../support/machines.ts';

// Every role at every edge, as PostgREST lets them in: what the database says is what the mirror says of the same roles.

let database: TestDatabase;
let callers: Pool;
beforeAll(async () => {
  database = await createMachinesDatabase();
  callers = callersPool(database);
});
afterAll(async () => {
  await callers.end();
  await database.drop();
});

/** Everybody, and what he is to a row of each machine. */
const EVERYBODY: readonly { who: string; caller: Caller; rolesIn: (machine: Machine) => readonly string[] }[] = [
  { who: 'the platform', caller: { role: 'service_role' }, rolesIn: () => ['platform'] },
  {
    who: 'the organiser',
    caller: { role: 'authenticated', userId: PEOPLE.organiser },
    rolesIn: ({ roles }) => ['organiser', 'advertiser'].filter((role) => roles[role] !== undefined),
  },
  {
    who: 'the sponsor',
    caller: { role: 'authenticated', userId: PEOPLE.sponsor },
    rolesIn: ({ roles }) => ['sponsor'].filter((role) => roles[role] !== undefined),
  },
  {
    who: 'the holder',
    caller: { role: 'authenticated', userId: PEOPLE.holder },
    rolesIn: ({ roles }) => ['holder'].filter((role) => roles[role] !== undefined),
  },
  {
    who: 'the scanner',
    caller: { role: 'authenticated', userId: PEOPLE.scanner },
    rolesIn: ({ roles }) => ['scanner'].filter((role) => roles[role] !== undefined),
  },
  { who: 'whoever may only look', caller: { role: 'authenticated', userId: PEOPLE.onlooker }, rolesIn: () => [] },
  { who: 'a stranger', caller: { role: 'authenticated', userId: PEOPLE.stranger }, rolesIn: () => [] },
  { who: 'a session without a user', caller: { role: 'authenticated' }, rolesIn: () => [] },
];

const EDGES = MACHINES.flatMap((machine) =>
  machine.edges.map((edge): [string, Machine, Edge] => [
    `${machine.name}: ${edge.from} -${edge.event}->`,
    machine,
    edge,
  ]),
);

it.each(EDGES)('%s is for whom the mirror says', async (_name, machine, { from, event }) => {
  const id = await givenRowIn(database.pool, machine, from);
  const said: Record<string, string> = {};
  const expected: Record<string, string> = {};
  for (const { who, caller, rolesIn } of EVERYBODY) {
    said[who] = await asCaller(callers, caller, (tx) =>
      tx.query('select public.transition_state($1, $2, $3)', [machine.name, id, event]),
    );
    const judgement = judgeEvent(machine, from, event, { roles: rolesIn(machine) });
    expected[who] = judgement.allowed ? 'ok' : judgement.code;
  }
  expect(said).toEqual(expected);
});

describe('who is who', () => {
  const escrow = machineNamed('escrow');
  const pay = (id: string, caller: Caller) =>
    asCaller(callers, caller, (tx) => tx.query(`select public.transition_state('escrow', $1, 'cancel')`, [id]), {
      keep: true,
    });

  it('writes down the user, and as what he was allowed', async () => {
    const id = await givenRow(database.pool, escrow);
    expect(await pay(id, { role: 'authenticated', userId: PEOPLE.sponsor })).toBe('ok');
    expect((await historyOf(database.pool, id)).at(-1)).toMatchObject({
      event: 'cancel',
      role: 'sponsor',
      by: PEOPLE.sponsor,
    });
  });

  it('lets nobody in who has not signed in', async () => {
    const id = await givenRow(database.pool, escrow);
    expect(await pay(id, { role: 'anon' })).toBe('DB_PERMISSION_DENIED');
  });

  it('believes no claim of a role that the session does not have', async () => {
    const id = await givenRow(database.pool, escrow);
    const claims = JSON.stringify({ sub: PEOPLE.stranger, role: 'service_role' });
    const refused = await asCaller(callers, { role: 'authenticated' }, async (tx) => {
      await tx.query(`select set_config('request.jwt.claims', $1, true)`, [claims]);
      await tx.query(`select public.transition_state('escrow', $1, 'cancel')`, [id]);
    });
    expect(refused).toBe('STATE_ROLE_REFUSED');
  });

  it('judges a signed-in user who writes the table himself, where a policy lets him', async () => {
    const campaign = machineNamed('campaign');
    const id = await givenRow(database.pool, campaign);
    const set = (userId: string, state: string) =>
      asCaller(callers, { role: 'authenticated', userId }, async (tx) => {
        const { rowCount } = await tx.query('update public.campaigns set state = $1 where id = $2', [state, id]);
        if (rowCount === 0) throw new Error('no row');
      });
    expect(await set(PEOPLE.organiser, 'scheduled')).toBe('ok');
    expect(await set(PEOPLE.organiser, 'paused')).toBe('STATE_EDGE_REFUSED');
  });

  it('makes nobody of whoever writes himself into the row that he changes', async () => {
    const ticket = machineNamed('ticket');
    const id = await givenRow(database.pool, ticket);
    // As policies would have it that let users see and update tickets.
    await database.pool.query(`create policy seen on public.tickets for select using (true);
      create policy anybody on public.tickets for update using (true) with check (true)`);
    const stolen = await asCaller(callers, { role: 'authenticated', userId: PEOPLE.stranger }, (tx) =>
      tx.query(`update public.tickets set owner_user_id = $1, state = 'transferred' where id = $2`, [
        PEOPLE.stranger,
        id,
      ]),
    );
    await database.pool.query('drop policy anybody on public.tickets; drop policy seen on public.tickets');
    expect(stolen).toBe('STATE_ROLE_REFUSED');
    expect((await historyOf(database.pool, id)).at(-1)).toMatchObject({ to: 'issued' });
  });

  it('tells whoever has no part in a row nothing of it, nor whether there is one', async () => {
    const id = await givenRowIn(database.pool, escrow, 'released');
    const asked = async (of: string) => {
      const tx = await callers.connect();
      try {
        await tx.query(
          `begin; set local role authenticated; set local request.jwt.claims = '{"sub": "${PEOPLE.stranger}"}'`,
        );
        await tx.query(`select public.transition_state('escrow', $1, 'pay')`, [of]);
        return 'ok';
      } catch (error) {
        return String((error as Error).message).replace(of, 'ID');
      } finally {
        await tx.query('rollback');
        tx.release();
      }
    };
    expect(await asked(id)).toBe('The caller has no part in a escrow ID.');
    expect(await asked(randomUUID())).toBe(await asked(id));
  });

  it('keeps everybody but the owner and the server from the tables of the machines', async () => {
    for (const caller of [{ role: 'authenticated', userId: PEOPLE.organiser }, { role: 'anon' }] as const) {
      for (const sql of [
        'select * from states.history',
        'select * from states.edges',
        'select states.escrow_shown(null, null)',
      ]) {
        expect(await asCaller(callers, caller, (tx) => tx.query(sql))).toBe('DB_PERMISSION_DENIED');
      }
    }
    const server = (sql: string) => asCaller(callers, { role: 'service_role' }, (tx) => tx.query(sql));
    expect(await server('select * from states.escrow_history')).toBe('ok');
    expect(await server(`update states.edges set roles = '{platform}'`)).toBe('DB_PERMISSION_DENIED');
    expect(
      await server(
        `insert into states.history (machine, subject_id, event, role, changed_by) values ('escrow', gen_random_uuid(), 'x', 'x', 'x')`,
      ),
    ).toBe('DB_PERMISSION_DENIED');
  });
});
