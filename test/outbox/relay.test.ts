import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { trackSockets } from '../../src/db/sockets.ts';
import {
  admitDeliveries,
  claimAttempt,
  type DeliveryJob,
  fanOut,
  recordAttempt,
  returnLostDeliveries,
} from '../../src/outbox/deliveries.ts';
import { startListener } from '../../src/outbox/listener.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  clearOutbox,
  relayAsleep,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

const URL = 'http://127.0.0.1:1/';
const UNANSWERED = {
  startedAt: new Date(0),
  durationMs: 0,
  statusCode: null,
  error: 'no answer',
  response: null,
  address: null,
  next: { state: 'pending', delayMs: 0 },
} as const;
const SOON = { limit: 1_000, queueLeaseMs: 60_000 };

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ poolMax: 25 });
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

describe('fan-out', () => {
  it('turns each message into its deliveries once when 20 relays claim at the same time', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 1_000);
    const claimUntilEmpty = async () => {
      let total = 0;
      for (;;) {
        const { messages } = await fanOut(database.pool, 7);
        if (messages === 0) return total;
        total += messages;
      }
    };
    const totals = await Promise.all(Array.from({ length: 20 }, claimUntilEmpty));
    expect(totals.reduce((sum, total) => sum + total)).toBe(1_000);
    expect(totals.filter((total) => total > 0).length).toBeGreaterThan(1);
    const { rows } = await database.pool.query('select count(*)::integer as count from outbox.deliveries');
    expect(rows).toEqual([{ count: 2_000 }]);
  });

  it('leaves a message unprocessed, and without deliveries, when its transaction fails', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    const tx = await database.pool.connect();
    await tx.query('begin');
    expect(await fanOut(tx, 10)).toEqual({ messages: 1, deliveries: 1 });
    await tx.query('rollback');
    tx.release();
    expect(await fanOut(database.pool, 10)).toEqual({ messages: 1, deliveries: 1 });
  });
});

describe('admission', () => {
  it('takes turns between endpoints, so no backlog delays another', async () => {
    await addTestEndpoint(database.pool, { url: URL, topics: ['busy'], maxInFlight: 100 });
    await announceMany(database.pool, 50, 'busy');
    await fanOut(database.pool, 100);
    await addTestEndpoint(database.pool, { url: URL, topics: ['calm'] });
    await announceMany(database.pool, 3, 'calm');
    await fanOut(database.pool, 100);
    const admitted = await admitDeliveries(database.pool, { ...SOON, limit: 6 });
    const { rows } = await database.pool.query(
      `select topic, count(*)::integer as count from outbox.deliveries join public.outbox on outbox.id = message_id
       where deliveries.id = any($1::bigint[]) group by topic order by topic`,
      [admitted.map(({ deliveryId }) => deliveryId)],
    );
    expect(rows).toEqual([
      { topic: 'busy', count: 3 },
      { topic: 'calm', count: 3 },
    ]);
  });

  it('never admits more than an endpoint allows when 20 relays admit at the same time', async () => {
    await addTestEndpoint(database.pool, { url: URL, maxInFlight: 10 });
    await announceMany(database.pool, 200);
    await fanOut(database.pool, 1_000);
    const admitted = await Promise.all(Array.from({ length: 20 }, () => admitDeliveries(database.pool, SOON)));
    expect(admitted.flat()).toHaveLength(10);
  });
});

describe('admission by two relays', () => {
  it('counts what the other has admitted and not yet committed', async () => {
    await addTestEndpoint(database.pool, { url: URL, maxInFlight: 10 });
    await announceMany(database.pool, 20);
    await fanOut(database.pool, 1_000);
    const first = await database.pool.connect();
    await first.query('begin');
    expect(await admitDeliveries(first, SOON)).toHaveLength(10);
    // The other ten come first now, so the second relay would choose them, and not wait for the first one's rows.
    await database.pool.query(`update outbox.deliveries set next_attempt_at = now() - interval '1 hour' where id not in
      (select id from outbox.deliveries order by id limit 10)`);
    const second = admitDeliveries(database.pool, SOON);
    await eventually('the second relay has come as far as it can', async () => {
      const { rows } = await database.pool.query(
        `select count(*) filter (where wait_event_type = 'Lock') > 0 or count(*) = 0 as waits from pg_stat_activity
         where datname = current_database() and state = 'active' and pid <> pg_backend_pid()`,
      );
      return rows[0]?.waits === true;
    });
    await first.query('commit');
    first.release();
    expect(await second).toEqual([]);
  });
});

describe('an attempt', () => {
  const admitOne = async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    await fanOut(database.pool, 1);
    const [job] = await admitDeliveries(database.pool, SOON);
    if (job === undefined) throw new Error('nothing was admitted');
    return job;
  };

  it('is claimed by one of 20 workers that got the same job', async () => {
    const job = await admitOne();
    const claims = await Promise.all(Array.from({ length: 20 }, () => claimAttempt(database.pool, job, 1_000)));
    expect(claims.filter((claim) => claim !== undefined)).toHaveLength(1);
  });

  it('is not claimed by a job that comes after its lease was taken back', async () => {
    const job = await admitOne();
    await claimAttempt(database.pool, job, 1_000);
    await database.pool.query(`update outbox.deliveries set lease_until = clock_timestamp() - interval '1 second'`);
    expect(await returnLostDeliveries(database.pool, { limit: 10, maxLost: 10 })).toBe(1);
    const [next] = await admitDeliveries(database.pool, SOON);
    expect(next).toEqual({ deliveryId: job.deliveryId, attempt: 2 });
    expect(await claimAttempt(database.pool, job, 1_000)).toBeUndefined();
  });

  it('that a worker lost or broke off does not move the schedule, and has a number all the same', async () => {
    let job: DeliveryJob | undefined = await admitOne();
    const stands: (number | undefined)[][] = [];
    for (const errorClass of ['worker_lost', 'worker_stopped', 'timeout', 'worker_lost', 'status', 'none']) {
      if (job === undefined) throw new Error('nothing was admitted');
      const claimed = await claimAttempt(database.pool, job, 1_000);
      stands.push([job.attempt, claimed?.scheduleAttempt]);
      if (errorClass === 'worker_lost') {
        await database.pool.query(`update outbox.deliveries set lease_until = clock_timestamp() - interval '1 second'`);
        await returnLostDeliveries(database.pool, { limit: 10, maxLost: 3 });
      } else {
        await recordAttempt(database.pool, { ...UNANSWERED, ...job, errorClass });
      }
      [job] = await admitDeliveries(database.pool, SOON);
    }
    expect(stands).toEqual([
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 2],
      [5, 2],
      [6, 3],
    ]);
  });

  it('is made as often as the schedule says after workers were lost', async () => {
    const receiver = await startReceiver(answer(500));
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    await fanOut(database.pool, 1);
    await database.pool.query(`
      with moved as (update outbox.deliveries set attempt = 4 returning id)
      insert into outbox.attempts (delivery_id, attempt, started_at, duration_ms, error_class)
      select id, n, now(), 0, 'worker_lost' from moved, generate_series(1, 3) as n`);
    const worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: [20, 40] });
    try {
      expect((await settled(database.pool)).deliveries).toMatchObject({ dead: 1 });
      expect(receiver.received).toHaveLength(3);
    } finally {
      await worker.stop();
      await receiver.stop();
    }
  });

  it('that was answered after all counts again', async () => {
    const job = await admitOne();
    await claimAttempt(database.pool, job, 1_000);
    await database.pool.query(`update outbox.deliveries set lease_until = clock_timestamp() - interval '1 second'`);
    await returnLostDeliveries(database.pool, { limit: 10, maxLost: 10 });
    expect(await recordAttempt(database.pool, { ...UNANSWERED, ...job, errorClass: 'status' })).toBe(false);
    const [next] = await admitDeliveries(database.pool, SOON);
    expect(await claimAttempt(database.pool, next ?? job, 1_000)).toMatchObject({ attempt: 2, scheduleAttempt: 2 });
  });

  it('that kills its worker every time ends as a dead letter', async () => {
    await admitOne();
    for (let lost = 0; lost < 3; lost += 1) {
      const [job] = lost === 0 ? [{ deliveryId: '', attempt: 1 }] : await admitDeliveries(database.pool, SOON);
      expect(job?.attempt).toBe(lost + 1);
      await database.pool.query(
        `update outbox.deliveries set state = 'delivering', lease_until = clock_timestamp() - interval '1 second'`,
      );
      await returnLostDeliveries(database.pool, { limit: 10, maxLost: 3 });
    }
    const { rows } = await database.pool.query('select state, attempt from outbox.deliveries');
    expect(rows).toEqual([{ state: 'dead', attempt: 3 }]);
    const { rows: messages } = await database.pool.query('select attempt_count from public.outbox');
    expect(messages).toEqual([{ attempt_count: 3 }]);
  });

  it('queued for a worker that never starts it is taken back as it was', async () => {
    const job = await admitOne();
    await database.pool.query(`update outbox.deliveries set lease_until = clock_timestamp() - interval '1 second'`);
    await returnLostDeliveries(database.pool, { limit: 10, maxLost: 10 });
    expect(await admitDeliveries(database.pool, SOON)).toEqual([job]);
  });
});

describe('waking the relay', () => {
  it('notifies only while the relay sleeps, once per transaction', async () => {
    const listener = new pg.Client({ connectionString: database.url });
    await listener.connect();
    const heard: string[] = [];
    listener.on('notification', ({ payload }) => heard.push(payload ?? ''));
    await listener.query('listen liventix_outbox; listen marker');
    const announceThen = async (marker: string) => {
      const tx = await database.pool.connect();
      await tx.query('begin');
      await announceMany(tx, 3);
      await announce(tx);
      await tx.query('commit');
      tx.release();
      // Notifications arrive in the order of commits: what has not come before the marker does not come.
      await database.pool.query('select pg_notify($1, $2)', ['marker', marker]);
      await eventually(`the ${marker} marker is heard`, () => heard.includes(marker));
    };
    await database.pool.query('update outbox.relay set sleeping = false');
    await announceThen('awake');
    await database.pool.query('update outbox.relay set sleeping = true');
    await announceThen('asleep');
    expect(heard).toEqual(['awake', '', 'asleep']);
    await listener.end();
  });

  it('delivers at once what is announced while it sleeps, without waiting for the next poll', async () => {
    const receiver = await startReceiver();
    const worker = await startTestWorker({ databaseUrl: database.url, pollMs: 60_000 });
    try {
      await addTestEndpoint(database.pool, { url: receiver.url });
      await relayAsleep(database.pool);
      await announce(database.pool);
      await settled(database.pool, 5_000);
      expect(receiver.received).toHaveLength(1);
    } finally {
      await worker.stop();
      await receiver.stop();
    }
  });
});

describe('the listener', () => {
  it('says plainly when notifications do not arrive', async () => {
    // A database whose notifications go elsewhere, as behind a transaction pooler.
    const elsewhere = await createDatabase();
    const listening = startListener({
      databaseUrl: database.url,
      db: elsewhere.pool,
      outage: createOutageLog({ log: pino({ level: 'silent' }), server: 'PostgreSQL' }),
      sockets: trackSockets(),
      onWake: () => undefined,
    });
    await expect(listening).rejects.toMatchObject({ code: 'LISTEN_UNAVAILABLE' });
    await elsewhere.drop();
  });
});
