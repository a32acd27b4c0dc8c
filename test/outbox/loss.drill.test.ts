import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, it } from 'vitest';
import { type CrashingServer, startCrashingServer } from '../support/crashing-server.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { expectNothingLost, type LossDrill, type LossDrillOptions, startLossDrill } from '../support/loss.ts';
import { BACKENDS } from '../support/outbox.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type WeakLink, weakLink } from './weak-link.ts';

const isFull = process.env['LIVENTIX_DRILLS'] === 'full';
/** How long a fault lasts: what the issue names where there is time. */
const OUTAGE_MS = isFull ? 60_000 : 3_000;
const RESTLESS_MS = isFull ? 300_000 : 10_000;
/** Beyond what a fault itself takes. */
const PATIENCE_MS = 120_000;
const RESTLESS_WORKERS = isFull ? 20 : 6;

let database: TestDatabase;
let redis: TestRedis | undefined;
let server: CrashingServer | undefined;
let drill: LossDrill;
const links: WeakLink[] = [];

afterEach(async () => {
  await drill.close();
  for (const link of links.splice(0)) await link.close();
  await redis?.stop();
  redis = undefined;
  if (server === undefined) await database.drop();
  else await server.stop();
  server = undefined;
});

const begin = async (backend: 'PostgreSQL' | 'Redis', options: Partial<LossDrillOptions> = {}) => {
  database = await createDatabase();
  redis = backend === 'Redis' ? await startRedis() : undefined;
  drill = await startLossDrill({ databaseUrl: database.url, redisUrl: redis?.url, ...options });
};
const linkTo = async (url: string): Promise<WeakLink> => {
  const link = await weakLink(url);
  links.push(link);
  return link;
};
const cutThenSilence = async (link: WeakLink) => {
  link.cut();
  await pause(OUTAGE_MS / 2);
  link.mend();
  await flowing(0);
  link.silence();
  await pause(OUTAGE_MS / 2);
  link.mend();
};
const flowing = (workers: number) => {
  for (let n = 0; n < workers; n += 1) drill.startWorker();
  const before = drill.receiver.received.length;
  return eventually('webhooks arrive', () => drill.receiver.received.length >= before + 50, 30_000);
};

describe.each(BACKENDS)('nothing is lost, with jobs through %s', { timeout: PATIENCE_MS + OUTAGE_MS }, (backend) => {
  it('when a worker is killed mid-request, and then the other', async () => {
    await begin(backend);
    await flowing(2);
    for (const worker of [...drill.workers]) {
      worker.kill('SIGKILL');
      drill.startWorker();
      await flowing(0);
    }
    expectNothingLost(`worker killed, ${backend}`, await drill.finish());
  });

  it('when the network between workers and PostgreSQL is cut, and falls silent', async () => {
    database = await createDatabase();
    redis = backend === 'Redis' ? await startRedis() : undefined;
    const link = await linkTo(database.url);
    drill = await startLossDrill({ databaseUrl: link.url, directUrl: database.url, redisUrl: redis?.url });
    await flowing(2);
    await cutThenSilence(link);
    expectNothingLost(`PostgreSQL cut off, ${backend}`, await drill.finish({ outageMs: OUTAGE_MS }));
  });
});

describe('nothing is lost', { timeout: PATIENCE_MS + OUTAGE_MS + RESTLESS_MS }, () => {
  it('when the relay is killed between what it claims and what it queues', async () => {
    database = await createDatabase();
    redis = await startRedis();
    const link = await linkTo(redis.url);
    drill = await startLossDrill({ databaseUrl: database.url, redisUrl: link.url });
    await flowing(1);
    const holdsWhatIsNotQueued = async () => {
      const { rows } = await database.pool.query(
        `select count(*)::integer as n from outbox.deliveries where state = 'queued' and claimed_by is null`,
      );
      return rows[0].n > 0;
    };
    // What it claims from then on cannot be queued; unless it found out first that nobody answers.
    for (let isStruck = false; !isStruck; ) {
      link.silence();
      isStruck = await eventually('it holds something', holdsWhatIsNotQueued, 1_000).then(
        () => true,
        () => false,
      );
      if (isStruck) continue;
      link.mend();
      await flowing(0);
    }
    for (const worker of drill.workers) worker.kill('SIGKILL');
    link.mend();
    drill.startWorker();
    expectNothingLost('relay killed between claim and queue', await drill.finish());
  });

  it('when Redis is flushed, again and again', async () => {
    await begin('Redis');
    await flowing(2);
    for (let flushed = 0; flushed < 5; flushed += 1) {
      await redis?.flush();
      await flowing(0);
    }
    expectNothingLost('Redis flushed', await drill.finish());
  });

  it(`when Redis is away for ${OUTAGE_MS / 1_000} s, and comes back empty`, async () => {
    await begin('Redis');
    await flowing(2);
    const port = redis?.port ?? 0;
    await redis?.stop();
    await pause(OUTAGE_MS);
    redis = await startRedis({ port });
    expectNothingLost(`Redis away for ${OUTAGE_MS / 1_000} s`, await drill.finish({ outageMs: OUTAGE_MS }));
  });

  it('when the network between workers and Redis is cut, and falls silent', async () => {
    database = await createDatabase();
    redis = await startRedis();
    const link = await linkTo(redis.url);
    drill = await startLossDrill({ databaseUrl: database.url, redisUrl: link.url });
    await flowing(2);
    await cutThenSilence(link);
    expectNothingLost('Redis cut off', await drill.finish({ outageMs: OUTAGE_MS }));
  });

  it('when every connection to PostgreSQL that is open leads nowhere, the one that listens among them', async () => {
    database = await createDatabase();
    redis = await startRedis();
    const link = await linkTo(database.url);
    drill = await startLossDrill({ databaseUrl: link.url, directUrl: database.url, redisUrl: redis.url });
    await flowing(2);
    link.silenceOpen();
    expectNothingLost('connections half open', await drill.finish());
  });

  it('when PostgreSQL is shut down at once, and recovers', async () => {
    server = await startCrashingServer([]);
    database = await createDatabase({ server });
    redis = await startRedis();
    drill = await startLossDrill({ databaseUrl: database.url, redisUrl: redis.url });
    await flowing(2);
    await server.crash();
    await flowing(0);
    await server.crash();
    expectNothingLost('PostgreSQL shut down at once', await drill.finish());
  });

  it(`when workers start and stop at random for ${RESTLESS_MS / 1_000} s`, async () => {
    await begin('Redis');
    await flowing(1);
    const until = performance.now() + RESTLESS_MS;
    while (performance.now() < until) {
      const running = [...drill.workers];
      const victim = running[Math.floor(Math.random() * running.length)];
      if (running.length < RESTLESS_WORKERS && (victim === undefined || Math.random() < 0.6)) drill.startWorker();
      else victim?.kill(Math.random() < 0.5 ? 'SIGKILL' : 'SIGTERM');
      await pause(Math.random() * 1_000);
    }
    if (drill.workers.size === 0) drill.startWorker();
    expectNothingLost('workers come and go', await drill.finish());
  });
});
