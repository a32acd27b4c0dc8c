import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { A_DEMO_MS, demoDatabaseExists, demosOnGivenServer, demoUrl, given, jsonOf } from '../support/demos.ts';
import { liventix } from '../support/liventix.ts';
import { BACKENDS } from '../support/outbox.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

// The main job end to end, on each version of the server and with each queue (in the short run, the older server without Redis). How else it may end: demo-ends.once.test.ts.

const { run } = demosOnGivenServer();

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
      expect(first.restructured).toMatchObject({ moved: 22, left: 0, isolated: 22, faults: [] });
      expect(first.cutOver.organizations).toBeGreaterThan(0);
      expect(Object.keys(first.drift)).toEqual(
        expect.arrayContaining(['lost_update', 'wrong_sign', 'duplicate_spend']),
      );
      for (const { count, cents } of Object.values(first.drift)) {
        expect(count).toBeGreaterThan(0);
        expect(cents).toSatisfy(Number.isSafeInteger);
      }
      // 300 orders, of which 270 are of the topics ticket.*, each to two endpoints.
      const { received, ...webhooks } = first.webhooks;
      expect(webhooks).toEqual({ messages: 350, deliveries: 620, delivered: 620, verified: received });
      expect(received).toBeGreaterThanOrEqual(570);
      const steps = [
        'legacy',
        'migrate',
        'restructure',
        'traffic',
        'backfill',
        'cutover',
        'post',
        'states',
        'deliver',
        'verify',
      ];
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
});

describe.each(BACKENDS.filter((backend) => backend === 'Redis'))('the demo on %s', () => {
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
      expect(first.webhooks).toMatchObject({ messages: 350, delivered: 620 });
      expect(await redis.client.keys('*')).toEqual(['stranger']);
    },
    A_DEMO_MS,
  );
});
