import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { createDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { moveAll } from '../support/moves.ts';
import { expectRefusal } from '../support/refusal.ts';
import { cloneShop, createShop, inClone, type Shop, shopMapping } from '../support/shop.ts';

// `liventix restructure plan, apply, status, rollback`, as whoever is at the terminal sees them.

let original: Shop;
let shop: Shop;
let folder: string;
let mapping: string;
let plan: string;
beforeAll(async () => {
  original = await createShop();
  shop = await cloneShop(original);
  folder = await mkdtemp(join(tmpdir(), 'restructure-'));
  mapping = join(folder, 'shop.json');
  plan = join(folder, 'plan.json');
  await writeFile(mapping, JSON.stringify(shopMapping(shop)));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await shop.drop();
  await original.drop();
});

const run = (...args: string[]) => liventix(['restructure', ...args], { DATABASE_URL: shop.url });
const refused = (code: ErrorCode, says: RegExp, ...args: string[]) =>
  expectRefusal({ code, says }, ['restructure', ...args], { DATABASE_URL: shop.url });

describe('from the plan to the rollback', () => {
  it('plans: a line a table, what may break, what stays, and a file', async () => {
    const { exitCode, stdout, stderr } = await run('plan', '--mapping', mapping, '--output', plan);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 0,
      stderr: `The plan is in ${plan}. Next: liventix restructure apply --dry-run --plan ${plan}\n`,
    });
    expect(stdout).toMatch(/^warned {3}customers -> people +2 rows +\d+ kB\n {4}warns {2}published: subscribers of /);
    expect(stdout).toMatch(/^warned {3}events -> log\.book +4 with it +/m);
    expect(stdout).toMatch(
      /^15 tables of public: 1 ready, 14 warned, 0 blocked, 0 moved\.\nThe mapping says nothing of outbox: they stay\.\n$/m,
    );
    expect(stdout).not.toMatch(/undefined|NaN|\[object/);
    const shown = await run('plan', '--mapping', mapping, '--output', plan, '--table', 'orders');
    expect(shown.stdout).toMatch(/^warned {3}orders -> sales/);
    expect(shown.stdout).toMatch(/\n {4}triggers: orders_checked, orders_never, orders_noted, orders_noted_always\n/);
    expect(shown.stdout).toMatch(/\n {4}foreign keys: 3 from it, 1 to it\n/);
    const json = await run('plan', '--mapping', mapping, '--output', plan, '--json');
    expect(JSON.parse(json.stdout)).toEqual(JSON.parse(await readFile(plan, 'utf8')));
  });

  it('prints SQL that does the same when it is pasted', async () => {
    const { exitCode, stdout, stderr } = await run('apply', '--plan', plan, '--dry-run');
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(stdout).toMatch(/^-- role \w+_read\ncreate role "\w+_read" nologin;\n\n-- member /);
    expect(stdout).toMatch(
      /\n-- table public\.orders\nlock table "public"\."orders" in access exclusive mode;\nalter table /,
    );
    expect((await run('status')).stdout).toBe('Nothing was moved. First: liventix restructure plan\n');
    const json = JSON.parse((await run('apply', '--plan', plan, '--dry-run', '--json')).stdout);
    expect(json.wouldDo.at(-1).object).toMatch(/^search path /);

    // The groups of the clone are called otherwise.
    await inClone(original, async (pasted) => {
      const client = new pg.Client({ connectionString: pasted.url });
      await client.connect();
      await client.query(`begin; ${stdout.replaceAll(shop.name, pasted.name)}; commit`);
      await client.end();
      await inClone(original, async (moved) => {
        await moveAll(moved, shopMapping(moved));
        expect(changesOf(await catalogOf(moved), await catalogOf(pasted))).toEqual([]);
      });
    });
  });

  it('applies a part, then the rest, then nothing; lists it, and undoes it', async () => {
    const before = await catalogOf(shop);
    const first = await run('apply', '--plan', plan, '--table', 'carts', '--rest', '0');
    expect(first).toMatchObject({
      exitCode: 0,
      stderr: `Moving tables of the database ${shop.name} by the plan ${plan}.\n`,
    });
    expect(first.stdout).toMatch(
      /^moved {4}carts -> sales +\d+ ms\n\n1 moved, 0 before, 0 left\. No table was locked for more than \d+ ms\.\n$/,
    );
    const second = JSON.parse((await run('apply', '--plan', plan, '--rest', '0', '--json')).stdout);
    expect(second.outcomes.map(({ status }: { status: string }) => status).toSorted()).toEqual([
      'already',
      ...Array(14).fill('moved'),
    ]);
    expect((await run('apply', '--plan', plan)).stdout).toMatch(
      /\n0 moved, 15 before, 0 left\. No table was locked for more than 0 ms\.\n$/,
    );

    const status = await run('status');
    expect(status.exitCode).toBe(0);
    expect(status.stdout).toMatch(/^ +1 {2}\d{4}-\d\d-\d\dT[\d:.]+Z {2}role +\w+_read\n/);
    expect(status.stdout).toMatch(/ {2}table +public\.ÜberGrößen „größer“\n/);
    const steps = JSON.parse((await run('status', '--json')).stdout) as { id: string; object: string }[];
    const orders = steps.find(({ object }) => object === 'public.orders');

    const wouldRun = await run('rollback', '--to', String(orders?.id), '--dry-run');
    expect(wouldRun).toMatchObject({ exitCode: 0, stderr: 'Nothing was changed.\n' });
    expect(wouldRun.stdout).toMatch(/^-- search path \w+\nselect restructure\.assert_as_made\(/);
    expect(wouldRun.stdout).toMatch(
      /\n-- table public\.secrets\n(?:.*\n)*alter table "sales"\."secrets" set schema "public";\n/,
    );
    const back = await run('rollback', '--to', String(orders?.id), '--rest', '0');
    expect(back).toMatchObject({ exitCode: 0, stderr: `Putting tables of the database ${shop.name} back.\n` });
    expect(back.stdout).toMatch(/^undone {3}search path \w+\n/);
    expect(back.stdout).toMatch(/\nundone {3}table public\.secrets\n\n\d+ undone, 0 left\.\n$/);
    const table = JSON.parse((await run('rollback', '--table', 'sellers', '--json')).stdout);
    expect(table).toMatchObject({
      isStopped: false,
      steps: [{ kind: 'table', object: 'public.sellers', status: 'undone' }],
    });

    await shop.pool.query('create view public.late as select from public.orders');
    const stuck = await run('rollback', '--rest', '0');
    expect(stuck.exitCode).toBe(1);
    expect(stuck.stdout).toMatch(
      /^left {5}table public\.orders\n {4}something stands on it: view (?:public\.)?late depends on view (?:public\.)?orders/,
    );
    await shop.pool.query('drop view public.late');
    expect((await run('rollback', '--rest', '0')).exitCode).toBe(0);
    expect((await run('rollback')).stdout).toBe('There is nothing to undo.\n');
    expect(changesOf(before, await catalogOf(shop))).toEqual([]);
  });

  it('leaves what is blocked or in use, says why, and exits with 1', async () => {
    const file = join(folder, 'partly.json');
    await writeFile(
      file,
      JSON.stringify(
        shopMapping(shop, { roles: undefined, schemas: [{ name: 'a', tables: ['missing', 'carts', 'animals'] }] }),
      ),
    );
    const out = join(folder, 'partly-plan.json');
    const planned = await run('plan', '--mapping', file, '--output', out);
    expect(planned.exitCode).toBe(1);
    expect(planned.stdout).toMatch(
      /^blocked {2}missing -> a .*\n {4}blocks missing: there is no table public\.missing/,
    );
    const holder = await shop.pool.connect();
    try {
      await holder.query('begin; lock table public.carts');
      const applied = await run('apply', '--plan', out, '--tries', '1', '--rest', '0');
      expect(applied.exitCode).toBe(1);
      expect(applied.stdout).toMatch(/^left {5}missing -> a\n {4}there is no table/);
      expect(applied.stdout).toMatch(
        /\nleft {5}carts -> a\n {4}public\.carts was in use each of 1 times.*\n {4}held by process \d+ \(liventix/,
      );
      expect(applied.stdout).toMatch(/\n1 moved, 0 before, 2 left\./);
    } finally {
      await holder.query('rollback');
      holder.release();
    }
    await run('rollback');
  });

  it('stops at once when told to, says so, and exits with 1', async () => {
    const stopped = await liventix(
      ['restructure', 'apply', '--plan', plan],
      { DATABASE_URL: shop.url },
      AbortSignal.abort(),
    );
    expect(stopped.exitCode).toBe(1);
    expect(stopped.stdout).toMatch(
      /0 moved, 0 before, 0 left\..*\nStopped\. Run it again: it goes on where it was\.\n$/,
    );
    const back = await liventix(['restructure', 'rollback'], { DATABASE_URL: shop.url }, AbortSignal.abort());
    expect(back).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(/Stopped\. Run it again/) });
    expect((await run('rollback')).exitCode).toBe(0);
  });
});

describe('bad input', () => {
  it('is one clear line each', async () => {
    await refused('USAGE', /which command\?/);
    await refused('USAGE', /Did you mean apply\?/, 'aply');
    await refused('USAGE', /Did you mean --dry-run\?/, 'apply', '--dryrun');
    await refused('USAGE', /Give the number of a step/, 'rollback', '--to', 'x');
    await refused('USAGE', /Give a whole number from 1/, 'apply', '--tries', '0');
    await refused('RESTRUCTURE_MAPPING_INVALID', /cannot be read/, 'plan', '--mapping', join(folder, 'nowhere.json'));
    await refused(
      'RESTRUCTURE_PLAN_INVALID',
      /is not there\. Make one/,
      'apply',
      '--plan',
      join(folder, 'nowhere.json'),
    );
    await refused(
      'RESTRUCTURE_PLAN_INVALID',
      /cannot be written/,
      'plan',
      '--mapping',
      mapping,
      '--output',
      join(folder, 'no', 'plan.json'),
    );
    await refused(
      'RESTRUCTURE_TABLE_UNKNOWN',
      /The mapping moves no nosuch/,
      ...['plan', '--mapping', mapping, '--output', plan, '--table', 'nosuch'],
    );
    await refused(
      'RESTRUCTURE_TABLE_UNKNOWN',
      /The plan has no Orders/,
      'apply',
      '--plan',
      plan,
      '--table',
      'Orders',
      '--dry-run',
    );
  });

  it('a step that does not stand is named, after the database', async () => {
    expect(await run('rollback', '--to', '4711')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(
        /^Putting tables .* back\.\nliventix: RESTRUCTURE_STEP_UNKNOWN: No step 4711 stands\. .*status\n$/,
      ),
    });
  });

  it('says what each command does', async () => {
    for (const [command, says] of [
      ['plan', /Exits with 1 when a table is blocked/],
      ['apply', /Exits with 1 when a table was left/],
      ['rollback', /Exits with 1 when something was left/],
      ['status', /list what apply did/],
    ] as const) {
      expect(await run(command, '--help')).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(says) });
    }
  });

  it('a database that is not migrated is told so', async () => {
    const empty = await createDatabase({ template: 'template0' });
    try {
      const refusal = { code: 'MIGRATIONS_PENDING', says: /liventix migrate/ } as const;
      for (const args of [['plan', '--mapping', mapping], ['status'], ['rollback']]) {
        await expectRefusal(refusal, ['restructure', ...args], { DATABASE_URL: empty.url });
      }
    } finally {
      await empty.drop();
    }
  });

  it('a role that may only read is told what it lacks, before anything is changed', async () => {
    const before = await catalogOf(shop);
    const url = Object.assign(new URL(shop.adminUrl), { username: shop.roles.read, password: 'reader' });
    await shop.pool.query(`create role ${shop.roles.read} login password 'reader'`);
    for (const args of [
      ['plan', '--mapping', mapping, '--output', join(folder, 'x.json')],
      ['apply', '--plan', plan],
      ['status'],
      ['rollback'],
    ]) {
      const { exitCode, stderr } = await liventix(['restructure', ...args], { DATABASE_URL: url.href });
      expect(stderr).toMatch(/liventix: (?:DB_PERMISSION_DENIED|MIGRATIONS_PENDING): .*permission denied/);
      expect(exitCode).toBe(3);
    }
    await shop.pool.query(`drop role ${shop.roles.read}`);
    expect(changesOf(before, await catalogOf(shop))).toEqual([]);
  });
});
