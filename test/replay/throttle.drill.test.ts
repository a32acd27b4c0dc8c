import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openPool } from '../../src/db/pool.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import type { BackfillProgress } from '../../src/replay/backfill-run.ts';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { watchLoad } from '../../src/replay/pace/load.ts';
import { throttleStatus } from '../../src/replay/pace/pacing.ts';
import { DEFAULT_LIMITS, type LimitName, type Limits } from '../../src/replay/pace/throttle.ts';
import { pauseBackfill, resumeBackfill } from '../../src/replay/pause.ts';
import { undisturbedDigest } from '../support/backfill.ts';
import { testClients } from '../support/clients.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { booksDigest, createLegacyTestDatabase } from '../support/legacy.ts';
import { waitsForLock } from '../support/locks.ts';
import { connectStuckReplica } from '../support/replica.ts';

const SIZE = { wallets: 60, orgWallets: 6, transactions: 1_200, seed: 29 };
/** Longer than any canary takes on a busy machine, and shorter than one that is kept waiting. */
const PATIENT = { ...DEFAULT_LIMITS, maxCanaryMs: 700 };

let undisturbed = '';
let database: TestDatabase;
const { connect, end } = testClients(() => database.url);

beforeAll(async () => {
  undisturbed = await undisturbedDigest(SIZE);
});
beforeEach(async () => {
  database = await createLegacyTestDatabase(SIZE);
});
afterEach(async () => {
  await end();
  await database.drop();
});

/** What another terminal is told. */
const slowedBy = (name: LimitName) =>
  eventually(`it says that it is slowed down by ${name}`, async () => {
    const status = await throttleStatus(database.pool);
    return status !== null && status.passed?.name === name && status.share < 1 && status;
  });
const recovers = () => {
  let before = 1;
  return eventually('it says that it goes faster again', async () => {
    const share = (await throttleStatus(database.pool))?.share ?? before;
    const isFaster = share > before;
    before = share;
    return isFaster;
  });
};
const atFullSpeed = () =>
  eventually('it says that it is at full speed', async () => {
    const status = await throttleStatus(database.pool);
    return status !== null && status.passed === null && status.share === 1;
  });
const canariesWritten = async () => {
  const { rows } = await database.pool.query<{ n: bigint }>('select count(*) as n from replay.canaries');
  return rows[0]?.n ?? 0n;
};
/** A run that stands still until it is resumed, so that it does not end before it was looked at. */
const beginPaused = async (limits: Limits, pool = database.pool) => {
  await pauseBackfill(database.pool);
  return runBackfill(pool, { limits });
};
const endsWithTheSameBooks = async (finished: ReturnType<typeof runBackfill>) => {
  await resumeBackfill(database.pool);
  expect(await finished).toMatchObject({ finished: true, imported: BigInt(SIZE.transactions) });
  expect(await booksDigest(database.pool)).toBe(undisturbed);
  expect(await throttleStatus(database.pool)).toBeNull();
};

describe('a backfill with limits', () => {
  it('goes at full speed where nobody else is at work in the database, however slow the server is, and makes the same books', async () => {
    const shares = new Set<number>();
    const onProgress = ({ pace }: BackfillProgress) => shares.add(pace.share);
    const finished = runBackfill(database.pool, { chunkRows: 20, limits: DEFAULT_LIMITS, onProgress });
    await endsWithTheSameBooks(finished);
    expect([...shares]).toEqual([1]);
  });

  it.each<[LimitName, Partial<Limits>]>([
    ['canary_ms', { maxCanaryMs: 0 }],
    ['wal_mb_per_s', { maxCanaryMs: 10_000, maxWalMbPerSecond: 0 }],
  ])(
    'slows down where nothing of %s is allowed, says so, goes on all the same, and makes the same books',
    async (name, limits) => {
      const stop = new AbortController();
      const steps: { done: number; at: number }[] = [];
      await pauseBackfill(database.pool);
      const finished = runBackfill(database.pool, {
        chunkRows: 200,
        limits: { ...DEFAULT_LIMITS, ...limits },
        stop: stop.signal,
        onProgress: ({ step, done, pace }) => {
          if (step !== 'rows' || pace.share > 1 / 32) return;
          expect(pace.passed).toMatchObject({ name, limit: 0 });
          steps.push({ done: Number(done), at: performance.now() });
          if (steps.length === 3) stop.abort();
        },
      });
      // By canaries alone, which wait and write.
      await eventually('it is slow', async () => (await slowedBy(name)).share <= 1 / 32);
      await resumeBackfill(database.pool);
      expect(await finished).toMatchObject({ finished: false });
      const [, before, after] = steps;
      expect((after?.done ?? 0) - (before?.done ?? 0)).toBe(50);
      // Of which a 32nd is work.
      expect((after?.at ?? 0) - (before?.at ?? 0)).toBeGreaterThan(60);
      expect(await runBackfill(database.pool)).toMatchObject({ finished: true });
      expect(await booksDigest(database.pool)).toBe(undisturbed);
    },
  );

  it('slows down while a canary is kept waiting, and goes faster again when it no longer is, but not while it is paused', async () => {
    const blocker = await connect();
    const finished = beginPaused(PATIENT);
    await atFullSpeed();
    await blocker.query('begin; lock table replay.canaries in share mode');
    expect(await slowedBy('canary_ms')).toMatchObject({ passed: { limit: PATIENT.maxCanaryMs } });
    await blocker.query('commit');
    const [written, slowed] = [await canariesWritten(), await throttleStatus(database.pool)];
    await eventually('canaries come through', async () => (await canariesWritten()) > written + 60n);
    expect((await throttleStatus(database.pool))?.share).toBeLessThanOrEqual(slowed?.share ?? 0);
    await resumeBackfill(database.pool);
    await recovers();
    await endsWithTheSameBooks(finished);
  });

  it('is as slow as writes ask for that meet a chunk, where somebody else is at work, and goes faster again when nobody is', async () => {
    // A chunk takes its time, and while one is under way a write takes 20 ms more.
    await database.pool.query(
      `create function linger() returns trigger language plpgsql as $$
       begin
         perform pg_sleep(0.3);
         return null;
       end $$;
       create trigger linger after insert on payments.entries for each statement execute function linger();
       create function be_slowed() returns trigger language plpgsql as $$
       begin
         perform pg_sleep(0.02) from pg_stat_activity where wait_event = 'PgSleep' and pid <> pg_backend_pid() limit 1;
         return new;
       end $$;
       create trigger be_slowed before insert on replay.canaries for each row execute function be_slowed()`,
    );
    const polling = new AbortController();
    const poller = await connect();
    const polls = (async () => {
      while (!polling.signal.aborted) await poller.query('select');
    })();
    const finished = runBackfill(database.pool, { chunkRows: 400, limits: DEFAULT_LIMITS });
    const { passed, share } = await slowedBy('canary_mean_ms');
    expect(passed?.value).toBeGreaterThan(passed?.limit ?? 0);
    expect(share).toBeLessThan(1 / 8);
    polling.abort();
    await polls;
    await recovers();
    await database.pool.query('drop trigger linger on payments.entries');
    await endsWithTheSameBooks(finished);
  });

  it('slows down while a session waits for a lock of its', async () => {
    await database.pool.query(
      `create function hold() returns trigger language plpgsql as $$
       begin
         perform pg_advisory_xact_lock(7);
         return null;
       end $$;
       create trigger hold after insert on payments.entries for each row execute function hold()`,
    );
    const [holder, poster] = [await connect(), await connect()];
    await holder.query('select pg_advisory_lock(7)');
    const finished = runBackfill(database.pool, { limits: { ...PATIENT, maxLockWaiters: 0 } });
    await waitsForLock(database.pool, 'with chunk as');
    const waiting = poster.query(
      `select from payments.balances where account_id = (
         select id from payments.accounts where type = 'receivable' and name = 'clearing') for update`,
    );
    expect(await slowedBy('lock_waiters')).toMatchObject({ passed: { value: 1, limit: 0 } });
    await holder.query('select pg_advisory_unlock(7)');
    await waiting;
    await endsWithTheSameBooks(finished);
  });

  it('slows down while a replica stands still, and goes faster again when that is gone', async () => {
    // The owner may not see how far a replica is.
    const admin = await openPool({ databaseUrl: database.adminUrl });
    const replica = await connectStuckReplica(database);
    const finished = beginPaused({ ...PATIENT, maxReplicationLagSeconds: 0 }, admin);
    await slowedBy('replication_lag_s');
    await replica.end();
    await resumeBackfill(database.pool);
    await recovers();
    await endsWithTheSameBooks(finished);
    await admin.end();
  });

  it('keeps the canaries to so many rows, and changes no row of the old tables by them', async () => {
    const contents = async () =>
      (await database.pool.query(`select w::text from wallets w order by id`)).rows.concat(
        (await database.pool.query(`select w::text from org_wallets w order by id`)).rows,
      );
    const before = await contents();
    const finished = beginPaused(PATIENT);
    await eventually('canaries were written', async () => (await canariesWritten()) > 30n);
    expect(await contents()).toEqual(before);
    const captured = 'select from replay.captured_rows union all select from replay.captured_wallets';
    expect((await database.pool.query(captured)).rows).toEqual([]);
    await endsWithTheSameBooks(finished);
  });

  it('is measured against what canaries take while the run rests, as that changes', async () => {
    let isResting = false;
    const tables = await getLegacyTables(database.pool);
    const load = await watchLoad({ pool: database.pool, bookId: 1, tables, isResting: () => isResting });
    try {
      const client = await connect();
      await client.query('begin; lock table wallets, org_wallets in exclusive mode');
      const p99 = async () => (await load.measure()).canary;
      await eventually('canaries wait', async () => ((await p99()).p99Ms ?? 0) > 700);
      expect((await p99()).apart.p99Ms).toBeLessThan(700);
      isResting = true;
      await eventually('that is what they take without us', async () => (await p99()).apart.p99Ms > 700);
      await client.query('rollback');
    } finally {
      await load.stop();
    }
  });

  it('is told by a role that may see little what it does not see, and takes somebody to be at work', async () => {
    const role = `${database.name}_plain`;
    await database.pool.query(
      `create role ${role} login password 'plain';
       grant usage on schema replay, payments to ${role};
       grant select, insert, update on replay.canaries to ${role}`,
    );
    const url = Object.assign(new URL(database.url), { username: role, password: 'plain' }).href;
    const pool = await openPool({ databaseUrl: url });
    const tables = await getLegacyTables(database.pool);
    const load = await watchLoad({ pool, bookId: 1, tables, isResting: () => false });
    try {
      expect(await load.measure()).toMatchObject({
        isAlone: false,
        canary: { apart: { p99Ms: expect.any(Number) } },
      });
      // Whether there is a replica depends on who else tests on this server.
      expect(load.blind()).toEqual(expect.arrayContaining(['sessions', 'wallets']));
    } finally {
      await load.stop();
      await pool.end();
      await database.pool.query(
        `revoke all on schema replay, payments from ${role}; revoke all on replay.canaries from ${role}; drop role ${role}`,
      );
    }
  });
});
