import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { migrate } from '../../src/db/migrate.ts';
import { createPool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { underLock } from '../../src/db/under-lock.ts';
import { applyPlan } from '../../src/restructure/apply.ts';
import { parseMapping } from '../../src/restructure/mapping.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { asSuperuser, createDatabase, EMPTY } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { migrateUntil } from '../support/migrate-until.ts';
import { findingsFor, left, moveAll, notUndone, planned, planOf, putBack, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// What others have beside a table, or hold of it: plans say so, and nobody is kept waiting.

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const FEW = { schemas: [{ name: 'sales', tables: ['orders', 'carts'] }], roles: undefined };
const mappingOf = (shop: Shop) => shopMapping(shop, FEW);

/** As a subscription has it whose rows came, without the server that they come from. */
const SUBSCRIBED = `
  create subscription from_afar connection 'host=nowhere dbname=nothing' publication p with (connect = false);
  insert into pg_subscription_rel (srsubid, srrelid, srsubstate) select oid, 'public.carts'::regclass, 'r' from pg_subscription where subname = 'from_afar'`;
const NOT_SUBSCRIBED = `alter subscription from_afar set (slot_name = none); drop subscription from_afar`;

describe('a table that rows of another server come into', () => {
  it('is not moved, and has drifted where that began after the plan', () =>
    inClone(original, async (shop) => {
      const before = await planOf(shop, mappingOf(shop));
      await asSuperuser(shop, SUBSCRIBED);
      try {
        await expect(applyPlan(shop.pool, before, { schemas: [], tables: [] })).rejects.toMatchObject({
          code: 'RESTRUCTURE_DRIFTED',
        });
        const plan = await planOf(shop, mappingOf(shop));
        expect(findingsFor(plan, 'carts')).toContain('blocks subscribed');
        expect(Object.keys(left(await moveAll(shop, mappingOf(shop))))).toEqual(['carts']);
      } finally {
        await asSuperuser(shop, NOT_SUBSCRIBED);
      }
    }));
});

describe('a plan', () => {
  it('says what is of others: statistics, grants, labels, and how long many partitions take', () =>
    inClone(original, async (shop) => {
      const { auditor, web } = shop.roles;
      await shop.pool.query(`create statistics public.together on id, content from public.carts`);
      await asSuperuser(
        shop,
        `alter statistics public.together owner to postgres;
         set role ${auditor}; grant select on public.orders to ${web}; reset role;
         insert into pg_seclabel values ('public.orders'::regclass, 'pg_class'::regclass, 0, 'nobody', 'secret');
         do $$ begin
           for i in 2030..2070 loop
             execute format('create table public.events_%s partition of public.events_sales for values from (''%s-01-01'') to (''%s-01-01'')', i, i, i + 1);
             execute format('alter table public.events_%s owner to liventix', i);
           end loop;
         end $$`,
      );
      const plan = await planOf(
        shop,
        shopMapping(shop, { ...FEW, schemas: [{ name: 'sales', tables: ['orders', 'carts', 'events'] }] }),
      );
      expect(findingsFor(plan, 'carts')).toContain('blocks not-ours');
      expect(findingsFor(plan, 'orders')).toEqual(
        expect.arrayContaining(['warns granted-by-another', 'warns labelled']),
      );
      expect(planned(plan, 'events').findings.map(({ text }) => text)).toContainEqual(
        expect.stringMatching(/^it and what goes with it are 46 relations, which are locked together for about \d+ ms/),
      );
    }));

  it('of a view with two rules knows both, so that either is drift when it changes', () =>
    inClone(original, async (shop) => {
      const make = (state: string, query: string) =>
        shop.pool.query(`
          create or replace view public.open_orders as select o.*, c.email from public.orders o join public.customers c on c.id = o.customer_id where ${query};
          create or replace rule inserted as on insert to public.open_orders do instead
            insert into public.orders (customer_id, state) values (new.customer_id, '${state}')`);
      await make('sad', 'o.state is null');
      const plan = await planOf(shop, mappingOf(shop));
      const apply = () => applyPlan(shop.pool, plan, { schemas: [], tables: [] });
      await make('glad', 'o.state is null');
      await expect(apply()).rejects.toMatchObject({ code: 'RESTRUCTURE_DRIFTED' });
      await make('sad', 'o.state is not null');
      await expect(apply()).rejects.toMatchObject({ code: 'RESTRUCTURE_DRIFTED' });
      await make('sad', 'o.state is null');
      expect(left(await apply())).toEqual({});
      expect(notUndone(await putBack(shop))).toEqual([]);
    }));
});

describe('whoever holds a table', () => {
  it('is named also where it is a prepared transaction, which no process has', () =>
    inClone(original, async (shop) => {
      await shop.pool.query(`begin; select from public.carts for update; prepare transaction '${shop.name}'`);
      try {
        const applied = await moveAll(shop, mappingOf(shop), { maxTries: 1 });
        expect(left(applied)).toEqual({
          carts: expect.stringContaining(`held by the prepared transaction '${shop.name}' (liventix, since `),
        });
      } finally {
        await shop.pool.query(`rollback prepared '${shop.name}'`);
      }
    }));
});

/** Makes whatever alters a table take that long. */
const SLOW = (seconds: number) => `
  create function public.slow() returns event_trigger language plpgsql as $$ begin perform pg_sleep(${seconds}); end $$;
  create event trigger slow on ddl_command_start when tag in ('ALTER TABLE') execute function public.slow()`;

describe('a table is locked no longer than it may be', () => {
  it('by what takes too long: it is left, there and back, with the option named, and all goes when it may take that long', () =>
    inClone(original, async (shop) => {
      await asSuperuser(shop, SLOW(0.5));
      const tooLong = /orders would have been locked for more than 100 ms\. Nothing was changed\..* --longest/;
      const before = await catalogOf(shop);
      const options = { tables: ['orders'], lockedForAtMostMs: 100 };
      expect(left(await moveAll(shop, mappingOf(shop), options))).toEqual({ orders: expect.stringMatching(tooLong) });
      expect((await standingSteps(shop)).filter((step) => step.startsWith('table'))).toEqual([]);
      expect(left(await moveAll(shop, mappingOf(shop), { ...options, lockedForAtMostMs: 60_000 }))).toEqual({});
      expect(notUndone(await putBack(shop, options))).toEqual([expect.stringMatching(tooLong)]);
      expect(notUndone(await putBack(shop, { lockedForAtMostMs: 60_000 }))).toEqual([]);
      expect(changesOf(before, await catalogOf(shop))).toEqual([]);
    }));

  it('by a program that stands still between two statements: whoever waits goes on, and it is told why', () =>
    inClone(original, async (shop) => {
      const reader = createPool({ databaseUrl: shop.url, max: 1 });
      try {
        const stalled = underLock(
          shop.pool,
          { room: 'RESTRUCTURE', what: 'public.orders', lockedForAtMostMs: 200 },
          async (tx) => ({
            names: ['public.orders'],
            locksLater: 0,
            work: async () => {
              await tx.query('alter table public.orders add column stalled int');
              // Nothing is said to the server until the reader has read.
              expect((await reader.query('select * from public.orders limit 1')).fields).not.toContainEqual(
                expect.objectContaining({ name: 'stalled' }),
              );
            },
          }),
        );
        await expect(stalled).rejects.toMatchObject({
          code: 'RESTRUCTURE_TOO_LONG',
          message: expect.stringMatching(/public\.orders would have been locked for more than 200 ms/),
        });
      } finally {
        await reader.end();
      }
    }));
});

describe('PostgREST', () => {
  it('is told of each table as it goes, so that it knows of those that went before a run died', () =>
    inClone(original, async (shop) => {
      const gateway = await shop.pool.connect();
      let heard = 0;
      gateway.on('notification', () => {
        heard += 1;
      });
      try {
        await gateway.query('listen pgrst');
        let atSecond: Promise<unknown> | undefined;
        const move = moveAll(shop, mappingOf(shop), {
          onProgress: (table) => {
            if (table !== 'carts') return;
            atSecond = eventually('it is told of the first', () => heard > 0);
            throw new Error('died');
          },
        });
        await expect(move).rejects.toThrow('died');
        await atSecond;
        heard = 0;
        const back = putBack(shop, {
          onProgress: (object) => {
            if (object !== 'public.orders') throw new Error('died');
          },
        });
        await expect(back).rejects.toThrow('died');
        await eventually('it is told of the one that is back', () => heard > 0);
      } finally {
        gateway.removeAllListeners('notification');
        gateway.release(true);
      }
    }));
});

describe('a view that cannot be dropped', () => {
  it('is left and named, and keeps nothing else from moving', () =>
    inClone(original, async (shop) => {
      await shop.pool.query(
        'create view restructure.aside_1 as select 1 as one; create view public.on_it as select one from restructure.aside_1',
      );
      const applied = await moveAll(shop, mappingOf(shop));
      expect(left(applied)).toEqual({});
      expect(applied.viewsLeft).toEqual([
        {
          view: 'restructure.aside_1',
          reason: expect.stringMatching(/cannot drop view restructure\.aside_1 because other objects depend on it/),
        },
      ]);
      expect((await putBack(shop)).viewsLeft).toHaveLength(1);
    }));
});

describe('steps of before', () => {
  it('have no fault when a view with two rules reads their table, and go back', async () => {
    const database = await createDatabase({ template: EMPTY });
    try {
      await migrateUntil(database, '0055_restructure_meanwhile');
      await database.pool.query(`
        set search_path = public;
        create table lines (id int primary key, what text default 'x');
        create view read_lines as select id from lines;
        create rule inserted as on insert to read_lines do instead insert into lines (id) values (new.id);
        create rule deleted as on delete to read_lines do instead delete from lines where id = old.id`);
      const before = await catalogOf(database);
      const mapping = parseMapping(
        JSON.stringify({ name: 'small', from: 'public', schemas: [{ name: 'sales', tables: ['lines'] }] }),
        'small.json',
      );
      expect(left(await moveAll(database, mapping))).toEqual({});
      await migrate(database.url);
      const results = await withTransaction(database.pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
      expect(results.flatMap(({ first }) => first)).toEqual([]);
      expect(notUndone(await putBack(database))).toEqual([]);
      expect(changesOf(before, await catalogOf(database))).toEqual([]);
    } finally {
      await database.drop();
    }
  });
});
