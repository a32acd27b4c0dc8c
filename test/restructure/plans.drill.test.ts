import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPool } from '../../src/db/pool.ts';
import { applyPlan } from '../../src/restructure/apply.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import { readPlan, writePlan } from '../../src/restructure/plan-file.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { createDatabase } from '../support/database.ts';
import { findingsFor, left, moveAll, planned, planOf } from '../support/moves.ts';
import { cloneShop, createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

let shop: Shop;
let folder: string;
beforeAll(async () => {
  shop = await createShop();
  folder = await mkdtemp(join(tmpdir(), 'plans-'));
});
afterAll(async () => {
  await shop.drop();
  await rm(folder, { recursive: true, force: true });
});

const ALL = { schemas: [], tables: [] };

describe('a plan', () => {
  it('is the same of the same database, changes nothing, and comes back from its file as it was', () =>
    inClone(shop, async (clone) => {
      const before = await catalogOf(clone);
      const plan = await planOf(clone, shopMapping(clone));
      expect(changesOf(before, await catalogOf(clone))).toEqual([]);
      expect((await planOf(clone, shopMapping(clone))).digest).toBe(plan.digest);
      const file = join(folder, 'plan.json');
      await writePlan(file, plan);
      expect(await readPlan(file)).toEqual(plan);
      expect((await readFile(file, 'utf8')).split('\n').length).toBe(plan.tables.length + 3);
    }));

  it('waits for nobody, whoever holds the tables', () =>
    inClone(shop, async (clone) => {
      const holder = await clone.pool.connect();
      try {
        await holder.query('begin; lock table public.orders, public.products in access exclusive mode');
        const patient = createPool({ databaseUrl: clone.url, max: 1, options: '-c lock_timeout=10' } as never);
        try {
          const plan = await makePlan(patient, shopMapping(clone), { now: new Date() });
          expect(planned(plan, 'orders').readiness).toBe('warned');
        } finally {
          await patient.end();
        }
      } finally {
        await holder.query('rollback');
        holder.release();
      }
    }));

  it('says what of it was done', () =>
    inClone(shop, async (clone) => {
      await moveAll(clone, shopMapping(clone), { tables: ['carts'] });
      const plan = await planOf(clone, shopMapping(clone));
      expect(plan.tables.filter(({ readiness }) => readiness === 'moved').map(({ table }) => table)).toEqual(['carts']);
      expect(left(await applyPlan(clone.pool, plan, ALL))).toEqual({});
    }));

  it('says of a table that was moved elsewhere where it is, and leaves it there', () =>
    inClone(shop, async (clone) => {
      const to = (name: string) => shopMapping(clone, { roles: undefined, schemas: [{ name, tables: ['carts'] }] });
      await moveAll(clone, to('a'));
      expect(planned(await planOf(clone, to('a')), 'carts').readiness).toBe('moved');
      expect(left(await moveAll(clone, to('b')))).toEqual({
        carts: 'it was moved before and is in a, not in b: liventix restructure rollback --table carts',
      });
    }));

  it('says what stays that nobody spoke of', () =>
    inClone(shop, async (clone) => {
      expect((await planOf(clone, shopMapping(clone, { stay: [] }))).unmapped).toEqual(['changes', 'outbox']);
    }));

  it('of an empty database moves nothing', async () => {
    const empty = await createDatabase();
    try {
      const plan = await planOf(empty, shopMapping(shop));
      expect(new Set(plan.tables.map(({ readiness }) => readiness))).toEqual(new Set(['blocked']));
      expect(findingsFor(plan, 'orders')).toEqual(['blocks missing']);
      const { outcomes } = await applyPlan(empty.pool, plan, ALL);
      expect(new Set(outcomes.map(({ status }) => status))).toEqual(new Set(['skipped']));
    } finally {
      await empty.drop();
    }
  });
});

describe('a plan that is not any more true', () => {
  let clone: Shop;
  beforeAll(async () => {
    clone = await cloneShop(shop);
  });
  afterAll(() => clone.drop());

  it.each<[what: string, sql: string, table: string]>([
    ['a column', 'alter table public.carts add column more int', 'carts'],
    ['a type', 'alter table public.products alter column sku type varchar', 'products'],
    ['a default', 'alter table public.keyless alter column line set default 1', 'keyless'],
    ['an index', 'create index on public.products (price_cents)', 'products'],
    ['a constraint', 'alter table public.products drop constraint products_known', 'products'],
    ['a foreign key to it', 'create table public.more_1 (id int references public.sellers)', 'sellers'],
    ['a policy', 'drop policy secrets_owner on public.secrets', 'secrets'],
    ['row-level security', 'alter table public.secrets no force row level security', 'secrets'],
    ['a trigger', 'alter table public.orders enable trigger orders_never', 'orders'],
    ['a rule', 'drop rule keyless_noted on public.keyless', 'keyless'],
    ['a grant', 'grant truncate on public.animals to anon', 'animals'],
    ['a grant of a column', 'grant select (said) on public.secrets to anon', 'secrets'],
    ['a comment', `comment on column public.customers.note is 'new'`, 'customers'],
    ['an owner', 'alter table public.sellers owner to current_user', 'sellers'],
    ['a view', 'create view public.more_2 as select id from public.carts', 'carts'],
    ['a publication', 'alter publication of_tables drop table public.keyless', 'keyless'],
    ['statistics', 'drop statistics public.customers_moods', 'customers'],
    [
      'a partition',
      `create table public.more_3 partition of public.events_sales for values from ('2030-01-01') to ('2031-01-01')`,
      'events',
    ],
    ['a partition of a partition', 'alter table public.events_sales_2025 set (fillfactor = 50)', 'events'],
    ['an heir', 'create table public.more_4 () inherits (public.animals)', 'animals'],
    ['a sequence', 'alter sequence public.products_id_seq increment by 5', 'products'],
    ['the table itself', 'drop table public.columnless', 'columnless'],
    ['its name', 'alter table public."select" rename to "from"', 'select'],
  ])('is refused, names the table, and moves nothing: %s', async (_what, sql, table) => {
    const plan = await planOf(clone, shopMapping(clone));
    await clone.pool.query(sql);
    const before = await catalogOf(clone);
    await expect(applyPlan(clone.pool, plan, ALL)).rejects.toMatchObject({
      code: 'RESTRUCTURE_DRIFTED',
      message: expect.stringMatching(new RegExp(`public\\.${table}\\b.*Nothing was moved.*liventix restructure plan`)),
      details: { tables: [table] },
    });
    expect(changesOf(before, await catalogOf(clone))).toEqual([]);
  });

  it('is none for what changes of itself, or of another table', async () => {
    const plan = await planOf(
      clone,
      shopMapping(clone, { schemas: [{ name: 'a', tables: ['carts', 'products', 'orders'] }] }),
    );
    await clone.pool.query(
      `insert into public.carts default values; alter table public.changes add column more int; reindex table public.products`,
    );
    await clone.pool.query('vacuum full public.products');
    await clone.pool.query('analyze public.orders');
    expect(left(await applyPlan(clone.pool, plan, ALL))).toEqual({});
  });
});

describe('a plan file', () => {
  const invalid = async (text: string, says: RegExp) => {
    const file = join(folder, 'bad.json');
    await writeFile(file, text);
    await expect(readPlan(file)).rejects.toMatchObject({
      code: 'RESTRUCTURE_PLAN_INVALID',
      message: expect.stringMatching(says),
    });
  };

  it('that was changed, is damaged, or is none, is refused', async () => {
    const empty = await createDatabase();
    const plan = await planOf(empty, shopMapping(shop)).finally(empty.drop);
    const text = JSON.stringify(plan);
    await invalid(text.replace('"target":"people"', '"target":"peopl3"'), /was changed since it was made/);
    await invalid(text.slice(0, -10), /is no plan/);
    await invalid('', /is no plan/);
    await invalid('[]', /was changed|is no plan/);
    await invalid('null', /is no plan/);
    await invalid('{"version": 2, "digest": ""}', /was changed|another version/);
    await invalid('{"name": "shop", "schemas": []}', /is no plan/);
    await expect(readPlan(join(folder, 'nowhere.json'))).rejects.toMatchObject({
      code: 'RESTRUCTURE_PLAN_INVALID',
      message: expect.stringMatching(/is not there\. Make one/),
    });
    await expect(readPlan(folder)).rejects.toMatchObject({ code: 'RESTRUCTURE_PLAN_INVALID' });
    await expect(writePlan(join(folder, 'no', 'plan.json'), plan)).rejects.toMatchObject({
      code: 'RESTRUCTURE_PLAN_INVALID',
    });
  });

  it('of another database is refused', () =>
    inClone(shop, async (clone) => {
      const plan = await planOf(clone, shopMapping(clone));
      await inClone(shop, (other) =>
        expect(applyPlan(other.pool, plan, ALL)).rejects.toMatchObject({
          code: 'RESTRUCTURE_OTHER_DATABASE',
          message: expect.stringContaining(clone.name),
        }),
      );
    }));
});
