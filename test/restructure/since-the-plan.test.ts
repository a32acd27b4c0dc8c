import { afterAll, beforeAll, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { applyPlan } from '../../src/restructure/apply.ts';
import { dryRun } from '../../src/restructure/dry-run.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { left, moveAll, notUndone, planOf, putBack, standingSteps } from '../support/moves.ts';
import { createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// What others do to functions and roles between a plan and its apply, and between apply and rollback.

let shop: Shop;
beforeAll(async () => {
  shop = await createShop();
  await shop.pool.query(body('as planned'));
});
afterAll(() => shop.drop());

const ALL = { schemas: [], tables: [] };
const TABLES = { roles: undefined, schemas: [{ name: 'sales', tables: ['keyless', 'carts'] }] };

const body = (says: string): string =>
  `create or replace function public.says() returns text language sql as $$ select '${says}' $$`;
const REPLACED = { ...TABLES, replacements: [{ function: 'public.says()', definition: [body('as replaced')] }] };

const said = async ({ pool }: Shop): Promise<unknown> =>
  (await pool.query<{ says: string }>('select public.says() as says')).rows[0]?.says;

const faultsOf = ({ pool }: Shop): Promise<readonly string[]> =>
  withTransaction(pool, async (tx) => {
    const checks = await checkRestructuring(tx, {});
    return checks.flatMap(({ first }) => first);
  });

it('a table that a function empties which was made after the plan is left, and why is said; the others move', () =>
  inClone(shop, async (clone) => {
    const plan = await planOf(clone, shopMapping(clone, TABLES));
    await clone.pool.query(`create function public.wipe() returns void language sql as $$ truncate public.carts $$`);
    const { pool } = clone;
    expect((await dryRun(pool, plan, ALL)).map(({ object }) => object)).not.toContain('table public.carts');
    expect(left(await applyPlan(pool, plan, ALL))).toEqual({
      carts: expect.stringMatching(
        /^since the plan was made: function public\.wipe\(\): TRUNCATE takes no view\. Make another: liventix restructure plan$/,
      ),
    });
    expect(await standingSteps(clone)).toContain('table public.keyless');
  }));

it('a function that somebody mended after the plan is not replaced, and nothing is moved', () =>
  inClone(shop, async (clone) => {
    const plan = await planOf(clone, shopMapping(clone, REPLACED));
    await clone.pool.query(body('mended'));
    for (const run of [dryRun, applyPlan])
      await expect(run(clone.pool, plan, ALL)).rejects.toMatchObject({
        code: 'RESTRUCTURE_DRIFTED',
        details: { tables: [], functions: ['public.says()'] },
      });
    expect(await said(clone)).toBe('mended');
    expect(await standingSteps(clone)).toEqual([]);
    // Between that look and the step, too.
    const again = await planOf(clone, shopMapping(clone, REPLACED));
    const replacing = (await dryRun(clone.pool, again, ALL)).find(({ object }) => object.startsWith('replacement'));
    await clone.pool.query(body('mended twice'));
    await expect(clone.pool.query(replacing?.statements[0] ?? '')).rejects.toMatchObject({ code: 'LV096' });
  }));

it('a function that somebody mended after apply stays mended at rollback, and verify names it', () =>
  inClone(shop, async (clone) => {
    await moveAll(clone, shopMapping(clone, REPLACED));
    expect(await said(clone)).toBe('as replaced');
    expect(await faultsOf(clone)).toEqual([]);
    await clone.pool.query(body('mended'));
    expect(await faultsOf(clone)).toEqual([
      expect.stringMatching(/^public\.says\(\), since step \d+: its body is another$/),
    ]);
    expect(notUndone(await putBack(clone))[0]).toMatch(
      /^replacement public\.says\(\): public\.says\(\) was changed since step \d+, and stays as it is/,
    );
    expect(await said(clone)).toBe('mended');
    await clone.pool.query(body('as replaced'));
    expect(notUndone(await putBack(clone))).toEqual([]);
    expect(await said(clone)).toBe('as planned');
  }));

it('a search_path that somebody set after apply is not taken from the role, and verify names it', () =>
  inClone(shop, async (clone) => {
    const { clerk, read, write } = clone.roles;
    const setPath = (path: string) =>
      clone.pool.query(`alter role ${clerk} in database ${clone.name} set search_path = ${path}`);
    await setPath('public');
    const roles = { read, write, readers: [clerk], writers: [] };
    await moveAll(clone, shopMapping(clone, { ...TABLES, roles }));
    expect(await standingSteps(clone)).toContain(`search path ${clerk}`);
    expect(await faultsOf(clone)).toEqual([]);
    await setPath('public, sales, extensions');
    expect(await faultsOf(clone)).toEqual([
      expect.stringMatching(/_clerk, since step \d+: its search_path is another$/),
    ]);
    expect(notUndone(await putBack(clone))[0]).toMatch(/^search path .*_clerk was changed since step \d+/);
  }));

it('a step from before what it left was noted is undone as it was, and is no fault', () =>
  inClone(shop, async (clone) => {
    await moveAll(clone, shopMapping(clone, REPLACED));
    await clone.pool.query(
      `update restructure.steps set made = null, inverse = array(select i from unnest(inverse) i where i not like '%assert_as_made%')`,
    );
    await clone.pool.query(body('mended'));
    expect(await faultsOf(clone)).toEqual([]);
    expect(notUndone(await putBack(clone))).toEqual([]);
    expect(await said(clone)).toBe('as planned');
  }));

it('a trigger function that somebody put elsewhere after it went along is named by verify', () =>
  inClone(shop, async (clone) => {
    await clone.pool.query(`
      create function public.stamps_carts() returns trigger language plpgsql as 'begin return new; end';
      create trigger stamps_carts before insert on public.carts for each row execute function public.stamps_carts()`);
    await moveAll(clone, shopMapping(clone, { ...TABLES, moveTriggerFunctions: true }));
    expect(await standingSteps(clone)).toContain('function public.stamps_carts()');
    expect(await faultsOf(clone)).toEqual([]);
    await clone.pool.query('alter function sales.stamps_carts() set schema public');
    expect(await faultsOf(clone)).toEqual([
      expect.stringMatching(/^public\.stamps_carts\(\), since step \d+: is not where it was put$/),
    ]);
  }));
