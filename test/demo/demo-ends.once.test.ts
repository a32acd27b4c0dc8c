import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { A_DEMO_MS, demoDatabaseExists, demosOnGivenServer, demoUrl, given, jsonOf } from '../support/demos.ts';
import { eventually } from '../support/eventually.ts';
import { query } from '../support/query.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

// The demo on a server that is given, in all the ways in which it may end.

const STOPS_WITHIN_MS = 15_000;

const { start, run } = demosOnGivenServer();

describe('the demo', () => {
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
    'says NO and exits with 1 when a wallet was changed behind the back of the capture',
    async () => {
      const demo = start();
      await cutOverFinished();
      await query(
        demoUrl(),
        `alter table payments.wallets disable trigger liventix_capture;
         update wallets set balance_credits = balance_credits + 1 where id = (select min(id::text)::uuid from wallets)`,
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
      await cutOverFinished();
      await query(demoUrl(), `insert into public.outbox (topic, payload) values ('stranger.knocked', '{}')`);
      const end = await demo.done;
      expect(end).toMatchObject({ exitCode: 1, stderr: '' });
      expect(JSON.parse(end.stdout)).toMatchObject({ booksBalance: true, webhooks: { messages: 351 } });
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

/** Both histories are replayed, and owners cut over, when endpoints are added: what is looked at now are the postings, the webhooks and the proof. */
function cutOverFinished(): Promise<boolean> {
  return eventually(
    'the cut-over has finished',
    async () => {
      if (!(await demoDatabaseExists()) || !(await hasTable('outbox.endpoints'))) return false;
      return (await query(demoUrl(), 'select from outbox.endpoints')).length > 0;
    },
    A_DEMO_MS / 2,
  );
}
