import { setTimeout as sleep } from 'node:timers/promises';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { parsePartitionsMapping } from '../../src/analytics/partitions/mapping.ts';
import type { Pool } from '../../src/db/pool.ts';
import { latencyOf, print, words } from '../figures.ts';

const WARM_UP_MS = 3_000;
const BEFORE_MS = 20_000;
const AFTERWARDS_MS = 3_000;
/** What it may impose on whoever writes. */
const TARGET_MS = 50;

const ENTRY = {
  table: 'analytics.event_impressions',
  by: 'created_at',
  // All that is measured is kept.
  keepMonths: 24,
  indexes: ['btree (event_id, created_at)'],
};

/** Converts the table beside an open loop of inserts: who is kept waiting counts in full. Answers whether p99 rose by 50 ms at most, without an error. */
export async function measureConversion(pool: Pool, { perSecond }: { readonly perSecond: number }): Promise<boolean> {
  const inserts = startInserts(pool, perSecond);
  await sleep(WARM_UP_MS);
  inserts.enter('before');
  await sleep(BEFORE_MS);
  inserts.enter('beside');
  const began = performance.now();
  const { tables } = parsePartitionsMapping(JSON.stringify({ version: 1, tables: [ENTRY] }), 'bench');
  const [outcome] = await applyPartitions(pool, { entries: tables, now: new Date(), restFactor: 1 });
  const seconds = (performance.now() - began) / 1_000;
  await sleep(AFTERWARDS_MS);
  const { before, beside, errors } = await inserts.stop();
  const [former, during] = [latencyOf(before), latencyOf(beside)];
  const locked =
    outcome?.status === 'partitioned'
      ? outcome.lockedMs.map((ms) => ms.toFixed(0)).join(' and ')
      : JSON.stringify(outcome);
  const imposed = during.p99 - former.p99;
  const isMet = imposed <= TARGET_MS && errors.length === 0 && outcome?.status === 'partitioned';
  print(`conversion beside ${perSecond} inserts/s: ${seconds.toFixed(0)} s, the table locked for ${locked} ms`);
  print(`  inserts before: ${words(former)}; beside it: ${words(during)}; errors ${errors.length}`);
  print(`  imposed on p99: ${imposed.toFixed(1)} ms, ${TARGET_MS} allowed: ${isMet ? 'met' : 'MISSED'}`);
  for (const error of errors.slice(0, 3)) print(`  ${error}`);
  return isMet;
}

function startInserts(pool: Pool, perSecond: number) {
  const took: Record<'before' | 'beside' | 'none', number[]> = { before: [], beside: [], none: [] };
  const errors: string[] = [];
  const underWay = new Set<Promise<unknown>>();
  let phase: keyof typeof took = 'none';
  let isOver = false;
  const insert = async (due: number, of: keyof typeof took) => {
    await pool
      .query(
        `insert into public.event_impressions (event_id, session_id, dwell_ms) values (public.nth('event', 1 + floor(2000 * random())::bigint), md5(random()::text), 1000)`,
      )
      .catch((error: Error) => errors.push(error.message));
    took[of].push(performance.now() - due);
  };
  const loop = (async () => {
    const began = performance.now();
    for (let nth = 0; !isOver; nth += 1) {
      const due = began + (nth * 1_000) / perSecond;
      const waitMs = due - performance.now();
      if (waitMs > 1) await sleep(waitMs);
      const one = insert(due, phase);
      underWay.add(one);
      void one.finally(() => underWay.delete(one));
    }
  })();
  return {
    enter: (next: 'before' | 'beside') => {
      phase = next;
    },
    stop: async () => {
      isOver = true;
      await loop;
      await Promise.all(underWay);
      return { before: took.before, beside: took.beside, errors };
    },
  };
}
