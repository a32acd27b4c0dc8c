import type { Pool } from '../../src/db/pool.ts';
import { median, print, spread } from '../figures.ts';
import { convertSite } from './conversion.ts';

export interface Sites {
  readonly plain: Pool;
  readonly months: Pool;
}

const WRITERS = 4;
const ROUND_MS = 4_000;
const BATCH = 1_000;
const BATCHES = 10;
const LEAST = 0.9;

const ROWS = (n: number) => `
  insert into analytics.event_impressions (event_id, session_id, dwell_ms)
  select public.nth('event', 1 + floor(2000 * random())::bigint), md5(random()::text), 1000 from generate_series(1, ${n})`;

/** Inserts into the table as it was and into months, by turns: one a transaction by four writers, and a thousand a statement. */
export async function compareInserts({ plain, months }: Sites, rounds: number): Promise<readonly boolean[]> {
  return [
    judge('one row a transaction, four writers', await ratios({ plain, months }, rounds, oneByOne)),
    judge('a thousand rows a statement', await ratios({ plain, months }, rounds, inBatches)),
  ];
}

/** What a table of keys beside the months costs whoever inserts: their ids stay unique over all months. Nothing is promised of it. */
export async function compareKeysAside({ plain, months }: Sites, rounds: number): Promise<void> {
  await convertSite(months, { restFactor: 0, uniqueOverAll: [['id']] });
  const found = await ratios({ plain, months }, rounds, oneByOne);
  print(
    `inserts into months with a table of ids beside them against the table as it was, four writers: ${spread(found)}`,
  );
}

async function ratios(
  { plain, months }: Sites,
  rounds: number,
  rate: (pool: Pool) => Promise<number>,
): Promise<readonly number[]> {
  const found: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const isFirst = round % 2 === 0;
    const first = await rate(isFirst ? plain : months);
    const second = await rate(isFirst ? months : plain);
    found.push(isFirst ? second / first : first / second);
  }
  return found;
}

function judge(what: string, found: readonly number[]): boolean {
  const isMet = median(found) >= LEAST;
  print(
    `inserts into months against the table as it was, ${what}: ${spread(found)}, ${LEAST} wanted: ${isMet ? 'met' : 'MISSED'}`,
  );
  return isMet;
}

async function oneByOne(pool: Pool): Promise<number> {
  let done = 0;
  const until = performance.now() + ROUND_MS;
  await Promise.all(
    Array.from({ length: WRITERS }, async () => {
      while (performance.now() < until) {
        await pool.query(ROWS(1));
        done += 1;
      }
    }),
  );
  return done;
}

async function inBatches(pool: Pool): Promise<number> {
  const began = performance.now();
  for (let nth = 0; nth < BATCHES; nth += 1) await pool.query(ROWS(BATCH));
  return (BATCHES * BATCH) / (performance.now() - began);
}
