import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { createPool, type Pool, type Tx } from '../../src/db/pool.ts';
import { median, print, spread } from '../figures.ts';
import type { Place } from './contender.ts';
import { payloadOf, TOPIC } from './message.ts';
import { ours } from './ours.ts';
import type { Stage } from './stage.ts';
import type { WorkerProcess } from './worker-process.ts';

/** Of the committed transactions a second without any trigger. */
const TARGET = 0.95;
const SEATS = 10_000;
const CLIENTS = 16;
/** For a relay that finds nothing to do to say that it sleeps. */
const FALLING_ASLEEP_MS = 1_500;
const WARM_UP_SHARE = 0.25;

type Way = 'no trigger' | 'ours, awake' | 'ours, asleep at first' | 'ours, kept asleep' | 'plain row-level NOTIFY';
/** What is owed. To be kept asleep is what no relay does that lives: it is the most that a commit could cost. */
const JUDGED: readonly Way[] = ['ours, awake', 'ours, asleep at first'];
const BASELINE: Way = 'no trigger';

/**
 * What does announcing cost those who commit? A sale (a seat taken, a ticket written, a message announced) by 16 sessions, on tables of the
 * same size each time. Nothing is delivered meanwhile: what a delivery costs is no trigger's doing.
 */
export async function benchCommits(
  stage: Stage,
  size: { readonly rounds: number; readonly seconds: number },
): Promise<boolean> {
  const rates = new Map<Way, number[]>();
  for (let round = 0; round < size.rounds; round += 1) {
    // By turns forwards and backwards: what is left to do of one way is a burden to the next.
    for (const [way, prepare] of round % 2 === 0 ? WAYS : WAYS.toReversed()) {
      const rate = await stage.play(ours('postgres'), (place) => sell(stage, place, prepare, size.seconds * 1_000));
      rates.set(way, [...(rates.get(way) ?? []), rate]);
    }
  }
  return report(rates, size.rounds);
}

/** Each makes a new database what it is to be, and answers how to undo what lies outside it. */
const WAYS: readonly (readonly [Way, (stage: Stage, place: Place, pool: Pool) => Promise<() => Promise<void>>])[] = [
  [BASELINE, withoutTrigger],
  // No relay has ever said that it sleeps.
  ['ours, awake', async () => async () => undefined],
  ['ours, asleep at first', fallAsleep],
  ['ours, kept asleep', keepAsleep],
  ['plain row-level NOTIFY', notifyByRow],
];

async function withoutTrigger(_stage: Stage, _place: Place, pool: Pool): Promise<() => Promise<void>> {
  await pool.query('alter table public.outbox disable trigger user');
  return async () => undefined;
}

// The first commit wakes it. It turns messages into no deliveries, as there is no endpoint, and takes its part of the processors.
async function fallAsleep(stage: Stage, place: Place): Promise<() => Promise<void>> {
  const worker = await startAsleep(stage, place);
  return () => worker.kill();
}

// Stopped in its sleep, so that it does not hear that it is woken, and every commit notifies.
async function keepAsleep(stage: Stage, place: Place): Promise<() => Promise<void>> {
  const worker = await startAsleep(stage, place);
  process.kill(worker.pid, 'SIGSTOP');
  return () => worker.kill();
}

async function startAsleep(stage: Stage, place: Place): Promise<WorkerProcess> {
  const worker = await stage.startWorker(ours('postgres'), place);
  await pause(FALLING_ASLEEP_MS);
  return worker;
}

async function notifyByRow(stage: Stage, place: Place, pool: Pool): Promise<() => Promise<void>> {
  await withoutTrigger(stage, place, pool);
  await pool.query(
    `create function public.bench_notify() returns trigger language plpgsql as
     $$ begin perform pg_notify('bench', new.id::text); return null; end $$`,
  );
  await pool.query(
    'create trigger bench_notify after insert on public.outbox for each row execute function public.bench_notify()',
  );
  // One that hears it: what nobody listens to is thrown away at once.
  const listener = new pg.Client({ connectionString: place.databaseUrl });
  await listener.connect();
  await listener.query('listen bench');
  return () => listener.end();
}

async function sell(stage: Stage, place: Place, prepare: (typeof WAYS)[number][1], ms: number): Promise<number> {
  const pool = createPool({ databaseUrl: place.databaseUrl, max: CLIENTS });
  await pool.query(
    'create table public.seats (id integer primary key, sold integer not null default 0) with (fillfactor = 50)',
  );
  await pool.query(
    'create table public.tickets (id bigint generated always as identity primary key, seat_id integer not null, amount_cents bigint not null, sold_at timestamptz not null default clock_timestamp())',
  );
  await pool.query('insert into public.seats (id) select n from generate_series(0, $1 - 1) as n', [SEATS]);
  const undo = await prepare(stage, place, pool);
  try {
    await commitsPerSecond(pool, WARM_UP_SHARE * ms);
    return await commitsPerSecond(pool, ms);
  } finally {
    await undo();
    await pool.end();
  }
}

async function commitsPerSecond(pool: Pool, ms: number): Promise<number> {
  const startedAt = performance.now();
  const endsAt = startedAt + ms;
  let commits = 0;
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      const client = await pool.connect();
      while (performance.now() < endsAt) {
        await sellSeat(client, Math.floor(Math.random() * SEATS));
        commits += 1;
      }
      client.release();
    }),
  );
  return (commits / (performance.now() - startedAt)) * 1_000;
}

async function sellSeat(client: Tx, seat: number): Promise<void> {
  await client.query('begin');
  await client.query({ name: 'seat', text: 'update public.seats set sold = sold + 1 where id = $1', values: [seat] });
  await client.query({
    name: 'ticket',
    text: 'insert into public.tickets (seat_id, amount_cents) values ($1, 1999)',
    values: [seat],
  });
  await client.query({
    name: 'announce',
    text: 'insert into public.outbox (topic, payload) values ($1, $2)',
    values: [TOPIC, JSON.stringify(payloadOf(seat))],
  });
  await client.query('commit');
}

function report(rates: ReadonlyMap<Way, readonly number[]>, rounds: number): boolean {
  const met: boolean[] = [];
  const base = rates.get(BASELINE) ?? [];
  print(`\ndomain commits: ${CLIENTS} sessions; medians of ${rounds} rounds`);
  for (const [way, perSecond] of rates) {
    const ratios = perSecond.map((rate, nth) => rate / (base[nth] ?? Number.NaN));
    const isJudged = JUDGED.includes(way);
    const isMet = !isJudged || median(ratios) >= TARGET;
    met.push(isMet);
    print(
      `${way.padEnd(24)} ${spread(perSecond, 0).padStart(20)} /s, ratio ${spread(ratios)}${isJudged ? `, target ${TARGET}` : ''}${isMet ? '' : ' MISSED'}`,
    );
  }
  return met.every(Boolean);
}
