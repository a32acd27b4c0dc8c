import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Applied, applyPlan } from '../../src/restructure/apply.ts';
import { moveTable } from '../../src/restructure/move.ts';
import type { Plan } from '../../src/restructure/planned.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { asSuperuser } from '../support/database.ts';
import { findingsFor, left, moveAll, planned, planOf, putBack } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// Tables that cannot move, each for its own reason, in one plan with some that can.

let shop: Shop;
beforeAll(async () => {
  shop = await createShop();
});
afterAll(() => shop.drop());

const OF_THE_OWNER = `
  set search_path = public;
  create schema there;
  create table there.relation_taken ();
  create table relation_taken ();
  create type there.type_taken as enum ('x');
  create table type_taken ();
  create type there._array_taken as enum ('x');
  create table array_taken ();
  create table there.index_taken ();
  create table indexed (id int);
  create index index_taken on indexed (id);
  create sequence there.counted_id_seq;
  create table counted (id serial);
  create table measured (a int, b int);
  create statistics statistics_taken on a, b from measured;
  create statistics there.statistics_taken on id, number from orders;
  create type there.no_conflict as enum ('x');
  create table fine (id int primary key);
  create index no_conflict on fine (id);
  create table twice ();
  create table in_both ();
  create table mother (id int);
  create table father (id int);
  create table child () inherits (mother, father);
  create table locked_out (id int);
  revoke all on locked_out from liventix;
  create table parted (id int) partition by list (id);
  create table watched (id int primary key);
  create schema published;
  create table to_be_published (id int primary key);
  create table kept_away ();
  create table needs_usage (id int primary key);
  reset search_path`;

const OF_THE_SUPERUSER = `
  create foreign data wrapper nowhere;
  create server elsewhere foreign data wrapper nowhere;
  create foreign table public.remote (id int) server elsewhere;
  alter foreign table public.remote owner to liventix;
  create foreign table public.parted_remote partition of public.parted for values in (1) server elsewhere;
  create table public.of_another ();
  create table public.of_an_extension ();
  alter table public.of_an_extension owner to liventix;
  alter extension plpgsql add table public.of_an_extension;
  create view public.view_of_another as select id from public.watched;
  create view public.view_of_an_extension as select id from public.watched;
  alter extension plpgsql add view public.view_of_an_extension;
  create publication of_a_target for tables in schema published;
  create schema forbidden;
  create schema usable;
  grant create, usage on schema usable to liventix`;

const MAPPING = {
  roles: undefined,
  schemas: [
    {
      name: 'there',
      tables: [
        ...[
          'missing',
          'relation_taken',
          'type_taken',
          'array_taken',
          'indexed',
          'counted',
          'measured',
          'fine',
          'twice',
          'twice',
          'in_both',
        ],
        ...[
          'open_orders',
          'totals',
          'invoice_numbers',
          'events_rest',
          'dogs',
          'mother',
          'remote',
          'parted',
          'of_another',
          'of_an_extension',
        ],
        ...['watched', 'locked_out'],
      ],
    },
    { name: 'here', tables: ['in_both', 'events', 'animals'] },
    { name: 'elsewhere', tables: ['events_sales_later', 'Puppies'] },
    { name: 'published', tables: ['to_be_published'] },
    { name: 'forbidden', tables: ['kept_away'] },
    { name: 'usable', tables: ['needs_usage'] },
  ],
};

describe('what cannot move', () => {
  let plan: Plan;
  let applied: Applied;
  let before: readonly string[];
  beforeAll(async () => {
    await shop.pool.query(OF_THE_OWNER);
    await asSuperuser(shop, OF_THE_SUPERUSER);
    await shop.pool.query(`grant select on public.needs_usage to ${shop.roles.web}`);
    before = await catalogOf(shop);
    plan = await planOf(shop, shopMapping(shop, MAPPING));
    applied = await moveAll(shop, shopMapping(shop, MAPPING));
  });

  it.each<[table: string, finding: string, says: RegExp]>([
    ['missing', 'missing', /there is no table public\.missing/],
    ['relation_taken', 'target-taken', /there\.relation_taken is there already/],
    ['type_taken', 'target-taken', /there\.type_taken is there already/],
    ['array_taken', 'target-taken', /there\._array_taken is there already/],
    ['indexed', 'target-taken', /there\.index_taken is there already/],
    ['counted', 'target-taken', /there\.counted_id_seq is there already/],
    ['measured', 'target-taken', /there\.statistics_taken is there already/],
    ['twice', 'mapped-twice', /more than once/],
    ['in_both', 'mapped-twice', /more than once/],
    ['open_orders', 'not-a-table', /it is a view/],
    ['totals', 'not-a-table', /it is a materialized view/],
    ['invoice_numbers', 'missing', /there is no table public\.invoice_numbers/],
    ['events_rest', 'partition', /is a partition of public\.events, with which it goes/],
    ['events', 'scattered', /mapped to there/],
    ['events_sales_later', 'partition', /is a partition of public\.events_sales/],
    ['dogs', 'heir', /inherits from public\.animals/],
    ['animals', 'scattered', /mapped to elsewhere/],
    ['Puppies', 'heir', /inherits from public\.dogs/],
    ['mother', 'scattered', /also inherits from public\.father/],
    ['remote', 'foreign-table', /another server/],
    ['parted', 'foreign-table', /its partition public\.parted_remote is on another server/],
    ['of_another', 'not-ours', /belongs to postgres/],
    ['of_an_extension', 'of-an-extension', /extension plpgsql/],
    ['locked_out', 'may-not-lock', /grant it UPDATE/],
    ['to_be_published', 'would-be-published', /of_a_target has all tables of published/],
    ['kept_away', 'may-not-create', /have CREATE granted/],
    ['needs_usage', 'may-not-grant', /_web may not use usable/],
  ])('%s: %s', (table, finding, says) => {
    expect(planned(plan, table).readiness).toBe('blocked');
    expect(findingsFor(plan, table)).toContain(`blocks ${finding}`);
    expect(
      planned(plan, table)
        .findings.map(({ text }) => text)
        .join('\n'),
    ).toMatch(says);
    expect(left(applied)[table]).toMatch(says);
  });

  it('is left as it was, and the rest moves', async () => {
    expect(applied.outcomes.filter(({ status }) => status === 'moved').map(({ table }) => table)).toEqual([
      'fine',
      'watched',
    ]);
    expect(findingsFor(plan, 'watched').filter((finding) => finding === 'warns read-by-others')).toHaveLength(2);
    await putBack(shop);
    expect(changesOf(before, await catalogOf(shop))).toEqual([]);
  });
});

describe('under the lock', () => {
  it('a table that is not what the plan says is left', () =>
    inClone(shop, async (clone) => {
      const mapping = shopMapping(clone);
      const { relations } = planned(await planOf(clone, mapping), 'carts');
      await clone.pool.query('create schema sales');
      const moving = {
        table: 'carts',
        target: 'sales',
        relations: relations.map(({ oid }) => oid),
        fingerprint: 'another',
      };
      await expect(moveTable(clone.pool, moving, { mapping, plan: 'a test' })).rejects.toMatchObject({
        code: 'RESTRUCTURE_DRIFTED',
        message: expect.stringMatching(/public\.carts is not any more what the plan says/),
      });
    }));

  it('a table is left where a right was taken meanwhile, and the rest moves', () =>
    inClone(shop, async (clone) => {
      await asSuperuser(clone, 'create schema lent; grant create, usage on schema lent to liventix');
      const schemas = [
        { name: 'lent', tables: ['carts'] },
        { name: 'a', tables: ['columnless'] },
      ];
      await asSuperuser(clone, `grant usage on schema lent to public, ${clone.roles.clerk}`);
      const plan = await planOf(clone, shopMapping(clone, { roles: undefined, schemas }));
      await asSuperuser(clone, 'revoke create on schema lent from liventix');
      const applied = await applyPlan(clone.pool, plan, { schemas: [], tables: [] });
      expect(left(applied)).toEqual({ carts: expect.stringMatching(/permission denied for schema lent/) });
      expect(applied.outcomes.map(({ status }) => status)).toEqual(['skipped', 'moved']);
    }));

  it('a step that would change more than it says is undone, and says what', () =>
    inClone(shop, async (clone) => {
      const mapping = shopMapping(clone, { roles: undefined, schemas: [{ name: 'a', tables: ['carts', 'animals'] }] });
      const plan = await planOf(clone, mapping);
      await asSuperuser(
        clone,
        `create function public.meddles() returns event_trigger language plpgsql as $$
         begin if to_regclass('a.carts') is not null then comment on table a.carts is 'meddled'; end if; end $$;
         create event trigger meddles on ddl_command_end when tag in ('ALTER TABLE') execute function public.meddles()`,
      );
      const applied = await applyPlan(clone.pool, plan, { schemas: [], tables: [] });
      expect(left(applied)).toEqual({
        carts: expect.stringMatching(
          /public\.carts would not be what it was: \d+ relation carts: comment was null and would be "meddled"\. Nothing was changed\./,
        ),
      });
    }));
});

describe('whoever runs it', () => {
  it('may lack the right to make schemas, or to make anything where the tables are', () =>
    inClone(shop, async (clone) => {
      await asSuperuser(
        clone,
        `revoke create on database ${clone.name} from liventix; revoke all on schema public from liventix; alter schema public owner to postgres; grant usage on schema public to liventix`,
      );
      const plan = await planOf(
        clone,
        shopMapping(clone, { roles: undefined, schemas: [{ name: 'fresh', tables: ['carts'] }] }),
      );
      expect(
        planned(plan, 'carts')
          .findings.map(({ text }) => text)
          .join('\n'),
      ).toMatch(/its view cannot be made in public[\s\S]*there is no schema fresh, and it cannot be made/);
      expect(left(await moveAll(clone, plan.mapping))['carts']).toMatch(/CREATE/);
    }));

  it('may not be the owner of a publication of the schema', () =>
    inClone(shop, async (clone) => {
      await asSuperuser(clone, 'alter publication of_the_schema owner to postgres');
      const plan = await planOf(clone, shopMapping(clone));
      expect(findingsFor(plan, 'orders')).toContain('blocks publication-not-ours');
      // Not logged, so not published.
      expect(planned(plan, 'carts').readiness).not.toBe('blocked');
      expect(Object.keys(left(await moveAll(clone, plan.mapping)))).not.toContain('carts');
    }));
});
