import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { openPool, type Pool } from '../src/db/pool.ts';
import { pauseBackfill, resumeBackfill } from '../src/replay/pause.ts';
import { runToTheEnd, startBackfill } from './backfill-command.ts';
import { type Latency, latencyOf, print, spread, words } from './figures.ts';
import type { Worked, Workload } from './old-code.ts';

/** Of a platform: so many connections, at half of what the server can take. */
const CLIENTS = 16;
const SHARE_OF_CAPACITY = 0.5;
/** Until sessions have what they need, and the command has been loaded and waits: on two processors that is noticed too. */
const LEAD_MS = 10_000;
/** Each beside the run, between two by itself. */
const TURNS = 3;

export interface Beside {
  readonly perSecond: number;
  readonly alone: Latency;
  readonly beside: Latency;
  readonly errors: number;
}

/**
 * What old code notices of a backfill of the wallets that it writes to: a fixed rate, by itself and beside the run by turns, so that a
 * machine that grows slower is slower for both. What the run has not done by then it does afterwards, and the books must hold.
 */
export async function benchBeside({ databaseUrl, ms }: { databaseUrl: string; ms: number }): Promise<Beside> {
  const turnMs = ms / TURNS;
  const workload = (perSecond?: number, onCounted?: () => void) =>
    onThread({ databaseUrl, clients: CLIENTS, ms: turnMs, leadMs: Math.min(LEAD_MS, turnMs), perSecond }, onCounted);
  const perSecond = Math.round(((await workload()).tookMs.length / turnMs) * 1_000 * SHARE_OF_CAPACITY);
  const pool = await openPool({ databaseUrl });
  const [alone, beside, rowsPerSecond]: [Worked[], Worked[], number[]] = [[], [], []];
  try {
    await pauseBackfill(pool);
    const first = workload(perSecond);
    // Begun while old code is at work already, as on a platform.
    const command = startBackfill(databaseUrl);
    try {
      alone.push(await first);
      for (let turn = 1; turn <= TURNS; turn += 1) {
        let resumed = Promise.resolve(false);
        const before = await rowsRead(pool);
        const worked = await workload(perSecond, () => {
          resumed = resumeBackfill(pool);
        });
        await resumed;
        await pauseBackfill(pool);
        beside.push(worked);
        rowsPerSecond.push(((await rowsRead(pool)) - before) / (turnMs / 1_000));
        alone.push(await workload(perSecond));
      }
    } finally {
      command.stop();
    }
    await command.result;
    await resumeBackfill(pool);
    await runToTheEnd(databaseUrl, '--full-speed');
  } finally {
    await pool.end();
  }
  return said({ perSecond, rowsPerSecond, alone, beside });
}

async function rowsRead(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ n: number }>('select coalesce(sum(rows), 0)::float8 as n from replay.progress');
  return rows[0]?.n ?? 0;
}

interface Turns {
  readonly perSecond: number;
  readonly rowsPerSecond: readonly number[];
  readonly alone: readonly Worked[];
  readonly beside: readonly Worked[];
}

function said({ perSecond, rowsPerSecond, ...turns }: Turns): Beside {
  const all = (worked: readonly Worked[]) => latencyOf(worked.flatMap(({ tookMs }) => tookMs));
  const p99s = (worked: readonly Worked[]) =>
    `p99 of a turn ${spread(
      worked.map(({ tookMs }) => latencyOf(tookMs).p99),
      1,
    )}`;
  const [alone, beside] = [all(turns.alone), all(turns.beside)];
  const errors = [...turns.alone, ...turns.beside].reduce((sum, worked) => sum + worked.errors, 0);
  print(`  ${perSecond} writes/s of old code by itself: ${words(alone)}; ${p99s(turns.alone)}`);
  print(`  beside the backfill: ${words(beside)}; ${p99s(turns.beside)}; ${errors} errors`);
  print(`  the backfill beside it: ${rowsPerSecond.map(Math.round).join(', ')} rows/s (none while it surveys)`);
  return { perSecond, alone, beside, errors };
}

async function onThread(workload: Workload, onCounted?: () => void): Promise<Worked> {
  const worker = new Worker(new URL('./old-code-worker.ts', import.meta.url), { workerData: workload });
  await once(worker, 'message');
  onCounted?.();
  const [worked] = (await once(worker, 'message')) as [Worked];
  return worked;
}
