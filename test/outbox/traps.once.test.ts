import { Redis } from 'ioredis';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Sockets, trackSockets } from '../../src/db/sockets.ts';
import { egressPolicy } from '../../src/outbox/egress.ts';
import { createEgressAgent } from '../../src/outbox/egress-agent.ts';
import { type Listener, startListener } from '../../src/outbox/listener.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import { type DeliveryQueue, openQueue } from '../../src/outbox/queue.ts';
import { attempt } from '../support/attempt.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  addTestEndpoint,
  announce,
  clearOutbox,
  LOOPBACK,
  relayAsleep,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type WeakLink, weakLink } from './weak-link.ts';

const outage = createOutageLog({ log: pino({ level: 'silent' }), server: 'the server' });

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

describe('the listener', () => {
  let sockets: Sockets;
  let link: WeakLink;
  let listener: Listener;
  let woken = 0;
  const listen = async (timing: { checkMs?: number; checkTimeoutMs?: number } = {}) => {
    link = await weakLink(database.url);
    sockets = trackSockets();
    listener = await startListener({
      ...timing,
      databaseUrl: link.url,
      db: database.pool,
      outage,
      sockets,
      onWake: () => {
        woken += 1;
      },
      onChange: () => {
        woken += 1;
      },
    });
  };
  const wakes = () => {
    const before = woken;
    return eventually('a notification arrives', async () => {
      await database.pool.query(`select pg_notify('liventix_outbox', '')`);
      return woken > before;
    });
  };
  afterEach(async () => {
    await link.close();
    await listener.close();
    sockets.destroyAll();
  });

  // pg-listen's default is to give up after three seconds, and to say nothing.
  it('never gives up on a server that is away', async () => {
    await listen();
    const before = link.connections();
    link.cut();
    const cutAt = performance.now();
    await eventually('it still tries after more than three seconds', () => {
      return performance.now() - cutAt > 4_500 && link.connections() > before + 5;
    });
    link.mend();
    await wakes();
  });

  it('finds out that its connection has fallen silent, and makes another', async () => {
    await listen({ checkMs: 200, checkTimeoutMs: 200 });
    const before = [link.connections(), woken];
    link.silenceOpen();
    await eventually(
      'it is connected anew and has woken the relay, for what was said meanwhile',
      () => {
        return link.connections() > (before[0] ?? 0) && woken > (before[1] ?? 0);
      },
      10_000,
    );
    await wakes();
  });
});

describe('the relay', () => {
  it('finds at its next poll what was announced while the connection that listens says nothing', async () => {
    const receiver = await startReceiver();
    const worker = await startTestWorker({ databaseUrl: database.url, pollMs: 200 });
    await database.pool.query('alter table public.outbox disable trigger outbox_wake_relay');
    try {
      await addTestEndpoint(database.pool, { url: receiver.url });
      await relayAsleep(database.pool);
      await announce(database.pool);
      await settled(database.pool, 5_000);
      expect(receiver.received).toHaveLength(1);
    } finally {
      await database.pool.query('alter table public.outbox enable trigger outbox_wake_relay');
      await Promise.all([worker.stop(), receiver.stop()]);
    }
  });
});

describe('the queue in Redis', () => {
  let redis: TestRedis;
  let client: Redis;
  let queue: DeliveryQueue;
  const JOBS = Array.from({ length: 50 }, (_, n) => ({ deliveryId: `${n}`, day: '2026-11-29', attempt: 1 }));

  beforeAll(async () => {
    redis = await startRedis();
    client = new Redis(redis.url);
  });
  beforeEach(async () => {
    await redis.flush();
    queue = await openQueue({
      databaseUrl: database.url,
      redisUrl: redis.url,
      db: database.pool,
      outage,
      sockets: trackSockets(),
    });
  });
  afterEach(() => queue.close());
  afterAll(async () => {
    client.disconnect();
    await redis.stop();
  });

  /** Every key that exists for a job's sake. */
  const jobKeys = async () => {
    const keys = await client.keys('*');
    return keys.filter((key) => /:(\d+|completed|failed)(:|$)/.test(key));
  };

  it.each([
    ['is done', async () => undefined],
    [
      'fails',
      async () => {
        throw new Error('it failed');
      },
    ],
  ])('keeps nothing of a job that %s', async (_how, process) => {
    let seen = 0;
    await queue.enqueue(JOBS);
    expect(await jobKeys()).not.toHaveLength(0);
    await queue.consume((jobs) => {
      seen += jobs.length;
      return process();
    });
    await eventually('nothing is kept', async () => seen === JOBS.length && (await jobKeys()).length === 0, 5_000);
  });

  // BullMQ's default is to fail it for good at its second stall.
  it('gives out again a job that stalls for the second time', async () => {
    await queue.enqueue([{ deliveryId: '7', day: '2026-11-29', attempt: 1 }]);
    await stallForTheSecondTime();
    const processed: string[] = [];
    await queue.consume(async (jobs) => void processed.push(...jobs.map(({ deliveryId }) => deliveryId)));
    await eventually('it is processed', () => processed.length === 1, 5_000);
    expect(processed).toEqual(['7']);
  });

  // As a worker leaves it that took the job for the second time and is gone: active, without a lock, stalled once, and
  // marked by the last check.
  const stallForTheSecondTime = async () => {
    const [wait] = await client.keys('*:wait');
    const base = wait?.replace(/wait$/, '') ?? '';
    const id = await client.lmove(`${base}wait`, `${base}active`, 'LEFT', 'LEFT');
    await client.hset(`${base}${id}`, 'stc', '1');
    await client.sadd(`${base}stalled`, `${id}`);
    await client.del(`${base}marker`, `${base}stalled-check`);
  };
});

describe('the egress agent', () => {
  it('opens no more connections to one origin than it may, and makes the other requests wait', async () => {
    const [MOST, REQUESTS] = [128, 300];
    const waiting: (() => void)[] = [];
    const receiver = await startReceiver(
      (response, webhook) => void waiting.push(() => answer(204)(response, webhook)),
    );
    const agent = createEgressAgent(egressPolicy(LOOPBACK), { perOrigin: MOST });
    const requests = Array.from({ length: REQUESTS }, () => attempt(agent, receiver.url, { timeoutMs: 60_000 }));
    let answered = 0;
    await eventually('every request is answered', () => {
      // Only when every connection is taken: an answer makes room for the next.
      if (waiting.length >= Math.min(MOST, REQUESTS - answered)) {
        for (const respond of waiting.splice(0)) {
          respond();
          answered += 1;
        }
      }
      return answered === REQUESTS;
    });
    await Promise.all(requests);
    expect(receiver.connections()).toBe(MOST);
    await agent.close();
    await receiver.stop();
  });
});
