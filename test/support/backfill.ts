import { afterEach, expect } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import type { LegacySize } from '../../src/demo/legacy-database.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import type { BackfillProgress } from '../../src/replay/backfill-run.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { verifyBooksIndependently } from './books.ts';
import type { TestDatabase } from './database.ts';
import { booksDigest, createLegacyTestDatabase } from './legacy.ts';
import { liventix, type Run } from './liventix.ts';

/** A legacy database large enough to be stopped in, and how many rows it has. */
export const SIZE = { wallets: 120, orgWallets: 12, transactions: 3_000, seed: 7 };
export const ROWS = BigInt(SIZE.transactions);

export const WALLET_CHECK = 'every legacy wallet equals its account';

/** `liventix backfill run`. */
export const backfill = (database: TestDatabase, ...flags: string[]): Promise<Run> =>
  liventix(['backfill', 'run', ...flags], { DATABASE_URL: database.url });

/** `liventix backfill status`, for machines. */
export const backfillStatus = async (database: TestDatabase) =>
  JSON.parse((await liventix(['backfill', 'status', '--json'], { DATABASE_URL: database.url })).stdout);

/** The digest of the books that one undisturbed run makes of a legacy database. */
export async function undisturbedDigest(size: LegacySize = SIZE): Promise<string> {
  const database = await createLegacyTestDatabase(size);
  await runBackfill(database.pool);
  const digest = await booksDigest(database.pool);
  await database.drop();
  return digest;
}

/** Legacy databases that the tests of a file make for themselves; each is dropped after its test. */
export function legacyDatabases() {
  const databases: TestDatabase[] = [];
  afterEach(async () => {
    for (const database of databases.splice(0)) await database.drop();
  });
  const keep = async (database: Promise<TestDatabase>): Promise<TestDatabase> => {
    databases.push(await database);
    return database;
  };
  return { keep, filled: () => keep(createLegacyTestDatabase(SIZE)), unfilled: () => keep(createLegacyTestDatabase()) };
}

/** Whether so many sessions of the database, or more, wait for a lock. */
export async function howManyWait(pool: Pool, count: number): Promise<boolean> {
  const { rows } = await pool.query(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return rows.length >= count;
}

/** Stops a run where it reports a moment, and answers whether it was finished before. */
export async function runBackfillUntil(
  pool: Pool,
  moment: (progress: BackfillProgress) => boolean,
  { chunkRows }: { chunkRows: number },
): Promise<boolean> {
  const stop = new AbortController();
  const onProgress = (progress: BackfillProgress) => moment(progress) && stop.abort();
  return (await runBackfill(pool, { chunkRows, stop: stop.signal, onProgress })).finished;
}

/** Asserts that every check holds, and answers them. */
export async function booksHold(pool: Pool) {
  const { checks } = await verifyBooksAndWallets(pool);
  expect(checks.filter((check) => !check.holds)).toEqual([]);
  expect((await verifyBooksIndependently(pool)).filter((check) => !check.holds)).toEqual([]);
  return checks;
}

/** How many rows the checkpoints say are in the log. */
export async function progressOf(pool: Pool): Promise<bigint> {
  const { rows } = await pool.query<{ rows: bigint }>(
    'select coalesce(sum(rows), 0)::bigint as rows from replay.progress',
  );
  return rows[0]?.rows ?? 0n;
}

/** What a command says that could not find out: one line, no stack trace, exit code 3. */
export const failure = (code: string, text: RegExp | string = ''): Run => ({
  exitCode: 3,
  stdout: '',
  stderr: expect.stringMatching(
    new RegExp(`^liventix: ${code}: [^\n]*${text instanceof RegExp ? text.source : text}[^\n]*\n$`),
  ),
});
