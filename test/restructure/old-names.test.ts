import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { left, moveAll } from '../support/moves.ts';
import { cloneShop, createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// What programs say to the old names, to a shop that was moved and to one that was not: both must answer the same.

let [stayed, moved]: [Shop, Shop] = [undefined, undefined] as never;
let pools: readonly [Pool, Pool];
let original: Shop;
beforeAll(async () => {
  original = await createShop();
  stayed = await cloneShop(original);
  moved = await cloneShop(original);
  expect(left(await moveAll(moved, shopMapping(moved)))).toEqual({});
  pools = [createPool({ databaseUrl: stayed.adminUrl, max: 2 }), createPool({ databaseUrl: moved.adminUrl, max: 2 })];
});
afterAll(async () => {
  for (const pool of pools) await pool.end();
  for (const shop of [stayed, moved, original]) await shop.drop();
});

/** The rows of each statement, or why it was refused; whatever it did is undone. */
async function answer(pool: Pool, sql: string): Promise<unknown> {
  const tx = await pool.connect();
  try {
    const said = await tx.query(`begin; set local search_path = public; ${sql}`);
    return [said].flat().map(({ command, rows }) => ({ command, rows }));
  } catch (error) {
    return toAppError(error).message;
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

const answers = async (sql: string) => {
  const [before, after] = [await answer(pools[0], sql), await answer(pools[1], sql)];
  return { before, after };
};

const ORDERED = 'order by 1, 2';

describe('by its old name, a table answers as it did', () => {
  it.each<[what: string, sql: string]>([
    [
      'a read of everything',
      'select * from customers order by id; select * from orders order by id; select * from "ÜberGrößen „größer“"',
    ],
    [
      'names of every kind',
      'select * from "products.archive"; table "select"; select * from public."select" where "from" = 1; table columnless',
    ],
    [
      'a join',
      `select o.id, c.email, p.sku from orders o join customers c on c.id = o.customer_id left join products p on p.id = o.product_id ${ORDERED}`,
    ],
    [
      'partitions',
      `select kind, at, body from events ${ORDERED}; select kind, at from events_sales ${ORDERED}; select count(*) from events_rest`,
    ],
    ['heirs', `select * from animals ${ORDERED}; select id, breed from dogs ${ORDERED}; table "Puppies"`],
    [
      'what it is called in rows',
      `select row_to_json(c) from customers c order by id; select to_jsonb(o) - 'placed_at' from orders o order by id`,
    ],
    [
      'a count, a group, a window',
      'select state, count(*), sum(quantity) over () from orders group by state, quantity order by 1',
    ],
    [
      'a row of its own type',
      `select (null::orders).id; select (jsonb_populate_record(null::public.products, '{"sku": "x"}')).sku`,
    ],
  ])('%s', async (_what, sql) => {
    const { before, after } = await answers(sql);
    expect(after).toEqual(before);
    expect(before).toBeInstanceOf(Array);
  });
});

describe('by its old name, a table is written as it was', () => {
  it.each<[what: string, sql: string]>([
    [
      'an insert with defaults',
      `insert into orders (customer_id, product_id) values (2, 2) returning id, number, quantity, state`,
    ],
    [
      'DEFAULT in some rows of many',
      `insert into products (id, sku, price_cents, tags) values (default, 'a', default, default), (77, 'b', 5, '{x}'), (default, 'c', default, '{}') returning *`,
    ],
    [
      'generated columns',
      `insert into products (sku, price_cents, price_with_tax) values ('a', 1000, default) returning price_with_tax; update products set price_cents = 10 where sku = 'cup' returning price_with_tax`,
    ],
    [
      'identity columns',
      `insert into customers (id, email, seen_at) values (99, 'x@y', 'epoch'), (default, 'y@y', 'epoch') returning *; insert into orders (id, customer_id, product_id) overriding system value values (7, 2, 2) returning id`,
    ],
    [
      'DEFAULT VALUES',
      'insert into keyless default values; insert into carts default values returning content; insert into a_name_of_sixty_three_bytes_that_is_as_long_as_a_name_may_be_ab default values returning *',
    ],
    [
      'a default of a function, of an enum, of a sequence',
      `insert into customers (email) values ('z@z') returning id, mood, note; insert into "ÜberGrößen „größer“" values ('ß') returning *`,
    ],
    [
      'an update with DEFAULT',
      `update orders set quantity = default, number = default where id = 100 returning quantity, number; update customers set note = default returning note`,
    ],
    [
      'an update from another table',
      `update orders o set quantity = 9 from customers c where c.id = o.customer_id and c.mood = 'glad' returning o.id, c.email`,
    ],
    [
      'a delete with USING',
      `delete from orders o using products p where p.id = o.product_id and p.sku = 'saucer' returning o.id, p.sku`,
    ],
    [
      'an upsert',
      `insert into customers (email, note, seen_at) values ('ann@example.org', 'again', 'epoch'), ('new@example.org', 'new', 'epoch') on conflict (email) do update set note = excluded.note, mood = default returning id, email, note, mood`,
    ],
    [
      'an upsert by an index with a condition',
      `insert into orders (customer_id, product_id) values (1, 1) on conflict (customer_id, product_id) where state is null do update set quantity = orders.quantity + excluded.quantity returning id, quantity`,
    ],
    [
      'an upsert by an expression',
      `insert into products (sku, price_cents) values ('CUP', 3) on conflict (lower(sku)) do update set price_cents = excluded.price_cents returning sku, price_cents`,
    ],
    [
      'DO NOTHING',
      `insert into products (sku) values ('cup'), ('new') on conflict do nothing returning sku; insert into "select" values (1, 'y') on conflict ("from") do nothing`,
    ],
    [
      'insert of a select, in a WITH',
      `with gone as (delete from "Puppies" returning *) insert into dogs select * from gone returning id, breed; table animals`,
    ],
    [
      'writes to partitions',
      `insert into events (kind, at) values ('sale', '2025-06-01'), ('other', '2020-01-01') returning id; update events set kind = 'sale' where kind = 'visit'; insert into events_rest (id, kind, at) overriding system value values (9, 'zzz', '2020-01-01') returning body`,
    ],
    [
      'rules',
      `delete from products; insert into keyless values ('noted'); select count(*) from products; select of, what from changes order by id`,
    ],
    [
      'triggers',
      `update orders set quantity = quantity + 1 where id = 100; insert into products (sku) values ('t1'), ('t2'); delete from orders where id = 102; set constraints all immediate; select of, what from changes order by id`,
    ],
    [
      'a child of another owner, and its parent',
      `insert into sellers values (9, 'Gone'); insert into payouts (seller_id, cents) values (9, 1) returning id; delete from sellers where id = 9 returning name; select count(*) from payouts`,
    ],
    [
      'a composite column',
      `update customers set address.street = 'Lane 2' where id = 1 returning address, "Full Name"`,
    ],
    [
      'FOR UPDATE, FOR SHARE, SKIP LOCKED',
      'select id from orders order by id for update; select id from orders order by id for no key update skip locked; select id from customers order by id for key share nowait',
    ],
    [
      'a cursor',
      'declare c scroll cursor for select id from orders order by id; fetch 2 from c; fetch prior from c; move last in c; fetch first from c',
    ],
    ['LOCK', 'lock table orders in share row exclusive mode; lock customers'],
  ])('%s', async (_what, sql) => {
    const { before, after } = await answers(sql);
    expect(after).toEqual(before);
    expect(before).toBeInstanceOf(Array);
  });

  it.each<[what: string, sql: string]>([
    ['a value for a generated column', `insert into products (sku, price_with_tax) values ('a', 7)`],
    ['a value for an identity column', 'insert into orders (id, customer_id, product_id) values (7, 1, 1)'],
    ['a broken check', `insert into products (sku, price_cents) values ('x', -1)`],
    ['a key that is there', `insert into products (sku) values ('cup')`],
    ['a parent that is not there', `insert into payouts (seller_id, cents) values (4711, 1)`],
    ['an exclusion', `insert into sellers values (3, 'x', '[2025-01-15, 2025-01-16)')`],
    ['a domain', `insert into customers (email) values ('none')`],
    [
      'a partition that it does not belong to',
      `insert into events_sales (id, kind, at) overriding system value values (1, 'visit', '2025-01-01')`,
    ],
    [
      'a deferred key without its parent',
      `insert into orders (customer_id, product_id) values (4711, 1); set constraints all immediate`,
    ],
  ])('%s is refused as it was', async (_what, sql) => {
    const { before, after } = await answers(sql);
    expect(after).toEqual(before);
    expect(before).toMatch(/SQLSTATE/);
  });
});

describe('what stands on a table stands on it still', () => {
  it.each<[what: string, sql: string]>([
    ['views', `select id, email from open_orders ${ORDERED}; select id from open_orders_of_the_sad`],
    [
      'a write through a view',
      `create view simple as select id, quantity from orders; update simple set quantity = 5 where id = 100 returning *`,
    ],
    ['a materialized view', `refresh materialized view totals; table totals ${ORDERED}`],
    [
      'functions',
      `select order_count(), order_count_bound(); select id, quantity from orders_of(1) ${ORDERED}; select id, state from orders_in_plpgsql(1) ${ORDERED}; select (place_order(2, 2)).quantity; select place_many(1, 3)`,
    ],
    ['statistics', `analyze; select count(*) from pg_stats_ext where tablename = 'customers'`],
  ])('%s', async (_what, sql) => {
    const { before, after } = await answers(sql);
    expect(after).toEqual(before);
    expect(before).toBeInstanceOf(Array);
  });
});

describe('what a view does otherwise than a table', () => {
  it.each<[what: string, sql: string, says: RegExp]>([
    ['COPY', 'copy orders from stdin', /cannot copy to view/],
    ['TRUNCATE', 'truncate orders cascade', /"orders" is not a table/],
    [
      'ON CONSTRAINT',
      `insert into customers (email) values ('x@y') on conflict on constraint customers_email do nothing`,
      /constraint "customers_email" for table "customers" does not exist/,
    ],
    [
      'CURRENT OF',
      'declare c cursor for select * from orders for update; fetch c; update orders set quantity = 2 where current of c',
      /WHERE CURRENT OF on a view is not implemented/,
    ],
    ['a system column', 'select ctid from orders', /column "ctid" does not exist/],
    [
      'TABLESAMPLE',
      'select count(*) from orders tablesample system (100)',
      /TABLESAMPLE clause can only be applied to tables/,
    ],
    [
      'a sequence by its name',
      `select nextval('public.products_id_seq')`,
      /relation "public.products_id_seq" does not exist/,
    ],
    [
      'SET CONSTRAINTS by name',
      'set constraints orders_customer deferred',
      /constraint "orders_customer" does not exist/,
    ],
    ['a foreign key', 'create table more (o int references orders)', /referenced relation "orders" is not a table/],
    ['ALTER TABLE', 'alter table orders add column more int', /"orders"/],
    [
      'a grouping by its key',
      'select id, quantity, count(*) from orders group by id',
      /column "orders\.quantity" must appear in the GROUP BY clause/,
    ],
    ['a function of its rows', 'select worth(p) from products p', /function worth\(products\) does not exist/],
    [
      'an update to the default of a generated column',
      'update products set price_with_tax = default',
      /can only be updated to DEFAULT/,
    ],
  ])('%s is refused', async (_what, sql, says) => {
    const { before, after } = await answers(sql);
    expect(after).toMatch(says);
    expect(before).not.toEqual(expect.stringMatching(says));
  });

  it('ONLY shows the rows of heirs too', async () => {
    const { before, after } = await answers('select count(*)::int from only animals');
    expect([before, after]).toMatchObject([
      [{}, {}, { rows: [{ count: 1 }] }],
      [{}, {}, { rows: [{ count: 3 }] }],
    ]);
  });
});

describe('what a session prepared before its table moved', () => {
  const PREPARED = [
    ['by a key', 'select * from orders where id = 1'],
    ['a join', 'select o.id, c.email from orders o join customers c on c.id = o.customer_id'],
    ['a write', 'update orders set quantity = quantity where id = 1 returning *'],
    ['a row as one value', 'select o from orders o where id = 1'],
  ] as const;

  it('goes on, but for a row as one value', () =>
    inClone(original, async (shop) => {
      const session = await shop.pool.connect();
      const ask = (name: string, text: string) => session.query({ name, text }).then(({ rows }) => rows, String);
      const answered = async () => {
        const each: unknown[] = [];
        for (const [name, text] of PREPARED) each.push(await ask(name, text));
        return each;
      };
      try {
        const before = await answered();
        expect(left(await moveAll(shop, shopMapping(shop)))).toEqual({});
        const after = await answered();
        expect(after.slice(0, -1)).toEqual(before.slice(0, -1));
        expect(after.at(-1)).toMatch(/cached plan must not change result type/);
      } finally {
        session.release();
      }
    }));
});
