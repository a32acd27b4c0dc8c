import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { dropDatabase } from '../src/db/databases.ts';
import { migrate } from '../src/db/migrate.ts';
import { createPool, type Pool } from '../src/db/pool.ts';
import type { DemoHome } from '../src/demo/home.ts';
import { measureConversion } from './analytics/conversion.ts';
import { compareInserts, compareKeysAside } from './analytics/inserts.ts';
import { compareQueries } from './analytics/queries.ts';
import { measureRefresh, measureRollup } from './analytics/rollup.ts';
import { fillSite, NOW } from './analytics/site.ts';
import { print } from './figures.ts';
import { openBenchHome } from './home.ts';

const SMALL = 1_000_000;
const SETTINGS = [
  'max_connections=100',
  'shared_buffers=2GB',
  // As on a server that was told beforehand: while a file of WAL is made, every commit waits.
  'min_wal_size=8GB',
  'max_wal_size=8GB',
  'effective_cache_size=8GB',
  'checkpoint_timeout=30min',
];

/**
 * What do dashboards gain from months and rollups, and what do those who write pay? One database with the table as it was, one in which it was
 * converted while it was written to; the same questions to both, by turns. Answers whether all targets were met.
 */
export async function benchAnalytics(args: readonly string[]): Promise<boolean> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      rows: { type: 'string', default: '10000000' },
      rate: { type: 'string', default: '400' },
      rounds: { type: 'string', default: '7' },
      // The conversion alone, where nothing else is wanted.
      'conversion-only': { type: 'boolean', default: false },
    },
  });
  const [rows, rounds, perSecond] = [Number(values.rows), Number(values.rounds), Number(values.rate)];
  const home = await openBenchHome(SETTINGS);
  print(`${rows} impressions over 18 months, load of the machine ${loadavg()[0]?.toFixed(1)}`);
  try {
    if (values['conversion-only']) {
      const site = await makeSite(home, 'site_months', rows);
      return await measureConversion(site, { perSecond }).finally(() => site.end());
    }
    const plain = await makeSite(home, 'site_plain', rows);
    const months = await makeSite(home, 'site_months', rows);
    const small = await makeSite(home, 'site_small', Math.min(SMALL, rows));
    const keyed = await makeSite(home, 'site_keyed', Math.min(SMALL, rows));
    try {
      const verdicts = [
        await measureConversion(months, { perSecond }),
        ...(await compareInserts({ plain, months }, rounds)),
        ...(await measureRollup({ small, large: months }, rounds)),
        ...(await compareQueries({ plain, months }, rounds)),
        await measureRefresh(months),
      ];
      await compareKeysAside({ plain, months: keyed }, rounds);
      return verdicts.every(Boolean);
    } finally {
      await Promise.all([plain, months, small, keyed].map((pool) => pool.end()));
    }
  } finally {
    await home.close({ keep: false });
  }
}

async function makeSite(home: DemoHome, name: string, rows: number): Promise<Pool> {
  const admin = createPool({ databaseUrl: home.databaseUrl, max: 1 });
  try {
    await dropDatabase(admin, name);
    await admin.query(`create database ${name}`);
  } finally {
    await admin.end();
  }
  const databaseUrl = Object.assign(new URL(home.databaseUrl), { pathname: `/${name}` }).href;
  await migrate(databaseUrl);
  const pool = createPool({ databaseUrl, max: 20 });
  const began = performance.now();
  await fillSite(pool, rows);
  print(
    `${name}: ${rows} rows until ${NOW.toISOString()}, filled in ${((performance.now() - began) / 1_000).toFixed(0)} s`,
  );
  return pool;
}
