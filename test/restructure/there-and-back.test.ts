import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { left, moveAll, notUndone, putBack, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const moved = (shop: Shop, changes = {}) => moveAll(shop, shopMapping(shop, changes));
const statuses = (applied: Awaited<ReturnType<typeof moved>>) => [
  ...new Set(applied.outcomes.map(({ status }) => status)),
];

describe('a move and a rollback', () => {
  it('leave the whole catalog as it was, however often', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      for (let time = 0; time < 2; time += 1) {
        expect(left(await moved(shop))).toEqual({});
        expect(changesOf(before, await catalogOf(shop)).length).toBeGreaterThan(100);
        expect(notUndone(await putBack(shop))).toEqual([]);
        expect(changesOf(before, await catalogOf(shop))).toEqual([]);
        expect(await standingSteps(shop)).toEqual([]);
      }
    }));

  it('keep what was written meanwhile, by either name, and where sequences are', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      await shop.pool.query(
        `insert into public.products (sku) values ('old name'); insert into "Goods & ""Wares""".products (sku) values ('new name')`,
      );
      await putBack(shop);
      const { rows } = await shop.pool.query(
        `insert into public.products (sku) values ('back') returning id, (select array_agg(sku order by id) from public.products) as skus`,
      );
      expect(rows).toEqual([{ id: 6, skus: ['cup', 'saucer', 'spoon', 'old name', 'new name'] }]);
    }));

  it('do nothing the second time', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      const after = await catalogOf(shop);
      expect(statuses(await moved(shop))).toEqual(['already']);
      expect(changesOf(after, await catalogOf(shop))).toEqual([]);
      await putBack(shop);
      expect((await putBack(shop)).steps).toEqual([]);
    }));

  it('keep what a statement was prepared for, and a cursor that is open', () =>
    inClone(original, async (shop) => {
      const program = await shop.pool.connect();
      const reads = { name: 'reads', text: 'select id, email, mood from public.customers order by id' };
      const writes = { name: 'writes', text: 'update public.customers set note = $1 where id = 1 returning note' };
      const used = async () => [
        (await program.query(reads)).rows,
        (await program.query({ ...writes, values: ['same'] })).rows,
      ];
      try {
        const before = await used();
        await moved(shop);
        expect(await used()).toEqual(before);
        await putBack(shop);
        expect(await used()).toEqual(before);
      } finally {
        program.release();
      }
    }));
});

describe('a part of it', () => {
  it('goes back by its table, its name alone, and comes again', () =>
    inClone(original, async (shop) => {
      await shop.pool.query('create table public.archive (); set search_path = public');
      const mapping = shopMapping(shop, {
        schemas: [{ name: 'a', tables: ['products.archive', 'archive'] }],
        roles: undefined,
      });
      await moveAll(shop, mapping);
      await putBack(shop, { tables: ['archive'] });
      expect(await standingSteps(shop)).toEqual([
        'schema a',
        ...(await standingSteps(shop)).filter((step) => step.startsWith('usage')),
        'table public.products.archive',
      ]);
      expect(statuses(await moveAll(shop, mapping))).toEqual(['already', 'moved']);
      await expect(putBack(shop, { tables: ['nowhere'] })).rejects.toMatchObject({ code: 'RESTRUCTURE_TABLE_UNKNOWN' });
    }));

  it('goes back to a step', () =>
    inClone(original, async (shop) => {
      await moved(shop);
      const { rows } = await shop.pool.query<{ id: bigint }>(
        `select id from restructure.steps where object = 'public.products'`,
      );
      await putBack(shop, { to: rows[0]?.id });
      expect((await standingSteps(shop)).filter((step) => step.startsWith('table'))).toEqual(
        ['customers', 'sellers', 'payouts', 'products'].map((table) => `table public.${table}`),
      );
      await expect(putBack(shop, { to: 4_711n })).rejects.toMatchObject({ code: 'RESTRUCTURE_STEP_UNKNOWN' });
    }));

  it('goes by its schema or its table; the rest goes later, with what it needs', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      const mapping = shopMapping(shop);
      const first = await moveAll(shop, mapping, { schemas: ['people'], tables: ['carts'] });
      expect(first.outcomes.map(({ table }) => table)).toEqual(['customers', 'sellers', 'payouts', 'carts']);
      expect((await standingSteps(shop)).filter((step) => step.startsWith('search path'))).toEqual([]);
      expect(statuses(await moveAll(shop, mapping))).toEqual(['already', 'moved']);
      await expect(moveAll(shop, mapping, { schemas: ['nowhere'] })).rejects.toMatchObject({
        code: 'RESTRUCTURE_TABLE_UNKNOWN',
      });
      await putBack(shop);
      expect(changesOf(before, await catalogOf(shop))).toEqual([]);
    }));

  it('of a mapping that grew lets in whoever its tables need', () =>
    inClone(original, async (shop) => {
      const schemas = (tables: string[]) => ({ schemas: [{ name: 'people', tables }], roles: undefined });
      await moved(shop, schemas(['customers']));
      await moved(shop, schemas(['customers', 'sellers', 'payouts']));
      // Checked with the rights of the seller, who owns both.
      await shop.pool.query('insert into public.payouts (seller_id, cents) values (1, 5)');
      expect(await standingSteps(shop)).toContain(`usage people by ${shop.roles.seller}`);
    }));
});
