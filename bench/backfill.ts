import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { dropDatabase } from '../src/db/databases.ts';
import { migrate } from '../src/db/migrate.ts';
import { connectionConfig, openPool, type Pool } from '../src/db/pool.ts';
import { type DemoHome, openDemoHome } from '../src/demo/home.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../src/demo/legacy-database.ts';
import { turnCaptureOn } from '../src/replay/capture.ts';
import { median, print, spread } from './figures.ts';

const MEMORY_SAMPLE_MS = 100;
const ROUND_DATABASE = 'liventix_bench_round';

/** What the backfill owes: its speed as a part of the bare one's, and the memory of its process. */
const TARGET_RATIO = 0.5;
const TARGET_PEAK_MB = 200;

/**
 * How fast is the backfill against the bare INSERT … SELECT of the same rows into tables of the same columns and indexes
 * without triggers? Both in one run on one server, in turns; the ratio is the figure. Each round has a new server, unless
 * `--same-server`: one that has written before is faster, and at the bare insert more so. Answers whether the targets were met.
 */
export async function benchBackfill(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rows: { type: 'string', default: '100000' },
      rounds: { type: 'string', default: '3' },
      'same-server': { type: 'boolean', default: false },
    },
  });
  const [rows, rounds] = [Number(values.rows), Number(values.rounds)];
  const ratios: number[] = [];
  let peakMb = 0;
  const kept = values['same-server'] ? await openHome() : undefined;
  try {
    for (let round = 1; round <= rounds; round += 1) {
      const measured = await onServer(kept, (databaseUrl) => oneRound(rows, databaseUrl));
      ratios.push(measured.ratio);
      peakMb = Math.max(peakMb, measured.peakRssMb);
      print(
        `round ${round}: backfill ${perSecond(rows, measured.backfillMs)}, bare ${perSecond(rows, measured.bareMs)}, ratio ${measured.ratio.toFixed(2)}, node peak ${Math.round(measured.peakRssMb)} MB`,
      );
    }
  } finally {
    await kept?.close({ keep: false });
  }
  print(
    `${rows} rows, ${rounds} rounds: backfill at ${spread(ratios)} of the bare INSERT … SELECT, target ${TARGET_RATIO}; ${Math.round(peakMb)} MB, target ${TARGET_PEAK_MB}`,
  );
  return median(ratios) >= TARGET_RATIO && peakMb <= TARGET_PEAK_MB;
}

const openHome = () => openDemoHome({ databaseUrl: process.env['DATABASE_URL'], stateDir: '.liventix/bench' });

/** Works in an empty database: on a new server, or in one of its own on the server that is kept. */
async function onServer<T>(kept: DemoHome | undefined, work: (databaseUrl: string) => Promise<T>): Promise<T> {
  if (kept === undefined) {
    const home = await openHome();
    try {
      return await work(home.databaseUrl);
    } finally {
      await home.close({ keep: false });
    }
  }
  const client = new pg.Client(connectionConfig({ databaseUrl: kept.databaseUrl }));
  await client.connect();
  try {
    await client.query(`create database ${ROUND_DATABASE}`);
  } catch (error) {
    await client.end();
    throw error;
  }
  // Only now is it ours to drop.
  try {
    return await work(Object.assign(new URL(kept.databaseUrl), { pathname: `/${ROUND_DATABASE}` }).href);
  } finally {
    await dropDatabase(client, ROUND_DATABASE);
    await client.end();
  }
}

async function oneRound(
  rows: number,
  databaseUrl: string,
): Promise<{ backfillMs: number; bareMs: number; ratio: number; peakRssMb: number }> {
  const pool = await openPool({ databaseUrl });
  try {
    await createLegacyDatabase(pool);
    await fillLegacyDatabase(pool, { transactions: rows });
    await migrate(databaseUrl);
    await turnCaptureOn(pool);
    const { backfillMs, peakRssMb } = await runBackfill(databaseUrl);
    const bareMs = await bareLimit(pool);
    return { backfillMs, bareMs, ratio: bareMs / backfillMs, peakRssMb };
  } finally {
    await pool.end();
  }
}

/** The same rows into the same columns and indexes, in one transaction, with nothing that looks at them. */
async function bareLimit(pool: Pool): Promise<number> {
  const tables = ['accounts', 'events', 'entries', 'balances'];
  await pool.query('create schema bare');
  for (const table of tables) await pool.query(`create table bare.${table} (like payments.${table} including all)`);
  const client = await pool.connect();
  try {
    return await timed(async () => {
      await client.query('begin');
      for (const table of tables) await client.query(`insert into bare.${table} select * from payments.${table}`);
      await client.query('commit');
    });
  } finally {
    client.release();
  }
}

/** The command as a user runs it, in a process of its own, so that its memory is its own too. */
async function runBackfill(databaseUrl: string): Promise<{ backfillMs: number; peakRssMb: number }> {
  const bin = fileURLToPath(new URL('../bin/liventix', import.meta.url));
  const child = spawn(process.execPath, [bin, 'backfill', 'run', '--json'], {
    env: { ...process.env, DATABASE_URL: databaseUrl },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let peakRssMb = 0;
  const timer = setInterval(() => {
    peakRssMb = Math.max(peakRssMb, peakMemoryMb(child.pid));
  }, MEMORY_SAMPLE_MS);
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  await once(child, 'close');
  clearInterval(timer);
  const result = JSON.parse(stdout) as { seconds: number; finished: boolean; walletsDiffering: number };
  if (!result.finished || result.walletsDiffering !== 0) throw new Error(`the backfill did not hold: ${stdout}`);
  return { backfillMs: result.seconds * 1_000, peakRssMb };
}

/** The kernel's own high-water mark of a process; 0 where there is no /proc. */
function peakMemoryMb(pid: number | undefined): number {
  try {
    const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return Number(line?.[1] ?? 0) / 1024;
  } catch {
    return 0;
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

function perSecond(rows: number, ms: number): string {
  return `${Math.round(rows / (ms / 1_000))} rows/s`;
}
