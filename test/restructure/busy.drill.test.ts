import type { PoolClient } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool } from '../../src/db/pool.ts';
import { MAX_TRIES } from '../../src/db/try-until-free.ts';
import { applyPlan, asOnlyRun } from '../../src/restructure/apply.ts';
import { lockTimeoutMs } from '../../src/restructure/tenancy/work.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { eventually } from '../support/eventually.ts';
import { left, moveAll, notUndone, planOf, putBack, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

let original: Shop;
beforeAll(async () => {
  original = await createShop();
});
afterAll(() => original.drop());

const FEW = { schemas: [{ name: 'sales', tables: ['orders', 'carts', 'products'] }], roles: undefined };

/** Somebody whose transaction has done this, and stays open meanwhile. */
async function whileOpen(shop: Shop, sql: string, work: (holder: PoolClient) => Promise<void>): Promise<void> {
  const holder = await shop.pool.connect();
  try {
    await holder.query(`set application_name = 'report'; begin; ${sql}`);
    await work(holder);
  } finally {
    await holder.query('rollback');
    holder.release();
  }
}

describe('a table that somebody uses for long', () => {
  it.each<[what: string, sql: string, table: string]>([
    ['a read', 'select count(*) from public.orders', 'orders'],
    ['a row that is locked', 'select from public.orders for update', 'orders'],
    ['a number taken of its sequence', `select nextval('public.products_id_seq')`, 'products'],
  ])('is left, with whoever holds it named, and the rest moves: %s', (_what, sql, table) =>
    inClone(original, (shop) =>
      whileOpen(shop, sql, async () => {
        const busy: string[] = [];
        const applied = await moveAll(shop, shopMapping(shop, FEW), {
          maxTries: 2,
          onBusy: (name, tries) => busy.push(`${name} ${tries}`),
        });
        expect(busy).toEqual([`${table} 1`, `${table} 2`]);
        expect(Object.keys(left(applied))).toEqual([table]);
        expect(left(applied)[table]).toMatch(/was in use each of 2 times, for 50 ms\. Nothing was changed\./);
        expect(left(applied)[table]).toMatch(
          /held by process \d+ \(liventix, report, idle in transaction, since .* UTC\) /,
        );
        expect(applied.outcomes.filter(({ status }) => status === 'moved')).toHaveLength(2);
      }),
    ),
  );

  it('stays moved too, until it is free', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      await moveAll(shop, shopMapping(shop, FEW));
      await whileOpen(shop, 'select from public.carts', async () => {
        expect(notUndone(await putBack(shop, { maxTries: 2 }))[0]).toMatch(
          /^table public\.carts: public\.carts was in use each of 2 times/,
        );
      });
      expect(notUndone(await putBack(shop))).toEqual([]);
      expect(changesOf(before, await catalogOf(shop))).toEqual([]);
    }));

  it('is moved as soon as it is free', () =>
    inClone(original, (shop) =>
      whileOpen(shop, 'select from public.orders', async (holder) => {
        const applied = await moveAll(shop, shopMapping(shop, FEW), { onBusy: () => void holder.query('rollback') });
        expect(left(applied)).toEqual({});
      }),
    ));

  it('keeps nobody else waiting for longer than 50 ms and what a move takes', () =>
    inClone(original, (shop) =>
      whileOpen(shop, `select nextval('public.products_id_seq'); select from public.orders`, async () => {
        const pool = createPool({ databaseUrl: shop.url, max: 4 });
        const waits: number[] = [];
        let isOver = false;
        const users = ['orders', 'products', 'carts'].map(async (table) => {
          while (!isOver) {
            const since = performance.now();
            await pool.query(`select count(*) from public.${table}`);
            waits.push(performance.now() - since);
          }
        });
        const applied = await moveAll(shop, shopMapping(shop, FEW), { maxTries: 6 });
        isOver = true;
        await Promise.all(users);
        await pool.end();
        expect(Object.keys(left(applied))).toEqual(['orders', 'products']);
        expect(waits.length).toBeGreaterThan(20);
        // With room for a machine that does other things.
        expect(Math.max(...waits)).toBeLessThan(50 + 450);
      }),
    ));

  it('is tried often, and each of the locks of tenancy, which are many, is waited for the less', () => {
    expect(MAX_TRIES).toBe(40);
    expect([0, 1, 2, 5, 10, 1_000].map(lockTimeoutMs)).toEqual([50, 50, 25, 10, 5, 5]);
  });
});

describe('two at once', () => {
  it('are one: the second is refused, whether it applies or rolls back', () =>
    inClone(original, async (shop) => {
      await asOnlyRun(shop.pool, {}, async () => {
        const refused = { code: 'RESTRUCTURE_RUNNING' };
        await expect(moveAll(shop, shopMapping(shop))).rejects.toMatchObject(refused);
        await expect(putBack(shop)).rejects.toMatchObject(refused);
        expect(await standingSteps(shop)).toEqual([]);
      });
      expect(left(await moveAll(shop, shopMapping(shop, FEW)))).toEqual({});
    }));
});

it('a run of which somebody ended the session that keeps others away does nothing more, and says why', () =>
  inClone(original, (shop) =>
    whileOpen(shop, 'lock table public.orders', async (holder) => {
      const moving = moveAll(
        shop,
        shopMapping(shop, { schemas: [{ name: 'sales', tables: ['orders'] }], roles: undefined }),
        {
          onBusy: () => {
            void holder.query(
              `select pg_terminate_backend(l.pid) from pg_locks l where l.locktype = 'advisory' and l.classid::int8 = hashtext('liventix.restructure')::int8 & 4294967295
               and l.database = (select oid from pg_database where datname = current_database())`,
            );
          },
        },
      );
      await expect(moving).rejects.toMatchObject({
        code: 'DB_UNREACHABLE',
        message: expect.stringMatching(/kept other runs away was lost .* Run it again/),
      });
    }),
  ));

describe('a stop', () => {
  it('comes between two tables, says so, and the next run goes on', () =>
    inClone(original, async (shop) => {
      const before = await catalogOf(shop);
      const plan = await planOf(shop, shopMapping(shop));
      const stop = new AbortController();
      const options = { schemas: [], tables: [], stop: stop.signal };
      const stopped = await applyPlan(shop.pool, plan, {
        ...options,
        onProgress: (table) => {
          if (table === 'products') stop.abort();
        },
      });
      expect(stopped.isStopped).toBe(true);
      expect(stopped.outcomes.map(({ table }) => table)).toEqual(['customers', 'sellers', 'payouts', 'products']);
      const gone = await applyPlan(shop.pool, plan, { schemas: [], tables: [] });
      expect(gone.outcomes.filter(({ status }) => status === 'already')).toHaveLength(4);
      const again = new AbortController();
      const back = await putBack(shop, {
        stop: again.signal,
        onProgress: (object) => {
          if (object === 'public.products') again.abort();
        },
      });
      expect(back.isStopped).toBe(true);
      expect(back.steps.at(-1)).toMatchObject({ object: 'public.products', status: 'undone' });
      await putBack(shop);
      expect(changesOf(before, await catalogOf(shop))).toEqual([]);
    }));

  it('does not wait for a table that is in use', () =>
    inClone(original, (shop) =>
      whileOpen(shop, 'lock table public.orders', async () => {
        const stop = new AbortController();
        let tries = 0;
        const applied = moveAll(shop, shopMapping(shop, FEW), {
          stop: stop.signal,
          onBusy: () => {
            tries += 1;
          },
        });
        await eventually('it waits', () => tries > 0);
        stop.abort();
        expect(await applied).toMatchObject({ isStopped: true, outcomes: [{ table: 'orders', status: 'skipped' }] });
        expect(tries).toBeLessThan(MAX_TRIES);
      }),
    ));
});
