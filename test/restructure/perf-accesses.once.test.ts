import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Load, Recording } from '../../src/restructure/perf/recording.ts';
import { asSuperuser, createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { startPgBouncer, type TestPgBouncer } from '../support/pgbouncer.ts';

// The application's accesses, as whom they are asked, and its connections under load.

const ACCESSES = {
  accesses: [
    { table: 'orders', op: 'select', select: 'id, lines(what)', filters: ['eq:id', 'single'] },
    { table: 'orders', op: 'select', select: 'id', count: 'exact', head: true },
    { table: 'lines', op: 'insert', columns: ['order_id', 'what'] },
    { rpc: 'order_count', args: [] },
    { rpc: 'take_order', args: [] },
    { rpc: 'slow_count', args: [] },
    { table: 'secrets', op: 'select' },
  ],
};
const QUERIES = { queries: [{ name: 'orders', title: 'all of them', before: 'select count(*) from public.orders' }] };

let database: TestDatabase;
let folder: string;
const inFolder = (name: string) => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
  await writeFile(inFolder('accesses.json'), JSON.stringify(ACCESSES));
  await writeFile(inFolder('queries.json'), JSON.stringify(QUERIES));
  database = await createDatabase({ template: EMPTY });
  await asSuperuser(
    database,
    `create table orders (id integer primary key);
     create table lines (id bigserial primary key, order_id integer not null references orders, what text);
     create table secrets (id integer primary key);
     insert into orders values (1), (2);
     insert into lines (order_id, what) values (1, 'hat'), (1, 'coat');
     create function order_count() returns bigint language sql security definer return (select count(*) from public.orders);
     create function take_order() returns integer language sql security definer
       begin atomic insert into public.orders select max(id) + 1 from public.orders returning id; end;
     create function slow_count() returns bigint language sql security definer
       return (select count(*) from public.orders, pg_sleep(0.05));
     grant select on all tables in schema public to service_role, anon;
     revoke all on secrets from anon;
     grant all on all tables in schema public to liventix`,
  );
});
afterAll(async () => {
  await database.drop();
  await rm(folder, { recursive: true });
});

const perf = (url: string, ...args: string[]): Promise<Run> =>
  liventix(['restructure', 'perf', ...args], { DATABASE_URL: url });

async function record(url: string, ...args: string[]): Promise<Recording> {
  const run = await perf(
    url,
    'record',
    '--queries',
    inFolder('queries.json'),
    '--rounds',
    '3',
    '--output',
    inFolder('before.json'),
    ...args,
  );
  expect(run, run.stderr).toMatchObject({ exitCode: 0 });
  return JSON.parse(await readFile(inFolder('before.json'), 'utf8'));
}

describe('the accesses', () => {
  it('are asked as each caller, those that read; what is refused or writes is told', async () => {
    const { results } = await record(database.adminUrl, '--accesses', inFolder('accesses.json'));
    const accesses = results.filter(({ kind }) => kind === 'access');
    const told = accesses.map((each) => {
      const more = each.status === 'failed' ? ` ${each.code}` : each.status === 'left out' ? `: ${each.reason}` : '';
      return `${each.title} ${each.status}${more}`;
    });
    expect(told.toSorted()).toEqual(
      [
        '0 select orders as service measured',
        '0 select orders as anonymous measured',
        '1 select orders as service measured',
        '1 select orders as anonymous measured',
        '2 rpc order_count as service measured',
        '2 rpc order_count as anonymous measured',
        '3 rpc take_order as service left out: it writes',
        '3 rpc take_order as anonymous left out: it writes',
        '4 rpc slow_count as service measured',
        '4 rpc slow_count as anonymous measured',
        '5 select secrets as service measured',
        '5 select secrets as anonymous failed 42501',
      ].toSorted(),
    );
    expect((await database.pool.query('select id from orders order by id')).rows).toEqual([{ id: 1 }, { id: 2 }]);
  });

  it('that are left out are told with the reason, those of what is not there too', async () => {
    const nowhere = [1, 2, 3].map((at) => ({ rpc: `nowhere_${at}`, args: [] }));
    const accesses = [...ACCESSES.accesses, { table: 'gone', op: 'select' }, ...nowhere];
    await writeFile(inFolder('more.json'), JSON.stringify({ accesses }));
    const files = ['--accesses', inFolder('more.json'), '--queries', inFolder('queries.json'), '--rounds', '3'];
    const run = (...args: string[]) =>
      perf(database.adminUrl, 'record', ...files, '--output', inFolder('more.recording.json'), ...args);
    const { stdout, exitCode } = await run();
    expect(exitCode).toBe(0);
    expect(stdout).toContain(
      [
        'Accesses: 9 timed, 1 refused by the database, 9 left out.',
        '  2 left out: it writes',
        '  2 left out: the API refuses it: there is no public.nowhere_1()',
        '  2 left out: the API refuses it: there is no public.nowhere_2()',
        '  2 left out: the API refuses it: there is no public.nowhere_3()',
        '  1 left out: there is no table or view public.gone',
        '',
      ].join('\n'),
    );
    expect(JSON.parse((await run('--json')).stdout).accesses).toMatchObject({
      leftOut: 9,
      reasons: expect.arrayContaining([{ reason: 'there is no table or view public.gone', count: 1 }]),
    });
  });

  it('that take longer than they may are asked three times all the same', async () => {
    const { results } = await record(database.adminUrl, '--accesses', inFolder('accesses.json'), '--budget', '100ms');
    const slow = results.filter(({ title }) => title.includes('slow_count'));
    expect(slow.map((each) => each.status === 'measured' && each.warmMs.length)).toEqual([3, 3]);
  });

  it('that somebody may not any more are a fault, and those that he may now are none', async () => {
    await asSuperuser(database, 'revoke select on lines from anon; grant select on secrets to anon');
    const compared = await perf(database.adminUrl, 'compare', inFolder('before.json'), '--rounds', '3');
    expect(compared.exitCode).toBe(1);
    expect(compared.stdout).toContain(
      'FAULT    0 select orders as anonymous: answered before; failed with 42501: permission denied for table lines after\n',
    );
    expect(compared.stdout).toMatch(/; 0 answers differ, 1 not answered any more\./u);
    await asSuperuser(database, 'grant select on lines to anon; revoke select on secrets from anon');
  });
});

describe('under load', () => {
  let pooler: TestPgBouncer;
  beforeAll(async () => {
    pooler = await startPgBouncer({ databaseUrl: database.adminUrl, poolMode: 'transaction' });
  });
  afterAll(() => pooler.stop());
  const LOAD = ['--clients', '12', '--seconds', '1', '--no-accesses'];
  const of = ({ load }: Recording, way: Load['way']): Load | undefined => load.find((each) => each.way === way);

  it('clients wait for a connection, get one, and leave none behind, directly and through a pooler', async () => {
    const at = new URL(pooler.url).host;
    const recording = await record(database.adminUrl, ...LOAD, '--pooler', `postgresql://${at}`);
    const [direct, pooled] = [of(recording, 'direct'), of(recording, 'pooler')];
    expect(direct).toMatchObject({
      clients: 12,
      poolSize: 10,
      connections: 10,
      errors: [],
      afterwards: { open: 0, idleInTransaction: 0 },
    });
    expect(pooled).toMatchObject({ clients: 12, errors: [], afterwards: { idleInTransaction: 0 } });
    for (const load of [direct, pooled]) {
      expect(load?.transactions).toBeGreaterThan(50);
      expect(load?.waitMs.max).toBeGreaterThanOrEqual(load?.waitMs.p99 ?? 0);
      expect(load?.samples.length).toBeGreaterThan(1);
      expect(load?.samples.every(({ waiting }) => waiting !== null)).toBe(true);
    }
    expect(pooled?.connections).toBeLessThanOrEqual(12);
    expect(pooled?.notes).toEqual(['who waits is as SHOW POOLS says']);
  });

  it('settings of a request are nobody else’s through a pooler by transaction; those of a session are not made', async () => {
    const recording = await record(database.adminUrl, ...LOAD, '--pooler', pooler.url);
    const checks = Object.fromEntries((of(recording, 'pooler')?.checks ?? []).map(({ what, holds }) => [what, holds]));
    expect(checks).toMatchObject({
      'settings of a request end with it: claims, search_path, statement_timeout': true,
      'what a request is asked with comes as parameters': true,
      'settings of a session may be sent when it begins (options)': false,
    });
  });

  it('counts those who were refused', async () => {
    await database.pool.end();
    // The pooler keeps some, which count.
    await asSuperuser(
      database,
      `do $$ begin execute format('alter database %I connection limit %s', current_database(),
         (select count(*) + 4 from pg_stat_activity where datname = current_database())); end $$`,
    );
    const recording = await record(database.url, ...LOAD);
    await asSuperuser(database, `alter database ${database.name} connection limit -1`);
    const [error] = of(recording, 'direct')?.errors ?? [];
    expect(error).toMatchObject({ code: '53300' });
    expect(error?.count).toBeGreaterThan(0);
    expect(of(recording, 'direct')?.afterwards).toEqual({ open: 0, idleInTransaction: 0 });
  });

  it('is asked for by its clients', async () => {
    expect(await perf(database.adminUrl, 'record', '--pooler', 'postgresql://127.0.0.1')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('--pooler goes with --clients'),
    });
    expect(await perf(database.adminUrl, 'record', '--clients', '2', '--pooler', 'localhost:6432')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('--pooler is no URL'),
    });
  });
});
