import { setTimeout as sleep } from 'node:timers/promises';
import { applyRollups } from '../../src/analytics/rollups/apply.ts';
import { parseDeclarations } from '../../src/analytics/rollups/declaration.ts';
import { runRollups } from '../../src/analytics/rollups/run.ts';
import { verifyRollups } from '../../src/analytics/rollups/verify.ts';
import type { Pool } from '../../src/db/pool.ts';
import { latencyOf, median, print, spread, words } from '../figures.ts';

const DECLARATIONS = JSON.stringify({
  tables: { event_impressions: ['analytics.event_impressions'] },
  rollups: [
    {
      name: 'event_daily',
      schema: 'analytics',
      of: 'event_impressions',
      time: 'created_at',
      zone: 'UTC',
      group: ['event_id'],
      count: 'total_views',
      distinct: { name: 'unique_viewers', of: 'coalesce(user_id::text, session_id)' },
      countIf: [{ name: 'completions', column: 'completed' }],
      measures: [{ column: 'dwell_ms', sum: 'dwell_ms_sum', count: 'dwell_ms_count', average: 'avg_dwell_ms' }],
      median: { name: 'median_dwell_ms', column: 'dwell_ms' },
      readers: { all: [] },
    },
  ],
  views: [],
});
const NEW_ROWS = 10_000;
/** How much more a run may cost over ten times as many rows. */
const MOST = 1.5;
const VISIBLE_MS = 5_000;
/** How often the worker counts. */
const EVERY_MS = 2_000;

/** Counts what is new in a table of a million rows and in the large one. Answers whether it costs the same, is right, and is soon to be seen. */
export async function measureRollup(
  { small, large }: { readonly small: Pool; readonly large: Pool },
  rounds: number,
): Promise<readonly boolean[]> {
  for (const [name, pool] of [
    ['a million rows', small],
    ['all rows', large],
  ] as const) {
    const began = performance.now();
    await applyRollups(pool, parseDeclarations(DECLARATIONS, 'bench'), {});
    print(`rollup of ${name}: counted at first in ${((performance.now() - began) / 1_000).toFixed(0)} s`);
  }
  const ratios: number[] = [];
  const took: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const inSmall = await runOf(small);
    const inLarge = await runOf(large);
    took.push(inLarge);
    ratios.push(inLarge / inSmall);
  }
  const isProportional = median(ratios) <= MOST;
  print(
    `rollup: ${NEW_ROWS} new rows counted in ${median(took).toFixed(0)} ms; over all rows against a million: ${spread(ratios)}, ${MOST} allowed: ${isProportional ? 'met' : 'MISSED'}`,
  );
  const visible = await visibleAfter(large, rounds);
  const isSoon = Math.max(...visible) <= VISIBLE_MS;
  print(
    `rollup: a row is to be seen after ${spread(visible, 0)} ms, ${VISIBLE_MS} allowed: ${isSoon ? 'met' : 'MISSED'}`,
  );
  const [verified] = await verifyRollups(small);
  print(
    `rollup: compared with the rows: ${JSON.stringify(verified, (_key, value: unknown) => (typeof value === 'bigint' ? Number(value) : value)).slice(0, 300)}`,
  );
  return [isProportional, isSoon];
}

async function runOf(pool: Pool): Promise<number> {
  await pool.query(
    `insert into analytics.event_impressions (event_id, session_id, dwell_ms)
     select public.nth('event', 1 + floor(2000 * random())::bigint), md5(random()::text), (random() * 90000)::int from generate_series(1, ${NEW_ROWS})`,
  );
  const began = performance.now();
  for (const ran of await runRollups(pool)) if (ran.status === 'failed') throw ran.error;
  return performance.now() - began;
}

/** From the commit of a row until the dashboards' table has it, counted as the worker does. */
async function visibleAfter(pool: Pool, rounds: number): Promise<readonly number[]> {
  const stop = new AbortController();
  const counting = (async () => {
    while (!stop.signal.aborted) {
      await runRollups(pool);
      await sleep(EVERY_MS, undefined, { signal: stop.signal }).catch(() => undefined);
    }
  })();
  const views = async () =>
    (
      await pool.query<{ views: string | null }>(
        `select sum(total_views)::text as views from analytics.event_daily where event_id = public.nth('event', 9)`,
      )
    ).rows[0]?.views;
  const found: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const before = await views();
    await pool.query(
      `insert into analytics.event_impressions (event_id, session_id) values (public.nth('event', 9), md5(random()::text))`,
    );
    const began = performance.now();
    while ((await views()) === before) await sleep(20);
    found.push(performance.now() - began);
  }
  stop.abort();
  await counting;
  return found;
}

/** Refreshes the view over all rows beside a reader of it. Answers whether nobody waited for it. */
export async function measureRefresh(pool: Pool): Promise<boolean> {
  await pool.query(`
    create materialized view analytics.mv_bench as
      select event_id, (created_at at time zone 'UTC')::date as day, count(*) as total_views from analytics.event_impressions group by 1, 2;
    create unique index on analytics.mv_bench (event_id, day)`);
  const read = async (ms: number, took: number[], until: () => boolean) => {
    for (const end = performance.now() + ms; performance.now() < end && !until(); ) {
      const began = performance.now();
      await pool.query(`select * from analytics.mv_bench where event_id = public.nth('event', 7)`);
      took.push(performance.now() - began);
    }
  };
  const [alone, beside]: [number[], number[]] = [[], []];
  await read(5_000, alone, () => false);
  let isDone = false;
  const began = performance.now();
  const refreshing = pool.query('refresh materialized view concurrently analytics.mv_bench').finally(() => {
    isDone = true;
  });
  await read(600_000, beside, () => isDone);
  await refreshing;
  const [former, during] = [latencyOf(alone), latencyOf(beside)];
  const isMet = during.max < 1_000;
  print(
    `refresh of the view: ${((performance.now() - began) / 1_000).toFixed(0)} s; readers before ${words(former)}; beside ${words(during)}; nobody waited for it: ${isMet ? 'met' : 'MISSED'}`,
  );
  return isMet;
}
