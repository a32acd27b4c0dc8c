import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { backlogOf, countByState, readBacklog } from '../../src/outbox/backlog.ts';
import { openDays } from '../../src/outbox/days.ts';
import { currentSeq } from '../../src/outbox/outcomes.ts';
import { paceSince } from '../../src/outbox/pace.ts';
import { outboxStatus } from '../../src/outbox/status.ts';
import { readDue } from '../../src/outbox/watch/due.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { addTestEndpoint, clearOutbox, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver } from '../support/receiver.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

/** More than is counted: so many, each with a payload that fills a fourth of a page. */
const DELIVERED_MANY = 40_000;
const WIDE_PAYLOAD = `jsonb_build_object('a', repeat('x', 1800))`;

/** Messages of a day, each with a delivery to the endpoint in a state, as the relay and its workers would have left them. */
async function deliveries(
  endpointId: string,
  state: string,
  count: number,
  columns: Record<string, string> = {},
  payload = `'{}'::jsonb`,
): Promise<void> {
  const given = { lease_until: state === 'queued' ? 'now()' : 'null', due_at: 'now()', claimed_by: 'null', ...columns };
  await database.pool.query(
    `with messages as (
       insert into public.outbox (topic, payload, created_at, processed_at)
       select 'a', ${payload}, now() - interval '1 minute', now() from generate_series(1, $2) returning id, day
     )
     insert into outbox.deliveries (message_id, day, endpoint_id, state, finished_at, ${Object.keys(given).join(', ')})
     select id, day, $1, $3, case when $3 in ('delivered', 'dead') then now() end, ${Object.values(given).join(', ')} from messages`,
    [endpointId, count, state],
  );
}
const endpointAt = async (path: string) =>
  (await addTestEndpoint(database.pool, { url: `https://example.com${path}` })).id;
/** One after the other: they are listed as they were added. */
const endpointsAt = async <const P extends readonly string[]>(paths: P) => {
  const ids: string[] = [];
  for (const path of paths) ids.push(await endpointAt(path));
  return ids as { [N in keyof P]: string };
};
const disable = (id: string) =>
  database.pool.query(`update outbox.endpoints set enabled = false, disabled_at = now() where id = $1`, [id]);
const openBreaker = (id: string) =>
  database.pool.query(
    `insert into outbox.endpoint_health (endpoint_id, breaker, opened_at, probe_at) values ($1, 'open', now(), now() + interval '1 minute')`,
    [id],
  );

describe('the backlog', () => {
  it('has what waits for whom, how long the oldest has, and how each endpoint does', async () => {
    const [busy, disabled, failing] = await endpointsAt(['/busy', '/disabled', '/failing']);
    await deliveries(busy, 'pending', 4);
    await deliveries(busy, 'queued', 3);
    await deliveries(busy, 'queued', 2, { claimed_by: '7' });
    await deliveries(busy, 'delivered', 5);
    await deliveries(failing, 'dead', 6);
    await deliveries(disabled, 'pending', 1);
    await disable(disabled);
    await openBreaker(failing);
    // What the database was copied from may be of yesterday.
    await openDays(database.pool);
    const backlog = await readBacklog(database.pool);
    expect(backlog).toMatchObject({ isCut: false, relay: null, workers: 0, daysAhead: 4 });
    // One announces that an endpoint was disabled.
    expect(backlog.unprocessed).toBe(1);
    expect(backlog.oldestUndeliveredSeconds).toBeGreaterThan(59);
    expect(backlog.oldestUndeliveredSeconds).toBeLessThan(90);
    expect(backlog.endpoints).toMatchObject([
      { id: busy, enabled: true, breaker: 'closed', probeAt: null, pending: 4, queued: 3, delivering: 2, dead: 0 },
      { id: disabled, enabled: false, pending: 1, queued: 0, delivering: 0, dead: 0 },
      { id: failing, breaker: 'open', probeAt: expect.any(Date), pending: 0, dead: 6 },
    ]);
  });

  it('counts what died with endpoints that were deleted since, or whose row is gone, and lists none of them', async () => {
    const [kept, deleted, removed] = await endpointsAt(['/kept', '/deleted', '/gone']);
    await deliveries(kept, 'dead', 1);
    await deliveries(deleted, 'dead', 2);
    await deliveries(deleted, 'delivered', 5);
    await deliveries(deleted, 'queued', 1, { claimed_by: '7' });
    await deliveries(removed, 'dead', 3);
    await database.pool.query(
      'update outbox.endpoints set enabled = false, disabled_at = now(), deleted_at = now() where id = $1',
      [deleted],
    );
    await database.pool.query('delete from outbox.endpoints where id = $1', [removed]);
    const backlog = await readBacklog(database.pool);
    expect(backlog.endpoints).toMatchObject([{ id: kept, dead: 1 }]);
    expect(backlog.deletedEndpoints).toEqual({ pending: 0, queued: 0, delivering: 1, dead: 5 });
    expect(countByState(backlog)).toMatchObject({ delivering: 1, dead: 6 });
    const status = await outboxStatus(database.pool);
    expect(status.deliveries).toMatchObject({ delivering: 1, delivered: 5, dead: 6 });
    expect(status.deletedEndpoints).toEqual({ waiting: 1, delivered: 5, dead: 5 });
  });

  it('says for how long something has been due, of whatever is to be attempted now', async () => {
    const [busy, disabled, failing] = await endpointsAt(['/busy', '/disabled', '/failing']);
    const overdue = async () => Math.round((await readBacklog(database.pool)).overdueSeconds / 60);
    for (const dueAt of [`now() + interval '1 hour'`, `'infinity'`, 'null']) {
      await deliveries(busy, 'pending', 1, { due_at: dueAt });
    }
    for (const id of [disabled, failing]) {
      await deliveries(id, 'pending', 1, { due_at: `now() - interval '1 hour'` });
    }
    await disable(disabled);
    await openBreaker(failing);
    await database.pool.query('delete from public.outbox where processed_at is null');
    expect(await overdue()).toBe(0);
    await deliveries(busy, 'pending', 1, { due_at: `now() - interval '5 minutes'` });
    expect(await overdue()).toBe(5);
    await database.pool.query(
      `insert into public.outbox (topic, payload, created_at) values ('a', '{}', now() - interval '7 minutes')`,
    );
    expect(await overdue()).toBe(7);
    // To nobody could it be sent.
    await database.pool.query('update outbox.endpoints set enabled = false, disabled_at = now() where id = $1', [busy]);
    expect(await overdue()).toBe(0);
  });

  it('takes what waits behind the head of its line for no more overdue than the head', async () => {
    const id = await endpointAt('/ordered');
    for (const dueAt of [`now() + interval '1 hour'`, `now() - interval '5 minutes'`]) {
      await deliveries(id, 'pending', 1, { due_at: dueAt, ordering_key: `'a'` });
    }
    expect((await readBacklog(database.pool)).overdueSeconds).toBe(0);
    await database.pool.query(`update outbox.deliveries set state = 'dead', finished_at = now() where due_at > now()`);
    expect((await readBacklog(database.pool)).overdueSeconds).toBeGreaterThan(299);
  });

  it('takes no notice of what only a disabled endpoint waits for', async () => {
    const id = await endpointAt('/disabled');
    await deliveries(id, 'pending', 1);
    await disable(id);
    await database.pool.query('delete from public.outbox where processed_at is null');
    expect((await readBacklog(database.pool)).oldestUndeliveredSeconds).toBeNull();
  });
});

describe('the status', () => {
  it('counts small tables, and estimates large ones unless it is told to count', async () => {
    const id = await endpointAt('/many');
    await deliveries(id, 'delivered', 20);
    await deliveries(id, 'dead', 2);
    expect(await outboxStatus(database.pool)).toMatchObject({
      messages: { total: 22 },
      deliveries: { delivered: 20, dead: 2 },
      endpoints: [{ delivered: 20, dead: 2 }],
      isEstimate: false,
    });
    await deliveries(id, 'delivered', DELIVERED_MANY, {}, WIDE_PAYLOAD);
    await database.pool.query('analyze public.outbox, outbox.deliveries');
    const estimated = await outboxStatus(database.pool);
    expect(estimated).toMatchObject({ isEstimate: true, endpoints: [{ delivered: null, dead: 2 }] });
    expect(Math.abs(estimated.deliveries.delivered - DELIVERED_MANY)).toBeLessThan(DELIVERED_MANY / 20);
    expect(await outboxStatus(database.pool, { exact: true })).toMatchObject({
      messages: { total: DELIVERED_MANY + 22 },
      deliveries: { delivered: DELIVERED_MANY + 20, dead: 2 },
      isEstimate: false,
    });
  });

  it('says after seconds that somebody holds a table, and does not wait for him', async () => {
    const holder = await database.pool.connect();
    try {
      await holder.query('begin; lock table outbox.deliveries in access exclusive mode');
      await expect(outboxStatus(database.pool)).rejects.toMatchObject({
        code: 'DB_CONFLICT',
        message: expect.stringMatching(/lock timeout.*liventix doctor names/),
      });
    } finally {
      holder.release(true);
    }
  });

  it('reads nothing of what was delivered, whatever the server thinks of it', async () => {
    const id = await endpointAt('/fresh');
    await deliveries(id, 'pending', 20_000);
    await database.pool.query('analyze outbox.deliveries');
    // To the server all of them wait still.
    await database.pool.query(`update outbox.deliveries set state = 'delivered', finished_at = now()`);
    const client = await database.pool.connect();
    try {
      const read = async () => {
        const { rows } = await client.query(
          `select sum(pg_stat_get_xact_tuples_returned(inhrelid))::integer as rows from pg_inherits where inhparent = 'outbox.deliveries'::regclass`,
        );
        return rows[0].rows as number;
      };
      await client.query('begin');
      const before = await read();
      await backlogOf(client);
      expect((await read()) - before).toBeLessThan(1_000);
      await client.query('rollback');
    } finally {
      client.release();
    }
  });
});

describe('what is due', () => {
  it.each<[string, (id: string) => Promise<unknown>, boolean]>([
    ['is due at an endpoint that is well', async () => undefined, true],
    ['is not where the endpoint is disabled', disable, false],
    ['is not where its breaker is open', openBreaker, false],
  ])('%s', async (_what, change, isDue) => {
    const id = await endpointAt('/due');
    await deliveries(id, 'pending', 1);
    await change(id);
    await database.pool.query('delete from public.outbox where processed_at is null');
    expect((await readDue(database.pool)).isDue).toBe(isDue);
  });

  it('is nothing that is to be sent later, or was delivered', async () => {
    const id = await endpointAt('/later');
    await deliveries(id, 'pending', 1, { due_at: `now() + interval '1 hour'` });
    await deliveries(id, 'delivered', 1);
    expect((await readDue(database.pool)).isDue).toBe(false);
  });

  it('has another mark once something was attempted', async () => {
    const receiver = await startReceiver((response, webhook) =>
      answer(webhook.path === '/no' ? 500 : 204)(response, webhook),
    );
    await addTestEndpoint(database.pool, { url: receiver.url });
    await addTestEndpoint(database.pool, { url: `${receiver.url}/no` });
    const [before, seq] = [await readDue(database.pool), await currentSeq(database.pool)];
    const worker = await startTestWorker({ databaseUrl: database.url, retryDelaysMs: [20] });
    await database.pool.query(`insert into public.outbox (topic, payload) values ('a', '{}')`);
    await settled(database.pool);
    await worker.stop();
    expect((await readDue(database.pool)).mark).not.toBe(before.mark);
    const pace = await paceSince(database.pool, seq);
    expect(pace).toMatchObject({ delivered: 1, failed: 2 });
    expect(pace.lagSeconds).toBeGreaterThanOrEqual(0);
    expect(pace.lagSeconds).toBeLessThan(10);
    expect(await paceSince(database.pool, pace.seq)).toMatchObject({ delivered: 0, failed: 0, lagSeconds: null });
    await receiver.stop();
  });
});
