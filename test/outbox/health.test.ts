import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import type { WorkerOptions } from '../../src/outbox/worker-options.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announce, announceMany, clearOutbox, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

describe('the health of an endpoint', () => {
  let database: TestDatabase;
  let receiver: TestReceiver;
  let worker: RunningWorker | undefined;
  let statusCode = 204;

  beforeAll(async () => {
    database = await createDatabase();
    receiver = await startReceiver((response, webhook) => answer(statusCode)(response, webhook));
  });
  afterEach(async () => {
    await worker?.stop();
    statusCode = 204;
    await clearOutbox(database.pool);
  });
  afterAll(async () => {
    await receiver.stop();
    await database.drop();
  });

  const start = async (options: Partial<WorkerOptions> = {}) => {
    worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: Array(200).fill(20), ...options });
  };
  const health = async () => {
    const { rows } = await database.pool.query(
      `select breaker, failing_since is not null as failing from outbox.endpoint_health`,
    );
    return rows[0];
  };

  it('opens the breaker of one that fails, so that it is asked once in a while, and closes it when it is back', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/fails`, maxInFlight: 2 });
    statusCode = 500;
    await start({ breaker: { openMs: 300, maxOpenMs: 300 } });
    await announceMany(database.pool, 20);
    await eventually('its breaker is open', async () => (await health())?.breaker === 'open');
    const before = receiver.at('/fails').length;
    const openedAt = performance.now();
    await eventually('it was probed twice', () => receiver.at('/fails').length >= before + 2);
    expect(performance.now() - openedAt).toBeGreaterThan(250);
    statusCode = 204;
    expect((await settled(database.pool)).deliveries).toMatchObject({ delivered: 20, dead: 0 });
    await eventually('it is written down', async () => (await health())?.breaker === 'closed');
    expect(await health()).toEqual({ breaker: 'closed', failing: false });
  });

  it('is what the relay that led before had found', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/remembered` });
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, breaker, failures_in_row, failing_since, opened_at, probe_at)
       values ($1, 'open', 5, now(), now(), now() + interval '1 hour')`,
      [id],
    );
    const other = await addTestEndpoint(database.pool, { url: `${receiver.url}/other` });
    await start();
    await announce(database.pool);
    await eventually('the other has it', () => receiver.at('/other').length === 1);
    const { rows } = await database.pool.query('select endpoint_id, state from outbox.deliveries order by state');
    expect(rows).toContainEqual({ endpoint_id: id, state: 'pending' });
    expect(other.id).not.toBe(id);
    expect(receiver.at('/remembered')).toEqual([]);
  });

  it('disables one that took nothing for five days, says why, and announces it', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/hopeless` });
    await addTestEndpoint(database.pool, { url: `${receiver.url}/watcher`, topics: ['outbox.*'] });
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, failures_in_row, failing_since) values ($1, 4, now() - interval '5 days')`,
      [id],
    );
    statusCode = 404;
    await start({ retryDelaysMs: [20, 20] });
    await announce(database.pool);
    await eventually('it is announced', () => receiver.at('/watcher').length > 0);
    expect(JSON.parse(receiver.at('/watcher')[0]?.body ?? '')).toMatchObject({
      type: 'outbox.endpoint_disabled',
      data: { endpoint_id: id, reason: 'nothing but failures for 5 days' },
    });
    const { rows } = await database.pool.query('select enabled from outbox.endpoints where id = $1', [id]);
    expect(rows).toEqual([{ enabled: false }]);
  });

  it('does not disable one that took something while nobody led', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/heard`, topics: ['b'] });
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, failures_in_row, failing_since) values ($1, 4, now() - interval '6 days')`,
      [id],
    );
    const message = await announce(database.pool, { topic: 'c' });
    await database.pool.query(
      `with delivered as (
         insert into outbox.deliveries (message_id, day, endpoint_id, state, finished_at)
         select id, day, $1, 'delivered', now() - interval '1 day' from public.outbox where id = $2
         returning id, day
       )
       insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code)
       select id, 1, day, $1, now() - interval '1 day', 1, 204 from delivered`,
      [id, message],
    );
    statusCode = 404;
    await start({ retryDelaysMs: [20] });
    await announce(database.pool, { topic: 'b' });
    await eventually('it failed for good', async () => {
      const { rows } = await database.pool.query(`select from outbox.deliveries where state = 'dead'`);
      return rows.length === 1;
    });
    await announce(database.pool, { topic: 'b' });
    await settled(database.pool);
    const { rows } = await database.pool.query('select enabled from outbox.endpoints where id = $1', [id]);
    expect(rows).toEqual([{ enabled: true }]);
  });

  it('is announced too when somebody disables it by hand', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: `${receiver.url}/by-hand` });
    await database.pool.query(
      `update outbox.endpoints set enabled = false, disabled_at = now(), disabled_reason = 'being moved' where id = $1`,
      [id],
    );
    const { rows } = await database.pool.query('select topic, payload from public.outbox');
    expect(rows).toMatchObject([
      { topic: 'outbox.endpoint_disabled', payload: { endpoint_id: id, reason: 'being moved' } },
    ]);
  });

  it('leaves nothing of an endpoint that never failed', async () => {
    await addTestEndpoint(database.pool, { url: `${receiver.url}/healthy` });
    await start();
    await announceMany(database.pool, 5);
    await settled(database.pool);
    expect(await health()).toBeUndefined();
  });
});
