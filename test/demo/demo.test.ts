import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it } from 'vitest';
import { dropDatabase } from '../../src/db/databases.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, type Run, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { query } from '../support/query.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

// The demo on a server that is given. The name of its database is fixed, so nothing else may run it on this server.

const SMALL = ['demo', '--wallets', '60', '--transactions', '1500'];
const A_DEMO_MS = 120_000;
const STOPS_WITHIN_MS = 15_000;

interface DemoJson {
  readonly trialBalance: readonly { readonly currency: string; debitCents: number; creditCents: number }[];
  readonly drift: Readonly<Record<string, { readonly count: number; readonly cents: number }>>;
  readonly webhooks: { messages: number; deliveries: number; delivered: number; received: number; verified: number };
  readonly seconds: Readonly<Record<string, number>>;
  readonly walletsCompared: number;
  readonly databaseUrl?: string;
}

const given = () => inject('ownerUrl');
const demoUrl = () => Object.assign(new URL(given()), { pathname: '/liventix_demo' }).href;

let started: RunningLiventix[] = [];
afterEach(async () => {
  for (const demo of started) demo.kill('SIGKILL');
  await Promise.all(started.map((demo) => demo.done));
  started = [];
  const client = new pg.Client({ connectionString: given() });
  await client.connect();
  await dropDatabase(client, 'liventix_demo');
  await client.end();
});

function start(flags: readonly string[] = [], env: Record<string, string> = {}): RunningLiventix {
  const demo = startLiventix([...SMALL, ...flags], { DATABASE_URL: given(), ...env });
  started.push(demo);
  return demo;
}
const run = (flags: readonly string[] = [], env: Record<string, string> = {}) => start(flags, env).done;

/** Asserts that the run ended well and printed exactly one JSON object, on one line. */
function jsonOf(end: Run): DemoJson {
  expect(end).toMatchObject({ exitCode: 0, stderr: '' });
  expect(end.stdout).toMatch(/^\{[^\n]+\}\n$/);
  return JSON.parse(end.stdout) as DemoJson;
}

async function demoDatabaseExists(): Promise<boolean> {
  const found = await query(given(), `select from pg_database where datname = 'liventix_demo'`);
  return found.length === 1;
}

describe('the demo', () => {
  it(
    'balances the books, compares every wallet and verifies every webhook; the same again from the same seed, on a clean start',
    async () => {
      const first = jsonOf(await run(['--json', '--keep']));
      expect(first).toMatchObject({ booksBalance: true, legacyTransactions: 1500, walletsDiffering: 0 });
      // 60 of users, 50 of organizations.
      expect(first.walletsCompared).toBe(110);
      expect(first).toMatchObject({ events: expect.any(Number), entries: expect.any(Number) });
      expect(first.trialBalance.map((balance) => balance.currency)).toEqual(['USD']);
      for (const balance of first.trialBalance) {
        expect(balance.debitCents).toBeGreaterThan(0);
        expect(balance.creditCents).toBe(balance.debitCents);
      }
      expect(Object.keys(first.drift)).toEqual(
        expect.arrayContaining(['lost_update', 'wrong_sign', 'duplicate_spend']),
      );
      for (const { count, cents } of Object.values(first.drift)) {
        expect(count).toBeGreaterThan(0);
        expect(cents).toSatisfy(Number.isSafeInteger);
      }
      // 300 orders, of which 270 are of the topics ticket.*, each to two endpoints.
      const { received, ...webhooks } = first.webhooks;
      expect(webhooks).toEqual({ messages: 300, deliveries: 570, delivered: 570, verified: received });
      expect(received).toBeGreaterThanOrEqual(570);
      const steps = ['legacy', 'migrate', 'backfill', 'post', 'deliver', 'verify'];
      expect(Object.keys(first.seconds)).toEqual(steps);
      for (const seconds of Object.values(first.seconds)) expect(seconds).toBeGreaterThan(0);

      const { password } = new URL(given());
      expect(first.databaseUrl).toBe(demoUrl().replace(`:${password}@`, ':***@'));
      const verify = await liventix(['books', 'verify', '--json'], { DATABASE_URL: demoUrl() });
      expect(verify).toMatchObject({ exitCode: 0, stderr: '' });
      expect(JSON.parse(verify.stdout)).toMatchObject({ balance: true });

      // What --keep printed is what DATABASE_URL is likely to be now.
      const second = jsonOf(await run(['--json'], { DATABASE_URL: demoUrl() }));
      expect(second).toMatchObject({ trialBalance: first.trialBalance, drift: first.drift });
      expect(second).not.toHaveProperty('databaseUrl');
      expect(await demoDatabaseExists()).toBe(false);
    },
    2 * A_DEMO_MS,
  );

  it(
    'ends for a person with a summary, and shows nothing of its machinery',
    async () => {
      const end = await run();
      expect(end).toMatchObject({ exitCode: 0, stderr: '' });
      expect(end.stdout).toContain('Books balance: yes\n');
      expect(end.stdout).toContain('Every webhook arrived and verified: yes\n');
      expect(end.stdout).toMatch(/^Replayed +1,500 legacy rows in /m);
      expect(end.stdout).toMatch(/^Wallets +110 compared with the old balances, 0 differ$/m);
      expect(end.stdout).toMatch(/^ {2}lost_update +\d+ +-?[\d,.]+ USD$/m);
    },
    A_DEMO_MS,
  );

  it(
    'says NO and exits with 1 when a wallet was changed behind the backfill',
    async () => {
      const demo = start();
      await backfillFinished();
      await query(
        demoUrl(),
        'update wallets set balance_credits = balance_credits + 1 where id = (select min(id::text)::uuid from wallets)',
      );
      const end = await demo.done;
      expect(end).toMatchObject({ exitCode: 1, stderr: '' });
      expect(end.stdout).toContain('Books balance: NO\n');
      expect(end.stdout).toMatch(/^Wallets +110 compared with the old balances, 1 differ$/m);
      expect(end.stdout).toMatch(/^FAILS {2}every legacy wallet equals its account$/m);
    },
    A_DEMO_MS,
  );

  it(
    'says NO and exits with 1 when a webhook was announced that nobody delivered',
    async () => {
      const demo = start(['--json']);
      await backfillFinished();
      await query(demoUrl(), `insert into public.outbox (topic, payload) values ('stranger.knocked', '{}')`);
      const end = await demo.done;
      expect(end).toMatchObject({ exitCode: 1, stderr: '' });
      expect(JSON.parse(end.stdout)).toMatchObject({ booksBalance: true, webhooks: { messages: 301 } });
    },
    A_DEMO_MS,
  );

  it(
    'leaves a database of that name alone when no demo made it',
    async () => {
      await query(given(), 'create database liventix_demo');
      await query(demoUrl(), 'create table precious as select 42 as n');
      const end = await run();
      expect(end).toMatchObject({ exitCode: 3, stdout: '' });
      expect(end.stderr).toMatch(/^liventix: DEMO_DATABASE_NOT_OURS: [^\n]+\n$/);
      expect(await query(demoUrl(), 'select n from precious')).toEqual([{ n: 42 }]);
    },
    A_DEMO_MS,
  );

  it(
    'tells a second demo on the same server DEMO_RUNNING, and the first finishes well',
    async () => {
      const first = start(['--json']);
      await eventually('the first has its database', demoDatabaseExists);
      const second = await run();
      expect(second).toMatchObject({ exitCode: 3, stdout: '' });
      expect(second.stderr).toMatch(/^liventix: DEMO_RUNNING: [^\n]+\n$/);
      jsonOf(await first.done);
    },
    A_DEMO_MS,
  );

  it(
    'ends on Ctrl-C with one line, and takes its database with it',
    async () => {
      const demo = start(['--transactions', '2000000', '--keep']);
      await eventually('it is at work', async () =>
        demoDatabaseExists().then((exists) => exists && hasTable('public.wallets')),
      );
      const stoppedAt = performance.now();
      demo.kill('SIGINT');
      const end = await demo.done;
      expect(performance.now() - stoppedAt).toBeLessThan(STOPS_WITHIN_MS);
      expect(end).toMatchObject({ exitCode: 3, stdout: '' });
      expect(end.stderr).toMatch(/^liventix: DEMO_STOPPED: [^\n]*stopped[^\n]+\n$/);
      expect(await demoDatabaseExists()).toBe(false);
    },
    A_DEMO_MS,
  );

  it.each([
    ['DB_UNREACHABLE', { port: '1' }],
    ['DB_AUTH_FAILED', { password: 'wrong' }],
    ['DB_NOT_FOUND', { pathname: '/no_such_database' }],
  ])('says in one line what is wrong with DATABASE_URL: %s', async (code, change) => {
    const end = await run([], { DATABASE_URL: Object.assign(new URL(given()), change).href });
    expect(end).toMatchObject({ exitCode: 3, stdout: '' });
    expect(end.stderr).toMatch(new RegExp(`^liventix: ${code}: [^\\n]+\\n$`));
  });
});

describe('the demo on Redis', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  it(
    'delivers through it, and leaves nothing in it',
    async () => {
      await redis.client.set('stranger', 'not ours to remove');
      const first = jsonOf(await run(['--json', '--seed', '7'], { REDIS_URL: redis.url }));
      expect(first.webhooks).toMatchObject({ messages: 300, delivered: 570 });
      expect(await redis.client.keys('*')).toEqual(['stranger']);

      const second = jsonOf(await run(['--json', '--seed', '7'], { REDIS_URL: redis.url }));
      expect(second).toMatchObject({ trialBalance: first.trialBalance, drift: first.drift });
      expect(second.webhooks).toMatchObject({ messages: 300, delivered: 570 });
    },
    2 * A_DEMO_MS,
  );

  it(
    'leaves nothing in it when it is stopped in the middle',
    async () => {
      await redis.client.flushall();
      const demo = start(['--keep'], { REDIS_URL: redis.url });
      await eventually('its worker has begun', async () => (await redis.client.keys('*')).length > 0, A_DEMO_MS / 2);
      demo.kill('SIGINT');
      expect(await demo.done).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('DEMO_STOPPED') });
      expect(await redis.client.keys('*')).toEqual([]);
    },
    A_DEMO_MS,
  );

  it(
    'keeps what belongs to a database that is kept',
    async () => {
      await redis.client.flushall();
      jsonOf(await run(['--json', '--keep'], { REDIS_URL: redis.url }));
      expect(await redis.client.keys('{liventix-*}:epoch')).toHaveLength(1);
    },
    A_DEMO_MS,
  );

  it('says in one line that Redis does not answer, and leaves no database', async () => {
    const end = await run([], { REDIS_URL: 'redis://127.0.0.1:1' });
    expect(end).toMatchObject({ exitCode: 3, stdout: '' });
    expect(end.stderr).toMatch(/^liventix: QUEUE_UNREACHABLE: [^\n]+\n$/);
    expect(await demoDatabaseExists()).toBe(false);
  });
});

async function hasTable(name: string): Promise<boolean> {
  const [row] = await query<{ found: boolean }>(demoUrl(), `select to_regclass('${name}') is not null as found`);
  return row?.found === true;
}

/** Both histories are replayed: what is looked at now are the postings, the webhooks and the proof. */
function backfillFinished(): Promise<boolean> {
  return eventually(
    'the backfill has finished',
    async () => {
      if (!(await demoDatabaseExists()) || !(await hasTable('replay.progress'))) return false;
      const finished = await query(demoUrl(), 'select from replay.progress where finished_at is not null');
      return finished.length === 2;
    },
    A_DEMO_MS / 2,
  );
}
