import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { openPool } from '../src/db/pool.ts';
import { pauseBackfill, resumeBackfill } from '../src/replay/pause.ts';
import { runToTheEnd, startBackfill } from './backfill-command.ts';
import { type Latency, latencyOf, print, words } from './figures.ts';
import type { Worked, Workload } from './old-code.ts';

/** Of a platform: so many connections, at half of what the server can take. */
const CLIENTS = 16;
const SHARE_OF_CAPACITY = 0.5;
/** Until sessions have what they need, and the command has been loaded and waits: on two processors that is noticed too. */
const LEAD_MS = 10_000;

export interface Beside {
  readonly perSecond: number;
  readonly rowsPerSecond: number;
  readonly alone: Latency;
  readonly beside: Latency;
  readonly errors: number;
}

/**
 * What old code notices of a backfill of the wallets that it writes to: a fixed rate, by itself before and after, and beside the run in
 * between, for so long each. What the run has not done by then it does afterwards, and the books must hold.
 */
export async function benchBeside({ databaseUrl, ms }: { databaseUrl: string; ms: number }): Promise<Beside> {
  const workload = (perSecond?: number, onCounted?: () => void) =>
    onThread({ databaseUrl, clients: CLIENTS, ms, leadMs: LEAD_MS, perSecond }, onCounted);
  const perSecond = Math.round(((await workload()).tookMs.length / ms) * 1_000 * SHARE_OF_CAPACITY);
  const before = await workload(perSecond);
  const { beside, run } = await besideRun(databaseUrl, (onCounted) => workload(perSecond, onCounted));
  const after = await workload(perSecond);
  await runToTheEnd(databaseUrl, '--full-speed');
  const measured = {
    perSecond,
    rowsPerSecond: Math.round(run.imported / (ms / 1_000)),
    alone: latencyOf([...before.tookMs, ...after.tookMs]),
    beside: latencyOf(beside.tookMs),
    errors: before.errors + beside.errors + after.errors,
  };
  print(
    `  ${perSecond} writes/s of old code by itself: before ${words(latencyOf(before.tookMs))}; after ${words(latencyOf(after.tookMs))}`,
  );
  print(
    `  beside the backfill, at ${measured.rowsPerSecond} rows/s: ${words(measured.beside)}, ${measured.errors} errors`,
  );
  return measured;
}

/** The run is paused until the workload counts, and stopped when that has ended. */
async function besideRun(databaseUrl: string, workload: (onCounted: () => void) => Promise<Worked>) {
  const pool = await openPool({ databaseUrl });
  try {
    await pauseBackfill(pool);
    let resumed = Promise.resolve(false);
    const working = workload(() => {
      resumed = resumeBackfill(pool);
    });
    const command = startBackfill(databaseUrl);
    const beside = await working.finally(() => command.stop());
    await resumed;
    return { beside, run: await command.result };
  } finally {
    await pool.end();
  }
}

async function onThread(workload: Workload, onCounted?: () => void): Promise<Worked> {
  const worker = new Worker(new URL('./old-code-worker.ts', import.meta.url), { workerData: workload });
  await once(worker, 'message');
  onCounted?.();
  const [worked] = (await once(worker, 'message')) as [Worked];
  return worked;
}
