import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { moveAll, notUndone, putBack } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const moved = (shop: Shop, changes = {}) => moveAll(shop, shopMapping(shop, changes));

describe('what others did meanwhile', () => {
  it('stays with a table that goes back', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      await moved(shop);
      await shop.pool.query(`
        alter table sales.orders add column gift boolean default false, alter column quantity set default 2;
        create index orders_later on sales.orders (placed_at);
        comment on table sales.orders is 'Later.';
        create statistics sales.orders_together on state, quantity from sales.orders;
        drop statistics people."Customers' Names";
        create policy secrets_later on sales.secrets for select using (true);
        grant truncate on sales.carts to ${shop.roles.web};
        alter publication of_the_schema drop table only sales.secrets;
        drop view public.carts`);
      expect(notUndone(await putBack(shop))).toEqual([]);
      const changes = changesOf(before, await catalogOf(shop)).map((line) => line.replace(/\d{4,}/g, '…'));
      expect(changes.map((line) => line.split(' ').slice(0, 4).join(' ')).toSorted()).toEqual([
        '+ column public.orders 6',
        '+ column public.orders 8',
        '+ column public.orders_later 1',
        '+ comment table public.orders',
        '+ grant relation public.carts:',
        '+ index CREATE INDEX',
        '+ policy public.secrets secrets_later',
        '+ relation public.orders_later i',
        '+ statistics liventix CREATE',
        '- column public.orders 6',
        '- statistics liventix CREATE',
      ]);
    }));

  it('keeps a table where something stands on its view, and says what; once that is gone, rollback goes on', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      await moved(shop);
      await shop.pool.query(
        `create view public.late as select id from public.orders; create function public.bound() returns bigint language sql begin atomic select count(*) from public.events_rest; end`,
      );
      const stuck = notUndone(await putBack(shop));
      expect(stuck[0]).toMatch(
        /^table public\.events: something stands on it: function (?:public\.)?bound\(\) depends on view (?:public\.)?events_rest/,
      );
      expect(stuck[1]).toMatch(
        /^table public\.orders: something stands on it: view (?:public\.)?late depends on view (?:public\.)?orders\. Drop that, or/,
      );
      expect(stuck.slice(2).every((line) => line.endsWith(' stands on it'))).toBe(true);
      const { rows } = await shop.pool.query(
        `select 'sales.orders'::regclass, 'public.secrets'::regclass, count(*) from public.orders`,
      );
      expect(rows).toMatchObject([{ count: 3n }]);
      await shop.pool.query('drop view public.late; drop function public.bound()');
      expect(notUndone(await putBack(shop))).toEqual([]);
      expect(changesOf(before, await catalogOf(shop))).toEqual([]);
    }));

  it('keeps a schema that something was made in', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      await shop.pool.query('create table people.later ()');
      const stuck = notUndone(await putBack(shop));
      expect(stuck[0]).toMatch(/^schema people: something stands on it: table people\.later depends on schema people/);
      await shop.pool.query('drop table people.later');
      expect(notUndone(await putBack(shop))).toEqual([]);
    }));

  it('keeps a table that is called otherwise now, and names it', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      await shop.pool.query('alter table sales.carts rename to trolleys');
      expect(notUndone(await putBack(shop))[0]).toMatch(/^table public\.carts: .*"sales\.carts" does not exist/);
      await shop.pool.query('alter table sales.trolleys rename to carts');
      expect(notUndone(await putBack(shop))).toEqual([]);
    }));
});
