import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectionConfig, createPool, type Pool, type Queryable } from '../../src/db/pool.ts';
import { trackSockets } from '../../src/db/sockets.ts';
import { AppError } from '../../src/errors.ts';
import { admitDue, findQueued, type QueuedDelivery } from '../../src/outbox/admission.ts';
import { claimAttempts, recordAttempts } from '../../src/outbox/attempts.ts';
import { disableEndpoint } from '../../src/outbox/endpoints.ts';
import { type FannedOut, fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { FLOOR_LAG_MS } from '../../src/outbox/floor.ts';
import { BREAKER_DEFAULTS } from '../../src/outbox/health.ts';
import { type Hearing, startHearing } from '../../src/outbox/hearing.ts';
import { OUTBOX_SESSION } from '../../src/outbox/held-connection.ts';
import { LineCheck } from '../../src/outbox/lines.ts';
import { startListener } from '../../src/outbox/listener.ts';
import { NOBODY } from '../../src/outbox/observer.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import { startRelay } from '../../src/outbox/relay.ts';
import { inspectQueued, returnLost } from '../../src/outbox/taking-back.ts';
import { WORKER_DEFAULTS } from '../../src/outbox/worker-options.ts';
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
const WORKER = 7;
const LOST_WORKERS: readonly number[] = [];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ poolMax: 25 });
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const fan = (
  db: Parameters<typeof fanOut>[0] = database.pool,
  options: Partial<Parameters<typeof fanOut>[1]> = {},
): Promise<FannedOut> =>
  fanOut(db, { limit: 1_000, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000, ...options });
const admit = (endpointIds: readonly string[], options: { free?: number; limit?: number } = {}) =>
  admitDue(database.pool, {
    wanted: endpointIds.map((endpointId) => ({ endpointId, free: options.free ?? 1_000, dueFrom: undefined })),
    limit: options.limit ?? 1_000,
    queueLeaseMs: 60_000,
  });
const claim = (job: QueuedDelivery, worker = WORKER) =>
  claimAttempts(database.pool, [job], { worker, leaseMarginMs: 1_000 });
const leasesEnd = () =>
  database.pool.query(
    `update outbox.deliveries set lease_until = clock_timestamp() - interval '1 second' where lease_until is not null`,
  );
const count = async (what: string): Promise<number> => {
  const { rows } = await database.pool.query<{ n: number }>(`select count(*)::integer as n from ${what}`);
  return rows[0]?.n ?? Number.NaN;
};

const QUEUE_FAILS_AFTER_MS = 400;

/** One that leads as soon as it can, and whose queue takes its time to say that it is away. */
const relayWithoutQueue = () => {
  let failures = 0;
  const fail = async (): Promise<never> => {
    await pause(QUEUE_FAILS_AFTER_MS);
    failures += 1;
    throw new AppError('QUEUE_UNREACHABLE', 'away');
  };
  const log = pino({ level: 'silent' });
  const outage = createOutageLog({ log, server: 'Redis' });
  const relay = startRelay({
    ...WORKER_DEFAULTS,
    databaseUrl: database.url,
    sockets: trackSockets(),
    queue: {
      wasEmptied: fail,
      markIntact: fail,
      enqueue: fail,
      hasWaiting: fail,
      answers: () => true,
      ...NOT_OF_A_RELAY,
    },
    log,
    outages: { postgres: outage, queue: outage },
    queryTimeoutMs: 5_000,
    maxLost: 5,
    breaker: BREAKER_DEFAULTS,
    observer: NOBODY,
  });
  return { relay, failures: () => failures };
};
const NOT_OF_A_RELAY = { consume: async () => undefined, drain: async () => undefined, close: async () => undefined };

describe('fan-out', () => {
  it('turns each message into its deliveries once, even if 20 do it at the same time', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 1_000);
    const fanUntilEmpty = async () => {
      while ((await fan(database.pool, { limit: 7 })).messages > 0);
    };
    await Promise.all(Array.from({ length: 20 }, fanUntilEmpty));
    expect(await count('public.outbox where processed_at is null')).toBe(0);
    expect(await count('outbox.deliveries')).toBe(2_000);
  });

  it('leaves a message unprocessed, and without deliveries, when its transaction fails', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    const tx = await database.pool.connect();
    await tx.query('begin');
    expect(await fan(tx)).toMatchObject({ messages: 1 });
    await tx.query('rollback');
    tx.release();
    expect(await count('outbox.deliveries')).toBe(0);
    expect(await fan()).toMatchObject({ messages: 1 });
  });

  it('queues at once as many as the endpoint has places for, the first ones, and lets the others wait', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 5);
    const { queued, waiting } = await fan(database.pool, { places: new Map([[id, 2]]) });
    expect(queued).toHaveLength(2);
    expect(waiting).toEqual([id]);
    expect((await admit([id])).queued.map(({ deliveryId }) => BigInt(deliveryId))).toSatisfy((later: bigint[]) =>
      later.every((one) => queued.every(({ deliveryId }) => BigInt(deliveryId) < one)),
    );
  });

  it('goes on from where it stood, and finds below it who committed late when it looks from the beginning', async () => {
    const late = await database.pool.connect();
    await late.query('begin');
    await announce(late);
    await announceMany(database.pool, 3);
    const { reached, messages } = await fan();
    expect(messages).toBe(3);
    await late.query('commit');
    late.release();
    expect(await fan(database.pool, { floor: reached ?? NO_FLOOR })).toMatchObject({ messages: 0 });
    expect(await fan()).toMatchObject({ messages: 1 });
  });

  it.each([
    ['of its organization alone', { organization_id: '11111111-1111-4111-8111-111111111111' }, 1],
    ['whose payload has what its filter asks for', { filter: '{"kind": "vip"}' }, 2],
  ])('gives an endpoint the messages %s', async (_what, column, expected) => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    const [[name, value] = []] = Object.entries(column);
    await database.pool.query(`update outbox.endpoints set ${name} = $2 where id = $1`, [id, value]);
    await database.pool.query(`insert into public.outbox (topic, payload, organization_id) values
      ('a', '{}', '11111111-1111-4111-8111-111111111111'), ('a', '{}', '22222222-2222-4222-8222-222222222222'),
      ('a', '{"kind": "vip", "seat": 1}', null), ('a', '{"kind": "vip"}', null)`);
    await fan();
    expect(await count('outbox.deliveries')).toBe(expected);
  });

  it('gives an endpoint what is announced from its beginning on, however long it takes to be looked at', async () => {
    await announce(database.pool);
    await addTestEndpoint(database.pool, { url: URL });
    const after = await announce(database.pool);
    expect(await fan()).toMatchObject({ messages: 2 });
    const { rows } = await database.pool.query('select message_id from outbox.deliveries');
    expect(rows).toEqual([{ message_id: after }]);
  });

  it('keeps for an endpoint that is disabled what was announced before, and nothing that is announced meanwhile', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 3);
    await disableEndpoint(database.pool, id, 'being moved');
    await announce(database.pool);
    expect(await fan()).toMatchObject({ queued: [], waiting: [id] });
    expect(await count(`outbox.deliveries where state = 'pending'`)).toBe(3);
  });

  it('lets a message wait for the time that it names', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await database.pool.query(
      `insert into public.outbox (topic, payload, deliver_after) values ('a', '{}', now() + interval '1 hour')`,
    );
    expect(await fan(database.pool, { places: new Map([[id, 9]]) })).toMatchObject({ queued: [], waiting: [id] });
    const { queued, nextDueInMs } = await admit([id]);
    expect(queued).toEqual([]);
    expect(nextDueInMs.get(id)).toBeGreaterThan(3_590_000);
  });
});

describe('what attempts came to', () => {
  const record = (db: Queryable, attempt: number) =>
    db.query(
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms)
       values (1, $1, current_date, gen_random_uuid(), now(), 1)`,
      [attempt],
    );
  const heard = async (hearing: Hearing) => (await hearing.hear('-infinity')).map(({ attempt }) => attempt);

  it('is heard of once each, in whatever order it is committed', async () => {
    const hearing = await startHearing(database.pool);
    const late = await database.pool.connect();
    await late.query('begin');
    await record(late, 1);
    await record(database.pool, 2);
    expect(await heard(hearing)).toEqual([2]);
    await record(late, 3);
    await record(database.pool, 4);
    expect(await heard(hearing)).toEqual([4]);
    expect(await heard(hearing)).toEqual([]);
    await late.query('commit');
    late.release();
    expect(await heard(hearing)).toEqual([1, 3]);
    expect(await heard(hearing)).toEqual([]);
  });

  it('is not asked for for ever where a number turns out to be nobody’s', async () => {
    let [now, asked] = [0, 0];
    const counting = {
      query: (...args: Parameters<Queryable['query']>) => {
        asked += 1;
        return database.pool.query(...args);
      },
    } as Queryable;
    const hearing = await startHearing(counting, () => now);
    await database.pool.query(`select nextval('outbox.attempt_seqs')`);
    await record(database.pool, 1);
    await heard(hearing);
    const statementsOf = async () => {
      const before = asked;
      await heard(hearing);
      return asked - before;
    };
    expect(await statementsOf()).toBe(2);
    now += 60_000;
    expect(await statementsOf()).toBe(1);
  });
});

describe('lines', () => {
  it('are moved up part by part, each head once, however many there are', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await database.pool.query(
      `insert into outbox.deliveries (message_id, day, endpoint_id, ordering_key, state, due_at)
       select gen_random_uuid(), current_date, $1, 'key ' || n % 1200, 'pending', null from generate_series(1, 2400) as n`,
      [id],
    );
    const check = new LineCheck(database.pool);
    check.begin({ ordered: [id], unordered: [] });
    let parts = 0;
    for (; check.isUnderWay; parts += 1) await check.go();
    expect(parts).toBe(3);
    expect(await count('outbox.deliveries where due_at is not null')).toBe(1_200);
    expect(
      await count(`(select min(id) as id from outbox.deliveries group by ordering_key) as heads
        join outbox.deliveries using (id) where due_at is not null`),
    ).toBe(1_200);
    check.begin({ ordered: [], unordered: [id] });
    for (; check.isUnderWay; parts += 1) await check.go();
    expect(parts).toBe(8);
    expect(await count('outbox.deliveries where due_at is null')).toBe(0);
  });
});

describe('admission', () => {
  it('passes over what somebody else holds, and comes back for it', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 3);
    await fan();
    const holder = await database.pool.connect();
    await holder.query('begin');
    await holder.query('select from outbox.deliveries order by id limit 1 for update');
    const { queued, nextDueInMs } = await admit([id]);
    expect(queued).toHaveLength(2);
    expect(nextDueInMs.get(id)).toBeLessThanOrEqual(0);
    await holder.query('commit');
    holder.release();
    expect((await admit([id])).queued).toHaveLength(1);
  });

  it('knows no time at which something is due that never will be', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    const other = await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    await fan();
    await database.pool.query(`update outbox.deliveries set due_at = 'infinity' where endpoint_id = $1`, [id]);
    const { queued, nextDueInMs } = await admit([id, other.id]);
    expect(queued.map(({ endpointId }) => endpointId)).toEqual([other.id]);
    expect(nextDueInMs.get(id)).toBeUndefined();
  });

  it('takes turns between endpoints, so no backlog delays another', async () => {
    const busy = await addTestEndpoint(database.pool, { url: URL, topics: ['busy'], maxInFlight: 100 });
    await announceMany(database.pool, 50, 'busy');
    await fan();
    const calm = await addTestEndpoint(database.pool, { url: URL, topics: ['calm'] });
    await announceMany(database.pool, 3, 'calm');
    await fan();
    const { queued } = await admit([busy.id, calm.id], { limit: 6 });
    const of = (id: string) => queued.filter(({ endpointId }) => endpointId === id).length;
    expect([of(busy.id), of(calm.id)]).toEqual([3, 3]);
  });

  it('says when what it did not admit is due', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 3);
    await fan();
    await database.pool.query(
      `update outbox.deliveries set due_at = now() + interval '60 seconds' where id = (select max(id) from outbox.deliveries)`,
    );
    const { queued, nextDueInMs } = await admit([id]);
    expect(queued).toHaveLength(2);
    expect(nextDueInMs.get(id)).toSatisfy((ms: number) => ms > 50_000 && ms <= 60_000);
  });
});

describe('while an old snapshot is held', () => {
  let held: pg.PoolClient | undefined;
  let client: pg.Client | undefined;
  afterEach(async () => {
    await client?.end();
    await held?.query('rollback');
    held?.release();
  });

  it('a claim reads its own delivery, and nothing of all that was queued before', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    held = await database.pool.connect();
    await held.query('begin isolation level repeatable read');
    await held.query('select pg_current_xact_id()');
    await announceMany(database.pool, 1_000);
    await fan(database.pool, { places: new Map([[id, 1_000]]) });
    await database.pool.query(
      `update outbox.deliveries set state = 'delivered', lease_until = null, finished_at = clock_timestamp()`,
    );
    await announce(database.pool);
    const [job] = (await fan(database.pool, { places: new Map([[id, 1]]) })).queued;
    if (job === undefined) throw new Error('nothing was queued');
    client = new pg.Client({ connectionString: database.url, options: OUTBOX_SESSION });
    await client.connect();
    const before = await readOfQueued(client);
    expect(await claimAttempts(client, [job], { worker: WORKER, leaseMarginMs: 1_000 })).toHaveLength(1);
    expect((await readOfQueued(client)) - before).toBeLessThan(10);
  });

  /** How many entries of the indexes of what is queued were read up to now. */
  const readOfQueued = async (client: pg.Client): Promise<number> => {
    await client.query('select pg_stat_force_next_flush()');
    await client.query('select');
    const { rows } = await client.query<{ n: number }>(
      `select sum(idx_tup_read)::integer as n from pg_stat_user_indexes join pg_index using (indexrelid)
       where schemaname = 'outbox' and pg_get_expr(indpred, pg_index.indrelid) = '(state = ''queued''::text)'`,
    );
    return rows[0]?.n ?? Number.NaN;
  };
});

describe('the fan-out to many endpoints', () => {
  const MESSAGES = 500;
  const MANY = 100;
  const ROUNDS = 3;

  /** The least of a few rounds, of what `announce` announces. */
  async function msOf(ids: readonly string[], announce: () => Promise<unknown>): Promise<number> {
    const took: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      await announce();
      const startedAt = performance.now();
      const { queued } = await fan(pool, { places: new Map(ids.map((id) => [id, MESSAGES])) });
      took.push(performance.now() - startedAt);
      expect(queued).toHaveLength(MESSAGES);
    }
    return Math.min(...took);
  }

  it('takes little longer for a hundred topics of a hundred endpoints than for one of each', async () => {
    const addSubscriber = async (n: number) =>
      (await addTestEndpoint(pool, { url: `${URL}${n}`, topics: [`topic_${n}.told`] })).id;
    const announceAll = async () => {
      for (const n of ids.keys()) await announceMany(pool, MESSAGES / ids.length, `topic_${n}.told`);
    };
    const ids = [await addSubscriber(0)];
    const ofOne = await msOf(ids, announceAll);
    while (ids.length < MANY) ids.push(await addSubscriber(ids.length));
    expect((await msOf(ids, announceAll)) / ofOne).toBeLessThan(10);
  });

  it('takes little longer for a hundred topics of a hundred organizations, each of which wants all of its own', async () => {
    const organizations: string[] = [];
    const ids: string[] = [];
    const addOrganization = async () => {
      const organizationId = randomUUID();
      organizations.push(organizationId);
      ids.push((await addTestEndpoint(pool, { url: `${URL}${organizationId}`, topics: ['*'], organizationId })).id);
    };
    const announceAll = () =>
      pool.query(
        `insert into public.outbox (topic, payload, organization_id)
         select format('topic_%s.told', n % $1), '{}', ($2::uuid[])[1 + (n + n / $1) % $3] from generate_series(1, $4::integer) as n`,
        [MANY, organizations, organizations.length, MESSAGES],
      );
    await addOrganization();
    const ofOne = await msOf(ids, announceAll);
    while (ids.length < MANY) await addOrganization();
    expect((await msOf(ids, announceAll)) / ofOne).toBeLessThan(10);
  });

  // One connection, as the relay has it, with a plan of before there was anything.
  let pool: Pool;
  beforeAll(() => {
    const { options } = connectionConfig({ databaseUrl: database.url });
    pool = createPool({ databaseUrl: database.url, max: 1 }, { options: `${options} ${OUTBOX_SESSION}` });
  });
  afterAll(() => pool.end());
});

describe('relays', () => {
  it('have one leader at a time, whose place is taken within two seconds of its death', async () => {
    const receiver = await startReceiver();
    await addTestEndpoint(database.pool, { url: receiver.url });
    const workers = await Promise.all([1, 2, 3].map(() => startTestWorker({ databaseUrl: database.url })));
    const leaders = async () => {
      const { rows } = await database.pool.query<{ pid: number }>(
        `select pg_locks.pid from pg_locks join pg_stat_activity using (pid)
         where locktype = 'advisory' and granted and application_name = 'liventix-relay' and objid = 0 and datname = current_database()
           and classid = (hashtext('liventix.relay.leads')::bigint & 4294967295)::oid`,
      );
      return rows.map(({ pid }) => pid);
    };
    try {
      const first = await eventually('one leads', async () => ((await leaders()).length === 1 ? leaders() : undefined));
      await database.pool.query('select pg_terminate_backend($1)', [first[0]]);
      const killedAt = performance.now();
      await eventually('another leads', async () => {
        const now = await leaders();
        return now.length === 1 && now[0] !== first[0];
      });
      expect(performance.now() - killedAt).toBeLessThan(2_000);
      await announceMany(database.pool, 20);
      expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 20 });
      expect(receiver.received).toHaveLength(20);
    } finally {
      await Promise.all(workers.map((worker) => worker.stop()));
      await receiver.stop();
    }
  });

  it('do not take turns while the queue is away', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    await fan(database.pool, { places: new Map([[id, 1]]) });
    const [first, second] = [relayWithoutQueue(), relayWithoutQueue()];
    try {
      await eventually('one of them tried for longer than a leader may be silent', () =>
        [first, second].some(({ failures }) => failures() > 4),
      );
      expect([first.failures(), second.failures()]).toContain(0);
    } finally {
      await Promise.all([first.relay.stop(), second.relay.stop()]);
    }
  });
});

describe('an attempt', () => {
  const queueOne = async (): Promise<QueuedDelivery> => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await announce(database.pool);
    const [job] = (await fan(database.pool, { places: new Map([[id, 1]]) })).queued;
    if (job === undefined) throw new Error('nothing was queued');
    return job;
  };
  const again = async (job: QueuedDelivery): Promise<QueuedDelivery> => {
    const [next] = (await admit([job.endpointId])).queued;
    if (next === undefined) throw new Error('nothing was admitted');
    return next;
  };
  const record = async (job: QueuedDelivery, errorClass: string | null) => {
    const { rows } = await database.pool.query<{ id: string }>('select message_id as id from outbox.deliveries');
    const moved = await recordAttempts(database.pool, [
      {
        ...job,
        messageId: rows[0]?.id ?? '',
        endpointVersion: 1n,
        startedAt: new Date(0),
        durationMs: 0,
        statusCode: null,
        errorClass,
        error: 'no answer',
        response: null,
        address: null,
        next: { state: 'pending', delayMs: 0 },
      },
    ]);
    return moved.has(job.deliveryId);
  };
  const takeBack = (job: QueuedDelivery, options: { workers?: readonly number[]; maxLost?: number } = {}) =>
    returnLost(database.pool, { jobs: [job], workers: options.workers ?? [WORKER], maxLost: options.maxLost ?? 10 });

  it('is claimed by one of 20 workers that got the same job', async () => {
    const job = await queueOne();
    const claims = await Promise.all(Array.from({ length: 20 }, (_, worker) => claim(job, worker)));
    expect(claims.flat()).toHaveLength(1);
  });

  it('is not claimed by a job that comes after its lease was taken back', async () => {
    const job = await queueOne();
    await claim(job);
    await leasesEnd();
    expect(await takeBack(job)).toBe(1);
    const next = await again(job);
    expect(next).toMatchObject({ deliveryId: job.deliveryId, attempt: 2 });
    expect(await claim(job)).toEqual([]);
  });

  it('is taken back from a worker that is gone, and from no other', async () => {
    const job = await queueOne();
    await claim(job);
    expect(await inspectQueued(database.pool, [job])).toMatchObject([{ standing: 'claimed', claimedBy: WORKER }]);
    expect(await takeBack(job, { workers: [WORKER] })).toBe(0);
    expect(await takeBack(job, { workers: LOST_WORKERS })).toBe(1);
    expect(await inspectQueued(database.pool, [job])).toMatchObject([{ standing: 'over' }]);
  });

  it('that a worker lost or broke off does not move the schedule, and has a number all the same', async () => {
    let job = await queueOne();
    const stands: (number | undefined)[][] = [];
    for (const errorClass of ['worker_lost', 'worker_stopped', 'timeout', 'worker_lost', 'status', 'none']) {
      const [claimed] = await claim(job);
      stands.push([job.attempt, claimed?.scheduleAttempt]);
      if (errorClass === 'worker_lost') {
        await leasesEnd();
        await takeBack(job, { maxLost: 3 });
      } else {
        await record(job, errorClass);
      }
      job = await again(job);
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
    await fan();
    await database.pool.query(`
      with moved as (update outbox.deliveries set attempt = 4 returning id, day, endpoint_id)
      insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, error_class)
      select id, n, day, endpoint_id, now(), 0, 'worker_lost' from moved, generate_series(1, 3) as n`);
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
    const job = await queueOne();
    await claim(job);
    await leasesEnd();
    await takeBack(job);
    expect(await record(job, 'status')).toBe(false);
    expect(await claim(await again(job))).toMatchObject([{ attempt: 2, scheduleAttempt: 2 }]);
    expect(await count(`outbox.attempts where error_class = 'worker_lost'`)).toBe(0);
  });

  it('that kills its worker every time ends as a dead letter', async () => {
    let job = await queueOne();
    for (let lost = 1; lost <= 3; lost += 1) {
      expect(job.attempt).toBe(lost);
      await claim(job);
      await takeBack(job, { workers: LOST_WORKERS, maxLost: 3 });
      if (lost < 3) job = await again(job);
    }
    const { rows } = await database.pool.query('select state, attempt from outbox.deliveries');
    expect(rows).toEqual([{ state: 'dead', attempt: 3 }]);
    const { rows: messages } = await database.pool.query('select attempt_count from public.outbox');
    expect(messages).toEqual([{ attempt_count: 3 }]);
  });

  it('queued for a worker that never starts it is taken back as it was', async () => {
    const job = await queueOne();
    await leasesEnd();
    await takeBack(job);
    expect(await again(job)).toMatchObject(job);
    expect(await findQueued(database.pool)).toMatchObject([{ ...job, claimedBy: null }]);
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
    await announceThen('awake');
    const sleeper = await database.pool.connect();
    await sleeper.query(`select pg_advisory_lock(hashtext('liventix.relay.sleeps'), 0)`);
    await announceThen('asleep');
    await sleeper.query('select pg_advisory_unlock_all()');
    sleeper.release();
    expect(heard).toEqual(['awake', '', 'asleep']);
    await listener.end();
  });

  it('keeps it from falling asleep while a transaction is open that announced something and will notify nobody', async () => {
    const [announcer, relay] = [await database.pool.connect(), await database.pool.connect()];
    const fallsAsleep = async () => {
      const { rows } = await relay.query(`select pg_try_advisory_lock(hashtext('liventix.relay.sleeps'), 0) as taken`);
      return rows[0].taken;
    };
    await announcer.query('begin');
    await announcer.query('select 1');
    expect(await fallsAsleep()).toBe(true);
    await relay.query('select pg_advisory_unlock_all()');
    await announce(announcer);
    expect(await fallsAsleep()).toBe(false);
    await announcer.query('rollback');
    expect(await fallsAsleep()).toBe(true);
    await relay.query('select pg_advisory_unlock_all()');
    announcer.release();
    relay.release();
  });

  it('finds at its commit what was announced long before, where it does not look any more', async () => {
    const receiver = await startReceiver();
    const worker = await startTestWorker({ databaseUrl: database.url, sweepMs: 60_000, pollMs: 500 });
    const late = await database.pool.connect();
    try {
      await addTestEndpoint(database.pool, { url: receiver.url });
      const id = await eventually('it is announced while the relay is awake', async () => {
        await announce(database.pool);
        await late.query('begin');
        const announced = await announce(late);
        const { rows } = await late.query(
          `select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and mode = 'ShareLock' and granted`,
        );
        if (rows.length === 1) return announced;
        await late.query('rollback');
        return undefined;
      });
      const since = performance.now();
      await eventually('others have been announced for as long as it looks back, twice', async () => {
        await announce(database.pool);
        return performance.now() - since > 2 * FLOOR_LAG_MS + 500;
      });
      await late.query('commit');
      const isThere = () => receiver.received.some(({ headers }) => headers['webhook-id'] === `msg_${id}`);
      await eventually('it is there', isThere, 4_000);
    } finally {
      late.release();
      await worker.stop();
      await receiver.stop();
    }
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

describe('what waits as messages while all endpoints are full', () => {
  it.each([
    ['they answer', {}],
    ['their rate allows it', { maxInFlight: 100, ratePerSecond: 25 }],
  ])('goes on as soon as %s, without waiting for the next poll', async (_what, limits) => {
    const receiver = await startReceiver((response) => void setTimeout(() => response.writeHead(200).end(), 20));
    const worker = await startTestWorker({ databaseUrl: database.url, pollMs: 60_000, sweepMs: 60_000 });
    try {
      await addTestEndpoint(database.pool, { url: receiver.url, ...limits });
      await relayAsleep(database.pool);
      await announceMany(database.pool, 60);
      expect((await settled(database.pool, 20_000)).deliveries).toMatchObject({ delivered: 60 });
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
      onChange: () => undefined,
    });
    await expect(listening).rejects.toMatchObject({ code: 'LISTEN_UNAVAILABLE' });
    await elsewhere.drop();
  });
});
