import pg from 'pg';
import { beforeAll, describe, expect, it } from 'vitest';
import { connectionConfig, createPool, openPool } from '../../src/db/pool.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import type { BackfillProgress } from '../../src/replay/backfill-run.ts';
import { driftByCause } from '../../src/replay/report.ts';
import {
  backfill,
  backfillStatus,
  booksHold,
  failure,
  howManyWait,
  legacyDatabases,
  progressOf,
  ROWS,
  runBackfillUntil,
  SIZE,
  undisturbedDigest,
  WALLET_CHECK,
} from '../support/backfill.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  booksDigest,
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  setBalance,
} from '../support/legacy.ts';
import { liventix, startLiventix } from '../support/liventix.ts';

const { keep, filled, unfilled } = legacyDatabases();

let undisturbed = '';
beforeAll(async () => {
  undisturbed = await undisturbedDigest();
});

describe('a filled legacy database', () => {
  it('is in the log row by row, each exactly once, and nothing else is', async () => {
    const { pool } = await filled();
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({
      finished: true,
      legacyTransactions: ROWS,
      imported: ROWS,
      wallets: BigInt(SIZE.wallets + SIZE.orgWallets),
    });
    const { rows } = await pool.query(
      `with legacy as (
         select 'wallet_transactions' as source, id::text, created_at from wallet_transactions
         union all select 'org_wallet_transactions', id::text, created_at from org_wallet_transactions
       ), logged as (
         select payload -> 'metadata' -> 'legacy' ->> 'table' as source, payload -> 'metadata' -> 'legacy' ->> 'id' as id, effective_at
         from payments.events where payload -> 'metadata' ? 'legacy'
       )
       select (select count(*) from logged) as logged, (select count(*) from legacy) as legacy,
              (select count(*) from (select * from legacy except select * from logged) x) as missing,
              (select count(*) from payments.events where type <> 'account.opened' and not payload -> 'metadata' ? 'legacy'
                 and not payload -> 'metadata' ? 'wallet_id') as others`,
    );
    expect(rows).toEqual([{ logged: ROWS, legacy: ROWS, missing: 0n, others: 0n }]);
    expect((await booksHold(pool)).map(({ check }) => check)).toContain(WALLET_CHECK);
  });

  it('has what it cannot explain in suspense, by cause: the sum of the wallets less what the flows explain', async () => {
    const { pool } = await filled();
    await runBackfill(pool, { settleMs: 0 });
    const drift = await driftByCause(pool);
    expect(drift.map(({ cause }) => cause)).toEqual(
      expect.arrayContaining(['cumulative_refund', 'lost_update', 'unexplained', 'unreferenced_credit', 'zero_row']),
    );
    const { rows } = await pool.query<{ suspense: bigint; unexplained: bigint }>(
      `select (select sum(balance_cents) from payments.account_balances where type = 'suspense')::bigint as suspense,
              (select sum(case type when 'cash' then balance_cents when 'revenue' then balance_cents else -balance_cents end)
               from payments.account_balances where type <> 'suspense')::bigint as unexplained`,
    );
    expect(rows[0]?.suspense).toBe(rows[0]?.unexplained);
    expect(drift.reduce((sum, { cents }) => sum + cents, 0n)).toBe(rows[0]?.suspense);
  });

  const MOMENTS: readonly [string, (progress: BackfillProgress) => boolean][] = [
    ['before the first chunk', ({ step }) => step === 'accounts'],
    ['never', () => false],
    ['after the first chunk', ({ step, done }) => step === 'rows' && done >= 300n],
    ['after the fourth chunk', ({ step, done }) => step === 'rows' && done >= 1_200n],
  ];
  it.each(process.env['LIVENTIX_DRILLS'] === 'full' ? MOMENTS : MOMENTS.slice(0, 2))(
    'reads each row of the log but a few times, however many chunks there are: analyzed %s',
    async (_, moment) => {
      const { pool, url } = await keep(createLegacyTestDatabase({ ...SIZE, transactions: 12_000 }));
      // Only this test tells the planner how large the tables are.
      for (const table of ['accounts', 'balances', 'entries', 'events']) {
        await pool.query(`alter table payments.${table} set (autovacuum_enabled = false)`);
      }
      // A connection of its own, which tells its statistics when it ends.
      const running = await openPool({ databaseUrl: url });
      const isFinished = await runBackfillUntil(running, moment, { chunkRows: 300 });
      if (!isFinished) await running.query('analyze');
      await runBackfill(running, { chunkRows: 300 });
      await running.end();
      const read = await eventually('the statistics of both tables', async () => {
        const { rows } = await pool.query<{ relname: string; written: bigint; often: number }>(
          `select relname, n_tup_ins as written,
                (seq_tup_read + (select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid))::float8
                  / n_tup_ins as often
         from pg_stat_user_tables t
         where schemaname = 'payments' and relname in ('events', 'entries') and n_tup_ins >= 12000`,
        );
        return rows.length === 2 && rows;
      });
      expect(read.filter(({ often }) => often > 8)).toEqual([]);
    },
  );

  it('imports nothing and changes nothing when it is run again', async () => {
    const { pool } = await filled();
    await runBackfill(pool, { settleMs: 0 });
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({
      finished: true,
      legacyTransactions: ROWS,
      imported: 0n,
    });
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('gives the same books in chunks of 1, of 7 and of 5,000 rows', async () => {
    const digests = new Set<string>();
    for (const chunkRows of [1, 7, 5_000]) {
      const { pool } = await keep(createLegacyTestDatabase({ ...SIZE, transactions: 400 }));
      expect(await runBackfill(pool, { chunkRows, settleMs: 0 })).toMatchObject({ imported: 400n });
      digests.add(await booksDigest(pool));
    }
    expect(digests.size).toBe(1);
  });

  it('gives the same books whatever the time zone and date style of the database, and of the session', async () => {
    const { pool, name, url } = await filled();
    await pool.query(`alter database ${name} set timezone = 'Asia/Kolkata'`);
    await pool.query(`alter database ${name} set datestyle = 'SQL, DMY'`);
    const session = createPool({ databaseUrl: url }, { options: '-c timezone=America/St_Johns' });
    try {
      expect((await session.query('show datestyle')).rows).toEqual([{ DateStyle: 'SQL, DMY' }]);
      await runBackfill(session, { chunkRows: 100 });
    } finally {
      await session.end();
    }
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('works as the owner of the database, who is no superuser', async () => {
    const { pool } = await filled();
    const { rows } = await pool.query('select rolsuper from pg_roles where rolname = current_user');
    expect(rows).toEqual([{ rolsuper: false }]);
    await runBackfill(pool, { settleMs: 0 });
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('works on one connection, when the pool is no larger', async () => {
    const database = await filled();
    const run = await liventix(['backfill', 'run'], { DATABASE_URL: database.url, LIVENTIX_POOL_MAX: '1' });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('tells how far it is: never backwards, and each step to its end', async () => {
    const { pool } = await filled();
    const seen: BackfillProgress[] = [];
    await runBackfill(pool, { chunkRows: 500, onProgress: (progress) => seen.push(progress) });
    for (const source of ['wallet_transactions', 'org_wallet_transactions'] as const) {
      for (const step of ['accounts', 'rows', 'balances'] as const) {
        const told = seen.filter((at) => at.source === source && at.step === step);
        expect(told.map(({ done }) => done)).toEqual(told.map(({ done }) => done).toSorted((a, b) => Number(a - b)));
        expect(told.at(-1)?.done).toBe(told.at(-1)?.total);
      }
    }
  });
});

describe('rows', () => {
  it('of one instant are each taken once when a chunk ends between them', async () => {
    const { pool } = await unfilled();
    for (const kind of ['user', 'organization'] as const) {
      const wallet = await givenWallet(pool, { kind, balance: 10 });
      const at = '2024-05-05T05:05:05.123456Z';
      for (let nth = 0; nth < 10; nth += 1) {
        await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 1, at });
      }
    }
    expect(await runBackfill(pool, { chunkRows: 3, settleMs: 0 })).toMatchObject({ finished: true, imported: 20n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([]);
  });

  it('written behind the checkpoint after a run has finished are brought in by the next', async () => {
    const { pool } = await filled();
    await runBackfill(pool, { settleMs: 0 });
    const { rows: wallets } = await pool.query<{ id: string }>('select id from wallets order by id limit 1');
    const wallet = { id: wallets[0]?.id ?? '', kind: 'user', ownerId: '' } as const;
    await pool.query('update wallets set balance_credits = balance_credits + 15 where id = $1', [wallet.id]);
    const before = await driftByCause(pool);
    for (const at of ['-infinity', '1999-01-01T00:00:00Z', '2199-01-01T00:00:00Z']) {
      await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 5, at });
    }
    expect(await runBackfill(pool, { chunkRows: 1, settleMs: 0 })).toMatchObject({ finished: true, imported: 3n });
    expect(await driftByCause(pool)).toEqual(before);
    await booksHold(pool);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ imported: 0n });
  });

  it('written behind the checkpoint are judged by what is booked already, not the other way round', async () => {
    const { pool } = await unfilled();
    const wallet = await givenWallet(pool, { balance: 100 - 30 });
    const invoice = await givenInvoice(pool, wallet, 100);
    await givenRow(pool, wallet, { type: 'purchase', delta: 100, usdCents: 100, invoice, at: '2024-02-02T00:00:00Z' });
    await givenRow(pool, wallet, { type: 'refund', delta: -30, invoice, at: '2024-02-03T00:00:00Z' });
    const org = await givenWallet(pool, { kind: 'organization', balance: -10 });
    await givenRow(pool, org, { type: 'spend', delta: -10, spendKey: 'k', at: '2024-02-02T00:00:00Z' });
    await runBackfill(pool, { settleMs: 0 });
    await givenRow(pool, wallet, { type: 'purchase', delta: 100, usdCents: 100, invoice, at: '2024-01-02T00:00:00Z' });
    await givenRow(pool, wallet, { type: 'refund', delta: -40, invoice, at: '2024-01-03T00:00:00Z' });
    await givenRow(pool, org, { type: 'spend', delta: -10, spendKey: 'k', at: '2024-01-02T00:00:00Z' });
    await setBalance(pool, wallet, 100 - 30 + 100 - 40);
    await setBalance(pool, org, -20);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ imported: 3n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([
      { cause: 'cumulative_refund', count: 1n, cents: -30n },
      { cause: 'duplicate_credit', count: 1n, cents: 100n },
      { cause: 'duplicate_spend', count: 1n, cents: -10n },
    ]);
  });

  it('that a wallet is given while balances are compared, and their balance, are no drift', async () => {
    const { pool } = await unfilled();
    const wallet = await givenWallet(pool, { balance: 10 });
    await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 10 });
    const blocker = await pool.connect();
    try {
      await runBackfill(pool, { settleMs: 0 });
      // A difference to be booked, whose account somebody holds.
      await setBalance(pool, wallet, 13);
      await blocker.query('begin');
      await blocker.query('select from payments.balances for no key update');
      const second = runBackfill(pool, { patienceMs: 60_000, settleMs: 0 });
      await eventually('the run waits for the wallet', () => howManyWait(pool, 1));
      await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 7 });
      await setBalance(pool, wallet, 20);
      await blocker.query('commit');
      expect(await second).toMatchObject({ imported: 1n });
    } finally {
      blocker.release();
    }
    const drift = [{ cause: 'balance_without_row', count: 1n, cents: 3n }];
    expect(await driftByCause(pool)).toEqual(drift);
    await booksHold(pool);
    expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ imported: 0n });
    expect(await driftByCause(pool)).toEqual(drift);
  });

  it('of a wallet that was made while the run went on do not stop it', async () => {
    const { pool } = await unfilled();
    await runBackfill(pool, { settleMs: 0 });
    const blocker = await pool.connect();
    try {
      await blocker.query('begin');
      await blocker.query('lock table replay.held_back');
      const second = runBackfill(pool, { settleMs: 0 });
      await eventually('the run waits before it looks at what was captured', () => howManyWait(pool, 1));
      const wallet = await givenWallet(pool, { balance: 10 });
      await givenRow(pool, wallet, { type: 'purchase', delta: 10 });
      await blocker.query('commit');
      expect(await second).toMatchObject({ finished: true, imported: 1n });
    } finally {
      blocker.release();
    }
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([{ cause: 'unreferenced_credit', count: 1n, cents: 10n }]);
  });
});

describe('two backfills at once', () => {
  /** What a survey waits for until it commits. */
  const holdFindings = async (database: TestDatabase): Promise<pg.Client> => {
    const holder = new pg.Client(connectionConfig({ databaseUrl: database.url }));
    await holder.connect();
    await holder.query('begin; lock table replay.findings');
    return holder;
  };

  it('are refused: one works, the other says so and changes nothing', async () => {
    const database = await filled();
    const holder = await holdFindings(database);
    const first = startLiventix(['backfill', 'run', '--full-speed', '--json'], { DATABASE_URL: database.url });
    await eventually('the first is under way', () => howManyWait(database.pool, 1));
    const before = await booksDigest(database.pool);
    expect(await backfill(database)).toEqual(failure('BACKFILL_RUNNING', 'book 1'));
    expect(await booksDigest(database.pool)).toBe(before);
    await holder.query('commit');
    await holder.end();
    const { exitCode, stdout } = await first.done;
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ finished: true, imported: SIZE.transactions });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('hand over: the second waits a moment for the first to end', async () => {
    const database = await filled();
    const { pool } = database;
    const holder = await holdFindings(database);
    const stop = new AbortController();
    const first = runBackfill(pool, { stop: stop.signal });
    await eventually('the first is under way', () => howManyWait(pool, 1));
    const second = runBackfill(pool, { settleMs: 0 });
    await eventually('the second waits for it', () => howManyWait(pool, 2));
    stop.abort();
    await holder.query('commit');
    await holder.end();
    expect(await Promise.all([first, second])).toMatchObject([{ finished: false }, { finished: true, imported: ROWS }]);
    expect(await booksDigest(pool)).toBe(undisturbed);
  });
});

describe('stopping', () => {
  it.each(['SIGTERM', 'SIGINT'] as const)(
    'on %s ends at a chunk border with exit code 3, says so, and the next run finishes',
    async (signal) => {
      const database = await filled();
      const first = startLiventix(['backfill', 'run', '--full-speed', '--chunk', '20'], { DATABASE_URL: database.url });
      await eventually('it is under way', async () => (await progressOf(database.pool)) >= 100n);
      first.kill(signal);
      const stopped = await first.done;
      expect(stopped).toMatchObject({ exitCode: 3, stderr: '' });
      expect(stopped.stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
      const rows = await progressOf(database.pool);
      expect(rows).toBeLessThan(ROWS);
      expect(rows % 20n).toBe(0n);
      expect((await backfillStatus(database)).sources[0]).toMatchObject({
        source: 'wallet_transactions',
        rows: Number(rows),
        finished: false,
      });
      expect((await backfill(database, '--json')).exitCode).toBe(0);
      expect(await booksDigest(database.pool)).toBe(undisturbed);
    },
  );

  it('leaves a run that was told to stop before it began without a row', async () => {
    const { pool } = await filled();
    expect(await runBackfill(pool, { stop: AbortSignal.abort() })).toMatchObject({ finished: false, imported: 0n });
    expect((await booksHold(pool)).map(({ check }) => check)).not.toContain(WALLET_CHECK);
    await runBackfill(pool, { settleMs: 0 });
    expect(await booksDigest(pool)).toBe(undisturbed);
  });
});
