import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { attach, detach } from '../../src/outbox/attachments/attach.ts';
import { listAttachments } from '../../src/outbox/attachments/list.ts';
import { findShipped } from '../../src/outbox/attachments/shipped.ts';
import { getTable } from '../../src/outbox/attachments/table.ts';
import {
  attachTable,
  createAnnouncingTables,
  type TestAttachment,
  takeMessages,
  takePayloads,
} from '../support/attachments.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

// Anew for each test: a table, and nothing attached or announced.
beforeEach(async () => {
  await database.pool.query(
    `delete from outbox.attachments;
     delete from public.outbox;
     drop schema if exists shop cascade;
     create schema shop;
     create type shop.state as enum ('pending', 'sent', 'paid');
     create table shop.sales (id integer primary key, state shop.state, note text, amount numeric)`,
  );
});

const run = (sql: string, values: unknown[] = []) => database.pool.query(sql, values);
const onSales = (when: string, further: Partial<TestAttachment> = {}) =>
  attachTable(database.pool, { table: 'shop.sales', when, ...further });
const ids = async () => (await takePayloads(database.pool)).map(({ id }) => id);
const refusal = (code: string, says: RegExp) => expect.objectContaining({ code, message: expect.stringMatching(says) });

describe('what is announced', () => {
  const given = (state: string | null, id = 1) =>
    run('insert into shop.sales (id, state) values ($2, $1)', [state, id]);
  const to = (state: string | null) => run('update shop.sales set state = $1', [state]);

  it.each<[string, string | null, string | null, boolean]>([
    ['state: pending -> paid', 'pending', 'paid', true],
    ['state: pending -> paid', 'sent', 'paid', false],
    ['state: pending -> paid', 'pending', 'sent', false],
    ['state: pending -> paid', null, 'paid', false],
    ['state: pending|sent -> paid', 'sent', 'paid', true],
    ['state: pending|paid -> paid', 'paid', 'paid', false],
    ['state: * -> paid', 'sent', 'paid', true],
    ['state: * -> paid', null, 'paid', true],
    ['state: * -> paid', 'paid', 'paid', false],
    ['state: paid -> *', 'paid', null, true],
    ['state: paid -> *', 'paid', 'paid', false],
    ['state: null -> *', null, 'sent', true],
    ['state: null -> *', 'pending', 'sent', false],
    ['state: * -> null', 'paid', null, true],
    ['state: paid|null -> sent', null, 'sent', true],
    ['state: * -> *', 'paid', 'sent', true],
    ['state: * -> *', null, null, false],
    ['state: -> paid', 'pending', 'paid', true],
    ['state: -> paid', 'paid', 'paid', false],
  ])('%s: an update from %s to %s (%s)', async (when, from, after, isAnnounced) => {
    await given(from);
    await onSales(when);
    await to(after);
    expect(await ids()).toEqual(isAnnounced ? [1] : []);
  });

  it('-> paid: new rows that are paid, and no others', async () => {
    await onSales('state: -> paid');
    await run(`insert into shop.sales (id, state) values (1, 'paid'), (2, 'sent'), (3, null)`);
    expect(await ids()).toEqual([1]);
  });

  it.each(['* -> paid', 'pending -> paid'])('%s: no new rows', async (change) => {
    await onSales(`state: ${change}`);
    await given('paid');
    expect(await ids()).toEqual([]);
  });

  it('insert: every new row; delete: every row that goes, as it was', async () => {
    await onSales('insert', { topic: 'sale.made' });
    await onSales('delete', { topic: 'sale.gone', payload: 'id,state' });
    await run(`insert into shop.sales (id, state) values (1, 'paid'), (2, null); update shop.sales set state = 'sent'`);
    await run('delete from shop.sales where id = 2');
    expect(await takeMessages(database.pool)).toEqual([
      { topic: 'sale.made', payload: '{"id": 1}' },
      { topic: 'sale.made', payload: '{"id": 2}' },
      { topic: 'sale.gone', payload: '{"id": 2, "state": "sent"}' },
    ]);
  });

  it('is what another trigger makes of the row, whatever the statement names', async () => {
    await run(
      `create function shop.pay() returns trigger language plpgsql as $$ begin new.state := 'paid'; return new; end $$;
       create trigger pay before update on shop.sales for each row when (new.amount is not null) execute function shop.pay()`,
    );
    await given('pending');
    await onSales('state: pending -> paid', { payload: 'state' });
    await run('update shop.sales set amount = 1');
    expect(await takePayloads(database.pool)).toEqual([{ state: 'paid' }]);
  });

  it('is an upsert that updates, and a row that COPY or a foreign key changes', async () => {
    await run(
      `create table shop.lines (id integer, sale integer references shop.sales on delete set null on update cascade)`,
    );
    await given('pending');
    await run('insert into shop.lines values (7, 1)');
    await onSales('state: pending -> paid');
    await attachTable(database.pool, { table: 'shop.lines', when: 'sale: * -> null', topic: 'line.orphaned' });
    await run(
      `insert into shop.sales (id, state) values (1, 'paid') on conflict (id) do update set state = excluded.state`,
    );
    await run('delete from shop.sales');
    expect(await takeMessages(database.pool)).toEqual([
      { topic: 'test.changed', payload: '{"id": 1}' },
      { topic: 'line.orphaned', payload: '{"id": 7}' },
    ]);
  });

  it('goes with the transaction that did it', async () => {
    await given('pending');
    await onSales('state: pending -> paid');
    const undone = withTransaction(database.pool, async (tx) => {
      await tx.query(`update shop.sales set state = 'paid'`);
      expect((await tx.query('select from public.outbox')).rowCount).toBe(1);
      throw new Error('undone');
    });
    await expect(undone).rejects.toThrow('undone');
    expect(await ids()).toEqual([]);
  });

  it('is of 10,000 rows that one statement changes each that matches, once', async () => {
    await run(
      `insert into shop.sales (id, state) select n, (case when n % 3 = 0 then 'pending' else 'sent' end)::shop.state
       from generate_series(1, 10000) n`,
    );
    await onSales('state: pending -> paid');
    await run(`update shop.sales set state = 'paid'`);
    const announced = (await ids()) as number[];
    expect(announced.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 3_333 }, (_, index) => (index + 1) * 3));
  });

  it.each(['char(8)', 'varchar(4)', 'text', 'name'])('is compared as a whole where the column is %s', async (type) => {
    await run(`create table shop.typed (id integer, state ${type}); insert into shop.typed values (1, 'p'), (2, 'p')`);
    await attachTable(database.pool, { table: 'shop.typed', when: 'state: p -> paid' });
    await run(`update shop.typed set state = case id when 1 then 'paid' else 'pa' end`);
    expect(await ids()).toEqual([1]);
  });

  it('is of a row that an update moves to another partition a new one, as PostgreSQL has it', async () => {
    await run(
      `create table shop.moving (id integer, day integer, state text) partition by list (day);
       create table shop.moving_1 partition of shop.moving for values in (1);
       create table shop.moving_2 partition of shop.moving for values in (2);
       insert into shop.moving values (1, 1, 'sent')`,
    );
    await attachTable(database.pool, { table: 'shop.moving', when: 'state: * -> paid', topic: 'changed' });
    await attachTable(database.pool, { table: 'shop.moving', when: 'state: -> paid', topic: 'became' });
    await run(`update shop.moving set day = 2, state = 'paid'`);
    expect((await takeMessages(database.pool)).map(({ topic }) => topic)).toEqual(['became']);
  });

  it('is compared as text where the column is text', async () => {
    await onSales("note: 'it''s' -> 'null'");
    await run(`insert into shop.sales (id, note) values (1, 'it''s'), (2, 'its')`);
    await run(`update shop.sales set note = 'null'`);
    expect(await ids()).toEqual([1]);
  });
});

describe('a payload', () => {
  it('has the chosen columns, digit by digit, whatever the settings of who writes', async () => {
    await run(
      `create table shop.things (id bigint, amount numeric(40, 10), at timestamptz, long interval, raw bytea, real float8)`,
    );
    const payload = 'id,amount,at,long,raw,real';
    await attachTable(database.pool, { table: 'shop.things', when: 'insert', payload });
    await withTransaction(database.pool, async (tx) => {
      await tx.query(
        `set local timezone = 'Asia/Tokyo'; set local intervalstyle = 'iso_8601'; set local bytea_output = 'escape'; set local extra_float_digits = -15`,
      );
      await tx.query(
        `insert into shop.things values (9007199254740993, 12345678901234567890.0123456789, '2026-01-01 00:00Z', '1 day', '\\x00ff', 0.1::float8 + 0.2)`,
      );
    });
    expect(await takeMessages(database.pool)).toEqual([
      {
        topic: 'test.changed',
        payload:
          '{"at": "2026-01-01T00:00:00+00:00", "id": 9007199254740993, "raw": "\\\\x00ff", "long": "1 day", "real": 0.30000000000000004, "amount": 12345678901234567890.0123456789}',
      },
    ]);
  });

  it('has what a column was and became, where that is asked for', async () => {
    await onSales('state: -> sent|paid', { withChange: true });
    await run(`insert into shop.sales (id, state) values (1, 'sent')`);
    await run(`update shop.sales set state = 'paid'`);
    expect(await takePayloads(database.pool)).toEqual([
      { id: 1, _change: { from: null, to: 'sent' } },
      { id: 1, _change: { from: 'sent', to: 'paid' } },
    ]);
  });

  it('leaves out and names a change that is too long', async () => {
    await onSales('note: * -> *', { withChange: true });
    await run(`insert into shop.sales (id, note) values (1, 'a'), (2, null)`);
    await run(
      `update shop.sales set note = repeat('x', 10000) where id = 1; update shop.sales set note = 'b' where id = 1`,
    );
    await run(`update shop.sales set note = 'c' where id = 2`);
    expect(await takePayloads(database.pool)).toEqual([
      { id: 1, _change: { from: 'a', to: null }, _left_out: ['_change'] },
      { id: 1, _change: { from: null, to: 'b' }, _left_out: ['_change'] },
      { id: 2, _change: { from: null, to: 'c' } },
    ]);
  });

  it('leaves out and names a value that is too long, and the change goes through', async () => {
    await onSales('insert', { payload: 'id,note,amount' });
    await run(
      `insert into shop.sales (id, note, amount) values (1, repeat('x', 8190), 1), (2, repeat('x', 8191), 1e9000)`,
    );
    expect(await takePayloads(database.pool)).toEqual([
      { id: 1, note: 'x'.repeat(8_190), amount: 1 },
      { id: 2, note: null, amount: null, _left_out: ['note', 'amount'] },
    ]);
  });

  it.each([
    ['a json that jsonb cannot have', 'json', String.raw`'"\u0000"'`],
    ['a number beyond those of jsonb', 'json', `repeat('9', 200000)`],
    ['half a character', 'json', String.raw`'"\ud800"'`],
  ])('leaves out and names %s, and the change goes through', async (_what, type, value) => {
    await run(`create table shop.odd (id integer, odd ${type}, plain text)`);
    await attachTable(database.pool, { table: 'shop.odd', when: 'plain: -> *', payload: 'id,odd', withChange: true });
    await run(`insert into shop.odd values (1, (${value})::${type}, 'a')`);
    await run(`update shop.odd set plain = 'b'`);
    expect(await takePayloads(database.pool)).toEqual([
      { id: 1, odd: null, _left_out: ['odd'], _change: { from: null, to: 'a' } },
      { id: 1, odd: null, _left_out: ['odd'], _change: { from: 'a', to: 'b' } },
    ]);
  });

  it('leaves out and names a column that was renamed or dropped, and so does the list', async () => {
    await onSales('state: -> paid', { payload: 'id,note,amount' });
    await run('alter table shop.sales rename note to remark; alter table shop.sales drop amount');
    await run(`insert into shop.sales (id, state) values (1, 'paid')`);
    expect(await takePayloads(database.pool)).toEqual([
      { id: 1, note: null, amount: null, _left_out: ['note', 'amount'] },
    ]);
    expect(await listAttachments(database.pool)).toMatchObject([
      { state: 'attached', missingColumns: ['amount', 'note'] },
    ]);
  });

  it('comes with the organization and the ordering key that columns name, and with neither otherwise', async () => {
    await run('create table shop.owned (id integer, org uuid, key text)');
    const [organization, long] = [randomUUID(), 'k'.repeat(300)];
    await attachTable(database.pool, {
      ...{ table: 'shop.owned', when: 'insert', topic: 'with.both' },
      ...{ organizationColumn: 'org', orderingKeyColumn: 'key' },
    });
    await attachTable(database.pool, { table: 'shop.owned', when: 'insert', topic: 'without' });
    await run('insert into shop.owned values (1, $1, $2), (2, null, null), (3, null, $3)', [organization, 'k', long]);
    const { rows } = await run(
      'select topic, payload, organization_id, ordering_key from public.outbox order by topic, payload',
    );
    expect(rows).toEqual([
      { topic: 'with.both', payload: { id: 1 }, organization_id: organization, ordering_key: 'k' },
      { topic: 'with.both', payload: { id: 2 }, organization_id: null, ordering_key: null },
      {
        topic: 'with.both',
        payload: { id: 3 },
        organization_id: null,
        ordering_key: expect.stringMatching(/^sha256:/),
      },
      ...[1, 2, 3].map((id) => ({ topic: 'without', payload: { id }, organization_id: null, ordering_key: null })),
    ]);
  });

  it.each([
    ['nothing', '', null],
    ['blanks', '   ', '   '],
    ['null', null, null],
    ['200 bytes of letters', 'é'.repeat(100), 'é'.repeat(100)],
    ['300 characters of three bytes', '€'.repeat(300), expect.stringMatching(/^sha256:[0-9a-f]{64}$/)],
    ['characters beyond the first plane, and a line break', '🎫\n​', '🎫\n​'],
  ])('never fails the change for an ordering key of %s', async (_what, key, expected) => {
    await run('create table shop.keyed (id integer, key text)');
    await attachTable(database.pool, { table: 'shop.keyed', when: 'insert', orderingKeyColumn: 'key' });
    await run('insert into shop.keyed values (1, $1)', [key]);
    const { rows } = await run('select payload, ordering_key from public.outbox');
    expect(rows).toEqual([{ payload: { id: 1 }, ordering_key: expected }]);
  });

  it('quotes whatever tables, columns, values and names are called', async () => {
    const odd = `we"ird'); drop table public.outbox; --`;
    await run(`create table shop."o""dd; table" (id integer, "we""ird'); drop table public.outbox; --" text)`);
    const column = `"${odd.replaceAll('"', '""')}"`;
    await attachTable(database.pool, {
      table: 'shop."o""dd; table"',
      when: `${column}: -> 'it''s; \\ $$ "x" %I %s'`,
      payload: `id,${column}`,
      name: `a 'name' "quoted"; $1 %s`,
    });
    const value = `it's; \\ $$ "x" %I %s`;
    await run(`insert into shop."o""dd; table" values (1, $1), (2, 'other')`, [value]);
    expect(await takePayloads(database.pool)).toEqual([{ id: 1, [odd]: value }]);
    expect(await detach(database.pool, { name: `a 'name' "quoted"; $1 %s` })).toHaveLength(1);
  });
});

describe('whoever may write the table', () => {
  it('announces, without a right to the outbox, under row-level security too', async () => {
    await onSales('state: -> paid');
    await run(
      `grant usage on schema shop to authenticated; grant select, insert, update on shop.sales to authenticated;
       alter table shop.sales enable row level security;
       create policy odd on shop.sales to authenticated using (id % 2 = 1) with check (id % 2 = 1);
       insert into shop.sales (id, state) values (1, 'sent'), (2, 'sent')`,
    );
    // The owner may not become anybody.
    await asSuperuser(
      database,
      `begin; set local role authenticated; update shop.sales set state = 'paid'; insert into shop.sales (id, state) values (3, 'paid'); commit`,
    );
    expect(await ids()).toEqual([1, 3]);
  });

  it.each(['anon', 'authenticated', 'service_role', 'nobody_of_ours'])(
    'but %s neither attaches nor looks',
    async (role) => {
      // Rolled back with what it tries: roles are of the whole server.
      const creation = role === 'nobody_of_ours' ? 'create role nobody_of_ours nologin;' : '';
      for (const sql of [
        'select * from outbox.attachments',
        `insert into outbox.attachments (name, relation, kind, topic, payload_columns) values ('a', 'public.outbox', 'insert', 'a', '{id}')`,
        'delete from outbox.attachments',
        `create temp table mine (id integer); create trigger t after insert on mine for each row execute function outbox.announce_change('a')`,
      ]) {
        const attempt = asSuperuser(database, `begin; ${creation} set local role ${role}; ${sql}; commit`);
        await expect(attempt).rejects.toMatchObject({ code: '42501' });
      }
    },
  );
});

describe('a table that moves', () => {
  it('is announced and listed under its new schema and name, and attached again under neither', async () => {
    await onSales('state: -> paid', { name: 'sales' });
    await run('create schema moved; alter table shop.sales set schema moved; alter table moved.sales rename to orders');
    try {
      await run(`insert into moved.orders (id, state) values (1, 'paid')`);
      expect(await ids()).toEqual([1]);
      expect(await listAttachments(database.pool)).toMatchObject([{ table: 'moved.orders', state: 'attached' }]);
      const again = await attachTable(database.pool, { table: 'moved.orders', when: 'state: -> paid' });
      expect(again).toMatchObject({ status: 'already', name: 'sales' });
    } finally {
      await run('drop schema moved cascade');
    }
  });

  it('is announced by a session that wrote to it before its columns were altered', async () => {
    await onSales('state: -> paid', { payload: 'id,note,amount', withChange: true, orderingKeyColumn: 'note' });
    await run('create table shop.odd (id integer, odd json, amount integer)');
    await attachTable(database.pool, { table: 'shop.odd', when: 'insert', topic: 'odd', payload: 'id,odd,amount' });
    const session = await database.pool.connect();
    const write = async (id: number, key: string) => {
      await session.query(`insert into shop.sales (id, state, note, amount) values ($1, 'paid', $2, 1)`, [id, key]);
      await session.query(`insert into shop.odd (id, odd, amount) values ($1, '"\\u0000"', 1)`, [id]);
    };
    try {
      await write(1, 'a');
      await run(`alter table shop.sales alter id type bigint, alter amount type text, add later integer default 7, drop note;
                 alter table shop.sales add note uuid; alter table shop.odd alter amount type bigint, add later integer`);
      await write(2, randomUUID());
    } finally {
      session.release();
    }
    const payloads = await takePayloads(database.pool);
    expect(payloads).toMatchObject([
      { id: 1, note: 'a', amount: 1 },
      { id: 1, odd: null, amount: 1, _left_out: ['odd'] },
      { id: 2, note: expect.stringMatching(/-/), amount: '1' },
      { id: 2, odd: null, amount: 1, _left_out: ['odd'] },
    ]);
  });

  it('is announced by a condition whose column was renamed', async () => {
    await onSales('state: -> paid');
    await run(`alter table shop.sales rename state to phase; insert into shop.sales (id, phase) values (1, 'paid')`);
    expect(await ids()).toEqual([1]);
    expect(await listAttachments(database.pool)).toMatchObject([{ state: 'attached', missingColumns: ['state'] }]);
  });

  it('is attached and detached by the name of a view of a view of it, written to through either', async () => {
    await run(
      `alter table shop.sales rename to sales_moved;
       create view shop.between as select * from shop.sales_moved; create view shop.sales as select id, state from shop.between`,
    );
    const table = await getTable(database.pool, 'shop.sales');
    expect(table).toMatchObject({ name: 'shop.sales_moved', view: 'shop.sales' });
    await onSales('state: -> paid', { payload: 'id,amount' });
    await run(`insert into shop.sales (id, state) values (1, 'paid')`);
    expect(await takePayloads(database.pool)).toEqual([{ id: 1, amount: null }]);
    expect(await detach(database.pool, { table })).toEqual(['sales_moved:test.changed']);
  });

  it.each([
    ['shows two tables', 'create view shop.v as select s.id from shop.sales s, shop.others o', /shop\.v is a view/],
    ['shows no rows as they are', 'create view shop.v as select count(*) from shop.sales', /shop\.v is a view/],
    ['is materialized', 'create materialized view shop.v as select * from shop.sales', /neither a table nor a view/],
    ['shows what is no table', 'create view shop.v as select * from generate_series(1, 2)', /shop\.v is a view/],
  ])('is not guessed where a view %s', async (_what, sql, says) => {
    await run(`create table shop.others (id integer); ${sql}`);
    await expect(getTable(database.pool, 'shop.v')).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_TABLE_UNKNOWN', says));
  });

  it.each([
    ['nowhere.sales', /no table nowhere\.sales\. There is shop\.sales\./],
    ['shop.sale', /no table shop\.sale\. The schema has shop\.sales\./],
    ['nowhere.nothing', /There are tables in the schemas .*shop/],
  ])('that is not there is answered with what is: %s', async (name, says) => {
    await expect(getTable(database.pool, name)).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_TABLE_UNKNOWN', says));
  });

  it.each(['', 'a b', 'a.b.c.d', '"open'])('of a name that cannot be read is refused: %s', async (name) => {
    await expect(getTable(database.pool, name)).rejects.toEqual(
      refusal('OUTBOX_ATTACHMENT_INVALID', /ticketing\.orders/),
    );
  });
});

describe('a partitioned table', () => {
  beforeEach(() =>
    run(
      `create table shop.parts (id integer, day date, state text) partition by range (day);
       create table shop.parts_old partition of shop.parts for values from ('2025-01-01') to ('2026-01-01')`,
    ),
  );

  it('announces from every partition, of later ones too', async () => {
    await attachTable(database.pool, { table: 'shop.parts', when: 'state: pending -> paid' });
    await run(`create table shop.parts_new partition of shop.parts for values from ('2026-01-01') to ('2027-01-01')`);
    await run(
      `insert into shop.parts values (1, '2025-05-05', 'pending'), (2, '2026-05-05', 'pending'); update shop.parts set state = 'paid'`,
    );
    expect(await ids()).toEqual([1, 2]);
  });

  it('is listed as disabled where it is in one partition, and repaired', async () => {
    const attachment = { table: 'shop.parts', when: 'state: pending -> paid' };
    await attachTable(database.pool, attachment);
    await run('alter table shop.parts_old disable trigger user');
    expect(await listAttachments(database.pool)).toMatchObject([{ state: 'trigger_disabled' }]);
    expect(await attachTable(database.pool, attachment)).toMatchObject({ status: 'repaired' });
    expect(await listAttachments(database.pool)).toMatchObject([{ state: 'attached' }]);
  });

  it('is refused for a condition on what it is partitioned by', async () => {
    const attempt = attachTable(database.pool, { table: 'shop.parts', when: 'day: * -> *' });
    await expect(attempt).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_INVALID', /partitioned by day/));
  });
});

describe('attaching', () => {
  it('a second time does nothing, however the condition is written', async () => {
    const first = await onSales('state: pending|sent -> paid');
    expect(first).toMatchObject({ status: 'attached', name: 'sales:test.changed', table: 'shop.sales' });
    const before = await run('select xmin, * from outbox.attachments');
    expect(await onSales(' state : sent|pending|sent->paid')).toMatchObject({ status: 'already', statements: [] });
    expect((await run('select xmin, * from outbox.attachments')).rows).toEqual(before.rows);
  });

  it.each<[string, Partial<TestAttachment> & { when?: string }]>([
    ['condition', { when: 'state: sent -> paid' }],
    ['payload', { payload: 'id,note' }],
    ['payload under another name', { payload: 'id,note', name: 'other' }],
    ['ordering key', { orderingKeyColumn: 'note' }],
  ])('something else of the same name or message is refused: another %s', async (_what, { when, ...further }) => {
    await onSales('state: pending -> paid');
    const attempt = onSales(when ?? 'state: pending -> paid', further);
    await expect(attempt).rejects.toEqual(
      refusal('OUTBOX_ATTACHMENT_DIFFERS', /outbox detach --name 'sales:test\.changed'/),
    );
  });

  it('the same to sixteen at once attaches it once', async () => {
    const all = await Promise.all(Array.from({ length: 16 }, () => onSales('state: -> paid')));
    expect(all.filter(({ status }) => status === 'attached')).toHaveLength(1);
    await run(`insert into shop.sales (id, state) values (1, 'paid')`);
    expect(await ids()).toEqual([1]);
  });

  it.each<[string, string, Partial<TestAttachment>, RegExp]>([
    ['a column of the condition', 'status: -> paid', {}, /has no column status\. It has id, state, note, amount\./],
    ['columns of the payload', 'insert', { payload: 'id,nothing,never' }, /has no column never, nothing\./],
    ['an ordering key', 'insert', { orderingKeyColumn: 'nothing' }, /has no column nothing\./],
    ['an organization', 'insert', { organizationColumn: 'nothing' }, /has no column nothing\./],
    ['an organization that is no uuid', 'insert', { organizationColumn: 'note' }, /note of shop\.sales is no uuid/],
    [
      'a label',
      'state: pending -> payd',
      {},
      /is shop\.state, and never 'payd'\. It has the values pending, sent, paid\./,
    ],
    ['a number', 'amount: -> many', {}, /amount of shop\.sales is numeric, and never 'many'\./],
    ['one column twice', 'insert', { payload: 'id,id' }, /a column twice/],
    ['a key that says something else', 'insert', { payload: 'id,_change' }, /_change is no column/],
    ['51 columns', 'insert', { payload: Array.from({ length: 51 }, (_, n) => `c${n}`).join(',') }, /1 to 50 columns/],
    ['a change of an insert', 'insert', { withChange: true }, /Of insert there is no change/],
    ['a name of two lines', 'insert', { name: 'a\nb' }, /name has 1 to 200 characters/],
    ['long values', `note: -> ${'x'.repeat(1_001)}`, {}, /at most 1000 bytes/],
  ])('is refused for %s that cannot be', async (_what, when, further, says) => {
    await expect(onSales(when, further)).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_INVALID', says));
    expect(await listAttachments(database.pool)).toEqual([]);
  });

  it.each(['Ticket', 'ticket.*', '', 'a'.repeat(129)])('is refused for the topic %s', async (topic) => {
    await expect(onSales('insert', { topic, name: 'x' })).rejects.toMatchObject({ code: 'OUTBOX_TOPIC_INVALID' });
  });

  it.each([
    ['public.outbox', '', /of the outbox, which would announce its own/],
    ['outbox.endpoints', '', /of the outbox/],
    ['pg_catalog.pg_class', '', /of PostgreSQL itself/],
    [
      'shop.parents',
      'create table shop.parents (id int); create table shop.children () inherits (shop.parents)',
      /children/,
    ],
    [
      'shop.docs',
      'create table shop.docs (id int, body json)',
      /body of shop\.docs is json, which PostgreSQL cannot compare/,
    ],
  ])('is refused to %s', async (table, sql, says) => {
    await run(sql);
    const when = table === 'shop.docs' ? 'body: * -> *' : 'insert';
    await expect(attachTable(database.pool, { table, when })).rejects.toEqual(
      refusal('OUTBOX_ATTACHMENT_INVALID', says),
    );
  });

  it('is refused for a column that is computed as it is read, which no server before 18 has', async () => {
    const adding = run('alter table shop.sales add double numeric generated always as (amount * 2) virtual');
    if (inject('postgresMajor') < 18) {
      await expect(adding).rejects.toMatchObject({ code: '42601' });
      return;
    }
    await adding;
    const attempt = onSales('insert', { payload: 'id,double' });
    await expect(attempt).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_INVALID', /generated as it is read/));
  });

  it('gives way to whoever uses the table, and gets through when they are done', async () => {
    const writer = await database.pool.connect();
    await writer.query(`begin; insert into shop.sales (id, state) values (1, 'sent')`);
    let busy = 0;
    const attaching = attach(
      database.pool,
      await getTable(database.pool, 'shop.sales'),
      { name: 'n', condition: { kind: 'insert' }, topic: 't', payload: ['id'] },
      {
        onBusy: () => {
          busy += 1;
          if (busy === 2) void writer.query('commit');
        },
      },
    );
    expect(await attaching).toMatchObject({ status: 'attached' });
    expect(busy).toBeGreaterThanOrEqual(2);
    writer.release();
  });

  it('is given up where the table is never free, with nothing left of it', async () => {
    const writer = await database.pool.connect();
    await writer.query(`begin; insert into shop.sales (id, state) values (1, 'sent')`);
    const stop = new AbortController();
    const table = await getTable(database.pool, 'shop.sales');
    const announcement = { name: 'n', condition: { kind: 'insert' }, topic: 't', payload: ['id'] } as const;
    const attempt = attach(database.pool, table, announcement, { stop: stop.signal, onBusy: () => stop.abort() });
    await expect(attempt).rejects.toEqual(refusal('OUTBOX_ATTACHMENT_BUSY', /^shop\.sales was in use/));
    await writer.query('rollback');
    writer.release();
    expect(await listAttachments(database.pool)).toEqual([]);
  });
});

describe('row and triggers', () => {
  const triggers = async (db: Pick<Tx, 'query'> = database.pool) =>
    (await db.query(`select tgname from pg_trigger where tgrelid = 'shop.sales'::regclass and not tgisinternal`))
      .rowCount;

  it('come and go as one, by SQL too', async () => {
    await onSales('state: -> paid');
    expect(await triggers()).toBe(2);
    await run('delete from outbox.attachments');
    expect(await triggers()).toBe(0);
  });

  it.each(['update outbox.attachments set topic = $$other$$', 'truncate outbox.attachments'])(
    'are not changed: %s',
    async (sql) => {
      await onSales('state: -> paid');
      await expect(run(sql)).rejects.toMatchObject({ code: 'LV071' });
    },
  );

  it.each([
    ['trigger_missing', 'drop trigger %I on shop.sales'],
    ['trigger_disabled', 'alter table shop.sales disable trigger %I'],
  ])('that are not both there are told (%s), and put right', async (state, sql) => {
    await onSales('state: -> paid');
    const { rows } = await run(
      `select format('${sql}', tgname) as sql from pg_trigger where tgname like 'liventix%insert'`,
    );
    await run(rows[0]?.sql);
    expect(await listAttachments(database.pool)).toMatchObject([{ state }]);
    expect(await onSales('state: -> paid')).toMatchObject({ status: 'repaired' });
    expect(await listAttachments(database.pool)).toMatchObject([{ state: 'attached' }]);
    expect(await triggers()).toBe(2);
  });

  it('of a table that was dropped are told, and detached by name, twice', async () => {
    await onSales('insert', { name: 'lost' });
    await run('drop table shop.sales');
    expect(await listAttachments(database.pool)).toMatchObject([{ name: 'lost', table: null, state: 'table_gone' }]);
    expect(await detach(database.pool, { name: 'lost' })).toEqual(['lost']);
    expect(await detach(database.pool, { name: 'lost' })).toEqual([]);
  });

  it('leave the trigger of another attachment on the table alone', async () => {
    await onSales('insert', { topic: 'one' });
    await onSales('insert', { topic: 'two' });
    await detach(database.pool, { name: 'sales:one' });
    await run('insert into shop.sales (id) values (1)');
    expect((await takeMessages(database.pool)).map(({ topic }) => topic)).toEqual(['two']);
  });

  it('that somebody parted behind our back warn, and fail nobody', async () => {
    await onSales('insert');
    await asSuperuser(database, `set session_replication_role = replica; delete from outbox.attachments`);
    await run('insert into shop.sales (id) values (1)');
    expect(await ids()).toEqual([]);
    await run('drop table shop.sales');
  });

  it.each([
    ['name', `('', 'shop.sales', 'insert', null, null, null, 't', '{id}')`, 'attachments_name_format'],
    ['kind', `('n', 'shop.sales', 'upsert', 'state', null, null, 't', '{id}')`, 'attachments_kind_values'],
    ['condition', `('n', 'shop.sales', 'insert', 'state', null, null, 't', '{id}')`, 'attachments_condition_of_kind'],
    ['values', `('n', 'shop.sales', 'change', 'state', '{}', null, 't', '{id}')`, 'attachments_values_bounded'],
    ['topic', `('n', 'shop.sales', 'insert', null, null, null, 'T', '{id}')`, 'attachments_topic_format'],
    ['payload', `('n', 'shop.sales', 'insert', null, null, null, 't', '{}')`, 'attachments_payload_columns_bounded'],
    [
      'reserved key',
      `('n', 'shop.sales', 'insert', null, null, null, 't', '{_left_out}')`,
      'attachments_payload_columns_free',
    ],
  ])('are held to a %s by the database', async (_what, values, constraint) => {
    const insert = run(
      `insert into outbox.attachments (name, relation, kind, column_name, from_values, to_values, topic, payload_columns) values ${values}`,
    );
    await expect(insert).rejects.toMatchObject({ code: '23514', constraint });
  });
});

describe('the shipped attachments', () => {
  let legacy: TestDatabase;
  beforeAll(async () => {
    legacy = await createDatabase();
    await createAnnouncingTables(legacy.pool);
  });
  afterAll(() => legacy.drop());

  it('fit the tables of the old platform, and announce their changes', async () => {
    const { wanted, skipped } = await findShipped(legacy.pool);
    expect(skipped).toEqual([]);
    for (const { table, announcement } of wanted) await attach(legacy.pool, table, announcement);
    await legacy.pool.query(CHANGES);
    const messages = await takeMessages(legacy.pool);
    expect(messages.map(({ topic }) => topic).toSorted()).toEqual(
      wanted.map(({ announcement }) => announcement.topic).toSorted(),
    );
    for (const { payload } of messages) {
      expect(payload).not.toMatch(/secret/);
      expect(JSON.parse(payload)).not.toHaveProperty('_left_out');
    }
  });

  it('are found where the restructuring moved their tables, and attached no second time', async () => {
    await legacy.pool.query(
      `create schema if not exists ticketing; alter table public.orders set schema ticketing; create view public.orders as select * from ticketing.orders`,
    );
    const { wanted } = await findShipped(legacy.pool, ['orders']);
    expect(new Set(wanted.map(({ table }) => table.name))).toEqual(new Set(['ticketing.orders']));
    for (const { table, announcement } of wanted) {
      expect(await attach(legacy.pool, table, announcement)).toMatchObject({ status: 'already' });
    }
  });

  it('name the tables that are not there', async () => {
    await legacy.pool.query('drop table public.payout_queue');
    const { wanted, skipped } = await findShipped(legacy.pool, ['tickets', 'payout_queue']);
    expect(skipped).toEqual(['public.payout_queue or payments.payout_queue']);
    expect(wanted.every(({ table }) => table.name === 'public.tickets')).toBe(true);
    await expect(findShipped(legacy.pool, ['payout_queue'])).rejects.toEqual(
      refusal('OUTBOX_ATTACHMENT_TABLE_UNKNOWN', /^None of the tables is there: public\.payout_queue or/),
    );
  });
});

/** Whatever the shipped attachments announce, once each: of each table as many rows as it has topics, each taken another way. */
const CHANGES = `
  insert into public.orders (user_id, event_id, total_cents, contact_email, contact_name, contact_phone, stripe_session_id)
  select gen_random_uuid(), gen_random_uuid(), n, 'secret', 'secret', 'secret', 'secret' || n from generate_series(1, 3) n;
  update public.orders set status = ('{paid,refunded,canceled}'::text[])[total_cents]::order_status;

  insert into public.tickets (event_id, tier_id, order_id, owner_user_id, serial_no, qr_code)
  select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), n, 'secret' from generate_series(1, 4) n;
  update public.tickets set status = ('{redeemed,transferred,refunded,void}'::text[])[serial_no]::ticket_status;

  insert into public.sponsorship_orders (package_id, sponsor_id, event_id, amount_cents, notes)
  select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), n, 'secret' from generate_series(1, 5) n;
  update public.sponsorship_orders
  set status = ('{accepted,live,completed,refunded,cancelled}'::text[])[amount_cents]::sponsorship_status;

  insert into public.proposal_threads (event_id, sponsor_id, created_by, status)
  select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), status
  from unnest('{draft,sent,counter,accepted,rejected,expired}'::text[]) status;

  insert into public.sponsorship_payouts (order_id, organizer_id, amount_cents, failure_reason)
  select gen_random_uuid(), gen_random_uuid(), n, 'secret' from generate_series(1, 3) n;
  update public.sponsorship_payouts set status = ('{completed,failed,cancelled}'::text[])[amount_cents];

  insert into public.payout_queue (order_id, error_message) values (gen_random_uuid(), 'secret')`;
