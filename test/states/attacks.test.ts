import { randomUUID } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { proposal } from '../../src/states/machines/proposal.ts';
import { ticket } from '../../src/states/machines/ticket.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { transition } from '../../src/states/transition.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import {
  createMachinesDatabase,
  EVENT,
  givenOrder,
  givenProposal,
  givenRowIn,
  givenTicketOf,
  givenTicketOrder,
  historyOf,
  PACKAGE,
  PEOPLE,
  SPONSOR,
  stateOf,
} from '../support/machines.ts';

// What whoever owns the tables tries by plain SQL.

let database: TestDatabase;
beforeAll(async () => {
  database = await createMachinesDatabase();
});
afterAll(() => database.drop());

const run = (sql: string, values: unknown[] = []) =>
  database.pool.query(sql, values).catch((error: unknown) => {
    throw toAppError(error);
  });
const refused = (code: string, says = /./) => expect.objectContaining({ code, message: expect.stringMatching(says) });

describe('the state of a row', () => {
  it.each([
    ['an UPDATE', `update public.sponsorship_orders set state = 'released' where id = $1`],
    ['an UPDATE of the old label', `update public.sponsorship_orders set escrow_state = 'released' where id = $1`],
    [
      'an upsert',
      `insert into public.sponsorship_orders (id, package_id, sponsor_id, event_id, amount_cents)
      values ($1, '${PACKAGE}', '${SPONSOR}', '${EVENT}', 1) on conflict (id) do update set state = 'released'`,
    ],
    [
      'a MERGE',
      `merge into public.sponsorship_orders o using (select $1::uuid as id) s on o.id = s.id when matched then update set state = 'released'`,
    ],
    [
      'an UPDATE of everything',
      `update public.sponsorship_orders set state = 'released', escrow_state = 'released', status = 'completed' where id = $1`,
    ],
  ])('does not pass over an edge by %s', async (_how, sql) => {
    const id = await givenOrder(database.pool);
    await expect(run(sql, [id])).rejects.toEqual(
      refused(
        'STATE_EDGE_REFUSED',
        new RegExp(
          `escrow ${id} cannot go from pending to released. From pending it may go to: funded \\(pay\\), refunded \\(cancel\\)`,
        ),
      ),
    );
    expect(await stateOf(database.pool, escrow, id)).toBe('pending');
    expect(await historyOf(database.pool, id)).toHaveLength(1);
  });

  it('changes for all rows of a statement, or for none', async () => {
    const [first, second] = [await givenOrder(database.pool), await givenRowIn(database.pool, escrow, 'locked')];
    await expect(
      run(`update public.sponsorship_orders set state = 'funded' where id = any ($1)`, [[first, second]]),
    ).rejects.toEqual(refused('STATE_EDGE_REFUSED'));
    expect(await stateOf(database.pool, escrow, first)).toBe('pending');
  });

  it('is judged where session_replication_role is replica', async () => {
    const id = await givenOrder(database.pool);
    await expect(
      asSuperuser(
        database,
        `set session_replication_role = replica; update public.sponsorship_orders set state = 'released' where id = '${id}'`,
      ),
    ).rejects.toMatchObject({ code: 'LV084' });
  });

  it('does not begin where nothing begins, by COPY neither', async () => {
    const client = await database.pool.connect();
    try {
      const copy = client.query(
        copyFrom('copy public.sponsorship_orders (package_id, sponsor_id, event_id, amount_cents, state) from stdin'),
      );
      const copied = pipeline([`${PACKAGE}\t${SPONSOR}\t${EVENT}\t1\treleased\n`], copy).catch((error: unknown) => {
        throw toAppError(error);
      });
      await expect(copied).rejects.toEqual(
        refused('STATE_INITIAL_REFUSED', /cannot begin as released: it begins as pending/),
      );
    } finally {
      client.release();
    }
  });

  it('is shown to old code again, where that empties the label', async () => {
    const id = await givenRowIn(database.pool, escrow, 'funded');
    await run('update public.sponsorship_orders set escrow_state = null where id = $1', [id]);
    expect((await run('select escrow_state, state from public.sponsorship_orders where id = $1', [id])).rows).toEqual([
      { escrow_state: 'funded', state: 'funded' },
    ]);
  });

  it('refuses an old label that stands for nothing', async () => {
    const id = await givenOrder(database.pool);
    for (const label of ['Funded', 'paid', '']) {
      await expect(
        run('update public.sponsorship_orders set escrow_state = $1 where id = $2', [label, id]),
      ).rejects.toEqual(refused('STATE_UNKNOWN', /escrow_state of escrow .* stands for no state/));
    }
  });

  it('counts where state and label are both set', async () => {
    const { orderId } = await givenTicketOrder(database.pool);
    const id = await givenTicketOf(database.pool, orderId);
    await run(`update public.tickets set state = 'redeemed', status = 'void' where id = $1`, [id]);
    const { rows } = await run('select state, status from public.tickets where id = $1', [id]);
    expect(rows).toEqual([{ state: 'redeemed', status: 'redeemed' }]);
  });

  it('cannot be begun anew by deleting the row and inserting it', async () => {
    const id = await givenRowIn(database.pool, ticket, 'redeemed');
    const { rows } = await run('delete from public.tickets where id = $1 returning order_id', [id]);
    expect((await historyOf(database.pool, id)).at(-1)).toMatchObject({ from: 'redeemed', to: null, event: 'deleted' });
    await expect(
      givenTicketOf(database.pool, rows[0].order_id, { id }).catch((error) => {
        throw toAppError(error);
      }),
    ).rejects.toEqual(refused('STATE_INITIAL_REFUSED', /has a history already/));
  });

  it('stays with its id, and its table with its rows', async () => {
    const id = await givenOrder(database.pool);
    await expect(run('update public.sponsorship_orders set id = $1 where id = $2', [randomUUID(), id])).rejects.toEqual(
      refused('STATE_ROW_FIXED'),
    );
    await expect(run('truncate public.proposal_threads cascade')).rejects.toEqual(refused('STATE_ROW_FIXED'));
  });

  it('is judged as it is at the end, whatever other triggers make of it', async () => {
    await run(`create function public.meddle() returns trigger language plpgsql as $$ begin new.state := 'released'; return new; end $$;
      create trigger a_meddling before update on public.sponsorship_orders for each row when (new.notes = 'meddle') execute function public.meddle()`);
    const id = await givenOrder(database.pool);
    await expect(run(`update public.sponsorship_orders set notes = 'meddle' where id = $1`, [id])).rejects.toEqual(
      refused('STATE_EDGE_REFUSED'),
    );
  });

  describe('is not judged with names that the writer brings along', () => {
    // Each would be found before PostgreSQL's own by a function that neither has a search_path nor names its schemas, and run as the owner.
    const MINE = `create schema mine;
      create function mine.always(text, text) returns boolean language sql as 'select true';
      create operator mine.= (leftarg = text, rightarg = text, function = mine.always);
      create function mine.never(text, text) returns boolean language sql as 'select false';
      create operator mine.<> (leftarg = text, rightarg = text, function = mine.never);
      create domain mine.text as pg_catalog.text;
      create function mine.gen_random_uuid() returns uuid language sql as $$ select null::uuid $$;
      create function mine.mischief() returns text language plpgsql as $$ begin raise exception 'ran as %', current_user; end $$;
      create function mine.format(text, text, uuid, uuid) returns text language sql as 'select mine.mischief()';
      create function mine.current_setting(text, boolean) returns text language sql as 'select mine.mischief()';
      create function mine.left(text, integer) returns text language sql as 'select mine.mischief()';
      set local search_path = mine, pg_catalog, public`;
    const asked = (sql: string, id: string) =>
      withTransaction(database.pool, async (tx) => {
        await tx.query(MINE);
        await tx.query(`set local request.jwt.claims = '{"sub": "${PEOPLE.sponsor}"}'`);
        await tx.query(sql, [id]);
        throw new Error('undone');
      });

    it.each([
      [
        'a change that is no edge',
        `update public.sponsorship_orders set state = 'released' where id operator(pg_catalog.=) $1::pg_catalog.uuid`,
        /cannot go from pending to released/,
      ],
      [
        'another id',
        `update public.sponsorship_orders set id = pg_catalog.gen_random_uuid() where id operator(pg_catalog.=) $1::pg_catalog.uuid`,
        /The id of escrow .* cannot become/,
      ],
      [
        'an edge, by somebody with claims',
        `update public.sponsorship_orders set state = 'refunded' where id operator(pg_catalog.=) $1::pg_catalog.uuid`,
        /undone/,
      ],
      [
        'a label',
        `update public.sponsorship_orders set escrow_state = 'refunded' where id operator(pg_catalog.=) $1::pg_catalog.uuid`,
        /undone/,
      ],
    ])('%s', async (_what, sql, says) => {
      const id = await givenOrder(database.pool);
      await expect(asked(sql, id)).rejects.toMatchObject({ message: expect.stringMatching(says) });
    });

    it('has a search_path in each function but those that were read with that in mind', async () => {
      const { rows } = await run(
        `select p.proname as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
         where n.nspname = 'states' and p.prosqlbody is null and not coalesce(p.proconfig::text like '%search_path%', false) order by 1`,
      );
      expect(rows.map(({ name }) => name)).toEqual([
        'campaign_follow',
        'escrow_follow',
        'organization_of_event',
        'proposal_follow',
        'take_transition',
        'ticket_follow',
      ]);
    });
  });

  it('is written down in its order, whatever other triggers change after it', async () => {
    await run(`create function public.counter() returns trigger language plpgsql as $$ begin
        update public.proposal_threads set status = 'counter' where id = new.id; return null; end $$;
      create trigger auto_counter after update on public.proposal_threads for each row when (new.status = 'sent') execute function public.counter()`);
    const id = await givenProposal(database.pool);
    await run(`update public.proposal_threads set status = 'sent' where id = $1`, [id]);
    await run('drop trigger auto_counter on public.proposal_threads');
    expect((await historyOf(database.pool, id)).map(({ to }) => to)).toEqual(['draft', 'sent', 'counter']);
    expect(await stateOf(database.pool, proposal, id)).toBe('counter');
  });

  it('is not said to have changed where another trigger kept it', async () => {
    const id = await givenOrder(database.pool);
    await run(`create function public.keep() returns trigger language plpgsql as $$ begin return null; end $$;
      create trigger keeps before update on public.sponsorship_orders for each row when (old.notes = 'keep') execute function public.keep();
      update public.sponsorship_orders set notes = 'keep'`);
    await expect(transition(database.pool, escrow, id, 'pay')).rejects.toEqual(
      refused('STATE_CHANGE_LOST', /kept the row as it was/),
    );
    await run('drop trigger keeps on public.sponsorship_orders');
  });
});

describe('the history', () => {
  it.each([
    ['update', `update states.history set to_state = 'released'`],
    ['delete', 'delete from states.history'],
    ['truncate', 'truncate states.history'],
    ['update of what was booked', 'update states.ledger_events set machine = machine'],
    ['delete of what was booked', 'delete from states.ledger_events'],
  ])('does not change by %s', async (_how, sql) => {
    await givenRowIn(database.pool, escrow, 'funded');
    await expect(run(sql)).rejects.toEqual(refused('STATE_HISTORY_APPEND_ONLY'));
    await expect(asSuperuser(database, `set session_replication_role = replica; ${sql}`)).rejects.toMatchObject({
      code: 'LV091',
    });
  });

  it('has who, when, from, to, event, reason and message of each change, in the transaction of the change', async () => {
    const id = await givenOrder(database.pool);
    const before = new Date();
    const { messageId } = await transition(database.pool, escrow, id, 'pay', { reason: 'invoice 7' });
    const { rows } = await run(
      'select *, changed_at between $2 and clock_timestamp() as "isNow" from states.escrow_history where subject_id = $1 and event = $3',
      [id, before, 'pay'],
    );
    expect(rows).toEqual([
      expect.objectContaining({
        from_state: 'pending',
        to_state: 'funded',
        event: 'pay',
        role: 'platform',
        changed_by: 'liventix',
        reason: 'invoice 7',
        message_id: messageId,
        isNow: true,
      }),
    ]);
    const { rows: messages } = await run('select topic, payload, ordering_key from public.outbox where id = $1', [
      messageId,
    ]);
    expect(messages).toEqual([
      {
        topic: 'escrow.funded',
        ordering_key: id,
        payload: {
          machine: 'escrow',
          id,
          from: 'pending',
          to: 'funded',
          event: 'pay',
          role: 'platform',
          reason: 'invoice 7',
        },
      },
    ]);
  });

  it('keeps a reason to its own change', async () => {
    const id = await givenOrder(database.pool);
    await withTransaction(database.pool, async (tx) => {
      await transition(tx, escrow, id, 'pay', { reason: 'invoice 7' });
      await tx.query(`update public.sponsorship_orders set state = 'locked' where id = $1`, [id]);
    });
    expect((await historyOf(database.pool, id)).map(({ reason }) => reason)).toEqual([null, 'invoice 7', null]);
  });

  it('says nothing of what was rolled back, nor announces it', async () => {
    const id = await givenOrder(database.pool);
    await expect(
      withTransaction(database.pool, async (tx) => {
        await transition(tx, escrow, id, 'pay');
        throw new Error('changed his mind');
      }),
    ).rejects.toThrow('changed his mind');
    expect(await historyOf(database.pool, id)).toHaveLength(1);
    expect((await run(`select from public.outbox where payload ->> 'id' = $1`, [id])).rowCount).toBe(0);
  });

  it('says nothing of an update that changes no state', async () => {
    const id = await givenOrder(database.pool);
    await run(`update public.sponsorship_orders set notes = 'x', state = state where id = $1`, [id]);
    expect(await historyOf(database.pool, id)).toHaveLength(1);
  });
});

describe('what is asked of a machine', () => {
  it.each([
    ['a row that is not there', ['escrow', randomUUID(), 'pay'], 'STATE_ROW_MISSING'],
    ['a null id', ['escrow', null, 'pay'], 'STATE_ROW_MISSING'],
    ['a machine that is not there', ['Escrow', randomUUID(), 'pay'], 'STATE_MACHINE_UNKNOWN'],
    ['a null machine', [null, randomUUID(), 'pay'], 'STATE_MACHINE_UNKNOWN'],
  ])('is refused for %s', async (_what, values, code) => {
    await expect(run('select states.transition($1, $2, $3)', values)).rejects.toEqual(refused(code));
  });

  it.each([['Pay'], ['paid'], [null], ['x'.repeat(10_000)]])('is refused for the event %s', async (event) => {
    const id = await givenOrder(database.pool);
    const asked = run('select states.transition($1, $2, $3)', ['escrow', id, event]);
    await expect(asked).rejects.toEqual(
      refused('STATE_EVENT_UNKNOWN', /^Machine escrow has no event .{1,120}\. It has: cancel, dispute/),
    );
  });

  it('is refused where the machine is on no table', async () => {
    const empty = await createDatabase();
    try {
      await expect(transition(empty.pool, escrow, randomUUID(), 'pay')).rejects.toEqual(
        refused('STATE_MACHINE_NOT_INSTALLED', /liventix states install escrow/),
      );
    } finally {
      await empty.drop();
    }
  });

  it('is refused by the mirror before the database is asked', async () => {
    const id = randomUUID();
    const nobody = {
      query: () => Promise.reject(new Error('the database was asked')),
    } as unknown as typeof database.pool;
    await expect(transition(nobody, escrow, id, 'lock', { from: 'pending' })).rejects.toEqual(
      refused('STATE_EDGE_REFUSED'),
    );
    await expect(transition(nobody, escrow, 'no-id', 'pay')).rejects.toEqual(refused('USAGE'));
    await expect(transition(nobody, escrow, id, 'pay', { reason: 'x'.repeat(1_001) })).rejects.toEqual(
      refused('USAGE'),
    );
  });

  it('is declared in the database as in the sources', async () => {
    const { rows } = await run(
      'select machine, from_state, event, to_state, roles, guards from states.edges order by 1, 2, 3',
    );
    const declared = MACHINES.flatMap(({ name, edges }) =>
      edges.map(({ from, event, to, by = [], guards = [] }) => ({
        machine: name,
        from_state: from,
        event,
        to_state: to,
        roles: ['platform', ...by],
        guards,
      })),
    );
    const key = (row: { machine: string; from_state: string; event: string }) =>
      `${row.machine} ${row.from_state} ${row.event}`;
    const sorted = <T extends Parameters<typeof key>[0]>(all: readonly T[]) =>
      all.toSorted((one, other) => (key(one) < key(other) ? -1 : 1));
    expect(sorted(rows)).toEqual(sorted(declared));
  });
});
