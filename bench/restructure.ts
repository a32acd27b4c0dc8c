import { availableParallelism, loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { dropDatabase } from '../src/db/databases.ts';
import { migrate } from '../src/db/migrate.ts';
import { createPool, openPool, type Pool } from '../src/db/pool.ts';
import type { DemoHome } from '../src/demo/home.ts';
import { LIVENTIX_MAPPING, readMapping } from '../src/restructure/mapping.ts';
import { makePlan } from '../src/restructure/plan.ts';
import { createFilledPlatform } from '../test/support/filled-platform.ts';
import { createGateway, gatewayUrl } from '../test/support/old-workload/gateway.ts';
import type { Phase } from '../test/support/old-workload/running.ts';
import { type OldWorkload, startOldWorkload } from '../test/support/old-workload/workload.ts';
import { type Latency, latencyOf, median, print, spread, words } from './figures.ts';
import { openBenchHome } from './home.ts';
import { type Moved, type MovePart, type MoveWay, WAYS } from './move-ways.ts';
import { cpuSeconds, parentOf } from './outbox/cpu.ts';

/** A statement that took so much longer than any did in the same database before the move counts as one that was kept waiting. */
const KEPT_WAITING_MS = 250;
/** What ours is held to: the p99 beside the move against that before it, by the median of the rounds. */
const TARGET = 2;
const WARM_UP_MS = 5_000;
const AFTERWARDS_MS = 2_000;
const MOST_TOLD = 10;
const DATABASE = 'moving';
const BEFORE = 'before';

/**
 * What does the old application notice of its tables being moved: by us, there and back; by one transaction for all; by one for each table
 * that waits for its locks as long as it takes; and of nothing at all? An open loop, so that whoever is kept waiting counts in full. Each in a
 * copy of one database, by turns. Answers whether ours failed nothing, left nothing, and met its target.
 */
export async function benchRestructure(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '15' },
      rate: { type: 'string', default: '400' },
      rows: { type: 'string', default: '60000' },
    },
  });
  const [rounds, rows] = [Number(values.rounds), Number(values.rows)];
  const size = { perSecond: Number(values.rate), ms: Number(values.seconds) * 1_000 };
  const home = await openBenchHome(['max_connections=200']);
  try {
    await fill(home, rows);
    print(`${size.perSecond} requests/s, ${rounds} rounds, load of the machine ${loadavg()[0]?.toFixed(1)}`);
    const turns: Turn[] = [];
    for (let round = 0; round < rounds; round += 1) {
      for (const way of round % 2 === 0 ? WAYS : WAYS.toReversed()) {
        turns.push(...(await play(home, way, size)));
      }
    }
    return judge(turns);
  } finally {
    await home.close({ keep: false });
  }
}

async function fill(home: DemoHome, rows: number): Promise<void> {
  const pool = await openPool({ databaseUrl: home.databaseUrl });
  try {
    await migrate(home.databaseUrl);
    await createFilledPlatform(pool, { rows });
  } finally {
    await pool.end();
  }
  const admin = createPool({ databaseUrl: adminUrlOf(home), max: 1 });
  await createGateway(admin).finally(() => admin.end());
}

/** Of our own server, whose superuser has the owner's password; on a server that was given, whoever it was given by. */
const adminUrlOf = ({ databaseUrl, server }: DemoHome): string =>
  onDatabase(
    server === 'embedded' ? Object.assign(new URL(databaseUrl), { username: 'postgres' }).href : databaseUrl,
    'postgres',
  );

const onDatabase = (databaseUrl: string, name: string): string =>
  Object.assign(new URL(databaseUrl), { pathname: `/${name}` }).href;

/** What one part of a way of moving came to, once. */
interface Turn {
  readonly part: string;
  readonly seconds: number;
  readonly latency: Latency;
  /** The p99 beside the move against that of the same database before it. */
  readonly ratio: number;
  readonly keptWaiting: number;
  readonly errors: number;
  readonly left: number;
}

interface Size {
  readonly perSecond: number;
  readonly ms: number;
}

async function play(home: DemoHome, way: MoveWay, size: Size): Promise<readonly Turn[]> {
  const template = new URL(home.databaseUrl).pathname.slice(1);
  const maintenance = createPool({ databaseUrl: onDatabase(home.databaseUrl, 'postgres'), max: 1 });
  const databaseUrl = onDatabase(home.databaseUrl, DATABASE);
  try {
    await dropDatabase(maintenance, DATABASE);
    await maintenance.query(`create database ${DATABASE} template ${template} strategy file_copy`);
    const pool = createPool({ databaseUrl });
    return await measure(pool, databaseUrl, way, size).finally(() => pool.end());
  } finally {
    await dropDatabase(maintenance, DATABASE);
    await maintenance.end();
  }
}

async function measure(pool: Pool, databaseUrl: string, way: MoveWay, size: Size): Promise<readonly Turn[]> {
  const plan = await makePlan(pool, await readMapping(LIVENTIX_MAPPING), { now: new Date() });
  const tables = plan.tables.filter(({ readiness }) => readiness !== 'blocked').map(({ table }) => table);
  const workload = await startOldWorkload({
    databaseUrl,
    gatewayUrl: gatewayUrl(databaseUrl),
    tables,
    perSecond: size.perSecond,
  });
  const moved: { part: MovePart; moved: Moved; seconds: number }[] = [];
  try {
    await sleep(WARM_UP_MS);
    workload.enter(BEFORE);
    const share = await busyShare(pool, () => sleep(size.ms));
    print(
      `${way.name}: by itself, the workload takes ${(share * 100).toFixed(0)} % of ${availableParallelism()} processors`,
    );
    for (const part of way.parts) {
      workload.enter(part.name);
      const startedAt = performance.now();
      const outcome = await part.run(pool, plan, size.ms);
      moved.push({ part, moved: outcome, seconds: (performance.now() - startedAt) / 1_000 });
      // Plans are made anew, and whoever came late is served: that belongs to the move.
      await sleep(AFTERWARDS_MS);
    }
  } finally {
    await workload.stop();
  }
  return moved.map((each) => say(workload, each));
}

/** What of the machine's processors this process and the server take meanwhile. */
async function busyShare(pool: Pool, work: () => Promise<unknown>): Promise<number> {
  const { rows } = await pool.query<{ pid: number }>('select pg_backend_pid() as pid');
  const { pid } = process;
  const processes = { worker: pid, postgres: parentOf(rows[0]?.pid ?? 0), redis: pid, receiver: pid };
  const used = () => {
    const { worker, postgres } = cpuSeconds(processes);
    return worker + postgres;
  };
  const [startedAt, before] = [performance.now(), used()];
  await work();
  return ((used() - before) * 1_000) / ((performance.now() - startedAt) * availableParallelism());
}

function say(workload: OldWorkload, { part, moved, seconds }: { part: MovePart; moved: Moved; seconds: number }): Turn {
  const { tookMs, failures } = workload.phase(part.name);
  const [before, beside] = [latencyOf(workload.phase(BEFORE).tookMs), latencyOf(tookMs)];
  const keptWaiting = tookMs.filter((ms) => ms > before.max + KEPT_WAITING_MS).length;
  const ratio = beside.p99 / before.p99;
  print(
    `${part.name}: ${seconds.toFixed(1)} s, ${moved.left} tables left; before ${words(before)}; beside ${words(beside)}, ` +
      `p99 ${ratio.toFixed(2)} times; ${keptWaiting} of ${tookMs.length} kept waiting; ${wordsOf(failures)}`,
  );
  for (const why of new Set(moved.inVain)) print(`  in vain: ${why}`);
  for (const why of [...new Set(failures.map(({ act, message }) => `${act}: ${message}`))].slice(0, MOST_TOLD)) {
    print(`  failed: ${why}`);
  }
  const errors = failures.length;
  return { part: part.name, seconds, latency: beside, ratio, keptWaiting, errors, left: moved.left };
}

/** `3 errors (40P01: 2, 57014: 1)` */
function wordsOf(failures: Phase['failures']): string {
  const counts = new Map<string, number>();
  for (const { sqlstate } of failures) counts.set(sqlstate, (counts.get(sqlstate) ?? 0) + 1);
  const each = [...counts].map(([sqlstate, count]) => `${sqlstate}: ${count}`).join(', ');
  return `${failures.length} errors${each === '' ? '' : ` (${each})`}`;
}

function judge(turns: readonly Turn[]): boolean {
  let isMet = true;
  print('\nmedian of the rounds (least to most):');
  for (const part of new Set(turns.map((turn) => turn.part))) {
    const own = turns.filter((turn) => turn.part === part);
    const of = (pick: (turn: Turn) => number, digits = 0) => spread(own.map(pick), digits);
    const total = (pick: (turn: Turn) => number) => own.reduce((sum, turn) => sum + pick(turn), 0);
    print(
      `${part}: ${of(({ seconds }) => seconds, 1)} s; p50 ${of(({ latency }) => latency.p50, 1)} ms, p99 ${of(({ latency }) => latency.p99)}, ` +
        `max ${of(({ latency }) => latency.max)}; p99 ${of(({ ratio }) => ratio, 2)} times that before; ` +
        `${total(({ keptWaiting }) => keptWaiting)} kept waiting, ${total(({ errors }) => errors)} errors, ${total(({ left }) => left)} tables left`,
    );
    if (!part.startsWith('ours')) continue;
    isMet &&=
      median(own.map(({ ratio }) => ratio)) <= TARGET &&
      total((turn) => turn.keptWaiting + turn.errors + turn.left) === 0;
  }
  print(
    `ours: p99 at most ${TARGET} times that before, nobody kept waiting, no error, no table left: ${isMet ? 'met' : 'MISSED'}`,
  );
  return isMet;
}
