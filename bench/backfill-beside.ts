import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { runToTheEnd, startBackfill } from './backfill-command.ts';
import { type Latency, latencyOf, print, words } from './figures.ts';
import type { Worked, Workload } from './old-code.ts';

/** Of a platform: so many connections, at half of what the server can take. */
const CLIENTS = 16;
const SHARE_OF_CAPACITY = 0.5;

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
  const workload = (perSecond?: number) => onThread({ databaseUrl, clients: CLIENTS, ms, perSecond });
  // The first finds plans and pages, and is no measure.
  await onThread({ databaseUrl, clients: CLIENTS, ms: ms / 4 });
  const perSecond = Math.round(((await workload()).writes / ms) * 1_000 * SHARE_OF_CAPACITY);
  const before = await workload(perSecond);
  const command = startBackfill(databaseUrl);
  const beside = await workload(perSecond);
  command.stop();
  const run = await command.result;
  const after = await workload(perSecond);
  await runToTheEnd(databaseUrl, '--full-speed');
  const measured = {
    perSecond,
    rowsPerSecond: Math.round(run.imported / run.seconds),
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

async function onThread(workload: Workload): Promise<Worked> {
  const worker = new Worker(new URL('./old-code-worker.ts', import.meta.url), { workerData: workload });
  const [worked] = (await once(worker, 'message')) as [Worked];
  return worked;
}
