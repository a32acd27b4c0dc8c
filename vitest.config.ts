import { existsSync } from 'node:fs';
import { configDefaults, defineConfig } from 'vitest/config';
import { CountingReporter } from './test/support/counting-reporter.ts';

/** Debian's PostgreSQL 15: the oldest version we support, tested where its binaries are found. */
const POSTGRES_15 = '/usr/lib/postgresql/15/bin';

/** Files that run together, so many at a time, after those of a lower order. */
interface Group {
  readonly maxWorkers: number;
  readonly sequence: { readonly groupOrder: number };
}

// `*.speed.test.ts` want the machine for themselves; `*.unit.test.ts` need no server; `*.once.test.ts` do not depend on the server's version;
// `*.drill.test.ts` kill, wait, tamper, crowd and try histories at random, at length: on the older version too where there is time, in
// `npm run test:full`. The rest runs on each one.
const onPostgres = (name: string, include: string[], exclude: string[] = [], group?: Group) => ({
  extends: true as const,
  test: {
    name,
    include,
    exclude: [...configDefaults.exclude, ...exclude],
    globalSetup: ['test/support/postgres.ts'],
    ...group,
  },
});
const VERSIONED = ['test/**/*.test.ts'];
const NOT_VERSIONED = ['test/**/*.unit.test.ts', 'test/**/*.once.test.ts', 'test/**/*.speed.test.ts'];
const DRILLS = ['test/**/*.drill.test.ts'];
// At length, these say how soon all is well again, or who waits for how long, and are told nothing true beside twenty workers that come and go: after the others, one by one.
const ALONE = [
  'test/outbox/cluster.drill.test.ts',
  'test/outbox/loss.drill.test.ts',
  'test/restructure/under-load.drill.test.ts',
];
// And these wait most of the time, for half an hour and more: last, on both versions at once.
const WAITING = ['test/outbox/held-snapshot.drill.test.ts', 'test/replay/crash-points.drill.test.ts'];
// And these look at each of 148 tables, thoroughly: what they look at is looked at in the short run too, by samples of the rows or the callers.
const THOROUGH = [
  'test/restructure/every-access.drill.test.ts',
  'test/restructure/isolated-accesses.drill.test.ts',
  'test/restructure/verify-platform.drill.test.ts',
  'test/restructure/tenancy-forgeries.drill.test.ts',
  'test/restructure/tenancy-rollback.drill.test.ts',
  'test/restructure/tenancy-writes.drill.test.ts',
];
// Long, and of PL/pgSQL and TypeScript that know no versions: on the older server where there is time.
const ONCE_IN_SHORT = [
  'test/analytics/partitions-by-hand.test.ts',
  'test/analytics/partitions-refused.test.ts',
  'test/analytics/rollups-trouble.test.ts',
  'test/ledger/bad-input.test.ts',
  'test/replay/cut-over.test.ts',
  'test/replay/mapping.test.ts',
  'test/replay/wallet-functions.test.ts',
];
const isFull = process.env['LIVENTIX_DRILLS'] === 'full';
const isSpeedDrill = process.env['LIVENTIX_DRILLS'] === 'speed';

const onVersion = (name: string, excludedInShort: string[]) =>
  isFull
    ? [
        onPostgres(name, VERSIONED, [...NOT_VERSIONED, ...ALONE, ...WAITING]),
        onPostgres(`${name}-alone`, ALONE, [], { maxWorkers: 1, sequence: { groupOrder: 1 } }),
        onPostgres(`${name}-waiting`, WAITING, [], { maxWorkers: 4, sequence: { groupOrder: 2 } }),
      ]
    : [onPostgres(name, VERSIONED, [...NOT_VERSIONED, ...THOROUGH, ...excludedInShort])];

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
      ...onVersion('pg18', []),
      ...(existsSync(POSTGRES_15) ? onVersion('pg15', [...DRILLS, ...ONCE_IN_SHORT]) : []),
      onPostgres(
        'once',
        ['test/**/*.once.test.ts'],
        existsSync(POSTGRES_15) ? [] : ['test/analytics/pg-cron.once.test.ts', 'test/docs/restore.once.test.ts'],
      ),
      ...(isSpeedDrill
        ? [{ extends: true as const, test: { name: 'speed', include: ['test/**/*.speed.test.ts'] } }]
        : []),
    ],
  },
});
