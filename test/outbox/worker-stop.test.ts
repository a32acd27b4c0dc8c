import type { ServerResponse } from 'node:http';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { trackSockets } from '../../src/db/sockets.ts';
import { handBack } from '../../src/outbox/hand-back.ts';
import { BREAKER_DEFAULTS } from '../../src/outbox/health.ts';
import type { DeliveryJob } from '../../src/outbox/job.ts';
import { startListener } from '../../src/outbox/listener.ts';
import { NOBODY } from '../../src/outbox/observer.ts';
import { createOutageLog } from '../../src/outbox/outage-log.ts';
import { startRelay } from '../../src/outbox/relay.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { waitsForLock } from '../support/locks.ts';
import {
  addTestEndpoint,
  announceMany,
  clearOutbox,
  deliveryStates,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

/** No more jobs than a worker takes without beginning with them: four, of ten and twenty at a relay's first looks, and of 32 at most. */
const A_HANDFUL = 60;
/** What stops a claim until the test lets it go on. */
const CLAIM_LOCK = 4711;

let database: TestDatabase;
let receiver: TestReceiver;
const held: ServerResponse[] = [];
let isHolding = true;
const running: { stop(): Promise<unknown> }[] = [];

beforeAll(async () => {
  database = await createDatabase();
  receiver = await startReceiver((response) => {
    if (isHolding) held.push(response);
    else response.writeHead(204).end();
  });
  await database.pool.query(`
    create function public.wait_at_claim() returns trigger language plpgsql set search_path = '' as $$
    begin
      perform pg_advisory_xact_lock_shared(${CLAIM_LOCK});
      return new;
    end $$;
    create trigger wait_at_claim before update on outbox.deliveries for each row
    when (old.claimed_by is null and new.claimed_by is not null) execute function public.wait_at_claim()`);
});
beforeEach(() => {
  isHolding = true;
});
afterEach(async () => {
  answerAll();
  await Promise.all(running.splice(0).map((each) => each.stop()));
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

const start = async (options: Partial<Parameters<typeof startTestWorker>[0]> = {}): Promise<RunningWorker> => {
  const worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: [], ...options });
  running.push(worker);
  return worker;
};
function answerAll(): void {
  isHolding = false;
  for (const response of held.splice(0)) response.writeHead(204).end();
}
/** Holds every claim back until `work` is over. */
async function whileClaimsWait(work: () => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  try {
    await client.query('select pg_advisory_lock($1)', [CLAIM_LOCK]);
    await work();
  } finally {
    await client.end();
  }
}
const errorClasses = async () => {
  const { rows } = await database.pool.query('select error_class from outbox.attempts where error_class is not null');
  return rows.map((row) => row.error_class);
};

describe('a claim that is under way when the worker is told to stop', () => {
  it('is waited for, and so is the request', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 30_000 });
    const worker = await start();
    let stopped: Promise<void> | undefined;
    await whileClaimsWait(async () => {
      await announceMany(database.pool, 1);
      await waitsForLock(database.pool, 'claimed_by = $1');
      stopped = worker.stop();
    });
    await eventually(
      'the request has come, or was given up',
      async () => held.length > 0 || (await errorClasses()).length > 0,
    );
    answerAll();
    await stopped;
    expect(await errorClasses()).toEqual([]);
    expect(await deliveryStates(database.pool, id)).toEqual({ delivered: 1 });
  });

  it('costs the endpoint nothing when the answer does not come in time', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 30_000 });
    const worker = await start({ drainMs: 500 });
    let stopped: Promise<void> | undefined;
    await whileClaimsWait(async () => {
      await announceMany(database.pool, 1);
      await waitsForLock(database.pool, 'claimed_by = $1');
      stopped = worker.stop();
    });
    await stopped;
    expect(await errorClasses()).toEqual(['worker_stopped']);
    expect(await deliveryStates(database.pool, id)).toEqual({ pending: 1 });
  });
});

describe('what a worker has taken and not begun when it stops', () => {
  it('is handed back at once, and made by another', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: receiver.url, timeoutMs: 60_000, maxInFlight: 1_000 });
    const worker = await start({ concurrency: 1, drainMs: 200 });
    await announceMany(database.pool, A_HANDFUL);
    await eventually(
      'its one place is taken, and its hands are full',
      async () =>
        held.length > 0 &&
        (await deliveryStates(database.pool, id))['queued'] === A_HANDFUL &&
        !(await worker.queue.hasWaiting()),
    );
    await worker.stop();
    expect(await deliveryStates(database.pool, id)).toEqual({ pending: A_HANDFUL });
    answerAll();
    await start();
    expect((await settled(database.pool, 5_000)).deliveries).toMatchObject({ delivered: A_HANDFUL });
  });

  it.each([
    ['at once, where their endpoint has places left', { maxInFlight: 10, sweepMs: 60_000 }],
    ['at the next sweep, where they held all of them', { maxInFlight: 3, sweepMs: 1_000 }],
  ])('is queued again by the relay that leads, though other jobs wait: %s', async (_when, { maxInFlight, sweepMs }) => {
    await addTestEndpoint(database.pool, { url: receiver.url, maxInFlight });
    const queued = await startRelayAlone({ sweepMs });
    await announceMany(database.pool, 3);
    await eventually('they are queued', () => queued.length === 3);
    const taken = queued.splice(0);
    await handBack(database.pool, taken);
    await eventually('they are queued again', () => queued.length === 3, 5_000);
    expect(idsOf(queued)).toEqual(idsOf(taken));
  });
});

const idsOf = (jobs: readonly DeliveryJob[]) => jobs.map(({ deliveryId }) => deliveryId).sort();

/** A relay that is told of changes, and whose queue is full of jobs of others: its sweep cannot tell which are not there. */
async function startRelayAlone({ sweepMs }: { sweepMs: number }): Promise<DeliveryJob[]> {
  const queued: DeliveryJob[] = [];
  const log = pino({ level: 'silent' });
  const outage = createOutageLog({ log, server: 'PostgreSQL' });
  const sockets = trackSockets();
  const relay = startRelay({
    databaseUrl: database.url,
    sockets,
    queue: {
      wasEmptied: async () => false,
      markIntact: async () => undefined,
      enqueue: async (jobs) => void queued.push(...jobs),
      hasWaiting: async () => true,
      answers: () => true,
      consume: async () => undefined,
      drain: async () => undefined,
      close: async () => undefined,
    },
    log,
    outages: { postgres: outage, queue: outage },
    pollMs: 200,
    sweepMs,
    queueLeaseMs: 60_000,
    queryTimeoutMs: 5_000,
    maxLost: 5,
    breaker: BREAKER_DEFAULTS,
    observer: NOBODY,
  });
  const listener = await startListener({
    databaseUrl: database.url,
    db: database.pool,
    outage,
    sockets,
    onWake: relay.wake,
    onChange: relay.recheck,
  });
  running.push({ stop: () => Promise.all([relay.stop(), listener.close()]) });
  return queued;
}
