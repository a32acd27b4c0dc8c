import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  type FakedClock,
  fakeClock,
  type ServerOfItsOwnClock,
  startServerOfItsOwnClock,
} from '../support/faked-clock.ts';
import { expectNothingLost, type LossDrill, startLossDrill } from '../support/loss.ts';
import { announceMany, BACKENDS_IN_SHORT } from '../support/outbox.ts';
import { answer } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const BACKLOG = 500;
const RETRY_MS = 1_500;
/** One webhook in so many is refused when it first comes, so that there is always something to be tried again. */
const REFUSED_ONE_IN = 20;
/** By default, each of the two endpoints takes ten at once: what is under way may be sent again. */
const UNDER_WAY = 20;

let server: ServerOfItsOwnClock;
let clockOfWorkers: FakedClock;
let database: TestDatabase;
let redis: TestRedis | undefined;
let drill: LossDrill;
let refused = 0;

beforeAll(async () => {
  server = await startServerOfItsOwnClock();
  clockOfWorkers = await fakeClock();
});
afterEach(async () => {
  await drill.close();
  await redis?.stop();
  redis = undefined;
  await database.drop();
});
afterAll(async () => {
  await server.stop();
  await clockOfWorkers.remove();
});

const refuseSomeOnce = () => {
  const seen = new Set<string>();
  refused = 0;
  return (...[response, webhook]: Parameters<ReturnType<typeof answer>>) => {
    const key = `${webhook.path} ${webhook.headers['webhook-id']}`;
    const isRefused = !seen.has(key) && seen.size % REFUSED_ONE_IN === 0;
    seen.add(key);
    if (isRefused) refused += 1;
    setTimeout(() => answer(isRefused ? 400 : 204)(response, webhook), 5);
  };
};

/** Both clocks at first so far from the next midnight of UTC, and work under way. */
const begin = async (backend: 'PostgreSQL' | 'Redis', afterMidnightMs: number): Promise<{ aheadMs: number }> => {
  const aheadMs = DAY_MS - (Date.now() % DAY_MS) + afterMidnightMs;
  for (const clock of [server.clock, clockOfWorkers]) await clock.setAhead(aheadMs);
  database = await createDatabase({ server });
  redis = backend === 'Redis' ? await startRedis() : undefined;
  drill = await startLossDrill({
    databaseUrl: database.url,
    redisUrl: redis?.url,
    workerEnvironment: clockOfWorkers.environment,
    respond: refuseSomeOnce(),
    endpoint: { retryDelaysMs: [RETRY_MS, RETRY_MS] },
  });
  for (const _ of [1, 2]) drill.startWorker();
  await announceMany(database.pool, BACKLOG, 'drill.backlog');
  await flowing(BACKLOG / 4);
  return { aheadMs };
};
const flowing = (more: number) => {
  const before = drill.receiver.received.length;
  return eventually('webhooks arrive', () => drill.receiver.received.length >= before + more);
};
const finish = async (name: string, mayRepeat: number) => {
  const losses = await drill.finish();
  const duplicates = losses.duplicates - refused;
  expectNothingLost(name, { ...losses, duplicates });
  expect(duplicates).toBeLessThanOrEqual(mayRepeat);
};
const lines = () => [...drill.workers].flatMap((worker) => worker.log()).map(({ msg }) => msg);

describe.each(BACKENDS_IN_SHORT)(
  'nothing is lost and nothing waits, with jobs through %s',
  { timeout: 120_000 },
  (backend) => {
    it.each([
      ['an hour back, to yesterday', -HOUR_MS],
      ['an hour ahead, to tomorrow', HOUR_MS],
    ])("when the server's clock jumps %s", async (how, byMs) => {
      const { aheadMs } = await begin(backend, -byMs / 2);
      await server.clock.setAhead(aheadMs + byMs);
      await flowing(BACKLOG / 4);
      await finish(`the server's clock jumped ${how}, ${backend}`, UNDER_WAY);
      expect(lines().filter((line) => line.includes('clock jumped'))).toHaveLength(1);
    });

    it("when the workers' clock jumps an hour back, and two ahead", async () => {
      const { aheadMs } = await begin(backend, HOUR_MS / 2);
      for (const byMs of [-HOUR_MS, HOUR_MS]) {
        await clockOfWorkers.setAhead(aheadMs + byMs);
        await flowing(BACKLOG / 4);
      }
      await finish(`the workers' clock jumped, ${backend}`, 0);
    });
  },
);
