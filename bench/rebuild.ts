import { parseArgs } from 'node:util';
import { migrate } from '../src/db/migrate.ts';
import { openPool, type Pool } from '../src/db/pool.ts';
import { PROJECTIONS, SCHEMA } from '../src/ledger/rebuild/projections.ts';
import { projectLog, rebuildProjections } from '../src/ledger/rebuild/rebuild.ts';
import { openWorkspace, removeWorkspace } from '../src/ledger/rebuild/workspace.ts';
import { damage } from '../test/support/damage.ts';
import { median, print, spread } from './figures.ts';
import { fillBooks } from './filled-books.ts';
import { openBenchHome } from './home.ts';

const ACCOUNTS = 10_000;
/** What a rebuild owes: its speed as a part of the bare one's. */
const TARGET_RATIO = 0.6;
/** How many rows differ when the lock of a swap is measured. */
const DIFFERING = [0, 1, 1_000];

/**
 * How fast are the projections rebuilt from the log, against the bare INSERT … SELECT of the same rows into tables of the same columns and
 * indexes as the live ones? And against tables that are indexed as those where they are rebuilt, which have fewer? All in one run on one
 * server, in turns; the first ratio is the figure. And for how long does a swap keep those who post waiting? Answers whether the target was
 * met.
 */
export async function benchRebuild(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: { entries: { type: 'string', default: '1000000' }, rounds: { type: 'string', default: '5' } },
  });
  const [entries, rounds] = [Number(values.entries), Number(values.rounds)];
  const home = await openBenchHome();
  try {
    await migrate(home.databaseUrl);
    const pool = await openPool({ databaseUrl: home.databaseUrl, max: 2 });
    try {
      await fillBooks(home.databaseUrl, { accounts: ACCOUNTS, transactions: entries / 2 });
      await pool.query('vacuum analyze');
      const ratio = await compareWithBare(pool, entries, rounds);
      for (const rows of DIFFERING) await measureSwap(pool, rows, rounds);
      return ratio >= TARGET_RATIO;
    } finally {
      await pool.end();
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function compareWithBare(pool: Pool, entries: number, rounds: number): Promise<number> {
  const ratios: { live: number; rebuilt: number }[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    const times = await oneRound(pool, round % 2 === 1);
    const ratio = { live: times.live / times.rebuild, rebuilt: times.rebuilt / times.rebuild };
    ratios.push(ratio);
    print(
      `round ${round}: rebuild ${perSecond(entries, times.rebuild)}, bare ${perSecond(entries, times.live)}, ratio ${ratio.live.toFixed(2)}; with its own indexes ${ratio.rebuilt.toFixed(2)}`,
    );
  }
  print(
    `${entries} entries, ${rounds} rounds: rebuild at ${spread(ratios.map(({ live }) => live))} of the bare INSERT … SELECT, target ${TARGET_RATIO}; with its own indexes ${spread(ratios.map(({ rebuilt }) => rebuilt))}`,
  );
  return median(ratios.map(({ live }) => live));
}

/** In turns: whoever comes later finds other files in the caches. */
async function oneRound(pool: Pool, isBareFirst: boolean): Promise<{ live: number; rebuilt: number; rebuild: number }> {
  await openWorkspace(pool, { bookId: undefined, keep: false });
  const before = isBareFirst ? await bareLimit(pool, 'payments') : undefined;
  const rebuild = await timed(() => projectLog(pool, {}, () => undefined));
  const rebuilt = await bareLimit(pool, SCHEMA);
  await removeWorkspace(pool);
  return { live: before ?? (await bareLimit(pool, 'payments')), rebuilt, rebuild };
}

/** The same rows into the same columns, indexed as in a schema, in one transaction, with nothing that looks at them. */
async function bareLimit(pool: Pool, indexedAs: string): Promise<number> {
  const tables = PROJECTIONS.map(({ table }) => table);
  await pool.query('drop schema if exists bare cascade; create schema bare');
  for (const table of tables) await pool.query(`create table bare.${table} (like ${indexedAs}.${table} including all)`);
  const ms = await timed(() =>
    pool.query(
      ['begin', ...tables.map((table) => `insert into bare.${table} select * from payments.${table}`), 'commit'].join(
        ';',
      ),
    ),
  );
  await pool.query('drop schema bare cascade');
  return ms;
}

async function measureSwap(pool: Pool, rows: number, rounds: number): Promise<void> {
  const locked: number[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    await damage(
      pool,
      `update payments.entries set description = 'damaged' where id in (select e.id from payments.entries e order by e.id limit ${rows})`,
    );
    const { swap } = await rebuildProjections(pool, { swap: { maxRows: BigInt(rows) } });
    locked.push(swap?.lockedMs ?? 0);
  }
  print(`${rows} rows differ: nobody could post for ${spread(locked, 0)} ms`);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

function perSecond(rows: number, ms: number): string {
  return `${Math.round(rows / (ms / 1_000))} entries/s`;
}
