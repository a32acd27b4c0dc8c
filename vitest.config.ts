import { existsSync } from 'node:fs';
import { configDefaults, defineConfig } from 'vitest/config';
import { CountingReporter } from './test/support/counting-reporter.ts';

/** Debian's PostgreSQL 15: the oldest version we support, tested where its binaries are found. */
const POSTGRES_15 = '/usr/lib/postgresql/15/bin';

// `*.speed.test.ts` want the machine for themselves; `*.unit.test.ts` need no server; `*.once.test.ts` do not depend on the server's version;
// `*.drill.test.ts` kill, wait, tamper, crowd and try histories at random, at length: on the older version too where there is time, in
// `npm run test:full`. The rest runs on each one.
const onPostgres = (name: string, include: string[], exclude: string[] = []) => ({
  extends: true as const,
  test: { name, include, exclude: [...configDefaults.exclude, ...exclude], globalSetup: ['test/support/postgres.ts'] },
});
const VERSIONED = ['test/**/*.test.ts'];
const NOT_VERSIONED = ['test/**/*.unit.test.ts', 'test/**/*.once.test.ts', 'test/**/*.speed.test.ts'];
const DRILLS = ['test/**/*.drill.test.ts'];
const isFull = process.env['LIVENTIX_DRILLS'] === 'full';
const isSpeedDrill = process.env['LIVENTIX_DRILLS'] === 'speed';

export default defineConfig({
  test: {
    pool: 'forks',
    // A process runs one file after another: no module of ours keeps what another file could meet, and loading them all each time takes longer.
    isolate: false,
    // One more than there are processors where there are two: some tests mostly wait.
    maxWorkers: 3,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    reporters: ['default', new CountingReporter()],
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/**/*.unit.test.ts'] } },
      onPostgres('pg18', VERSIONED, NOT_VERSIONED),
      ...(existsSync(POSTGRES_15)
        ? [onPostgres('pg15', VERSIONED, [...NOT_VERSIONED, ...(isFull ? [] : DRILLS)])]
        : []),
      onPostgres('once', ['test/**/*.once.test.ts']),
      ...(isSpeedDrill
        ? [{ extends: true as const, test: { name: 'speed', include: ['test/**/*.speed.test.ts'] } }]
        : []),
    ],
  },
});
