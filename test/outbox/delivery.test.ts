import { Webhook as StandardWebhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { listEndpoints } from '../../src/outbox/endpoints.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
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
} from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

describe.each(['PostgreSQL', 'Redis'])('delivery with jobs through %s', (backend) => {
  let database: TestDatabase;
  let redis: TestRedis | undefined;
  let receiver: TestReceiver;
  let worker: RunningWorker;

  beforeAll(async () => {
    database = await createDatabase();
    redis = backend === 'Redis' ? await startRedis() : undefined;
    receiver = await startReceiver((response, webhook) => {
      const status = /^\/status\/(\d{3})/.exec(webhook.path)?.[1];
      if (webhook.path === '/hang') return;
      if (webhook.path === '/redirect') answer(302, { location: `${receiver.url}/elsewhere` })(response, webhook);
      else if (webhook.path === '/drip') response.writeHead(200).write('.');
      else if (webhook.path === '/flood') response.writeHead(200).write('x'.repeat(100_000));
      else if (webhook.path === '/once-503' && receiver.at('/once-503').length === 1) answer(503)(response, webhook);
      else answer(Number(status ?? 204), {}, status === undefined ? '' : `told ${status}`)(response, webhook);
    });
    worker = await startTestWorker({ databaseUrl: database.url, redisUrl: redis?.url });
  });
  afterEach(() => clearOutbox(database.pool));
  afterAll(async () => {
    await worker.stop();
    await receiver.stop();
    await database.drop();
    await redis?.stop();
  });

  it('delivers a committed message, signed, to every endpoint that subscribes to its topic', async () => {
    const endpoints = await Promise.all(
      [['*'], ['ticket.*'], ['ticket.purchased', 'other'], ['ticket'], ['payment.*']].map((topics, index) =>
        addTestEndpoint(database.pool, { url: `${receiver.url}/topics/${index}`, topics }),
      ),
    );
    const id = await announce(database.pool, { topic: 'ticket.purchased', payload: { seat: 'Ä12', price: 1 } });
    await settled(database.pool);

    expect(endpoints.map((_, index) => receiver.at(`/topics/${index}`).length)).toEqual([1, 1, 1, 0, 0]);
    for (const index of [0, 1, 2]) {
      const webhook = receiver.at(`/topics/${index}`)[0];
      const headers = webhook?.headers as Record<string, string>;
      const secret = endpoints[index]?.secret ?? '';
      expect(headers['webhook-id']).toBe(`msg_${id}`);
      for (const verifier of [new StandardWebhook(secret), new SvixWebhook(secret)]) {
        expect(verifier.verify(webhook?.body ?? '', headers)).toMatchObject({
          type: 'ticket.purchased',
          data: { seat: 'Ä12', price: 1 },
        });
      }
      const other = new StandardWebhook(endpoints[(index + 1) % 3]?.secret ?? '');
      expect(() => other.verify(webhook?.body ?? '', headers)).toThrow();
    }
  });
});
