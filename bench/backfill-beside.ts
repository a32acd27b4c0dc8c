import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { openPool, type Pool } from '../src/db/pool.ts';
import { pauseBackfill, resumeBackfill } from '../src/replay/pause.ts';
import { type BackfillCommand, runToTheEnd, startBackfill } from './backfill-command.ts';
import { type Latency, latencyOf, print, spread, words } from './figures.ts';
import type { Worked, Workload } from './old-code.ts';

/** Of a platform: so many connections, at half of what the server can take. */
const CLIENTS = 16;
const SHARE_OF_CAPACITY = 0.5;
/** Until sessions have what they need, and the command has been loaded and waits: on two processors that is noticed too. */
const LEAD_MS = 10_000;
/** Each beside the run, between two by itself: the first beside its survey, the others while it brings rows into the log. */
const TURNS = { survey: 1, rows: 3 };
const POLL_MS = 20;

export interface Beside {
  /** By itself, beside the survey, and beside the rows, at the 99th percentile. */
  readonly alone: Latency;
  readonly survey: Latency;
  readonly rows: Latency;
  readonly errors: number;
  /** Of the turn in which fewest came into the log. */
  readonly leastRowsPerSecond: number;
}

/**
 * What old code notices of a backfill of the wallets that it writes to: a fixed rate, by itself and beside the run by turns, so that a
 * machine that grows slower is slower for both. What the run has not done by then it does afterwards, and the books must hold.
 */
export async function benchBeside({ databaseUrl, ms }: { databaseUrl: string; ms: number }): Promise<Beside> {
  const turnMs = ms / (TURNS.survey + TURNS.rows);
  const workload = (perSecond?: number, onCounted?: () => void) =>
    onThread({ databaseUrl, clients: CLIENTS, ms: turnMs, leadMs: Math.min(LEAD_MS, turnMs), perSecond }, onCounted);
  const perSecond = Math.round(((await workload()).tookMs.length / turnMs) * 1_000 * SHARE_OF_CAPACITY);
  const pool = await openPool({ databaseUrl });
  const turns: Turns = { perSecond, rowsPerSecond: [], alone: [], survey: [], rows: [] };
  const takeTurn = async (beside: Worked[]): Promise<number> => {
    let resumed = Promise.resolve(false);
    const before = await rowsRead(pool);
    const worked = await workload(perSecond, () => {
      resumed = resumeBackfill(pool);
    });
    await resumed;
    await pauseBackfill(pool);
    beside.push(worked);
    const rowsPerSecond = ((await rowsRead(pool)) - before) / (turnMs / 1_000);
    turns.alone.push(await workload(perSecond));
    return rowsPerSecond;
  };
  try {
    await pauseBackfill(pool);
    const first = workload(perSecond);
    // Begun while old code is at work already, as on a platform.
    const command = startBackfill(databaseUrl);
    try {
      turns.alone.push(await first);
      for (let turn = 1; turn <= TURNS.survey; turn += 1) await takeTurn(turns.survey);
      await endSurvey(pool, command);
      for (let turn = 1; turn <= TURNS.rows; turn += 1) turns.rowsPerSecond.push(await takeTurn(turns.rows));
    } finally {
      command.stop();
    }
    await command.result;
    await resumeBackfill(pool);
    await runToTheEnd(databaseUrl, '--full-speed');
  } finally {
    await pool.end();
  }
  return said(turns);
}

/** What is left of the survey, with nobody beside it. */
async function endSurvey(pool: Pool, { result }: BackfillCommand): Promise<void> {
  let hasEnded = false;
  result
    .catch(() => undefined)
    .finally(() => {
      hasEnded = true;
    });
  await resumeBackfill(pool);
  while (!hasEnded && (await rowsRead(pool)) === 0) await sleep(POLL_MS);
  await pauseBackfill(pool);
}

async function rowsRead(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ n: number }>('select coalesce(sum(rows), 0)::float8 as n from replay.progress');
  return rows[0]?.n ?? 0;
}

interface Turns {
  readonly perSecond: number;
  /** In each of those beside the rows. */
  readonly rowsPerSecond: number[];
  readonly alone: Worked[];
  readonly survey: Worked[];
  readonly rows: Worked[];
}

function said({ perSecond, rowsPerSecond, ...turns }: Turns): Beside {
  const all = (worked: readonly Worked[]) => latencyOf(worked.flatMap(({ tookMs }) => tookMs));
  const p99s = (worked: readonly Worked[]) =>
    `p99 of a turn ${spread(
      worked.map(({ tookMs }) => latencyOf(tookMs).p99),
      1,
    )}`;
  const [alone, survey, rows] = [all(turns.alone), all(turns.survey), all(turns.rows)];
  const errors = Object.values(turns)
    .flat()
    .reduce((sum, worked) => sum + worked.errors, 0);
  print(`  ${perSecond} writes/s of old code by itself: ${words(alone)}; ${p99s(turns.alone)}`);
  print(`  beside the survey: ${words(survey)}; ${p99s(turns.survey)}`);
  print(`  beside the backfill of rows: ${words(rows)}; ${p99s(turns.rows)}; ${errors} errors`);
  print(`  at ${rowsPerSecond.map(Math.round).join(', ')} rows/s by turn`);
  return { alone, survey, rows, errors, leastRowsPerSecond: Math.min(...rowsPerSecond) };
}

async function onThread(workload: Workload, onCounted?: () => void): Promise<Worked> {
  const worker = new Worker(new URL('./old-code-worker.ts', import.meta.url), { workerData: workload });
  await once(worker, 'message');
  onCounted?.();
  const [worked] = (await once(worker, 'message')) as [Worked];
  return worked;
}
