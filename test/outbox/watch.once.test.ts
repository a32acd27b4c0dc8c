import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { liventix } from '../support/liventix.ts';
import { addTestEndpoint, announceMany, clearOutbox, LOOPBACK } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type Watched, watchedAt } from './watched.ts';
import { type WeakLink, weakLink } from './weak-link.ts';
import { startWorkerProcess, type WorkerProcess } from './worker-process.ts';

const SCRAPE_WITHIN_MS = 2_000;

/** One that fails is not asked again while a test lasts. */
const ANSWERS: Record<string, [statusCode: number, headers?: Record<string, string>]> = {
  '/fails': [500, { 'retry-after': '3600' }],
  '/gone': [410],
};

let database: TestDatabase;
let redis: TestRedis;
let receiver: TestReceiver;
let toPostgres: WeakLink;
let toRedis: WeakLink;
let worker: WorkerProcess;
let watched: Watched;

beforeAll(async () => {
  database = await createDatabase();
  redis = await startRedis();
  receiver = await startReceiver((response, webhook) => {
    if (webhook.path === '/silent') return;
    const [statusCode, headers] = ANSWERS[webhook.path.split('?')[0] ?? ''] ?? [204];
    answer(statusCode, headers)(response, webhook);
  });
});
beforeEach(async () => {
  [toPostgres, toRedis] = [await weakLink(database.url), await weakLink(redis.url)];
  watched = await watchedAt();
});
afterEach(async () => {
  worker.kill('SIGKILL');
  await worker.exitCode;
  await Promise.all([toPostgres.close(), toRedis.close()]);
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await Promise.all([receiver.stop(), redis.stop()]);
  await database.drop();
});

const start = (env: Record<string, string> = {}) => {
  worker = startWorkerProcess(['--poll-ms', '100', '--sweep-ms', '100', '--http', watched.address], {
    DATABASE_URL: toPostgres.url,
    REDIS_URL: toRedis.url,
    OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
    ...env,
  });
};
const startReady = async (env: Record<string, string> = {}) => {
  start(env);
  await eventually('it is ready', async () => (await watched.probe('/readyz'))?.statusCode === 200);
};
const failingParts = async () => {
  const ready = await watched.probe('/readyz');
  const failing = (ready?.body['failing'] ?? []) as { part: string; since: string; why: string }[];
  return ready?.statusCode === 503 ? failing : [];
};
const isAlive = async () => (await watched.probe('/livez'))?.statusCode === 200;

describe('/readyz', () => {
  it('says from the first moment on that it is not ready, while it is alive', async () => {
    toPostgres.silence();
    start();
    const failing = await eventually('it answers', async () => {
      const parts = await failingParts();
      return parts.length > 0 && parts;
    });
    expect(failing).toEqual([{ part: 'worker', since: expect.any(String), why: 'it is starting' }]);
    expect(await isAlive()).toBe(true);
  });

  it.each<[string, () => WeakLink, string[]]>([
    ['Redis', () => toRedis, ['queue']],
    ['PostgreSQL', () => toPostgres, ['postgresql', 'listener']],
  ])(
    'names %s while it is away, since when, and is ready again without a restart; alive all the while',
    async (_server, link, parts) => {
      await startReady();
      link().cut();
      const first = await eventually('it is told', async () => {
        const failing = await failingParts();
        return parts.every((part) => failing.some((each) => each.part === part)) && failing;
      });
      const since = first.find(({ part }) => part === parts[0])?.since ?? '';
      expect(Math.abs(Date.now() - Date.parse(since))).toBeLessThan(15_000);
      const later = await eventually('it was asked again', async () => {
        const failing = await failingParts();
        return failing.find(({ part }) => part === parts[0]);
      });
      expect(later.since).toBe(since);
      expect(await isAlive()).toBe(true);
      link().mend();
      await eventually('it is ready again', async () => (await watched.probe('/readyz'))?.statusCode === 200);
      expect((await watched.metrics()).get(`liventix_outages_total{part="${parts[0]}"}`)).toBe(1);
    },
  );

  it('is not ready while it drains, and alive', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/silent`, timeoutMs: 60_000 });
    await startReady();
    await announceMany(database.pool, 1);
    await eventually('a request is under way', () => receiver.at('/silent').length > 0);
    worker.kill('SIGTERM');
    await eventually('it says so', async () => (await failingParts()).some(({ why }) => why === 'it is stopping'));
    expect(await isAlive()).toBe(true);
  });
});

describe('/livez', () => {
  it('is not answered by a process that is stopped, says that it was blocked, and is well again', async () => {
    await startReady();
    worker.kill('SIGSTOP');
    await eventually('nobody answers', async () => (await watched.get('/livez')) === undefined);
    const stoppedAt = performance.now();
    await eventually('it was stopped for longer than it may', () => performance.now() - stoppedAt > 5_500);
    worker.kill('SIGCONT');
    const blocked = await eventually('it answers', () => watched.probe('/livez'));
    expect(blocked).toMatchObject({ statusCode: 503, body: { alive: false, faults: [{ part: 'event-loop' }] } });
    await eventually('it is well again', isAlive, 30_000);
  });
});

describe('/metrics', () => {
  it('count what happened, no more and no less, to everybody who scrapes', async () => {
    const [good, fails] = [
      await addTestEndpoint(database.pool, { url: `${receiver.url}/good?token=hidden`, topics: ['a'] }),
      await addTestEndpoint(database.pool, { url: `${receiver.url}/fails`, topics: ['b'] }),
    ];
    await addTestEndpoint(database.pool, { url: `${receiver.url}/gone`, topics: ['c'] });
    await startReady();
    await announceMany(database.pool, 40, 'a');
    await announceMany(database.pool, 3, 'b');
    await announceMany(database.pool, 1, 'c');
    const scrapes = await eventually('everything was attempted, and is known', async () => {
      const both = await Promise.all([watched.metrics(), watched.metrics()]);
      return both.every((metrics) => AT_LAST.every((name) => metrics.get(name) === EXPECTED.get(name))) && both;
    });
    for (const metrics of scrapes) {
      expect(Object.fromEntries([...metrics].filter(([name]) => EXPECTED.has(name)))).toEqual(
        Object.fromEntries(EXPECTED),
      );
      expect(metrics.get('liventix_delivery_lag_seconds_sum')).toBeLessThan(44 * 5);
      expect([...metrics.keys()].join()).not.toMatch(new RegExp(`hidden|${good.id}|${fails.id}`));
    }
  });

  it('name an endpoint whose breaker is open by its id, and by nothing else', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/fails` });
    await startReady();
    await announceMany(database.pool, 10);
    const metrics = await eventually('its breaker is open', async () => {
      const scraped = await watched.metrics();
      return scraped.get('liventix_endpoints_by_breaker{breaker="open"}') === 1 && scraped;
    });
    expect(metrics.get(`liventix_endpoint_breaker_open{endpoint_id="${id}"}`)).toBe(1);
  });

  it('answer in time with what they have while PostgreSQL is silent', async () => {
    await startReady();
    expect((await watched.metrics()).get('liventix_database_read')).toBe(1);
    toPostgres.silence();
    const metrics = await eventually('it is noticed', async () => {
      const askedAt = performance.now();
      const scraped = await watched.metrics();
      expect(performance.now() - askedAt).toBeLessThan(SCRAPE_WITHIN_MS);
      return scraped.get('liventix_database_read') === 0 && scraped;
    });
    expect(metrics.get('liventix_workers')).toBe(1);
    expect(metrics.get('liventix_database_read_age_seconds')).toBeGreaterThan(0);
    expect(await isAlive()).toBe(true);
  });
});

const EXPECTED = new Map([
  ['liventix_attempts_total{outcome="delivered",error_class=""}', 40],
  ['liventix_attempts_total{outcome="failed",error_class="status"}', 3],
  ['liventix_attempts_total{outcome="failed",error_class="gone"}', 1],
  ['liventix_deliveries_finished_total{state="delivered"}', 40],
  ['liventix_deliveries_finished_total{state="dead"}', 1],
  ['liventix_attempt_duration_seconds_count{outcome="delivered"}', 40],
  ['liventix_delivery_lag_seconds_count', 44],
  ['liventix_deliveries_claimed_total', 44],
  ['liventix_deliveries{state="pending"}', 3],
  ['liventix_deliveries{state="dead"}', 1],
  ['liventix_messages_unprocessed', 0],
  ['liventix_endpoints{state="enabled"}', 2],
  ['liventix_endpoints{state="disabled"}', 1],
  ['liventix_relay_leads', 1],
  ['liventix_workers', 1],
  ['liventix_requests_in_flight', 0],
]);

/** What is so when all else is. */
const AT_LAST = [
  'liventix_deliveries_finished_total{state="dead"}',
  'liventix_deliveries{state="pending"}',
  'liventix_deliveries{state="dead"}',
  'liventix_endpoints{state="disabled"}',
  'liventix_messages_unprocessed',
  'liventix_requests_in_flight',
];

describe('liventix worker --http', () => {
  it.each(['9464', 'localhost', '127.0.0.1:0', '127.0.0.1:70000', 'http://127.0.0.1:9464'])(
    'refuses %s',
    async (value) => {
      start();
      const byFlag = await liventix(['worker', '--http', value], { DATABASE_URL: database.url });
      expect(byFlag).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(/^liventix: USAGE: [^\n]+\n$/) });
      const byEnvironment = await liventix(['worker'], { DATABASE_URL: database.url, LIVENTIX_HTTP: value });
      expect(byEnvironment).toMatchObject({
        exitCode: 2,
        stderr: expect.stringMatching(/^liventix: CONFIG_INVALID: LIVENTIX_HTTP [^\n]+\n$/),
      });
    },
  );

  it('says in one line that the port is taken, and starts nothing', async () => {
    await startReady();
    const refused = await liventix(['worker'], { DATABASE_URL: database.url, LIVENTIX_HTTP: watched.address });
    expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: HTTP_UNAVAILABLE: 127\.0\.0\.1:\d+ cannot be listened on: [^\n]+\n$/);
  });
});

describe('the log of a worker', () => {
  it('follows a message through its attempts by ids, and holds no secret at any level', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/good?token=hidden-token` });
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/fails?token=hidden-token` });
    await startReady({ LOG_LEVEL: 'trace' });
    const { rows } = await database.pool.query(
      `insert into public.outbox (topic, payload, headers) values ('a', '{"a": "hidden-payload"}', '{"x-key": "hidden-header"}') returning id`,
    );
    await eventually('both have it', () => receiver.received.filter(({ path }) => path.includes('token')).length >= 2);
    const ofMessage = await eventually('both are logged', () => {
      const lines = worker.log().filter((line) => 'messageId' in line && line.messageId === rows[0].id);
      return lines.length >= 2 && lines;
    });
    for (const line of ofMessage)
      expect(line).toMatchObject({
        messageId: rows[0].id,
        deliveryId: expect.any(String),
        attempt: 1,
        endpointId: expect.any(String),
      });
    expect(ofMessage).toContainEqual(expect.objectContaining({ endpointId: id, errorClass: 'status' }));
    expect(worker.stderr()).not.toMatch(/hidden|whsec_/);
  });
});
