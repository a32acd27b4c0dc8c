import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announceMany, clearOutbox, deliveryStates, startTestWorker } from '../support/outbox.ts';
import { startReceiver, type TestReceiver } from '../support/receiver.ts';

/** Nobody who hangs is given up in the time that the healthy one has. */
const TIMEOUT_MS = 20_000;
const HEALTHY_WITHIN_MS = 8_000;
const MESSAGES = 300;

let database: TestDatabase;
let [healthy, hanging]: (TestReceiver | undefined)[] = [];
let worker: RunningWorker | undefined;
beforeAll(async () => {
  database = await createDatabase();
  healthy = await startReceiver();
  hanging = await startReceiver(() => undefined);
});
afterEach(async () => {
  await worker?.stop();
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await healthy?.stop();
  await hanging?.stop();
  await database.drop();
});

const addHanging = (path: string, maxInFlight: number) =>
  addTestEndpoint(database.pool, { url: `${hanging?.url}${path}`, timeoutMs: TIMEOUT_MS, maxInFlight });
const start = async (concurrency?: number) => {
  worker = await startTestWorker({
    databaseUrl: database.url,
    drainMs: 100,
    ...(concurrency === undefined ? {} : { concurrency }),
  });
  return worker;
};

it('endpoints that hang, with more places than the worker has permits, do not keep a healthy one waiting', async () => {
  for (const nth of [1, 2, 3, 4, 5]) await addHanging(`/${nth}`, 10);
  await addHanging('/many', 200);
  const { id } = await addTestEndpoint(database.pool, { url: `${healthy?.url}/healthy` });
  const { state } = await start();
  await announceMany(database.pool, MESSAGES);
  await eventually(
    'the healthy one has everything',
    async () => (await deliveryStates(database.pool, id))['delivered'] === MESSAGES,
    HEALTHY_WITHIN_MS,
  );
  await eventually('everybody has as many under way as it may', () => hanging?.received.length === 250);
  expect(state().inFlight).toBe(250);
});

it('no more requests are under way than permits and slow ones, however many hang', async () => {
  const [concurrency, slowOnes] = [2, 40];
  await addHanging('/hundred', 100);
  const { state } = await start(concurrency);
  await announceMany(database.pool, 100);
  await eventually('as many as may be are under way', () => state().inFlight === slowOnes + concurrency);
  // Long enough for another to be taken for slow.
  const until = performance.now() + 1_500;
  await eventually('time has passed', () => {
    expect(state().inFlight).toBe(slowOnes + concurrency);
    return performance.now() > until;
  });
});
