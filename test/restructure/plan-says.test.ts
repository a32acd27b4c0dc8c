import { afterAll, beforeAll, expect, it } from 'vitest';
import { createPool } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { dryRunBack } from '../../src/restructure/dry-run.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { asSuperuser } from '../support/database.ts';
import { findingsFor, left, moveAll, planned, planOf, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// What a plan says beside whether a table can move, and what a rollback would do.

let shop: Shop;
beforeAll(async () => {
  shop = await createShop();
});
afterAll(() => shop.drop());

const MOVED = { roles: undefined, schemas: [{ name: 'sales', tables: ['carts', 'products'] }] };

it('who holds a table, or its sequence, for long is named, and nobody is waited for', () =>
  inClone(shop, async (clone) => {
    const holder = await clone.pool.connect();
    await holder.query(`begin; select nextval('public.products_id_seq'); lock table public.carts`);
    const at = async (longHeldMs?: number) =>
      makePlan(clone.pool, shopMapping(clone, MOVED), {
        now: new Date(),
        ...(longHeldMs === undefined ? {} : { longHeldMs }),
      });
    const plan = await at(0);
    const short = await at();
    await holder.query('rollback');
    holder.release();
    for (const table of ['carts', 'products']) {
      expect(findingsFor(plan, table)).toContain('warns held-now');
      // A transaction that began a moment ago ends before anybody has read of it.
      expect(findingsFor(short, table)).not.toContain('warns held-now');
    }
    expect(planned(plan, 'carts').findings.find(({ finding }) => finding === 'held-now')?.text).toMatch(
      /^held by process \d+ \(.*since .* UTC\) .*nextval.*: for as long as that lasts, apply leaves the table where it is$/,
    );
    expect(findingsFor(await at(0), 'carts')).not.toContain('warns held-now');
  }));

it('whose text names a table is said, finding or not, and what pg_cron runs is looked through', () =>
  inClone(shop, async (clone) => {
    await clone.pool.query(`
      create function public.counts() returns bigint language sql as $$ select count(*) from public.carts $$;
      create schema cron;
      create table cron.job (jobid bigint, command text, database text);
      insert into cron.job values (1, 'truncate public.carts', current_database()), (2, 'truncate public.products', 'another')`);
    const plan = await planOf(clone, shopMapping(clone, MOVED));
    expect(planned(plan, 'carts').changes?.functions).toEqual(['function public.counts()', 'cron job 1']);
    expect(planned(plan, 'carts').findings[0]).toEqual({
      finding: 'calls-truncate',
      severity: 'blocks',
      text: 'cron job 1: TRUNCATE takes no view',
    });
    expect(findingsFor(plan, 'products').filter((each) => each.startsWith('blocks'))).toEqual([]);
  }));

it('views that read with the rights of their owner are warned of, once a table; those that do not are not', () =>
  inClone(shop, async (clone) => {
    await clone.pool.query(`
      create view public.over_1 as select id from public.carts;
      create view public.over_2 with (security_invoker = on) as select id from public.carts;
      create view public.over_3 with (security_barrier) as select id from public.carts`);
    const { findings } = planned(await planOf(clone, shopMapping(clone, MOVED)), 'carts');
    expect(findings.filter(({ finding }) => finding === 'read-with-owners-rights').map(({ text }) => text)).toEqual([
      `public.over_1, public.over_3 read it with their owners' rights, and made anew over the old name with those of whoever reads them: name sales there`,
    ]);
  }));

it('who reaches a table by a group or by PUBLIC, and its schema by a grant of his own, goes on reaching it', () =>
  inClone(shop, async (clone) => {
    const { clerk, auditor, web, stranger } = clone.roles;
    await clone.pool.query(`
      create schema app;
      create table app.for_all (id int primary key);
      create table app.for_a_group (id int primary key);
      grant usage on schema app to ${clerk}, ${web};
      grant select on app.for_all to public;
      grant ${auditor} to ${clerk};
      grant select on app.for_a_group to ${auditor}, ${stranger}`);
    const schemas = [
      { name: 'wide', tables: ['for_all'] },
      { name: 'narrow', tables: ['for_a_group'] },
    ];
    expect(
      left(await moveAll(clone, shopMapping(clone, { from: 'app', stay: [], roles: undefined, schemas }))),
    ).toEqual({});
    const usages = (await standingSteps(clone)).filter((step) => step.startsWith('usage'));
    expect(usages).toEqual([`usage wide by ${clerk}`, `usage wide by ${web}`, `usage narrow by ${clerk}`]);
    const checks = await withTransaction(clone.pool, (tx) => checkRestructuring(tx, {}));
    expect(checks.flatMap(({ first }) => first)).toEqual([]);
  }));

it('what the mapping says in vain is said', () =>
  inClone(shop, async (clone) => {
    await clone.pool.query(`create function public.empties() returns void language sql as 'truncate public.carts'`);
    const accept = (table: string, finding: string) => ({ table, finding, because: 'known' });
    const plan = await planOf(
      clone,
      shopMapping(clone, {
        ...MOVED,
        stay: ['nothing', 'changes'],
        accept: [
          accept('carts', 'calls-truncate'),
          accept('carts', 'calls-copy'),
          accept('nobody', 'calls-copy'),
          accept('carts', 'published'),
        ],
        replacements: [{ function: 'public.gone(int)', definition: ['select 1'] }],
      }),
    );
    expect(plan.notes).toEqual([
      'stay: there is no table public.nothing: take it out of the mapping, or correct its name',
      'accept: calls-copy of carts was not found: take it out of the mapping',
      'accept: there is no table public.nobody: take it out of the mapping, or correct its name',
      'accept: published of carts cannot be accepted, only what stored texts do (calls-…)',
      'replacements: there is no function public.gone(int): take it out of the mapping, or correct its name and types',
    ]);
  }));

it('roles that there are not are said, and groups that whoever plans may not make', () =>
  inClone(shop, async (clone) => {
    const weak = `${clone.name}_weak`;
    const groups = { read: `${clone.name}_r`, write: `${clone.name}_w` };
    const mapping = shopMapping(clone, {
      ...MOVED,
      stay: [],
      roles: { ...groups, readers: ['nobody_such'], writers: [] },
    });
    const missing = 'roles: there is no role nobody_such, and it gets nothing: correct its name, or make it first';
    expect((await planOf(clone, mapping)).notes).toEqual([missing]);
    await asSuperuser(clone, `create role ${weak} in role liventix`);
    const url = new URL(clone.adminUrl);
    url.searchParams.set('options', `-c role=${weak}`);
    const pool = createPool({ databaseUrl: url.href, max: 1 });
    try {
      const { notes } = await makePlan(pool, mapping, { now: new Date() });
      expect(notes).toEqual([
        missing,
        expect.stringMatching(/_r and \S+_w cannot be made: have CREATEROLE given to this role/),
      ]);
    } finally {
      await pool.end();
      await asSuperuser(clone, `drop role ${weak}`);
    }
  }));

it('what rollback would run does the same when it is pasted, the last step first, and asking for it changes nothing', () =>
  inClone(shop, async (clone) => {
    const { pool } = clone;
    const before = await catalogOf(clone);
    await moveAll(clone, shopMapping(clone, MOVED));
    const moved = await catalogOf(clone);
    const steps = await dryRunBack(pool, { tables: [] });
    expect(steps.map(({ object }) => object)).toEqual((await standingSteps(clone)).toReversed());
    expect((await dryRunBack(pool, { tables: ['carts'] })).map(({ object }) => object)).toEqual(['table public.carts']);
    await expect(dryRunBack(pool, { tables: ['nosuch'] })).rejects.toMatchObject({ code: 'RESTRUCTURE_TABLE_UNKNOWN' });
    await expect(dryRunBack(pool, { tables: [], to: 0n })).rejects.toMatchObject({ code: 'RESTRUCTURE_STEP_UNKNOWN' });
    expect(changesOf(moved, await catalogOf(clone))).toEqual([]);
    await pool.query(steps.flatMap(({ statements }) => statements).join(';\n'));
    await pool.query(
      `do $$ declare v name; begin for v in select relname from pg_class where relname like 'aside\\_%' loop execute format('drop view restructure.%I', v); end loop; end $$`,
    );
    expect(changesOf(before, await catalogOf(clone))).toEqual([]);
  }));
