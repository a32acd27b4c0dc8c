import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { type Followed, findSetBack, followJump } from '../../src/outbox/clock-jump.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { readHealth } from '../../src/outbox/health-store.ts';
import type { ClockJump } from '../../src/outbox/server-clock.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { addTestEndpoint, announce, announceMany, clearOutbox } from '../support/outbox.ts';

const HOUR_MS = 3_600_000;
const URL = 'http://127.0.0.1:1/';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterEach(() => clearOutbox(database.pool));
afterAll(() => database.drop());

const fan = (places: ReadonlyMap<string, number> = new Map()) =>
  fanOut(database.pool, { limit: 100_000, floor: NO_FLOOR, places, queueLeaseMs: 60_000 });
/** What the tables look like when the server's clock was an hour ahead until a moment ago. */
const writtenAnHourAhead = () =>
  database.pool.query(
    `update outbox.deliveries set due_at = due_at + interval '1 hour', lease_until = lease_until + interval '1 hour'`,
  );
const jumpBack = async () => {
  const { rows } = await database.pool.query<{ since: Date }>(
    `select clock_timestamp() - interval '10 seconds' as since`,
  );
  return follow({ byMs: -HOUR_MS, since: rows[0]?.since ?? new Date(0) });
};
/** As a relay, in one session; which `query` may strike. */
async function follow(jump: ClockJump, strike: (text: string) => void = () => undefined): Promise<Followed> {
  const session = await database.pool.connect();
  const query = async (first: string | { text: string }, values?: unknown[]) => {
    strike(typeof first === 'string' ? first : first.text);
    return session.query(first, values);
  };
  try {
    return await followJump({ query } as unknown as Queryable, jump);
  } finally {
    session.release();
  }
}
const count = async (condition: string) => {
  const { rows } = await database.pool.query<{ n: number }>(
    `select count(*)::integer as n from outbox.deliveries where ${condition}`,
  );
  return rows[0]?.n;
};

describe("when the server's clock was set back", () => {
  it('what was due is due, however much it is and at however many endpoints, and leases end as they would have', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 6_000);
    await fan(new Map([[id, 10]]));
    await writtenAnHourAhead();
    expect(await jumpBack()).toEqual({ leases: 10, deliveries: 11_990 });
    expect(await count('due_at <= clock_timestamp()')).toBe(12_000);
    expect(await count(`lease_until between clock_timestamp() and clock_timestamp() + interval '1 minute'`)).toBe(10);
  });

  it('what is wanted at an hour of the calendar is delivered then, and not before', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    const deliver = `insert into public.outbox (topic, payload, deliver_after) values ('test.happened', '{}', clock_timestamp() + interval '2 hours')`;
    await database.pool.query(deliver);
    await fan();
    await jumpBack();
    expect(await count(`due_at > clock_timestamp() + interval '119 minutes'`)).toBe(1);
  });

  it('an endpoint that was there before receives what is announced since, before the jump is noticed and afterwards', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    await database.pool.query(`update outbox.endpoints set created_at = created_at + interval '1 hour'`);
    await announce(database.pool);
    await fan();
    expect(await count('true')).toBe(1);
    await announce(database.pool);
    await jumpBack();
    await announce(database.pool);
    await fan();
    expect(await count('true')).toBe(3);
    const { rows } = await database.pool.query('select from outbox.endpoints where created_at > clock_timestamp()');
    expect(rows).toEqual([]);
  });

  it('is found out by whoever leads next, if nobody saw it', async () => {
    await addTestEndpoint(database.pool, { url: URL });
    expect(await findSetBack(database.pool)).toBeUndefined();
    await announceMany(database.pool, 2);
    await fan();
    expect(await findSetBack(database.pool)).toBeUndefined();
    await writtenAnHourAhead();
    await database.pool.query(`update outbox.deliveries set created_at = created_at + interval '1 hour'`);
    const jump = await findSetBack(database.pool);
    expect((jump?.byMs ?? 0) / HOUR_MS).toBeCloseTo(-1, 2);
    if (jump !== undefined) await follow(jump);
    expect(await count(`due_at <= clock_timestamp() + interval '1 second'`)).toBe(2);
    expect(await findSetBack(database.pool), 'by whoever leads after that').toBeUndefined();
  });

  it.each([
    { before: 'update', struck: 'begins to move what waits', at: 3 },
    { before: 'update', struck: 'has moved a part of it', at: 4 },
    { before: 'commit', struck: 'has moved all of it', at: 1 },
  ])('a relay that is struck when it $struck has moved nothing twice in the end', async ({ before, at }) => {
    await addTestEndpoint(database.pool, { url: URL });
    await announceMany(database.pool, 6_000);
    await fan();
    await database.pool.query(`update outbox.deliveries set due_at = due_at + interval '4 hours'`);
    let seen = 0;
    const strike = (text: string) => {
      if (text.includes(before) && ++seen === at) throw new Error('struck');
    };
    const jump = { byMs: -HOUR_MS, since: new Date(Date.now() - 10_000) };
    await expect(follow(jump, strike)).rejects.toThrow('struck');
    await follow(jump);
    expect(await count(`due_at > clock_timestamp() + interval '179 minutes'`)).toBe(6_000);
  });

  it('whoever leads next waits for an open breaker no longer than it was to be open', async () => {
    const { id } = await addTestEndpoint(database.pool, { url: URL });
    await database.pool.query(
      `insert into outbox.endpoint_health (endpoint_id, breaker, failures_in_row, opened_at, probe_at)
       values ($1, 'open', 5, clock_timestamp() + interval '1 hour', clock_timestamp() + interval '1 hour 5 seconds')`,
      [id],
    );
    expect((await readHealth(database.pool, 1_000)).get(id)?.probeAt).toBeCloseTo(6_000, 1);
  });
});

it("where the server's clock went ahead, a lease lasts as long as it would have", async () => {
  const { id } = await addTestEndpoint(database.pool, { url: URL });
  await announceMany(database.pool, 3);
  await fan(new Map([[id, 10]]));
  await database.pool.query(`update outbox.deliveries set lease_until = lease_until - interval '1 hour'`);
  const since = new Date(Date.now() - 10_000);
  expect(await follow({ byMs: HOUR_MS, since })).toEqual({ leases: 3, deliveries: 0 });
  expect(await count(`lease_until between clock_timestamp() and clock_timestamp() + interval '1 minute'`)).toBe(3);
});
