import { afterAll, beforeAll, expect, it } from 'vitest';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announceMany, deliveryStates, settled, startTestWorker } from '../support/outbox.ts';
import { startRawServer } from '../support/raw-server.ts';
import { ENDPOINTS, NO_CONTENT } from './bad-endpoints.ts';

const MESSAGES = 3;
const RETRY_DELAYS_MS = [20];
/** A machine that is busy loses nobody's lease. */
const LEASE_MARGIN_MS = 15_000;

let database: TestDatabase;
let worker: RunningWorker;
beforeAll(async () => {
  database = await createDatabase();
  worker = await startTestWorker({
    databaseUrl: database.url,
    retryDelaysMs: RETRY_DELAYS_MS,
    leaseMarginMs: LEASE_MARGIN_MS,
  });
});
afterAll(async () => {
  await worker.stop();
  await database.drop();
});

it('whatever endpoints do, all at once, the same worker delivers to a healthy one, then and afterwards', async () => {
  const healthy = await startRawServer((socket) => socket.write(NO_CONTENT));
  const bad = await Promise.all(
    ENDPOINTS.map(async ([what, behave, outcome, timeoutMs]) => {
      const server = await startRawServer(behave);
      const { id } = await addTestEndpoint(database.pool, { url: server.url, timeoutMs });
      return { what, outcome, server, id };
    }),
  );
  const { id } = await addTestEndpoint(database.pool, { url: healthy.url });
  const reaches = (count: number) =>
    eventually(
      'the healthy endpoint has everything',
      async () => {
        return (await deliveryStates(database.pool, id))['delivered'] === count;
      },
      60_000,
    );
  await announceMany(database.pool, MESSAGES);
  await reaches(MESSAGES);
  await settled(database.pool, 60_000);

  for (const { what, outcome, id } of bad) {
    const { rows } = await database.pool.query(
      'select status_code, error_class, error, response from outbox.attempts where endpoint_id = $1',
      [id],
    );
    const isDelivered = outcome.status === 'delivered';
    expect([what, rows.length]).toEqual([what, isDelivered ? MESSAGES : MESSAGES * (RETRY_DELAYS_MS.length + 1)]);
    for (const row of rows) {
      expect(row).toMatchObject(
        isDelivered
          ? { status_code: outcome.statusCode, error_class: null, response: outcome.response }
          : { error_class: outcome.errorClass, error: outcome.error },
      );
    }
    expect(await deliveryStates(database.pool, id)).toEqual({ [isDelivered ? 'delivered' : 'dead']: MESSAGES });
  }
  await announceMany(database.pool, MESSAGES);
  await reaches(2 * MESSAGES);
  expect(healthy.requests).toHaveLength(2 * MESSAGES);
  await Promise.all([healthy, ...bad.map(({ server }) => server)].map((server) => server.stop()));
});
