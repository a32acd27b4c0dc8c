import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { STOP_MARGIN_MS } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announceMany, clearOutbox, LOOPBACK, settled } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type WeakLink, weakLink } from './weak-link.ts';
import { startWorkerProcess, type WorkerProcess } from './worker-process.ts';

const DRAIN_MS = 500;
/** For a loaded machine to hear a signal and to end a process. */
const SLACK_MS = 1_500;

let database: TestDatabase;
let redis: TestRedis;
let receiver: TestReceiver;
let respond = answer(204);
let toPostgres: WeakLink;
let toRedis: WeakLink;
let worker: WorkerProcess;

beforeAll(async () => {
  database = await createDatabase();
  receiver = await startReceiver((response, webhook) => respond(response, webhook));
});
beforeEach(async () => {
  redis = await startRedis();
  [toPostgres, toRedis] = [await weakLink(database.url), await weakLink(redis.url)];
  await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 60_000, maxInFlight: 3 });
});
afterEach(async () => {
  worker.kill('SIGKILL');
  await worker.exitCode;
  await Promise.all([toPostgres.close(), toRedis.close(), redis.stop()]);
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

/** A worker with three requests under way that `respond` decides about. */
const startBusyWorker = async (queue: 'Redis' | 'PostgreSQL', flags: readonly string[] = []): Promise<void> => {
  const before = receiver.received.length;
  await announceMany(database.pool, 6);
  worker = startWorkerProcess([...flags, '--poll-ms', '100', '--sweep-ms', '100'], {
    DATABASE_URL: toPostgres.url,
    OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
    ...(queue === 'Redis' ? { REDIS_URL: toRedis.url } : {}),
  });
  await eventually('three requests are under way', () => receiver.received.length >= before + 3);
};
const said = (pattern: RegExp) => worker.log().filter(({ msg }) => pattern.test(msg));

describe('a worker that is told to stop', () => {
  it.each<[string, 'Redis' | 'PostgreSQL', () => unknown, 'at once' | 'noticed' | 'noticed, then silence']>([
    ['Redis was killed', 'Redis', () => redis.stop(), 'at once'],
    ['Redis was killed and the worker knows', 'Redis', () => redis.stop(), 'noticed'],
    ['Redis went silent', 'Redis', () => toRedis.silence(), 'at once'],
    ['Redis went silent and the worker knows', 'Redis', () => toRedis.silence(), 'noticed'],
    ['Redis refused connections, then went silent', 'Redis', () => toRedis.cut(), 'noticed, then silence'],
    ['PostgreSQL broke its connections', 'Redis', () => toPostgres.cut(), 'at once'],
    ['PostgreSQL went silent', 'Redis', () => toPostgres.silence(), 'at once'],
    ['PostgreSQL, with the queue in it, broke its connections', 'PostgreSQL', () => toPostgres.cut(), 'noticed'],
    ['PostgreSQL, with the queue in it, went silent', 'PostgreSQL', () => toPostgres.silence(), 'at once'],
  ])('ends within its drain and the margin after %s', async (_what, queue, goAway, when) => {
    respond = () => undefined;
    await startBusyWorker(queue, ['--drain-ms', `${DRAIN_MS}`]);
    await goAway();
    if (when !== 'at once') await eventually('it has noticed', () => said(/fails/).length > 0);
    if (when === 'noticed, then silence') {
      await eventually('it waits long between its tries', () => toRedis.connections() > 40);
      const before = toRedis.connections();
      await eventually('one wait has just begun', () => toRedis.connections() > before);
      toRedis.silence();
    }
    const stoppedAt = performance.now();
    worker.kill('SIGTERM');
    expect(await worker.exitCode).toBe(0);
    expect(performance.now() - stoppedAt).toBeLessThan(DRAIN_MS + STOP_MARGIN_MS + SLACK_MS);
    expect(worker.stderr()).not.toMatch(/Unhandled|INTERNAL|Error:/);
  });

  it('does not wait for Redis when nothing is under way', async () => {
    respond = answer(204);
    await startBusyWorker('Redis', ['--drain-ms', '60000']);
    await settled(database.pool);
    await redis.stop();
    await eventually('it has noticed', () => said(/fails/).length > 0);
    const stoppedAt = performance.now();
    worker.kill('SIGTERM');
    expect(await worker.exitCode).toBe(0);
    expect(performance.now() - stoppedAt).toBeLessThan(STOP_MARGIN_MS + SLACK_MS);
  });
});

describe('an outage', () => {
  // The worker meets it at every poll, reconnection and command: at least this often before it is over.
  const MANY_RETRIES = 25;

  it('of Redis is logged when it begins and when it is over, not at every retry', async () => {
    respond = answer(204);
    await startBusyWorker('Redis');
    await settled(database.pool);
    const before = toRedis.connections();
    toRedis.cut();
    await eventually('many retries failed', () => toRedis.connections() > before + MANY_RETRIES);
    toRedis.mend();
    await announceMany(database.pool, 1);
    await settled(database.pool);
    await eventually('the end is logged', () => said(/works again/).length > 0);
    expect(said(/fails|still|works/).map(({ msg }) => msg)).toEqual([
      'Redis fails; trying again, and nothing is lost meanwhile',
      'Redis works again',
    ]);
    expect(worker.stderr().split('\n').length).toBeLessThan(10);
  });

  it.each(['Redis', 'PostgreSQL'] as const)('of PostgreSQL, jobs through %s, is logged likewise', async (queue) => {
    respond = answer(204);
    await startBusyWorker(queue);
    await settled(database.pool);
    const before = toPostgres.connections();
    toPostgres.cut();
    await eventually('many retries failed', () => toPostgres.connections() > before + MANY_RETRIES);
    toPostgres.mend();
    await announceMany(database.pool, 1);
    await settled(database.pool);
    await eventually('the end is logged', () => said(/works again/).length > 0);
    expect(said(/fails|still|works/).map(({ msg }) => msg)).toEqual([
      'PostgreSQL fails; trying again, and nothing is lost meanwhile',
      'PostgreSQL works again',
    ]);
    expect(worker.stderr().split('\n').length).toBeLessThan(10);
  });
});
