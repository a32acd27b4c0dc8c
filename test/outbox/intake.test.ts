import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { listLimits } from '../../src/outbox/endpoints.ts';
import { BREAKER_DEFAULTS } from '../../src/outbox/health.ts';
import { createIntake } from '../../src/outbox/intake.ts';
import { Places } from '../../src/outbox/places.ts';
import type { DeliveryQueue } from '../../src/outbox/queue.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { addTestEndpoint, announceMany, clearOutbox } from '../support/outbox.ts';

const ENDPOINTS = 100;
const MESSAGES = 200;
/** Of deliveries, in one statement. */
const AT_ONCE = 5_000;
const MAX_QUEUED = 5_000;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

afterEach(() => clearOutbox(database.pool));

/** One of a relay to whose queue nobody comes, with so many messages for a hundred endpoints that have a thousand places each. */
async function openIntake({ messages }: { messages: number }) {
  for (let n = 0; n < ENDPOINTS; n += 1) {
    await addTestEndpoint(database.pool, { url: `http://127.0.0.1:1/${n}`, maxInFlight: 1_000 });
  }
  await announceMany(database.pool, messages);
  const looks: number[] = [];
  const queue: Pick<DeliveryQueue, 'answers' | 'enqueue'> = {
    answers: () => true,
    enqueue: async (jobs) => void looks.push(jobs.length),
  };
  const places = new Places(BREAKER_DEFAULTS);
  const limits = await listLimits(database.pool);
  places.setEndpoints(limits, performance.now());
  const intake = createIntake({
    db: database.pool,
    queue: queue as DeliveryQueue,
    places,
    queueLeaseMs: 60_000,
    onUnknown: () => undefined,
  });
  // Of endpoints that are new it is not known that nothing waits.
  await intake.admit();
  return { intake, places, looks, endpointIds: limits.map(({ id }) => id) };
}

it('makes no more deliveries at once than a statement has time for, however many endpoints a message is for', async () => {
  const { intake, places, looks } = await openIntake({ messages: MESSAGES });
  let taken = 0;
  while (taken < MESSAGES) {
    const { messages } = await intake.takeMessages();
    expect(messages).toBeGreaterThan(0);
    taken += messages;
    for (const { deliveryId } of places.heldBefore(Number.POSITIVE_INFINITY)) places.give(deliveryId);
  }
  expect(looks.reduce((sum, count) => sum + count, 0)).toBe(ENDPOINTS * MESSAGES);
  expect(Math.max(...looks)).toBeLessThanOrEqual(AT_ONCE);
  expect(looks.length).toBeLessThan(10);
});

it('queues no more than a lease lasts for, however many endpoints have places', async () => {
  const { intake, places } = await openIntake({ messages: MESSAGES });
  while (!(await intake.takeMessages()).isHeldUp);
  expect(places.size).toBe(MAX_QUEUED);
});

it('takes as many messages when the queue is nearly full: those behind them may be for somebody else', async () => {
  const { intake, places, endpointIds } = await openIntake({ messages: MESSAGES });
  for (let n = 0; n < MAX_QUEUED - 2; n += 1) {
    const endpointId = endpointIds[n % 5] ?? '';
    places.take({ deliveryId: `${-n}`, day: '2026-01-01', attempt: 1, endpointId }, performance.now());
  }
  expect((await intake.takeMessages()).messages).toBe(10);
  expect(places.size).toBe(MAX_QUEUED);
});
