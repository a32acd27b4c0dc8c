import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { findingsFor, left, moveAll, planned, planOf } from '../support/moves.ts';
import { createShop, type Shop, shopMapping } from '../support/shop.ts';

let shop: Shop;
beforeAll(async () => {
  shop = await createShop();
});
afterAll(() => shop.drop());

const TABLES = ['customers', 'products', 'orders', 'secrets', 'carts', 'animals', 'events', 'keyless'];
const mapping = (changes = {}) =>
  shopMapping(shop, { roles: undefined, schemas: [{ name: 'a', tables: TABLES }], ...changes });

const define = (name: string, body: string) =>
  shop.pool.query(`create function public.${name}() returns void language plpgsql as $body$ begin ${body} end $body$`);

it('what functions do that views do not take is found in their bodies, blocks, and is left until it is accepted or replaced', async () => {
  await define('imports', `execute 'x'; copy public.customers to '/nowhere';`);
  await define('empties', 'truncate public.carts;');
  await define('numbers', `perform nextval('public.products_id_seq');`);
  await define('defers', 'set constraints public.orders_customer deferred;');
  await define('alone', 'perform from only public.animals; perform from only public.secrets;');
  await define('merges', 'merge into public.secrets s using public.carts c on false when not matched then do nothing;');
  await define('looks', `perform 'public.keyless'::regclass;`);
  await define('dynamic', `execute format('truncate %I', 'events');`);
  const plan = await planOf(shop, mapping());
  const blocks = Object.fromEntries(
    TABLES.map((table) => [table, findingsFor(plan, table).filter((finding) => finding.startsWith('blocks'))]),
  );
  const isMergeTaken = inject('postgresMajor') >= 17;
  expect(blocks).toEqual({
    customers: ['blocks calls-copy'],
    products: ['blocks calls-sequence'],
    orders: ['blocks calls-set-constraints'],
    secrets: isMergeTaken ? [] : ['blocks calls-merge'],
    carts: ['blocks calls-truncate'],
    animals: ['blocks calls-only'],
    events: ['blocks calls-dynamic'],
    keyless: [],
  });
  expect(findingsFor(plan, 'keyless')).toContain('warns calls-regclass');
  expect(planned(plan, 'carts').findings[0]?.text).toBe('function public.empties(): TRUNCATE takes no view');

  const accept = [
    { table: 'events', finding: 'calls-dynamic', because: 'it runs no more' },
    // Only what texts do can be accepted.
    { table: 'customers', finding: 'published', because: 'no' },
  ];
  const replacements = [
    {
      function: 'public.empties()',
      definition: ['create or replace function public.empties() returns void language sql', `as 'delete from carts'`],
    },
  ];
  const applied = await moveAll(shop, mapping({ accept, replacements }));
  expect(Object.keys(left(applied))).toEqual([
    'customers',
    'products',
    'orders',
    ...(isMergeTaken ? [] : ['secrets']),
    'animals',
  ]);
  expect(left(applied)['products']).toMatch(/function public\.numbers\(\): the sequence goes along/);
  // What was replaced once is not replaced again.
  expect(Object.keys(left(await moveAll(shop, mapping({ accept, replacements })))).length).toBeGreaterThan(3);
  const again = await planOf(shop, mapping({ accept, replacements }));
  expect(planned(again, 'events').readiness).toBe('moved');
  // As whoever calls it finds tables, not as whoever replaced it.
  await shop.pool.query('set search_path = public; select empties(); reset search_path');
});
