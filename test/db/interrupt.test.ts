import type pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startLiventix } from '../support/liventix.ts';

let database: TestDatabase;
let holder: pg.PoolClient;
beforeEach(async () => {
  database = await createDatabase();
  holder = await database.pool.connect();
});
afterEach(async () => {
  holder.release(true);
  await database.drop();
});

const waitingForLock = async () => {
  const { rows } = await database.pool.query<{ n: number }>(
    `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return rows[0]?.n;
};

it.each([
  ['books verify', 'SIGINT', 'begin; lock table payments.entries'],
  ['outbox status', 'SIGTERM', 'begin; lock table public.outbox'],
  ['backfill status', 'SIGINT', 'begin; lock table replay.progress'],
  // The lock of node-pg-migrate.
  ['migrate', 'SIGTERM', 'select pg_advisory_lock(7241865325823964)'],
] as const)(
  '%s that waits for a lock ends at %s, on the server too',
  async (line, signal, lock) => {
    await holder.query(lock);
    const run = startLiventix(line.split(' '), { DATABASE_URL: database.url });
    await eventually('it waits for the lock', async () => (await waitingForLock()) === 1);
    run.kill(signal);
    const { exitCode, stderr } = await run.done;
    expect(stderr).toMatch(new RegExp(`^liventix: STOPPED: ${signal} stopped the command [^\\n]+\\n$`));
    expect(exitCode).toBe(3);
    await eventually('nobody waits for the lock any more', async () => (await waitingForLock()) === 0);
  },
  30_000,
);
