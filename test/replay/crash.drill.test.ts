import { setTimeout } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { Random } from '../../src/demo/economy/random.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import type { BackfillProgress } from '../../src/replay/backfill-run.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { howManyWait, runBackfillUntil, undisturbedDigest } from '../support/backfill.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { booksDigest, createLegacyTestDatabase } from '../support/legacy.ts';
import { liventix, type RunningLiventix, startLiventix } from '../support/liventix.ts';

const FULL = process.env['LIVENTIX_DRILLS'] === 'full';
const SIZE = { wallets: 80, orgWallets: 10, transactions: 1_500, seed: 11 };
/** More wallets than one step of a thousand, so that the balances have a middle to be killed in. */
const MANY_WALLETS = { wallets: 1_300, orgWallets: 3, transactions: 700, seed: 11 };
const CHUNK = 25;
/** About what an undisturbed process takes. */
const LONGEST_LIFE_MS = 2_000;

/** Of the books that one undisturbed run makes. */
let undisturbed = '';
let database: TestDatabase;
const processes: RunningLiventix[] = [];

beforeAll(async () => {
  undisturbed = await undisturbedDigest(SIZE);
});
afterEach(async () => {
  for (const running of processes.splice(0)) {
    running.kill('SIGKILL');
    await running.done;
  }
  await database.drop();
});

const start = (): RunningLiventix => {
  const running = startLiventix(['backfill', 'run', '--full-speed', '--chunk', String(CHUNK)], {
    DATABASE_URL: database.url,
  });
  processes.push(running);
  return running;
};
/** Kills it, and makes sure that it had not ended by itself. */
const kill = async (running: RunningLiventix) => {
  running.kill('SIGKILL');
  expect(await running.done).toEqual({ exitCode: null, stdout: '', stderr: '' });
};
const imported = async (pool: Pool): Promise<number> => {
  const { rows } = await pool.query<{ rows: number }>(
    'select coalesce(sum(rows), 0)::integer as rows from replay.progress',
  );
  return rows[0]?.rows ?? 0;
};

/** Runs it to its end as its user would, and finds the books as if nothing had happened. */
const finishes = async (expected = undisturbed) => {
  const run = await liventix(['backfill', 'run', '--full-speed', '--chunk', String(CHUNK)], {
    DATABASE_URL: database.url,
  });
  expect(run).toMatchObject({ exitCode: 0, stderr: '' });
  await isAsUndisturbed(expected);
};
const isAsUndisturbed = async (expected = undisturbed) => {
  expect(await booksDigest(database.pool)).toBe(expected);
  const { checks } = await verifyBooksAndWallets(database.pool);
  expect(checks.filter((check) => !check.holds)).toEqual([]);
};

describe('a backfill that is killed', () => {
  it.each(FULL ? [1, 100, 250, 500, 777, 1_000, 1_250, 1_440] : [1, 777, 1_440])(
    'with %i rows behind it gives the same books, byte for byte, when it is run again',
    async (rows) => {
      database = await createLegacyTestDatabase(SIZE);
      const running = start();
      await promptly(`${rows} rows are in the log`, async () => (await imported(database.pool)) >= rows);
      await kill(running);
      expect(await runBackfill(database.pool, { chunkRows: CHUNK })).toMatchObject({ finished: true });
      await isAsUndisturbed();
    },
  );

  it('right at its start, before and after the first account is open, gives the same books', async () => {
    database = await createLegacyTestDatabase(SIZE);
    const { pool } = database;
    await kill(start());
    const running = start();
    await promptly(
      'an account is open',
      async () => (await pool.query('select from payments.accounts')).rowCount !== 0,
    );
    await kill(running);
    expect(await imported(pool)).toBe(0);
    await finishes();
  });

  it('again and again, each time a little later, gives the same books', async () => {
    database = await createLegacyTestDatabase(SIZE);
    for (let rows = 1; rows < SIZE.transactions; rows += 400) {
      const running = start();
      await promptly(`${rows} rows are in the log`, async () => (await imported(database.pool)) >= rows);
      await kill(running);
    }
    await finishes();
  });

  it('inside a chunk leaves none of it behind, and the next run waits for the server to notice', async () => {
    database = await createLegacyTestDatabase(SIZE);
    const { pool } = database;
    await runUntil((at) => at.step === 'rows' && at.done >= 500n);
    const before = await imported(pool);
    const blocker = await pool.connect();
    try {
      await blocker.query('begin');
      await blocker.query(
        `select from payments.balances b join payments.accounts a on a.id = b.account_id where a.name = 'clearing' for no key update of b`,
      );
      const killed = start();
      await eventually('a chunk waits for the account, and the next one for it', () => howManyWait(pool, 2));
      await kill(killed);
      const next = start();
      await eventually('the next run waits behind them', () => howManyWait(pool, 3));
      expect(await imported(pool)).toBe(before);
      await blocker.query('commit');
      expect(await next.done).toMatchObject({ exitCode: 0, stderr: '' });
    } finally {
      blocker.release();
    }
    await finishes();
  });

  it('in the middle of the balances keeps what was reconciled and reconciles the rest', async () => {
    const expected = await undisturbedDigest(MANY_WALLETS);
    database = await createLegacyTestDatabase(MANY_WALLETS);
    const { pool } = database;
    await runUntil((at) => at.step === 'rows' && at.done === at.total);
    const blocker = await pool.connect();
    let drift = 0n;
    try {
      await blocker.query('begin');
      // A wallet of the second thousand whose balance no row ever moved: nothing but the balances' step takes its lock.
      await blocker.query(
        `select from payments.balances where account_id = (
           select payments.account_id(1, 'cash', 'USD', 'wallet', w.user_id::text, null) from wallets w
           where w.balance_credits <> 0 and not exists (select from wallet_transactions t where t.wallet_id = w.id)
           order by w.id desc limit 1)
         for no key update`,
      );
      const running = start();
      await eventually('it waits in the second step', async () => {
        const { rows } = await pool.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
             and query like '%lock_accounts(%'`,
        );
        return rows.length > 0;
      });
      drift = await countDrift(pool);
      await kill(running);
      await blocker.query('commit');
    } finally {
      blocker.release();
    }
    expect(drift).toBeGreaterThan(0n);
    expect(await countDrift(pool)).toBe(drift);
    await finishes(expected);
    expect(await countDrift(pool)).toBeGreaterThan(drift);
  });

  it.each(Array.from({ length: FULL ? 10 : 1 }, (_, nth) => nth + 1))(
    'at random moments until it comes through gives the same books (drill %i)',
    async (nth) => {
      const seed = Number(process.env['LIVENTIX_SEED'] ?? Date.now());
      process.stdout.write(`backfill crash drill: LIVENTIX_SEED=${seed}, drill ${nth}\n`);
      const random = new Random({ seed, purpose: 0, index: nth });
      database = await createLegacyTestDatabase(SIZE);
      for (let kills = 0; kills < (FULL ? 25 : 6); kills += 1) {
        const running = start();
        await Promise.race([setTimeout(random.below(LONGEST_LIFE_MS)), running.done]);
        running.kill('SIGKILL');
        await running.done;
      }
      await finishes();
    },
    FULL ? 300_000 : 60_000,
  );
});

describe('a backfill whose server ends', () => {
  const end = async (which: string) => {
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    const { rowCount } = await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and application_name = 'liventix' and pid <> all ($1) and ${which}`,
      [await ownPids()],
    );
    await admin.end();
    return rowCount ?? 0;
  };
  /** The connections of this process's pool. */
  const ownPids = async () => {
    const { rows } = await database.pool.query<{ pid: number }>('select pg_backend_pid() as pid');
    return rows.map(({ pid }) => pid);
  };

  it.each([
    ['every connection', 'true', 'DB_[A-Z]+'],
    ['the connection that holds the lock', `query like 'select pg_advisory_lock(%'`, 'DB_UNREACHABLE'],
  ])('%s says so in one line, exits with 3, and goes on when it is run again', async (_what, which, code) => {
    database = await createLegacyTestDatabase(SIZE);
    const running = start();
    await promptly('it is under way', async () => (await imported(database.pool)) >= 300);
    expect(await end(which)).toBeGreaterThan(0);
    expect(await running.done).toEqual({
      exitCode: 3,
      stdout: '',
      stderr: expect.stringMatching(new RegExp(`^liventix: ${code}: [^\n]+\n$`)),
    });
    expect(await imported(database.pool)).toBeLessThan(SIZE.transactions);
    await finishes();
  });
});

/** Runs it here until it tells the given progress, and stops it there. */
async function runUntil(reached: (at: BackfillProgress) => boolean): Promise<void> {
  expect(await runBackfillUntil(database.pool, reached, { chunkRows: CHUNK })).toBe(false);
}

async function countDrift(pool: Pool): Promise<bigint> {
  const { rows } = await pool.query<{ n: bigint }>(
    `select count(*) as n from payments.events where payload -> 'metadata' ? 'wallet_id'`,
  );
  return rows[0]?.n ?? 0n;
}

/** Like `eventually`, but without a pause between two looks: what is waited for lasts a few milliseconds. */
async function promptly(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) if (performance.now() > deadline) throw new Error(`not within 20 s: ${what}`);
}
