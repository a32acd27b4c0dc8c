import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { claimAttempts } from '../../src/outbox/attempts.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { createRecorder } from '../../src/outbox/recorder.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { addTestEndpoint, announceMany, deliveryStates } from '../support/outbox.ts';

const DELIVERIES = 20;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

it('records again what a server forgot that crashed, although it is refused again and crashes again', async () => {
  const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'http://127.0.0.1:1/' });
  await announceMany(database.pool, DELIVERIES);
  const places = new Map([[endpointId, DELIVERIES]]);
  const { queued } = await fanOut(database.pool, { limit: 100, floor: NO_FLOOR, places, queueLeaseMs: 60_000 });
  const claimed = await claimAttempts(database.pool, queued, { worker: 1, leaseMarginMs: 60_000 });
  let refusals = 0;
  const query = async (statement: string) => {
    if (refusals > 0) {
      refusals -= 1;
      throw new Error('the database system is in recovery mode');
    }
    return database.pool.query(statement);
  };
  const recorder = createRecorder({ query } as unknown as Queryable);
  const recordOne = ({ message, endpointVersion, deliveryId, day, attempt }: (typeof claimed)[number]) =>
    recorder.record({
      deliveryId,
      day,
      attempt,
      endpointId,
      messageId: message.id,
      endpointVersion,
      startedAt: new Date(),
      durationMs: 1,
      statusCode: 200,
      errorClass: null,
      error: null,
      response: null,
      address: null,
      next: { state: 'delivered' },
    });
  expect(await Promise.all(claimed.map(recordOne))).toEqual(Array.from({ length: DELIVERIES }, () => true));

  await forget();
  refusals = 2;
  await Promise.all([recorder.recordAgain(), recorder.recordAgain()]);
  expect(await deliveryStates(database.pool, endpointId)).toEqual({ delivered: DELIVERIES });

  const first = recorder.recordAgain();
  await forget();
  await Promise.all([first, recorder.recordAgain()]);
  expect(await deliveryStates(database.pool, endpointId)).toEqual({ delivered: DELIVERIES });
});

const forget = () =>
  database.pool.query(
    `update outbox.deliveries set state = 'queued', finished_at = null, lease_until = clock_timestamp() + interval '1 minute'`,
  );
