import { migrate } from '../src/db/migrate.ts';
import type { Pool } from '../src/db/pool.ts';
import { createLegacyDatabase, createMachineTables, fillLegacyDatabase } from '../src/demo/legacy-database.ts';
import { sponsorEvents } from '../src/demo/sponsorships.ts';
import { addEndpoint } from '../src/outbox/endpoints.ts';
import { createKeyRing } from '../src/outbox/key-ring.ts';
import { turnCaptureOn } from '../src/replay/capture.ts';
import { runToTheEnd } from './backfill-command.ts';
import { print } from './figures.ts';

/** What a platform has beside its books. */
export interface Beside {
  readonly wallets: number;
  /** Rows of old wallet transactions. */
  readonly walletTransactions: number;
  /** Orders that have been through the machine of escrow, and those that still are where they began. */
  readonly orders: { readonly lived: number; readonly pending: number };
  readonly messages: number;
  readonly endpoints: number;
}

/** Old wallets and what the backfill made of them, orders under the machine of escrow, and an outbox of a week: in an empty database. */
export async function fillBeside(pool: Pool, databaseUrl: string, beside: Beside): Promise<void> {
  await createLegacyDatabase(pool);
  await createMachineTables(pool);
  await fillLegacyDatabase(pool, {
    wallets: beside.wallets,
    orgWallets: Math.ceil(beside.wallets / 100),
    transactions: beside.walletTransactions,
  });
  await migrate(databaseUrl);
  await turnCaptureOn(pool);
  await runToTheEnd(databaseUrl);
  await fillOrders(pool, beside.orders);
  await fillOutbox(pool, beside);
  print(
    `beside them ${beside.wallets} wallets, ${beside.orders.lived + beside.orders.pending} orders, ${beside.messages} messages to ${beside.endpoints} endpoints`,
  );
}

async function fillOrders(pool: Pool, { lived, pending }: Beside['orders']): Promise<void> {
  await sponsorEvents(pool, { orders: lived });
  await pool.query(
    `insert into public.sponsorship_orders (package_id, sponsor_id, event_id, amount_cents, application_fee_cents)
     select o.package_id, o.sponsor_id, o.event_id, 50000, 2500
     from (select * from public.sponsorship_orders limit 1) o, generate_series(1, $1::int)`,
    [pending],
  );
  // As the page of escrow asks for where a table is large.
  await pool.query('create index on public.sponsorship_orders (state, id)');
}

const DAYS = 7;
/** One in so many is dead, and one in so many took a second attempt; of the last ones so many wait. */
const [DEAD_EVERY, RETRIED_EVERY, WAITING] = [1_000, 20, 5_000];

/** As a worker leaves it, without one: some thousand deliveries a second would take the bench most of an hour. */
async function fillOutbox(pool: Pool, { messages, endpoints }: Beside): Promise<void> {
  for (let nth = 0; nth < endpoints; nth += 1) {
    await addEndpoint(pool, {
      url: `https://example.org/hooks/${nth}`,
      topics: ['*'],
      egressAllow: [],
      keyRing: createKeyRing([Buffer.alloc(32, 1)]),
    });
  }
  const today = `(clock_timestamp() at time zone 'UTC')::date`;
  await pool.query(`select outbox.open_days(${today} - ${DAYS}, ${today})`);
  const steps: readonly [string, unknown[]][] = [
    [
      `insert into public.outbox (day, topic, payload, created_at, processed_at, attempt_count)
       select (n.at at time zone 'UTC')::date, 'bench.topic_' || n.n % 10, jsonb_build_object('order', n.n, 'cents', n.n % 9999), n.at, n.at, $2
       from (select n, clock_timestamp() - interval '${DAYS} days' * (1 - n / $1::float8) as at from generate_series(1, $1::int) n) n
       order by n.n`,
      [messages, endpoints],
    ],
    [
      `insert into outbox.deliveries (day, message_id, endpoint_id, state, attempt, due_at, finished_at, created_at, last_error)
       select m.day, m.id, e.id, s.state, case when m.seq % ${RETRIED_EVERY} = 0 then 2 else 1 end, m.created_at,
              case when s.state <> 'pending' then m.created_at + interval '40 ms' end, m.created_at, case when s.state = 'dead' then 'answered 500' end
       from public.outbox m cross join outbox.endpoints e
       cross join lateral (select case when m.seq > (select max(seq) from public.outbox) - ${WAITING} then 'pending'
         when m.seq % ${DEAD_EVERY} = 0 then 'dead' else 'delivered' end as state) s
       order by m.seq, e.id`,
      [],
    ],
    [
      `insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error)
       select d.id, a.nth, d.day, d.endpoint_id, d.created_at, 20 + d.id % 40,
              case when a.isLast and d.state = 'delivered' then 204 else 500 end,
              case when a.isLast and d.state = 'delivered' then null else 'status' end,
              case when a.isLast and d.state = 'delivered' then null else 'answered 500' end
       from outbox.deliveries d cross join lateral (select n as nth, n = d.attempt as isLast from generate_series(1, d.attempt) n) a
       where d.state <> 'pending'
       order by d.id, a.nth`,
      [],
    ],
  ];
  for (const [text, values] of steps) await pool.query(text, values);
}
