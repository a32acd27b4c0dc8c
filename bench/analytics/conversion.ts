import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { applyPartitions, type Outcome } from '../../src/analytics/partitions/apply.ts';
import { parsePartitionsMapping } from '../../src/analytics/partitions/mapping.ts';
import { REST_FACTOR } from '../../src/cli/partitions-apply.ts';
import type { Pool } from '../../src/db/pool.ts';
import { latencyOf, print, words } from '../figures.ts';

/** What was filled just before is on its way to the disk for so long. */
const WARM_UP_MS = 45_000;
const BEFORE_MS = 30_000;
const BUSY_MS = 20_000;
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

/** Has files of WAL in store, as a server has that was told to keep so many: what was written until a checkpoint is written again. */
async function storeWal(pool: Pool): Promise<void> {
  // Some more than the conversion writes, which is about as much as the table takes.
  await pool.query(
    `select pg_logical_emit_message(false, 'bench', repeat('x', 1000000))
     from generate_series(1, (1.5 * pg_total_relation_size('analytics.event_impressions') / 1000000)::int)`,
  );
  // Copying files wants a checkpoint, for which CHECKPOINT itself wants a right that the owner of tables has not.
  await pool.query('create database of_a_checkpoint template template0 strategy file_copy');
  await pool.query('drop database of_a_checkpoint');
}

/** How many files of WAL were made anew since the server began, as the statistics of 18 have it. */
async function walFilesMade(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ files: number }>(
    `select coalesce(sum(writes), 0)::int as files from pg_stat_io where object = 'wal' and context = 'init'`,
  );
  return rows[0]?.files ?? 0;
}

/** Converts the table beside an open loop of inserts: who is kept waiting counts in full. Answers whether p99 rose by 50 ms at most, without an error. */
export async function measureConversion(pool: Pool, { perSecond }: { readonly perSecond: number }): Promise<boolean> {
  await storeWal(pool);
  const inserts = startInserts(pool, perSecond);
  await sleep(WARM_UP_MS);
  inserts.enter('before');
  await sleep(BEFORE_MS);
  inserts.enter('busy');
  await keepBusy(BUSY_MS);
  inserts.enter('none');
  const filesBefore = await walFilesMade(pool);
  const began = performance.now();
  const outcome = await convertSite(pool, {
    restFactor: REST_FACTOR,
    onStep: (what) => inserts.enter(`beside, ${stepOf(what)}`),
  });
  inserts.enter('none');
  const seconds = (performance.now() - began) / 1_000;
  await sleep(AFTERWARDS_MS);
  const { took, errors } = await inserts.stop();
  const steps = [...took].filter(([phase]) => phase.startsWith('beside'));
  const [former, during] = [latencyOf(took.get('before') ?? []), latencyOf(steps.flatMap(([, ms]) => ms))];
  const locked =
    outcome?.status === 'partitioned'
      ? outcome.lockedMs.map((ms) => ms.toFixed(0)).join(' and ')
      : JSON.stringify(outcome);
  const imposed = during.p99 - former.p99;
  const isMet = imposed <= TARGET_MS && errors.length === 0 && outcome?.status === 'partitioned';
  print(
    `conversion beside ${perSecond} inserts/s: ${seconds.toFixed(0)} s, the table locked for ${locked} ms; files of WAL that had to be made: ${(await walFilesMade(pool)) - filesBefore}`,
  );
  print(
    `  inserts before: ${words(former)}; beside a processor that only counts: ${words(latencyOf(took.get('busy') ?? []))}; beside it: ${words(during)}; errors ${errors.length}`,
  );
  for (const [phase, ms] of steps) print(`    ${phase}: ${ms.length} inserts, ${words(latencyOf(ms))}`);
  print(`  imposed on p99: ${imposed.toFixed(1)} ms, ${TARGET_MS} allowed: ${isMet ? 'met' : 'MISSED'}`);
  for (const error of errors.slice(0, 3)) print(`  ${error}`);
  return isMet;
}

export async function convertSite(
  pool: Pool,
  {
    restFactor,
    uniqueOverAll = [],
    onStep,
  }: {
    readonly restFactor: number;
    readonly uniqueOverAll?: readonly string[][];
    readonly onStep?: (what: string) => void;
  },
): Promise<Outcome | undefined> {
  const mapping = { version: 1, tables: [{ ...ENTRY, uniqueOverAll }] };
  const { tables } = parsePartitionsMapping(JSON.stringify(mapping), 'bench');
  const [outcome] = await applyPartitions(pool, { entries: tables, now: new Date(), restFactor, onStep });
  return outcome;
}

/** Keeps one processor busy with nothing: what that alone imposes is the machine's. */
async function keepBusy(ms: number): Promise<void> {
  const worker = new Worker('for (;;);', { eval: true });
  await sleep(ms);
  await worker.terminate();
}

/** `copying analytics.event_impressions, blocks` → `copying` */
const stepOf = (what: string): string => what.split(' ')[0] ?? what;

function startInserts(pool: Pool, perSecond: number) {
  const took = new Map<string, number[]>();
  const errors: string[] = [];
  const underWay = new Set<Promise<unknown>>();
  let phase = 'none';
  let isOver = false;
  const insert = async (due: number, of: string) => {
    await pool
      .query(
        `insert into public.event_impressions (event_id, session_id, dwell_ms) values (public.nth('event', 1 + floor(2000 * random())::bigint), md5(random()::text), 1000)`,
      )
      .catch((error: Error) => errors.push(error.message));
    const ms = took.get(of) ?? [];
    took.set(of, ms);
    ms.push(performance.now() - due);
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
    enter: (next: string) => {
      phase = next;
    },
    stop: async () => {
      isOver = true;
      await loop;
      await Promise.all(underWay);
      return { took, errors };
    },
  };
}
