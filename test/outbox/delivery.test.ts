import { Webhook as StandardWebhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { listEndpoints, updateEndpoint } from '../../src/outbox/endpoints.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  addTestEndpoint,
  announce,
  announceMany,
  BACKENDS_AND_CLUSTER,
  clearOutbox,
  deliveryStates,
  LOOPBACK,
  settled,
  startTestWorker,
} from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';
import { startRedis } from '../support/redis.ts';
import { startRedisCluster } from '../support/redis-cluster.ts';

const START = { PostgreSQL: () => undefined, Redis: startRedis, 'Redis Cluster': startRedisCluster };

describe.each(BACKENDS_AND_CLUSTER)('delivery with jobs through %s', (backend) => {
  let database: TestDatabase;
  let redis: { readonly url: string; stop(): Promise<void> } | undefined;
  let receiver: TestReceiver;
  let worker: RunningWorker;

  beforeAll(async () => {
    database = await createDatabase();
    redis = await START[backend]();
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
      expect(new StandardWebhook(secret).verify(webhook?.body ?? '', headers)).toMatchObject({
        type: 'ticket.purchased',
        timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
        data: { seat: 'Ä12', price: 1 },
      });
      expect(() => new SvixWebhook(secret).verify(webhook?.body ?? '', headers)).not.toThrow();
      const other = new StandardWebhook(endpoints[(index + 1) % 3]?.secret ?? '');
      expect(() => other.verify(webhook?.body ?? '', headers)).toThrow();
    }
  });

  it('sends numbers beyond the precision of a double unchanged', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/exact` });
    await database.pool.query(
      `insert into public.outbox (topic, payload) values ('money.moved', '{"cents": 12345678901234567890.5}')`,
    );
    await settled(database.pool);
    expect(receiver.at('/exact')[0]?.body).toContain('{"cents": 12345678901234567890.5}');
  });

  it('does not deliver a message whose transaction rolled back', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/rollback` });
    const tx = await database.pool.connect();
    await tx.query('begin');
    await announce(tx, { payload: { fate: 'rolled back' } });
    await tx.query('rollback');
    tx.release();
    await announce(database.pool, { payload: { fate: 'committed' } });
    await settled(database.pool);
    expect(receiver.at('/rollback').map(({ body }) => JSON.parse(body).data.fate)).toEqual(['committed']);
  });

  it('delivers a message whose transaction commits after later ones were claimed', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/late` });
    const tx = await database.pool.connect();
    await tx.query('begin');
    const late = await announce(tx);
    const early = await announce(database.pool);
    await eventually('the later message is there', () => receiver.at('/late').length === 1);
    await tx.query('commit');
    tx.release();
    await settled(database.pool);
    expect(receiver.at('/late').map(({ headers }) => headers['webhook-id'])).toEqual([`msg_${early}`, `msg_${late}`]);
  });

  it('retries a failing endpoint by the schedule, then keeps a dead letter with every attempt; others do not notice', async () => {
    const failing = await addTestEndpoint(database.pool, { url: `${receiver.url}/status/500` });
    const healthy = await addTestEndpoint(database.pool, { url: `${receiver.url}/healthy` });
    const id = await announce(database.pool);
    const status = await settled(database.pool);

    expect(status.deliveries).toMatchObject({ delivered: 1, dead: 1 });
    expect(await deliveryStates(database.pool, failing.id)).toEqual({ dead: 1 });
    expect(await deliveryStates(database.pool, healthy.id)).toEqual({ delivered: 1 });
    expect(receiver.at('/healthy')).toHaveLength(1);
    expect(new Set(receiver.at('/status/500').map(({ headers }) => headers['webhook-id']))).toEqual(
      new Set([`msg_${id}`]),
    );
    const { rows: attempts } = await database.pool.query(
      `select attempts.attempt, status_code, error_class, response, address from outbox.attempts
       where endpoint_id = $1 order by attempts.attempt`,
      [failing.id],
    );
    const failed = { status_code: 500, error_class: 'status', response: 'told 500', address: '127.0.0.1' };
    expect(attempts).toEqual([1, 2, 3].map((attempt) => ({ attempt, ...failed })));
    const { rows: messages } = await database.pool.query('select attempt_count, last_error from public.outbox');
    expect(messages).toEqual([{ attempt_count: 4, last_error: 'answered 500' }]);
  });

  it('delivers at a later attempt what failed at first, under the same id and with the same bytes', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/once-503` });
    await announce(database.pool, { payload: { a: [1, { b: null }] } });
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 1, dead: 0 });
    const [first, second] = receiver.at('/once-503');
    expect(second?.body).toBe(first?.body);
    expect(second?.headers['webhook-id']).toBe(first?.headers['webhook-id']);
  });

  it('gives up by the schedule on an endpoint whose stored URL cannot be used', async () => {
    const unusable = await addTestEndpoint(database.pool, { url: `${receiver.url}/unusable` });
    await database.pool.query('update outbox.endpoints set url = $2 where id = $1', [unusable.id, 'http://[::1']);
    await announce(database.pool);
    await settled(database.pool);
    expect(await deliveryStates(database.pool, unusable.id)).toEqual({ dead: 1 });
    const { rows } = await database.pool.query(
      'select attempt, error_class, error from outbox.attempts order by attempt',
    );
    const error = 'its URL cannot be read';
    expect(rows).toEqual([1, 2, 3].map((attempt) => ({ attempt, error_class: 'endpoint_unusable', error })));
    expect(receiver.at('/unusable')).toHaveLength(0);
  });

  it('disables an endpoint that answers 410, and sends it nothing more', async () => {
    const gone = await addTestEndpoint(database.pool, { url: `${receiver.url}/status/410` });
    await announce(database.pool);
    await settled(database.pool);
    await announce(database.pool);
    await settled(database.pool);
    expect(receiver.at('/status/410')).toHaveLength(1);
    expect(await deliveryStates(database.pool, gone.id)).toEqual({ dead: 1 });
    expect(await listEndpoints(database.pool)).toMatchObject([{ enabled: false, disabledReason: 'answered 410 Gone' }]);
  });

  it('does not disable an endpoint for what its former URL answers', async () => {
    let answerFormer: (() => void) | undefined;
    const former = await startReceiver((response) => {
      answerFormer = () => response.writeHead(410).end();
    });
    const { id } = await addTestEndpoint(database.pool, { url: former.url });
    await announce(database.pool);
    await eventually('the request has come', () => answerFormer !== undefined);
    await updateEndpoint(database.pool, id, { egressAllow: LOOPBACK, settings: { url: `${receiver.url}/moved` } });
    answerFormer?.();
    await settled(database.pool);
    await announce(database.pool);
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 1, dead: 1 });
    expect(receiver.at('/moved')).toHaveLength(1);
    await former.stop();
  });

  it('counts a redirect as a failure and does not follow it', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/redirect` });
    await announce(database.pool);
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 0, dead: 1 });
    expect(receiver.at('/redirect')).toHaveLength(3);
    expect(receiver.at('/elsewhere')).toHaveLength(0);
  });

  it('gives up on a hanging endpoint at its total deadline, and delivers to the others meanwhile', async () => {
    const timeoutMs = 400;
    const hanging = await addTestEndpoint(database.pool, { url: `${receiver.url}/hang`, timeoutMs, maxInFlight: 2 });
    const other = await addTestEndpoint(database.pool, { url: `${receiver.url}/others` });
    await announceMany(database.pool, 6);
    await eventually('the other endpoint has everything', async () => {
      return (await deliveryStates(database.pool, other.id))['delivered'] === 6;
    });
    expect((await deliveryStates(database.pool, hanging.id))['pending'] ?? 0).toBeGreaterThan(1);
    await settled(database.pool);
    const { rows } = await database.pool.query(
      `select distinct error_class, duration_ms between 390 and 900 as in_time from outbox.attempts where error_class is not null`,
    );
    expect(rows).toEqual([{ error_class: 'timeout', in_time: true }]);
  });

  it('never has more requests under way at an endpoint than it allows', async () => {
    const { id } = await addTestEndpoint(database.pool, {
      url: `${receiver.url}/hang`,
      timeoutMs: 300,
      maxInFlight: 3,
    });
    await announceMany(database.pool, 12);
    let most = 0;
    await eventually('every delivery was attempted', async () => {
      const { queued = 0, delivering = 0, pending = 0 } = await deliveryStates(database.pool, id);
      most = Math.max(most, queued + delivering);
      return queued + delivering + pending === 0 && most > 0;
    });
    expect(most).toBe(3);
  });

  it('takes 2xx for an answer whatever becomes of the body, and keeps its first 8 kB', async () => {
    const drip = await addTestEndpoint(database.pool, { url: `${receiver.url}/drip`, timeoutMs: 300 });
    const flood = await addTestEndpoint(database.pool, { url: `${receiver.url}/flood`, timeoutMs: 5_000 });
    await announce(database.pool);
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 2, dead: 0 });
    const { rows } = await database.pool.query(
      'select endpoint_id, length(response) as length, duration_ms < 2000 as soon from outbox.attempts order by length',
    );
    expect(rows).toEqual([
      { endpoint_id: drip.id, length: 1, soon: true },
      { endpoint_id: flood.id, length: 8192, soon: true },
    ]);
  });

  it('retries a refused connection and a name that does not resolve, and says which it was', async () => {
    await addTestEndpoint(database.pool, { url: 'http://127.0.0.1:1/' });
    await addTestEndpoint(database.pool, { url: 'http://no-such-host.invalid/' });
    await announce(database.pool);
    await settled(database.pool);
    const { rows } = await database.pool.query(
      'select error_class, count(*)::integer as count from outbox.attempts group by error_class order by error_class',
    );
    expect(rows).toEqual([
      { error_class: 'connection_failed', count: 3 },
      { error_class: 'name_not_resolved', count: 3 },
    ]);
  });
});
