import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { admitDue } from '../../src/outbox/admission.ts';
import { claimAttempts, postponeAttempt, recordAttempts } from '../../src/outbox/attempts.ts';
import { countWaiting, deleteEndpoint } from '../../src/outbox/endpoint-delete.ts';
import { judgeEndpoints } from '../../src/outbox/endpoint-diagnosis.ts';
import { enableEndpoint, getEndpoint, listEndpoints } from '../../src/outbox/endpoints.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { returnLost } from '../../src/outbox/taking-back.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  clearOutbox,
  deliveryStates,
  settled,
  startTestWorker,
  TEST_KEY_RING,
} from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const WORKER = 1;
const fan = () => fanOut(database.pool, { limit: 1_000, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
const end = async (id: string) => deleteEndpoint(database.pool, await getEndpoint(database.pool, id));

async function claimOne(id: string) {
  await announce(database.pool);
  await fan();
  const wanted = [{ endpointId: id, free: 1, dueFrom: undefined }];
  const { queued } = await admitDue(database.pool, { wanted, limit: 1, queueLeaseMs: 60_000 });
  const [claimed] = await claimAttempts(database.pool, queued, { worker: WORKER, leaseMarginMs: 1_000 });
  if (claimed === undefined) throw new Error('nothing was claimed');
  return claimed;
}

it('what waits becomes dead letters that say why, more than a batch of them, and the endpoint stays to be named', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  const other = await addTestEndpoint(database.pool, { url: 'https://example.com/other' });
  await announceMany(database.pool, 4_500);
  for (let n = 0; n < 5; n += 1) await fan();
  expect(await countWaiting(database.pool, id)).toBe(4_500);
  expect(await end(id)).toBe(4_500);

  const { rows } = await database.pool.query(
    `select state, last_error, count(*)::integer as n, count(finished_at)::integer as finished from outbox.deliveries
     where endpoint_id = $1 group by state, last_error`,
    [id],
  );
  expect(rows).toEqual([{ state: 'dead', last_error: 'endpoint deleted', n: 4_500, finished: 4_500 }]);
  expect(await countWaiting(database.pool, other.id)).toBe(4_500);
  expect((await database.pool.query('select from outbox.attempts')).rowCount).toBe(0);
  expect(await getEndpoint(database.pool, id)).toMatchObject({ enabled: false, deletedAt: expect.any(Date) });
  expect((await listEndpoints(database.pool)).map((each) => each.id)).toEqual([other.id]);
  expect(await listEndpoints(database.pool, { deleted: true })).toHaveLength(2);
  expect((await database.pool.query('select from outbox.endpoint_secrets where endpoint_id = $1', [id])).rowCount).toBe(
    0,
  );
  await expect(enableEndpoint(database.pool, id)).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_UNKNOWN' });
});

it('in the midst of deliveries: what is under way finishes, nothing is sent afterwards, and nothing is left waiting', async () => {
  let isDeleted = false;
  let late = 0;
  const receiver = await startReceiver((response, webhook) => {
    if (isDeleted) late += 1;
    setTimeout(() => answer(webhook.body.length % 2 === 0 ? 204 : 422)(response, webhook), 5);
  });
  const { id } = await addTestEndpoint(database.pool, {
    url: receiver.url,
    maxInFlight: 20,
    retryDelaysMs: [1_000, 1_000],
  });
  const worker = await startTestWorker({ databaseUrl: database.url });
  let announcing = true;
  const announcer = (async () => {
    while (announcing) await announceMany(database.pool, 20);
  })();
  await eventually('deliveries run', () => receiver.received.length > 200);
  await end(id);
  await eventually(
    'what was under way is over',
    async () => (await deliveryStates(database.pool, id))['queued'] === undefined,
  );
  isDeleted = true;
  await eventually('more is announced, for nobody', async () => {
    const { rows } = await database.pool.query<{ n: number }>(
      `select count(*)::integer as n from public.outbox as message where processed_at is not null
       and not exists (select from outbox.deliveries where message_id = message.id)`,
    );
    return (rows[0]?.n ?? 0) > 20;
  });
  announcing = false;
  await announcer;
  await settled(database.pool);
  await worker.stop();
  await receiver.stop();
  expect(late).toBe(0);
  const states = await deliveryStates(database.pool, id);
  expect(Object.keys(states).toSorted()).toEqual(['dead', 'delivered']);
  expect(await countWaiting(database.pool, id)).toBe(0);
});

it('waits for the relay that began to hand out messages before, so that none of them is left waiting', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  await announce(database.pool);
  const relay = await database.pool.connect();
  await relay.query('begin');
  await fanOut(relay, { limit: 10, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
  const deleting = end(id);
  await eventually('it is deleted', async () => (await getEndpoint(database.pool, id)).deletedAt !== null);
  await relay.query('commit');
  relay.release();
  expect(await deleting).toBe(1);
  expect(await deliveryStates(database.pool, id)).toEqual({ dead: 1 });
});

it('struck between two batches, is named by doctor and finished by another', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  await announceMany(database.pool, 2_500);
  for (let n = 0; n < 3; n += 1) await fan();
  const strike = () => {
    throw new Error('struck');
  };
  await expect(deleteEndpoint(database.pool, await getEndpoint(database.pool, id), strike)).rejects.toThrow('struck');
  expect(await countWaiting(database.pool, id)).toBe(500);
  expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({
    result: 'warning',
    found: expect.stringContaining(id),
  });
  expect(await end(id)).toBe(500);
  expect(await judgeEndpoints(database.pool, TEST_KEY_RING)).toMatchObject({ result: 'ok' });
});

it.each([
  ['fails and would be tried again', 'attempt'],
  ['was lost with its worker', 'lost'],
  ['could not be signed', 'unsigned'],
])('an attempt under way that %s is a dead letter', async (_what, kind) => {
  const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  const claimed = await claimOne(id);
  expect(await end(id)).toBe(0);
  expect(await deliveryStates(database.pool, id)).toEqual({ queued: 1 });
  if (kind === 'attempt') {
    await recordAttempts(database.pool, [
      {
        ...claimed,
        messageId: claimed.message.id,
        startedAt: new Date(),
        durationMs: 1,
        statusCode: 500,
        errorClass: 'status',
        error: 'answered 500',
        response: null,
        address: null,
        next: { state: 'pending', delayMs: 1_000 },
      },
    ]);
  } else if (kind === 'lost') {
    await returnLost(database.pool, { jobs: [claimed], workers: [WORKER + 1], maxLost: 5 });
  } else {
    await postponeAttempt(database.pool, claimed, { worker: WORKER, delayMs: 1_000 });
  }
  const { rows } = await database.pool.query(
    'select state, last_error, finished_at is not null as over from outbox.deliveries',
  );
  expect(rows).toEqual([{ state: 'dead', last_error: 'endpoint deleted', over: true }]);
  const { rows: attempts } = await database.pool.query('select error_class, retry_at from outbox.attempts');
  const expected = { attempt: 'status', lost: 'worker_lost', unsigned: undefined }[kind];
  expect(attempts).toEqual(expected === undefined ? [] : [{ error_class: expected, retry_at: null }]);
});

it('an attempt under way that is answered 2xx is delivered', async () => {
  const { id } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
  const claimed = await claimOne(id);
  await end(id);
  const record = {
    startedAt: new Date(),
    durationMs: 1,
    statusCode: 204,
    errorClass: null,
    error: null,
    response: null,
  };
  await recordAttempts(database.pool, [
    { ...claimed, ...record, messageId: claimed.message.id, address: null, next: { state: 'delivered' } },
  ]);
  expect(await deliveryStates(database.pool, id)).toEqual({ delivered: 1 });
});
