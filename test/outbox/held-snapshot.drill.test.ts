import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { expectNothingLost, type LossDrill, startLossDrill } from '../support/loss.ts';
import { announce } from '../support/outbox.ts';
import { answer } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const isFull = process.env['LIVENTIX_DRILLS'] === 'full';
/** As long as the issue names where there is time; `LIVENTIX_HELD_MINUTES` is for who looks at figures in between. */
const HELD_MS = isFull ? 60_000 * Number(process.env['LIVENTIX_HELD_MINUTES'] ?? 30) : 10_000;
/** Some 200 messages a second. */
const MESSAGES_AT_ONCE = 3;
/** So many that the tables are what limits the pace of a burst. */
const MAX_IN_FLIGHT = 50;
const BURST = isFull ? 3_000 : 1_500;
const PACES = isFull ? 5 : 3;
/** Of the pace at the beginning, at the end; in the short form other tests take the processors meanwhile. */
const KEPT_SHARE = isFull ? 0.8 : 0.4;
const LAG_OF_LAST = 1_000;
const PATIENCE_MS = 120_000;

let database: TestDatabase;
let redis: TestRedis;
let drill: LossDrill;

afterEach(async () => {
  await drill.close();
  await redis.stop();
  await database.drop();
});

/** Announces a burst beside what is announced anyway. Answers how many webhooks a second arrived until all of it had. */
async function paceOfBurst(): Promise<number> {
  const { rows } = await database.pool.query<{ id: string }>(
    `insert into public.outbox (topic, payload) select 'drill.burst', '{}' from generate_series(1, $1) returning 'msg_' || id as id`,
    [BURST],
  );
  const { received } = drill.receiver;
  const [beganAt, before] = [performance.now(), received.length];
  const missing = new Set(rows.flatMap(({ id }) => [`/first ${id}`, `/second ${id}`]));
  let seen = before;
  const hasArrived = () => {
    for (; seen < received.length; seen += 1)
      missing.delete(`${received[seen]?.path} ${received[seen]?.headers['webhook-id']}`);
    return missing.size === 0;
  };
  await eventually('the burst has arrived', hasArrived, PATIENCE_MS);
  return ((received.length - before) * 1_000) / (performance.now() - beganAt);
}

interface Figures {
  readonly deliveriesPerSecond: number;
  /** From announcement to request: looks, fan-out, queue and claim. */
  readonly lagMs: { readonly p50: number; readonly p99: number };
  /** Of the partitions with their indexes, in MB, and their dead rows. */
  readonly tables: Record<string, { readonly mb: number; readonly dead: number }>;
}

// By the newest first attempts, down the index of their numbers: what else there is must not be read.
const LAG = `
  select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from last.started_at - outbox.created_at) * 1000)::integer[] as lag
  from (
    select delivery_id, day, started_at from outbox.attempts where attempt = 1 order by seq desc limit $1
  ) as last
  join outbox.deliveries on deliveries.id = last.delivery_id and deliveries.day = last.day
  join public.outbox on outbox.id = deliveries.message_id and outbox.day = last.day`;

const TABLES = `
  select inhparent::regclass::text as name,
    (sum(pg_total_relation_size(inhrelid)) / 1048576)::integer as mb, sum(pg_stat_get_dead_tuples(inhrelid))::integer as dead
  from pg_inherits
  where inhparent in ('public.outbox'::regclass, 'outbox.deliveries'::regclass, 'outbox.attempts'::regclass)
    and exists (select from pg_class where oid = inhrelid and relkind = 'r')
  group by inhparent`;

async function measure(): Promise<Figures> {
  const lags = await database.pool.query<{ lag: readonly [number, number] }>(LAG, [LAG_OF_LAST]);
  const [p50, p99] = lags.rows[0]?.lag ?? [Number.NaN, Number.NaN];
  const { rows } = await database.pool.query<{ name: string; mb: number; dead: number }>(TABLES);
  const paces: number[] = [];
  while (paces.length < PACES) paces.push(await paceOfBurst());
  return {
    deliveriesPerSecond: Math.round(paces.toSorted((a, b) => a - b)[Math.floor(PACES / 2)] ?? Number.NaN),
    lagMs: { p50, p99 },
    tables: Object.fromEntries(rows.map(({ name, mb, dead }) => [name, { mb, dead }])),
  };
}

it(`keeps its pace, and delivers what committed late, while a transaction is held open for ${HELD_MS / 1_000} s`, {
  timeout: 5 * PATIENCE_MS + HELD_MS,
}, async () => {
  database = await createDatabase();
  redis = await startRedis();
  drill = await startLossDrill({
    databaseUrl: database.url,
    redisUrl: redis.url,
    messagesAtOnce: MESSAGES_AT_ONCE,
    endpoint: { maxInFlight: MAX_IN_FLIGHT },
    respond: answer(204),
  });
  drill.startWorker();
  const held = await database.pool.connect();
  await held.query('begin isolation level repeatable read');
  const early = await announce(held, { topic: 'drill.held' });
  // What a worker does at first, it does slowly.
  await eventually('it has got going', () => drill.receiver.received.length > 2 * LAG_OF_LAST);
  const first = await measure();
  process.stdout.write(`drill: snapshot held: first ${JSON.stringify(first)}\n`);
  await pause(HELD_MS);
  const last = await measure();
  process.stdout.write(`drill: snapshot held for ${HELD_MS / 1_000} s: last ${JSON.stringify(last)}\n`);
  const late = await announce(held, { topic: 'drill.held' });
  const isThere = (id: string) => drill.receiver.received.some(({ headers }) => headers['webhook-id'] === `msg_${id}`);
  expect([early, late].some(isThere)).toBe(false);
  await held.query('commit');
  held.release();
  expectNothingLost(`snapshot held for ${HELD_MS / 1_000} s`, await drill.finish());
  expect([early, late].every(isThere)).toBe(true);
  expect(last.deliveriesPerSecond).toBeGreaterThan(KEPT_SHARE * first.deliveriesPerSecond);
});
