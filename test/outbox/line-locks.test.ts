import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { connectionConfig, createPool, type Pool } from '../../src/db/pool.ts';
import { fanOut, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { OUTBOX_SESSION } from '../../src/outbox/held-connection.ts';
import { LineCheck, moveLinesUp } from '../../src/outbox/lines.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { waitsForLock } from '../support/locks.ts';
import { addTestEndpoint, clearOutbox } from '../support/outbox.ts';

const LINES = 50;

let database: TestDatabase;
/** With the plans of a relay. */
let pool: Pool;
let endpointId: string;
beforeAll(async () => {
  database = await createDatabase();
  const { options } = connectionConfig({ databaseUrl: database.url });
  pool = createPool({ databaseUrl: database.url }, { options: `${options} ${OUTBOX_SESSION}` });
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

/** The heads of fifty lines are delivered; the second of each waits. The later a line begins, the earlier is its key. */
beforeEach(async () => {
  await clearOutbox(database.pool);
  ({ id: endpointId } = await addTestEndpoint(database.pool, { url: 'http://127.0.0.1:1/', ordered: true }));
  await database.pool.query(
    `insert into public.outbox (topic, payload, ordering_key)
     select 'a', '{}', format('key_%s', 100 + $1 - line) from generate_series(1, 2), generate_series(1, $1::integer) as line`,
    [LINES],
  );
  await fanOut(database.pool, { limit: 2 * LINES, floor: NO_FLOOR, places: new Map(), queueLeaseMs: 60_000 });
  await database.pool.query(
    `update outbox.deliveries set state = 'delivered', finished_at = clock_timestamp() where due_at is not null`,
  );
});

it.each([
  {
    who: 'who hears that heads are delivered',
    text: 'as finished',
    move: async () => {
      const { rows } = await database.pool.query<{ deliveryId: string; day: string }>(
        `select id::text as "deliveryId", day::text from outbox.deliveries where state = 'delivered' order by random()`,
      );
      await moveLinesUp(pool, rows);
    },
  },
  {
    who: 'who looks after the lines of an endpoint',
    text: 'recursive heads',
    move: async () => {
      const check = new LineCheck(pool);
      check.begin({ ordered: [endpointId], unordered: [] });
      await check.go();
    },
  },
  {
    who: 'who ends the lines of an endpoint that is not ordered any more',
    text: 'ordering_key = null',
    move: async () => {
      const check = new LineCheck(pool);
      check.begin({ ordered: [], unordered: [endpointId] });
      await check.go();
    },
  },
])('$who locks deliveries in the order of their numbers', async ({ text, move }) => {
  const holder = await database.pool.connect();
  try {
    await holder.query(
      `begin; select from outbox.deliveries where id = (select min(id) from outbox.deliveries where state = 'pending') for update`,
    );
    const moving = move();
    await waitsForLock(database.pool, text);
    const { rowCount } = await holder.query(
      `select from outbox.deliveries where state = 'pending' for no key update skip locked`,
    );
    await holder.query('commit');
    await moving;
    expect(rowCount, 'nobody else is locked by whoever waits for the first').toBe(LINES);
  } finally {
    holder.release(true);
  }
  const { rows } = await database.pool.query(
    `select from outbox.deliveries where state = 'pending' and due_at is not null`,
  );
  expect(rows).toHaveLength(LINES);
});
