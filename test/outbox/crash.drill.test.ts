import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type RunningLiventix, startLiventix } from '../support/liventix.ts';
import {
  addTestEndpoint,
  announceMany,
  BACKENDS,
  clearOutbox,
  LOOPBACK,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const MESSAGES = 60;
const SHORT_LEASES = ['--poll-ms', '100', '--sweep-ms', '100', '--lease-margin-ms', '500'];

describe.each(BACKENDS)('a crash with jobs through %s', (backend) => {
  let database: TestDatabase;
  let redis: TestRedis | undefined;
  let receiver: TestReceiver;
  let respond = answer(204);
  const processes: RunningLiventix[] = [];

  const startWorkerProcess = (...flags: string[]): RunningLiventix => {
    const worker = startLiventix(['worker', ...SHORT_LEASES, ...flags], {
      DATABASE_URL: database.url,
      OUTBOX_EGRESS_ALLOW: LOOPBACK.join(','),
      LOG_LEVEL: 'error',
      ...(redis === undefined ? {} : { REDIS_URL: redis.url }),
    });
    processes.push(worker);
    return worker;
  };
  const received = (count: number) =>
    eventually(`${count} webhooks arrived`, () => receiver.received.length >= count, 30_000);
  const distinctIds = () => new Set(receiver.received.map(({ headers }) => headers['webhook-id'])).size;

  beforeAll(async () => {
    database = await createDatabase();
    redis = backend === 'Redis' ? await startRedis() : undefined;
  });
  afterEach(async () => {
    for (const worker of processes.splice(0)) {
      worker.kill('SIGKILL');
      await worker.done;
    }
    await receiver.stop();
    await clearOutbox(database.pool);
  });
  afterAll(async () => {
    await database.drop();
    await redis?.stop();
  });

  it('loses nothing when the worker is killed mid-request: another delivers it under the same id', async () => {
    respond = () => undefined;
    receiver = await startReceiver((response, webhook) => respond(response, webhook));
    await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 2_000 });
    await announceMany(database.pool, MESSAGES);
    const killed = startWorkerProcess();
    await received(10);
    killed.kill('SIGKILL');
    await killed.done;

    respond = answer(204);
    startWorkerProcess();
    const status = await settled(database.pool, 40_000);
    expect(status.deliveries).toMatchObject({ delivered: MESSAGES, dead: 0 });
    expect(distinctIds()).toBe(MESSAGES);
    expect(receiver.received).toHaveLength(MESSAGES + 10);
    const { rows } = await database.pool.query(
      `select error_class, count(*)::integer as count from outbox.attempts
       where error_class is not null group by error_class`,
    );
    expect(rows).toEqual([{ error_class: 'worker_lost', count: 10 }]);
  });

  it('drains on SIGTERM: finishes what is under way, leaves the rest to the next worker, delivers nothing twice', async () => {
    receiver = await startReceiver((response, webhook) => setTimeout(() => answer(204)(response, webhook), 300));
    await addTestEndpoint(database.pool, { url: receiver.url, maxInFlight: 5 });
    await announceMany(database.pool, MESSAGES);
    const first = startWorkerProcess();
    await received(7);
    first.kill('SIGTERM');
    const run = await first.done;
    expect(run).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^liventix worker ready: .+\n$/) });
    expect(receiver.received.length).toBeLessThan(MESSAGES);
    const { rows } = await database.pool.query(
      `select (select count(*) from outbox.deliveries where claimed_by is not null)::integer as under_way,
              (select count(*) from outbox.attempts where error_class is not null)::integer as failed`,
    );
    expect(rows).toEqual([{ under_way: 0, failed: 0 }]);

    startWorkerProcess();
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: MESSAGES, dead: 0 });
    expect(receiver.received).toHaveLength(MESSAGES);
    expect(distinctIds()).toBe(MESSAGES);
  });

  it('breaks off what does not finish within the drain, hands it back, and still exits with 0', async () => {
    receiver = await startReceiver((response, webhook) => respond(response, webhook));
    respond = () => undefined;
    await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 60_000 });
    await announceMany(database.pool, 3);
    const first = startWorkerProcess('--drain-ms', '300');
    await received(3);
    first.kill('SIGTERM');
    expect((await first.done).exitCode).toBe(0);
    const { rows } = await database.pool.query('select state, last_error from outbox.deliveries');
    expect(rows).toEqual(
      Array.from({ length: 3 }, () => ({
        state: 'pending',
        last_error: 'the worker stopped before the answer came',
      })),
    );
    respond = answer(204);
    startWorkerProcess();
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 3 });
  });

  it('goes on by itself when the server ends every one of its connections', async () => {
    receiver = await startReceiver((response, webhook) => setTimeout(() => answer(204)(response, webhook), 20));
    await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 1_000 });
    const worker = await startTestWorker({ databaseUrl: database.url, redisUrl: redis?.url, queueLeaseMs: 1_000 });
    try {
      await announceMany(database.pool, MESSAGES);
      await received(10);
      await database.pool.query(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and application_name ~ '^(liventix-|deliveries)'`,
      );
      await settled(database.pool);
      await announceMany(database.pool, MESSAGES);
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 2 * MESSAGES, dead: 0 });
      expect(distinctIds()).toBe(2 * MESSAGES);
    } finally {
      await worker.stop();
    }
  });
});

describe('losing Redis', () => {
  let database: TestDatabase;
  let redis: TestRedis;
  let receiver: TestReceiver;

  beforeAll(async () => {
    database = await createDatabase();
    redis = await startRedis();
    receiver = await startReceiver((response, webhook) => setTimeout(() => answer(204)(response, webhook), 20));
  });
  afterAll(async () => {
    await receiver.stop();
    await redis.stop();
    await database.drop();
  });

  const arrived = async (count: number) => {
    const worker = await startTestWorker({
      databaseUrl: database.url,
      redisUrl: redis.url,
      concurrency: 4,
      // Far beyond the test's deadline: what comes back does not come back by the end of its lease.
      queueLeaseMs: 600_000,
    });
    await announceMany(database.pool, MESSAGES);
    await eventually('some arrived', () => receiver.received.length >= count);
    return worker;
  };
  const everythingArrived = async () => {
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: MESSAGES, dead: 0 });
    expect(new Set(receiver.received.slice(-MESSAGES).map(({ body }) => body)).size).toBe(MESSAGES);
    await clearOutbox(database.pool);
  };

  it('keeps every delivery when Redis is flushed mid-backlog, and does not wait for leases to end', async () => {
    await addTestEndpoint(database.pool, { url: receiver.url, maxInFlight: 30 });
    const worker = await arrived(10);
    await redis.flush();
    await everythingArrived();
    await worker.stop();
  });

  it('keeps every delivery when Redis goes away mid-backlog and comes back empty', async () => {
    await addTestEndpoint(database.pool, { url: receiver.url, maxInFlight: 30 });
    const worker = await arrived(receiver.received.length + 10);
    await redis.stop();
    redis = await startRedis({ port: redis.port });
    await everythingArrived();
    await worker.stop();
  });
});
