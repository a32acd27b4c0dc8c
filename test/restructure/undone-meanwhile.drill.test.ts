import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { findingsFor, left, moveAll, notUndone, planOf, putBack, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// What others do to a table by either name while it is moved, and what becomes of that when it goes back.

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const FEW = { schemas: [{ name: 'sales', tables: ['orders', 'carts', 'products', 'events'] }], roles: undefined };
const moved = (shop: Shop) => moveAll(shop, shopMapping(shop, FEW));

/** What changed of the catalog by moving, by what was done then, and by going back. */
async function afterBack(shop: Shop, sql: string): Promise<readonly string[]> {
  const before = await catalogOf(shop);
  expect(left(await moved(shop))).toEqual({});
  await shop.pool.query(sql);
  expect(notUndone(await putBack(shop))).toEqual([]);
  expect(await standingSteps(shop)).toEqual([]);
  return changesOf(before, await catalogOf(shop));
}

async function faultsOf({ pool }: Shop): Promise<string> {
  const results = await withTransaction(pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
  return results.flatMap(({ first }) => first).join('\n');
}

describe('rights and defaults that are changed by the old name', () => {
  it('go back with the table: taken, no more to hand on, given, of a column, of everybody, of a partition, alike by both, by the new name alone', () =>
    inClone(original, async (shop) => {
      const { auditor, clerk, web } = shop.roles;
      const changes = await afterBack(
        shop,
        `revoke select on public.orders from ${auditor};
         revoke grant option for select on public.products from ${auditor};
         grant select, update (quantity) on public.orders to ${web} with grant option;
         revoke select (sku) on public.products from ${web};
         revoke insert on public.carts from public;
         grant truncate on public.events_sales_2025 to ${clerk};
         grant select on public.carts, sales.carts to ${auditor};
         revoke select on sales.events from ${auditor}`,
      );
      expect(changes.toSorted()).toEqual(
        [
          `- grant relation public.orders: SELECT to ${auditor} by liventix t`,
          `- grant relation public.products: SELECT to ${auditor} by liventix t`,
          `+ grant relation public.products: SELECT to ${auditor} by liventix f`,
          `+ grant column public.orders.quantity: UPDATE to ${web} by liventix t`,
          `+ grant relation public.orders: SELECT to ${web} by liventix t`,
          `- grant column public.products.sku: SELECT to ${web} by liventix t`,
          '- grant relation public.carts: INSERT to public by liventix f',
          `+ grant relation public.events_sales_2025: TRUNCATE to ${clerk} by liventix f`,
          `+ grant relation public.carts: SELECT to ${auditor} by liventix f`,
          `- grant relation public.events: SELECT to ${auditor} by liventix t`,
        ].toSorted(),
      );
    }));

  it('go back with the table: defaults that are set, changed and dropped, one by each name', () =>
    inClone(original, async (shop) => {
      const defaults = () =>
        shop.pool.query(
          `select attname, pg_get_expr(adbin, adrelid) as value from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum
           where adrelid = 'public.orders'::regclass and attgenerated = '' order by 1`,
        );
      const { rows: before } = await defaults();
      await afterBack(
        shop,
        `alter view public.orders alter column quantity set default 7, alter column state set default 'sad';
         alter table sales.orders alter column placed_at drop default`,
      );
      const { rows: after } = await defaults();
      expect(after).toEqual(
        [
          ...before.filter(({ attname }) => !['quantity', 'state', 'placed_at'].includes(attname)),
          { attname: 'quantity', value: '7' },
          { attname: 'state', value: expect.stringContaining(`'sad'`) },
        ].toSorted((a, b) => (a.attname < b.attname ? -1 : 1)),
      );
    }));

  it.each<[what: string, sql: (roles: Shop['roles']) => string, term: RegExp]>([
    [
      'a default',
      () =>
        `alter view public.orders alter column quantity set default 7; alter table sales.orders alter column quantity set default 8`,
      /sales\.orders: default of quantity/,
    ],
    [
      'a right',
      ({ auditor }) =>
        `revoke select on public.orders from ${auditor}; revoke grant option for select on sales.orders from ${auditor}`,
      /sales\.orders: SELECT to \w+_auditor/,
    ],
  ])(
    'keep the table where it is when it was changed by both, differently, and verify says so before: %s',
    (_what, sql, term) =>
      inClone(original, async (shop) => {
        await moved(shop);
        await shop.pool.query(sql(shop.roles));
        expect(await faultsOf(shop)).toMatch(/public\.orders/);
        const [stuck] = notUndone(await putBack(shop));
        expect(stuck).toMatch(
          /^table public\.orders: What was changed of public\.orders by the old name is not so by the new one/,
        );
        expect(stuck).toMatch(term);
        expect(await standingSteps(shop)).toContain('table public.orders');
      }),
  );

  it('are told by verify', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      expect(await faultsOf(shop)).toBe('');
      await shop.pool.query(
        `revoke select on public.orders from ${shop.roles.auditor}; alter view public.carts alter column content set default '[]'`,
      );
      const faults = await faultsOf(shop);
      expect(faults).toMatch(/public\.orders: \w+_auditor may select by the new name, and may not by the old/);
      expect(faults).toMatch(/public\.carts: column content of carts has the default/);
    }));

  it('of a step that did not write down what both had alike, go back where the table itself was left alone', () =>
    inClone(original, async (shop) => {
      const { auditor, web } = shop.roles;
      const changes = await afterBack(
        shop,
        `
        update restructure.steps set terms = null;
        revoke select on public.orders from ${auditor};
        grant select on sales.carts to ${web}; alter table sales.carts alter column content set default '[]'`,
      );
      expect(changes.filter((line) => !/^. column /.test(line)).toSorted()).toEqual([
        `+ grant relation public.carts: SELECT to ${web} by liventix f`,
        `- grant relation public.orders: SELECT to ${auditor} by liventix t`,
      ]);
      const { rows } = await shop.pool.query(
        `select pg_get_expr(adbin, adrelid) as value from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum
         where adrelid = 'public.carts'::regclass and attname = 'content'`,
      );
      expect(rows).toEqual([{ value: `'[]'::jsonb` }]);
    }));
});

describe('partitions and tables that come and go', () => {
  it('a partition that was dropped is no fault: the rest goes back', () =>
    inClone(original, async (shop) => {
      const changes = await afterBack(
        shop,
        'drop view public.events_sales_2025; drop table sales.events_sales_2025; drop table sales.events_rest cascade',
      );
      expect(changes.filter((line) => !line.includes('events_sales_2025') && !line.includes('events_rest'))).toEqual(
        [],
      );
      expect(left(await moved(shop))).toEqual({});
    }));

  it('a partition that was made goes back with its table, and comes again', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      await shop.pool.query(`
        create table sales.events_refunds partition of sales.events for values in ('late') partition by range (at);
        create table sales.events_refunds_all (note_id serial, kind text not null, at date not null, body jsonb, id bigint not null);
        alter table sales.events_refunds_all drop column note_id;
        alter table sales.events_refunds attach partition sales.events_refunds_all default;
        create statistics sales.events_together on kind, at from sales.events_refunds_all;
        insert into public.events (kind, at) values ('late', '2026-03-03')`);
      expect(notUndone(await putBack(shop))).toEqual([]);
      const { rows } = await shop.pool.query(
        `select (select count(*) from pg_class where relnamespace = 'public'::regnamespace and relname like 'events\\_refunds%' and relkind in ('r', 'p')) as tables,
           (select count(*) from pg_statistic_ext where stxnamespace = 'public'::regnamespace and stxname = 'events_together') as statistics, to_regnamespace('sales') as schema`,
      );
      expect(rows).toEqual([{ tables: 2n, statistics: 1n, schema: null }]);
      expect(left(await moved(shop))).toEqual({});
      expect((await shop.pool.query(`select kind from public.events_refunds_all`)).rows).toEqual([{ kind: 'late' }]);
      expect(await faultsOf(shop)).toBe('');
    }));

  it('a table that was dropped is nothing to undo, and is said to be', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      await shop.pool.query('drop table sales.carts cascade; create table public.carts (other int)');
      const plan = await planOf(shop, shopMapping(shop, FEW));
      expect(findingsFor(plan, 'carts')).toEqual(['blocks elsewhere']);
      expect((await putBack(shop, { tables: ['carts'] })).steps).toMatchObject([
        { object: 'public.carts', status: 'undone', reason: expect.stringMatching(/it was dropped/) },
      ]);
      expect(notUndone(await putBack(shop))).toEqual([]);
      expect(await standingSteps(shop)).toEqual([]);
      await shop.pool.query('select other from public.carts');
    }));
});
