import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastOutcomes, latestAttemptsOf, readActivity } from '../../src/outbox/activity.ts';
import { searchDeliveries } from '../../src/outbox/deliveries-search.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { addTestEndpoint } from '../support/outbox.ts';

const HOUR = { parts: 12, partSeconds: 300 };
const ATTEMPTS = 4_500;

let database: TestDatabase;
let busy: string;
let quiet: string;

/** One attempt after the other over the last 50 minutes, every fifth failed, the n-th as long as n % 100 ms, and first 2 s after its announcement. */
beforeAll(async () => {
  database = await createDatabase();
  ({ id: busy } = await addTestEndpoint(database.pool, { url: 'http://127.0.0.1:59999/busy' }));
  ({ id: quiet } = await addTestEndpoint(database.pool, { url: 'http://127.0.0.1:59999/quiet' }));
  await database.pool.query(
    `with placed as (
       select n, clock_timestamp() - (50 - 50.0 * n / $2) * interval '1 minute' as at from generate_series(1, $2::integer) as n
     ), messages as (
       insert into public.outbox (topic, payload, day, created_at, processed_at)
       select 'test.happened', jsonb_build_object('n', n), (at at time zone 'UTC')::date, at - interval '2 seconds', at from placed
       returning id, day, (payload ->> 'n')::integer as n
     ), deliveries as (
       insert into outbox.deliveries (message_id, day, endpoint_id, state, attempt, finished_at)
       select id, day, $1, 'delivered', 1, clock_timestamp() from messages order by n
       returning id, day, message_id
     )
     insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error)
     select deliveries.id, 1, deliveries.day, $1, at, n % 100, case when n % 5 = 0 then 500 else 204 end,
       case when n % 5 = 0 then 'http_5xx' end, case when n % 5 = 0 then 'answered 500' end
     from deliveries join messages on messages.id = message_id join placed using (n)
     order by n`,
    [busy, ATTEMPTS],
  );
});
afterAll(() => database?.drop());

describe('activity', () => {
  it('is what SQL counts, with the percentiles of durations and of the lag', async () => {
    const activity = await readActivity(database.pool, HOUR);
    expect(activity).toMatchObject({ delivered: 3_600, failed: 900, sampleOf: null });
    // The last ten of twelve parts are those that it happened in.
    const [first, ...rest] = activity.parts.filter(({ delivered }) => delivered > 0);
    expect(rest).toHaveLength(9 + Number((first?.delivered ?? 0) < 360));
    for (const part of rest.slice(0, -1)) {
      expect(part.delivered + part.failed).toBeGreaterThan(435);
      expect(part.delivered / part.failed).toBeCloseTo(4, 0);
      expect(Math.abs((part.medianMs ?? 0) - 49.5)).toBeLessThan(8);
      expect(Math.abs((part.p95Ms ?? 0) - 94)).toBeLessThan(4);
      expect(part.medianLagSeconds).toBeCloseTo(2, 2);
      expect(part.p95LagSeconds).toBeCloseTo(2, 2);
    }
  });

  it('is estimated from a sample that is spread over the time, where there was more than is read, and says so', async () => {
    const activity = await readActivity(database.pool, HOUR, { sample: { stretches: 50, each: 10 } });
    expect(activity.sampleOf).toBe(500);
    expect(activity.delivered + activity.failed).toBeGreaterThan(ATTEMPTS * 0.98);
    expect(activity.delivered + activity.failed).toBeLessThan(ATTEMPTS * 1.02);
    const parts = activity.parts.filter(({ delivered }) => delivered > 0).slice(1, -1);
    for (const { delivered, failed } of parts) {
      expect(delivered + failed).toBeGreaterThan(360);
      expect(delivered + failed).toBeLessThan(540);
    }
  });

  it('has nothing of before its time, and nothing at all where nothing was attempted', async () => {
    const { delivered, failed } = await readActivity(database.pool, { parts: 10, partSeconds: 60 });
    const { rows } = await database.pool.query<{ count: number }>(
      `select count(*)::integer as count from outbox.attempts where started_at > clock_timestamp() - interval '10 minutes'`,
    );
    expect(Math.abs(delivered + failed - (rows[0]?.count ?? 0))).toBeLessThan(10);
    const empty = await createDatabase();
    const activity = await readActivity(empty.pool, HOUR);
    await empty.drop();
    expect(activity).toMatchObject({ delivered: 0, failed: 0, sampleOf: null });
    expect(activity.parts).toHaveLength(12);
  });

  it('knows how it went last with each endpoint', async () => {
    const outcomes = await lastOutcomes(database.pool);
    expect(outcomes.map(({ endpointId, isDelivered, statusCode }) => [endpointId, isDelivered, statusCode])).toEqual([
      [busy, false, 500],
      [busy, true, 204],
    ]);
    const latest = await latestAttemptsOf(database.pool, { endpointId: busy, limit: 2 });
    expect(latest.map(({ errorClass }) => errorClass)).toEqual(['http_5xx', null]);
    expect(await latestAttemptsOf(database.pool, { endpointId: quiet, limit: 2 })).toEqual([]);
  });
});

describe('a search for deliveries', () => {
  it('finds those of an endpoint that had few, each once, however little it may look through at a time', async () => {
    const ids = await givenDeliveries(database.pool, { endpointId: quiet, count: 5, state: 'delivered' });
    const all = await searchDeliveries(database.pool, { endpointId: quiet, limit: 3 }, { budgetMs: 10_000 });
    expect(all.rows.map(({ id }) => id)).toEqual(ids.toReversed().slice(0, 3));
    const found: bigint[] = [];
    let before: bigint | undefined;
    do {
      const page = await searchDeliveries(database.pool, { endpointId: quiet, limit: 2, before }, { budgetMs: -1 });
      found.push(...page.rows.map(({ id }) => id));
      before = page.goOnBelow;
    } while (before !== undefined);
    expect(found).toEqual(ids.toReversed());
  });

  it.each(['*', 'ticket.*', 'ticket.sold.*', 'ticket.sold', 'ticket', 'tick.*', 'ticket_.*'])(
    'finds of the topic %s what an endpoint with that topic is sent',
    async (topic) => {
      for (const each of ['ticket', 'ticket.sold', 'ticket.sold.again', 'ticketing.sold', 'ticketx.a']) {
        await givenDeliveries(database.pool, { endpointId: quiet, topic: each, state: 'dead' });
      }
      const { rows } = await database.pool.query<{ id: bigint }>(
        `select d.id from outbox.deliveries d join public.outbox o on o.id = d.message_id
         where d.state = 'dead' and $1 = any (outbox.patterns_of(o.topic)) order by d.id desc`,
        [topic],
      );
      const page = await searchDeliveries(database.pool, { topic, state: 'dead', limit: 100 }, { budgetMs: 10_000 });
      expect(page.rows.map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
    },
  );

  it.each([
    ['few', 5],
    ['more than are sorted', 10_050],
  ])('finds what waits, the newest first and each once, where there are %s', async (_, count) => {
    const ids = await givenDeliveries(database.pool, { endpointId: busy, count, state: 'pending' });
    await givenDeliveries(database.pool, { endpointId: busy, count: 10, state: 'delivered' });
    const found: bigint[] = [];
    let before: bigint | undefined;
    do {
      const page = await searchDeliveries(
        database.pool,
        { state: 'pending', endpointId: busy, limit: 2, before },
        { budgetMs: 10_000 },
      );
      found.push(...page.rows.map(({ id }) => id));
      before = page.goOnBelow;
    } while (before !== undefined && found.length < 5);
    expect(found.slice(0, 5)).toEqual(ids.toReversed().slice(0, 5));
    await database.pool.query(
      `update outbox.deliveries set state = 'delivered', finished_at = clock_timestamp() where state = 'pending'`,
    );
  });

  it('ends early and says where to go on, when its time is over', async () => {
    const ids = await givenDeliveries(database.pool, { endpointId: busy, count: 25_000, state: 'delivered' });
    const page = await searchDeliveries(
      database.pool,
      { endpointId: quiet, state: 'delivered', limit: 10 },
      { budgetMs: -1 },
    );
    expect(page.rows).toEqual([]);
    expect(page.goOnBelow).toBeGreaterThan(ids[0] ?? 0n);
    const rest = await searchDeliveries(
      database.pool,
      { endpointId: quiet, state: 'delivered', limit: 10, before: page.goOnBelow },
      { budgetMs: 10_000 },
    );
    expect(rest.rows).toHaveLength(5);
    expect(rest.goOnBelow).toBeUndefined();
  });
});
