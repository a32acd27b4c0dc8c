import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { claimAttempts } from '../../src/outbox/attempts.ts';
import { planRetry, planRetryOf, type RetryPlan, retryPlanned } from '../../src/outbox/dead-letters.ts';
import { listDeliveries } from '../../src/outbox/deliveries-list.ts';
import { deleteEndpoint } from '../../src/outbox/endpoint-delete.ts';
import { getMessageStory } from '../../src/outbox/message-story.ts';
import { replayPlanned } from '../../src/outbox/replay-messages.ts';
import { planReplay } from '../../src/outbox/replay-plan.ts';
import type { ReplayRequest } from '../../src/outbox/replay-scope.ts';
import { returnLost } from '../../src/outbox/taking-back.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announce, clearOutbox, deliveryStates, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

let database: TestDatabase;
let receiver: TestReceiver;
/** What the receiver answers. */
let status = 204;

beforeAll(async () => {
  database = await createDatabase();
  receiver = await startReceiver((response, webhook) => answer(status, {}, `told ${status}`)(response, webhook));
});
afterEach(async () => {
  await clearOutbox(database.pool);
  status = 204;
});
afterAll(async () => {
  await receiver.stop();
  await database.drop();
});

const never = new AbortController().signal;
const ALL = { topic: '*', from: '2020-01-01T00:00:00Z', to: '2100-01-01T00:00:00Z' };

async function retry(plan: RetryPlan): Promise<number> {
  let retried = 0;
  for await (const progress of retryPlanned(database.pool, plan, { stop: never })) retried = progress.retried;
  return retried;
}

async function replay(request: Partial<ReplayRequest> = {}) {
  const whole = { ...ALL, ...request };
  const plan = await planReplay(database.pool, whole, { stop: never });
  let replayed = { messages: 0, added: 0, again: 0 };
  for await (replayed of replayPlanned(database.pool, whole, { plan, stop: never }));
  return { ...replayed, plan };
}

const deliveryRows = async () =>
  (
    await database.pool.query<{ id: bigint; state: string; attempt: number; schedule_from: number; isDue: boolean }>(
      `select id, state, attempt, schedule_from, due_at <= clock_timestamp() as "isDue" from outbox.deliveries order by id`,
    )
  ).rows;

describe('a dead letter', () => {
  let worker: RunningWorker;
  beforeAll(async () => {
    worker = await startTestWorker({ databaseUrl: database.url });
  });
  afterAll(() => worker.stop());

  it('is shown with every attempt, attempted again by the whole schedule, and keeps the attempts of before', async () => {
    status = 503;
    const { id: endpointId, secret } = await addTestEndpoint(database.pool, { url: `${receiver.url}/again` });
    const messageId = await announce(database.pool, { topic: 'ticket.purchased', payload: { seat: 12 } });
    await settled(database.pool);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 1 });

    const [dead] = await listDeliveries(database.pool, { state: 'dead', limit: 10 });
    expect(dead).toMatchObject({ messageId, topic: 'ticket.purchased', attempts: 3, lastError: 'answered 503' });
    expect(await retry(await planRetry(database.pool, {}))).toBe(1);
    await settled(database.pool);
    // The schedule has two waits, so three attempts, once more.
    expect(receiver.at('/again')).toHaveLength(6);

    status = 204;
    expect(await retry(await planRetryOf(database.pool, [dead?.id ?? 0n]))).toBe(1);
    await settled(database.pool);
    const story = await getMessageStory(database.pool, { messageId });
    expect(story.deliveries[0]).toMatchObject({ state: 'delivered', attemptsMade: 7 });
    expect(
      story.deliveries[0]?.attempts.map(({ attempt, statusCode, errorClass }) => [attempt, statusCode, errorClass]),
    ).toEqual([...[1, 2, 3, 4, 5, 6].map((attempt) => [attempt, 503, 'status']), [7, 204, null]]);
    expect(story.deliveries[0]?.attempts[0]).toMatchObject({
      response: 'told 503',
      address: '127.0.0.1',
      durationMs: expect.any(Number),
      retryAt: expect.any(Date),
    });
    expect(story.deliveries[0]?.attempts[5]?.retryAt).toBeNull();
    for (const { headers, body } of receiver.at('/again')) {
      expect(headers['webhook-id']).toBe(`msg_${messageId}`);
      expect(new Webhook(secret).verify(body, headers as Record<string, string>)).toMatchObject({ data: { seat: 12 } });
    }
  });

  it('is delivered by a replay, signed, to who had it and who never had it, and to nobody else', async () => {
    const had = await addTestEndpoint(database.pool, { url: `${receiver.url}/had`, topics: ['ticket.*'] });
    const payload = { price: 1 };
    const messageId = await announce(database.pool, { topic: 'ticket.purchased', payload });
    await announce(database.pool, { topic: 'payment.received' });
    await settled(database.pool);
    const late = await addTestEndpoint(database.pool, { url: `${receiver.url}/late`, topics: ['ticket.purchased'] });
    const other = await addTestEndpoint(database.pool, { url: `${receiver.url}/other`, topics: ['*'] });
    await database.pool.query(`update outbox.endpoints set filter = '{"price": 2}' where id = $1`, [other.id]);

    expect(await replay({ topic: 'ticket.*' })).toMatchObject({ messages: 1, again: 1, added: 1 });
    await settled(database.pool);
    expect(['/had', '/late', '/other'].map((path) => receiver.at(path).length)).toEqual([2, 1, 0]);
    for (const [path, { secret }] of [
      ['/had', had],
      ['/late', late],
    ] as const) {
      const webhook = receiver.at(path).at(-1);
      expect(webhook?.headers['webhook-id']).toBe(`msg_${messageId}`);
      const data = new Webhook(secret).verify(webhook?.body ?? '', webhook?.headers as Record<string, string>);
      expect(data).toMatchObject({ type: 'ticket.purchased', data: payload });
    }
  });
});

describe('a retry', () => {
  it('opens what is dead, or waits for later, and leaves the rest alone; a second time it changes nothing', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const [dead = 0n] = await givenDeliveries(database.pool, { endpointId });
    const [waits = 0n] = await givenDeliveries(database.pool, {
      endpointId,
      state: 'pending',
      dueAt: '2100-01-01T00:00:00Z',
    });
    const [due = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    const [delivered = 0n] = await givenDeliveries(database.pool, { endpointId, state: 'delivered' });
    const ids = [dead, waits, due, delivered];
    const plan = await planRetryOf(database.pool, ids);
    expect(plan).toMatchObject({ deliveries: 2, leftAlone: { pending: 1, delivered: 1 } });
    expect(await retry(plan)).toBe(2);
    const after = [
      { id: dead, state: 'pending', attempt: 4, schedule_from: 3, isDue: true },
      { id: waits, state: 'pending', attempt: 3, schedule_from: 2, isDue: true },
      { id: due, state: 'pending', attempt: 3, schedule_from: 0, isDue: true },
      { id: delivered, state: 'delivered', attempt: 3, schedule_from: 0, isDue: true },
    ];
    expect(await deliveryRows()).toEqual(after);
    // By the plan of before, as two who run it at once would.
    expect(await retry(plan)).toBe(0);
    expect(await retry(await planRetryOf(database.pool, ids))).toBe(0);
    expect(await retry(await planRetry(database.pool, {}))).toBe(0);
    expect(await deliveryRows()).toEqual(after);
  });

  it('tells the relay, and so does a replay', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId });
    const listener = await database.pool.connect();
    const heard: (string | undefined)[] = [];
    listener.on('notification', ({ payload }) => heard.push(payload));
    await listener.query('listen liventix_outbox');
    await retry(await planRetry(database.pool, {}));
    await eventually('the retry is heard', () => heard.includes('changed'));
    await database.pool.query(`update outbox.deliveries set state = 'dead', finished_at = clock_timestamp()`);
    await replay();
    await eventually('the replay is heard', () => heard.filter((payload) => payload === 'changed').length === 2);
    listener.release(true);
  });

  it('leaves alone what was delivered since it was planned', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId });
    const plan = await planRetry(database.pool, {});
    await database.pool.query(`update outbox.deliveries set state = 'delivered'`);
    expect(await retry(plan)).toBe(0);
    expect(await deliveryRows()).toMatchObject([{ state: 'delivered', attempt: 3 }]);
  });

  it('does not let a message go before its time', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const [early = 0n] = await givenDeliveries(database.pool, { endpointId });
    await database.pool.query(`update public.outbox set deliver_after = '2100-01-01'`);
    await retry(await planRetryOf(database.pool, [early]));
    expect(await deliveryRows()).toMatchObject([{ state: 'pending', isDue: false }]);
    expect(await planRetryOf(database.pool, [early])).toMatchObject({ deliveries: 0, leftAlone: { pending: 1 } });
  });

  it('opens nothing of an endpoint that was deleted between two of its batches', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const { id: otherId } = await addTestEndpoint(database.pool, { url: 'https://example.com/other' });
    for (const id of [endpointId, otherId, endpointId]) await givenDeliveries(database.pool, { endpointId: id });
    const planned = await planRetry(database.pool, {});
    const plan: RetryPlan = { ...planned, keys: () => planned.keys(1) };
    let retried = 0;
    for await (const progress of retryPlanned(database.pool, plan, { stop: never })) {
      if (retried === 0) await deleteEndpoint(database.pool, { id: endpointId, deletedAt: null });
      retried = progress.retried;
    }
    expect(retried).toBe(2);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 2 });
    expect(await deliveryStates(database.pool, otherId)).toEqual({ pending: 1 });
  });

  it('opens only those that topic, endpoint and instants mean, and passes over what somebody holds', async () => {
    const one = await addTestEndpoint(database.pool, { url: 'https://example.com/1' });
    const two = await addTestEndpoint(database.pool, { url: 'https://example.com/2' });
    const given = (endpointId: string, topic: string, at: string) =>
      givenDeliveries(database.pool, { endpointId, topic, at });
    const [meant = 0n] = await given(one.id, 'ticket.sold', '2026-03-02T00:00:00Z');
    await given(one.id, 'ticket.sold', '2026-03-01T23:59:59.999999Z');
    await given(one.id, 'ticket.sold', '2026-03-03T00:00:00Z');
    await given(two.id, 'ticket.sold', '2026-03-02T12:00:00Z');
    await given(one.id, 'ticketing', '2026-03-02T12:00:00Z');
    const filter = { topic: 'ticket.*', endpointId: one.id, from: '2026-03-02T00:00:00Z', to: '2026-03-03T00:00:00Z' };
    const plan = await planRetry(database.pool, filter);
    expect(plan.endpoints).toMatchObject([{ endpointId: one.id, deliveries: 1, enabled: true }]);

    const holder = await database.pool.connect();
    await holder.query('begin');
    await holder.query('select from outbox.deliveries where id = $1 for update', [meant]);
    expect(await retry(plan)).toBe(0);
    await holder.query('rollback');
    holder.release();
    expect(await retry(plan)).toBe(1);
    expect((await deliveryRows()).filter(({ state }) => state === 'pending').map(({ id }) => id)).toEqual([meant]);
  });
});

describe('what is due at no time, or never', () => {
  it('is listed and shown all the same: one that waits behind another of its key', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await database.pool.query(`update outbox.deliveries set due_at = null, ordering_key = 'k'`);
    const [listed] = await listDeliveries(database.pool, { limit: 1 });
    expect(listed?.dueAt).toBeNull();
    const story = await getMessageStory(database.pool, { messageId: listed?.messageId ?? '' });
    expect(story.deliveries).toMatchObject([{ dueAt: null }]);
  });

  it.each([
    ['infinity', '9999-12-31T00:00:00.000Z'],
    ['280000-01-01 00:00+00', '9999-12-31T00:00:00.000Z'],
    ['-infinity', '0001-01-01T00:00:00.000Z'],
  ])('is listed and shown all the same: a message of before, not to be sent before %s', async (instant, shown) => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    await database.pool.query('update public.outbox set deliver_after = $1, created_at = $1', [instant]);
    await database.pool.query('update outbox.deliveries set due_at = $1', [instant]);
    const [listed] = await listDeliveries(database.pool, { limit: 1 });
    expect(listed?.dueAt?.toISOString()).toBe(shown);
    const story = await getMessageStory(database.pool, { messageId: listed?.messageId ?? '' });
    expect(story.deliverAfter?.toISOString()).toBe(shown);
    expect(story.createdAt.toISOString()).toBe(shown);
    expect(story.deliveries[0]?.dueAt?.toISOString()).toBe(shown);
  });
});

describe('attempts that workers lost', () => {
  const WORKER = 7;
  const MAX_LOST = 3;

  /** Dead after three attempts, all of them lost; opened again, and queued. Returns the job of its next attempt. */
  async function givenLostBefore() {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    const [id = 0n] = await givenDeliveries(database.pool, { endpointId });
    await database.pool.query(
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, error_class, error)
       select id, n, day, endpoint_id, now(), 0, 'worker_lost', 'lost' from outbox.deliveries, generate_series(1, 3) as n`,
    );
    await retry(await planRetryOf(database.pool, [id]));
    const { rows } = await database.pool.query<{ day: string }>(
      `update outbox.deliveries set state = 'queued', lease_until = now() returning day::text`,
    );
    return { deliveryId: id.toString(), day: rows[0]?.day ?? '', attempt: 4 };
  }

  it('before the schedule began anew are not taken off it', async () => {
    const job = await givenLostBefore();
    // One of its own, since then.
    await database.pool.query('update outbox.deliveries set attempt = 5');
    const [claimed] = await claimAttempts(database.pool, [{ ...job, attempt: 5 }], {
      worker: WORKER,
      leaseMarginMs: 0,
    });
    expect(claimed?.scheduleAttempt).toBe(2);
  });

  it('before it began anew do not make the next lost one the last', async () => {
    const job = await givenLostBefore();
    await database.pool.query('update outbox.deliveries set claimed_by = $1', [WORKER]);
    expect(await returnLost(database.pool, { jobs: [job], workers: [], maxLost: MAX_LOST })).toBe(1);
    expect(await deliveryRows()).toMatchObject([{ state: 'pending', attempt: 5 }]);
  });
});

describe('a replay', () => {
  it('leaves alone what is on its way and, told since when, what an earlier run has sent', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId, state: 'delivered', count: 2 });
    await givenDeliveries(database.pool, { endpointId, state: 'pending' });
    const { plan, ...first } = await replay();
    expect([first, plan.endpoints[0]]).toMatchObject([
      { messages: 3, again: 2, added: 0 },
      { again: 2, added: 0, leftAlone: 1 },
    ]);
    await database.pool.query(
      `update outbox.deliveries set state = 'delivered', finished_at = clock_timestamp() where schedule_from > 0`,
    );
    const rest = await replay({ unlessSince: plan.startedAt.toISOString() });
    expect([rest.again, rest.plan.endpoints[0]?.leftAlone]).toEqual([0, 3]);
    expect((await replay()).again).toBe(2);
  });

  it('sends nothing that the relay has still to turn into deliveries, and makes it stumble over none', async () => {
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    expect(await replay()).toMatchObject({ messages: 0, added: 0 });
    const worker = await startTestWorker({ databaseUrl: database.url });
    await settled(database.pool);
    await worker.stop();
  });

  it('sends nothing to an endpoint that was deleted between two of its batches', async () => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    // Each day is a batch.
    for (const at of ['2026-03-01T00:00:00Z', '2026-03-02T00:00:00Z'])
      await givenDeliveries(database.pool, { endpointId, state: 'delivered', at });
    const plan = await planReplay(database.pool, ALL, { stop: never });
    let again = 0;
    for await (const progress of replayPlanned(database.pool, ALL, { plan, stop: never })) {
      if (again === 0) await deleteEndpoint(database.pool, { id: endpointId, deletedAt: null });
      again = progress.again;
    }
    expect(again).toBe(1);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 1, delivered: 1 });
  });

  it('respects the organization, and sends nothing to an endpoint that is disabled', async () => {
    const organizationId = '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4';
    const all = await addTestEndpoint(database.pool, { url: 'https://example.com/all' });
    const theirs = await addTestEndpoint(database.pool, { url: 'https://example.com/theirs' });
    const off = await addTestEndpoint(database.pool, { url: 'https://example.com/off' });
    await database.pool.query('update outbox.endpoints set organization_id = $1 where id = $2', [
      organizationId,
      theirs.id,
    ]);
    await database.pool.query(`update outbox.endpoints set enabled = false, disabled_at = now() where id = $1`, [
      off.id,
    ]);
    await givenDeliveries(database.pool, { endpointId: all.id, state: 'delivered' });
    await givenDeliveries(database.pool, { endpointId: off.id, organizationId });
    const { plan, ...sent } = await replay();
    expect(sent).toEqual({ messages: 2, again: 1, added: 2 });
    const counts = Object.fromEntries(
      plan.endpoints.map(({ endpointId, again, added }) => [endpointId, [again, added]]),
    );
    expect(counts).toEqual({ [all.id]: [1, 1], [theirs.id]: [0, 1] });
    await database.pool.query(
      `update outbox.deliveries set state = 'delivered', finished_at = now() where state = 'pending'`,
    );
    expect(await replay({ endpointId: theirs.id })).toMatchObject({ messages: 2, again: 1, added: 0 });
    await expect(replay({ endpointId: off.id })).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_DISABLED' });
  });
});

describe('listing', () => {
  const FIRST_DAY = '2026-03-01';
  const DAYS = 10;
  const PER_DAY = 10_000;
  let big: TestDatabase;
  let endpoints: readonly string[];

  beforeAll(async () => {
    big = await createDatabase();
    endpoints = await Promise.all(
      [1, 2].map(async (n) => (await addTestEndpoint(big.pool, { url: `https://example.com/${n}` })).id),
    );
    await big.pool.query(`select outbox.open_days($1::date, $1::date + $2::integer - 1)`, [FIRST_DAY, DAYS]);
    for (let day = 0; day < DAYS; day += 1) {
      const at = new Date(Date.parse(`${FIRST_DAY}T12:00:00Z`) + day * 86_400_000).toISOString();
      const given = { at, topic: 'ticket.sold' };
      await givenDeliveries(big.pool, {
        ...given,
        endpointId: endpoints[0] ?? '',
        state: 'delivered',
        count: PER_DAY - 10,
      });
      await givenDeliveries(big.pool, { ...given, endpointId: endpoints[day % 2] ?? '', count: 10 });
    }
    await big.pool.query('analyze');
  });
  afterAll(() => big.drop());

  /** The plan of the statement that lists, as it is run. */
  async function planOf(page: Parameters<typeof listDeliveries>[1]): Promise<string> {
    const plans: string[] = [];
    const explaining = {
      query: big.pool.query.bind(big.pool),
      connect: async () => {
        const client = await big.pool.connect();
        return {
          release: () => client.release(),
          query: async (sql: string, values?: unknown[]) => {
            if (!sql.includes('order by deliveries.id desc')) return client.query(sql, values);
            const { rows } = await client.query(`explain (analyze, costs off, timing off) ${sql}`, values);
            plans.push(rows.map((row) => row['QUERY PLAN']).join('\n'));
            return { rows: [] };
          },
        };
      },
    };
    await listDeliveries(explaining as unknown as TestDatabase['pool'], page);
    return plans.join('\n');
  }

  it('finds dead letters among many by their index, those of two days in the partitions of two days', async () => {
    const plan = await planOf({ state: 'dead', limit: 20, from: '2026-03-03T00:00:00Z', to: '2026-03-04T00:00:00Z' });
    expect(plan).toMatch(/Index (Only )?Scan.* using deliveries_20260303_id_idx/);
    expect(plan).not.toMatch(/Seq Scan on deliveries_202603/);
    const days = [...plan.matchAll(/deliveries_(2026\d{4})/g)].map(([, day]) => day);
    expect(new Set(days)).toEqual(new Set(['20260302', '20260303', '20260304']));
    const ofAll = await planOf({ state: 'dead', limit: 20 });
    expect(ofAll).not.toMatch(/Seq Scan on (deliveries|messages)_202603/);
    // Joined day by day: or each delivery would be looked for in the messages of every day.
    expect(ofAll.match(/Nested Loop/g)?.length).toBeGreaterThan(DAYS);
    const read = [...ofAll.matchAll(/ on (?:deliveries|messages)_\d+.*?rows=(\d+)/g)].map(([, rows]) => Number(rows));
    expect(read.length).toBeGreaterThan(DAYS);
    expect(read.reduce((sum, rows) => sum + rows, 0)).toBeLessThan(200);
  });

  it('of an endpoint, by an index of its own', async () => {
    const plan = await planOf({ state: 'dead', limit: 200, endpointId: endpoints[1] ?? '' });
    expect(plan).toMatch(/using deliveries_20260302_endpoint_id_id_idx/);
    expect(plan).not.toMatch(/Seq Scan on deliveries_202603/);
  });

  it('goes from page to page, the newest first, through all of them', async () => {
    const seen: bigint[] = [];
    for (let before: bigint | undefined; ; before = seen.at(-1)) {
      const page = await listDeliveries(big.pool, { state: 'dead', limit: 30, before });
      seen.push(...page.map(({ id }) => id));
      if (page.length < 30) break;
    }
    expect(seen).toHaveLength(DAYS * 10);
    expect(seen).toEqual([...new Set(seen)].sort((one, other) => Number(other - one)));
  });
});

describe('the table refuses, of its owner too', () => {
  it.each([
    ['a schedule that begins after the attempt that is next', 'schedule_from = attempt'],
    ['a schedule that begins before the first attempt', 'schedule_from = -1'],
    ['a delivery that is open again and finished', `state = 'pending'`],
  ])('%s', async (_what, change) => {
    const { id: endpointId } = await addTestEndpoint(database.pool, { url: 'https://example.com/' });
    await givenDeliveries(database.pool, { endpointId });
    await expect(database.pool.query(`update outbox.deliveries set ${change}`)).rejects.toMatchObject({
      code: '23514',
    });
  });
});
