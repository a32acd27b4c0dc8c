import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { install } from '../../src/states/install.ts';
import { defineMachine, type Machine } from '../../src/states/machine.ts';
import { proposal } from '../../src/states/machines/proposal.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { migrationSql } from '../../src/states/sql/machine-sql.ts';
import { transition } from '../../src/states/transition.ts';
import type { TestDatabase } from '../support/database.ts';
import { createMachinesDatabase, givenProposal, givenRowIn, historyOf, stateOf } from '../support/machines.ts';

// A declaration that changes, and a new one: the migration that is generated works where there are rows.

let database: TestDatabase;
beforeEach(async () => {
  database = await createMachinesDatabase();
});
afterEach(() => database.drop());

/** As migrations are run: each in a transaction. */
const migrate = (before: readonly Machine[], after: readonly Machine[]) =>
  withTransaction(database.pool, (tx) => tx.query(migrationSql(before, after)));

const withdrawable = defineMachine({
  ...proposal,
  states: {
    draft: proposal.states.draft,
    sent: proposal.states.sent,
    withdrawn: 'its author took it back',
    viewed: proposal.states.viewed,
    counter: proposal.states.counter,
    accepted: proposal.states.accepted,
    rejected: proposal.states.rejected,
    expired: proposal.states.expired,
  },
  events: { ...proposal.events, withdraw: 'its author takes it back' },
  edges: [
    ...proposal.edges.filter(({ event }) => event !== 'view'),
    { from: 'draft', event: 'view', to: 'viewed' },
    { from: 'sent', event: 'withdraw', to: 'withdrawn', by: ['organiser'] },
  ],
  old: {
    column: 'status',
    labels: { ...proposal.old?.labels, rejected: ['rejected', 'withdrawn'] } as Record<
      string,
      readonly ('withdrawn' | keyof typeof proposal.states)[]
    >,
    why: 'Old code knows no withdrawal.',
  },
});

describe('a state that is added', () => {
  it('is there for rows of before and for new ones, with its edges, and old code is shown something that it knows', async () => {
    const waiting = await givenRowIn(database.pool, proposal, 'sent');
    const over = await givenRowIn(database.pool, proposal, 'accepted');
    await migrate(
      MACHINES,
      MACHINES.map((machine) => (machine.name === 'proposal' ? withdrawable : machine)),
    );

    expect(await stateOf(database.pool, proposal, over)).toBe('accepted');
    expect(await transition(database.pool, withdrawable, waiting, 'withdraw')).toMatchObject({
      from: 'sent',
      to: 'withdrawn',
    });
    const { rows } = await database.pool.query('select status, state from public.proposal_threads where id = $1', [
      waiting,
    ]);
    expect(rows).toEqual([{ status: 'rejected', state: 'withdrawn' }]);
    const another = await givenProposal(database.pool);
    await transition(database.pool, withdrawable, another, 'send');
    await transition(database.pool, withdrawable, another, 'withdraw');
    expect((await historyOf(database.pool, another)).map(({ to }) => to)).toEqual(['draft', 'sent', 'withdrawn']);
  });

  it('stands where it is declared, in the order of the type, in front as well', async () => {
    const first = {
      ...withdrawable,
      states: { idea: 'a thought', sketch: 'on paper', ...withdrawable.states },
    } as Machine;
    await migrate([proposal], [first]);
    expect(await orderOf()).toEqual(Object.keys(first.states));
  });

  const orderOf = async () => {
    const { rows } = await database.pool.query<{ state: string }>(
      `select unnest(enum_range(null::states.proposal_state))::text as state`,
    );
    return rows.map(({ state }) => state);
  };

  it('stands where it is declared, in the order of the type', async () => {
    await migrate([proposal], [withdrawable]);
    expect(await orderOf()).toEqual(Object.keys(withdrawable.states));
  });

  it('comes with edges that are gone: what was is history, and happens no more', async () => {
    const viewed = await givenRowIn(database.pool, proposal, 'viewed');
    const sent = await givenRowIn(database.pool, proposal, 'sent');
    await migrate([proposal], [withdrawable]);
    expect((await historyOf(database.pool, viewed)).map(({ to }) => to)).toEqual(['draft', 'sent', 'viewed']);
    const view = database.pool.query(`update public.proposal_threads set state = 'viewed' where id = $1`, [sent]);
    await expect(view.catch((error: unknown) => Promise.reject(toAppError(error)))).rejects.toMatchObject({
      code: 'STATE_EDGE_REFUSED',
    });
  });
});

describe('a machine that is new', () => {
  const shipment = defineMachine({
    name: 'shipment',
    about: 'A parcel.',
    table: 'public.shipments',
    states: { packed: 'in its box', sent: 'on its way', lost: 'nobody knows' },
    initial: ['packed'],
    events: { send: 'it left', lose: 'it did not arrive' },
    roles: {},
    guards: [{ name: 'has_weight', says: 'it weighs something', column: 'grams', is: '>', than: 0 }],
    edges: [
      { from: 'packed', event: 'send', to: 'sent', guards: ['has_weight'] },
      { from: 'sent', event: 'lose', to: 'lost' },
    ],
    why: 'Parcels do.',
  });

  it('takes a table with rows that had no labels: they begin where it begins', async () => {
    await database.pool.query(`create table public.shipments (id uuid primary key default gen_random_uuid(), grams integer);
      insert into public.shipments (grams) select nullif(n, 3) from generate_series(1, 3) n`);
    await migrate(MACHINES, [...MACHINES, shipment]);
    const { mapped } = await install(database.pool, shipment);
    expect(mapped).toEqual([{ label: null, state: 'packed', rows: 3 }]);
    const { rows } = await database.pool.query<{ id: string; grams: number | null }>(
      'select id, grams from public.shipments order by grams',
    );
    const [light, , weightless] = rows;
    await transition(database.pool, shipment, light?.id ?? '', 'send');
    await expect(transition(database.pool, shipment, weightless?.id ?? '', 'send')).rejects.toMatchObject({
      code: 'STATE_GUARD_REFUSED',
    });
    const insert = (state: string) =>
      database.pool.query(`insert into public.shipments (state) values (${state}) returning state`);
    await expect(insert('null')).rejects.toMatchObject({ code: 'LV086' });
    await expect(insert(`'sent'`)).rejects.toMatchObject({ code: 'LV085' });
    expect((await insert(`'packed'`)).rows).toEqual([{ state: 'packed' }]);
  });

  it('is SQL as one would write it', () => {
    expect(
      migrationSql([], [shipment]),
    ).toBe(`-- Generated from src/states/machines/ by npm run states, as they were declared then.

-- ------------------------------------------------------------------------------------------------------------ shipment
-- A parcel. It begins as packed.
--
--   packed  send  → sent  platform
--   sent    lose  → lost  platform

create type states.shipment_state as enum ('packed', 'sent', 'lost');
comment on type states.shipment_state is 'packed: in its box; sent: on its way; lost: nobody knows';

insert into states.machines (name, about, table_name, state_type, initial_states, label_column, adopted_state) values
  ('shipment', 'A parcel.', 'public.shipments', 'states.shipment_state', '{packed}', null, 'coalesce($2, ''packed'')');
insert into states.guards (machine, name, condition, says) values
  ('shipment', 'has_weight', '($1).grams > 0', 'it weighs something');
insert into states.edges (machine, from_state, to_state, event, topic, roles, guards, has_effects, organization, is_of_event) values
  ('shipment', 'packed', 'sent', 'send', 'shipment.sent', '{platform}', '{has_weight}', false, null, false),
  ('shipment', 'sent', 'lost', 'lose', 'shipment.lost', '{platform}', '{}', false, null, false);

create view states.shipment_history with (security_invoker = true) as
select id, subject_id, from_state::states.shipment_state, to_state::states.shipment_state, event, role, changed_by, changed_at, reason, message_id
from states.history
where machine = 'shipment';
comment on view states.shipment_history is 'Every change of state of every row of public.shipments: A parcel.';

select states.keep_from_guests();
`);
  });
});
