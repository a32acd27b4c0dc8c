import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { migrate } from '../../src/db/migrate.ts';
import { connectionConfig, openPool, type Pool } from '../../src/db/pool.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import type { BackfillProgress } from '../../src/replay/backfill-run.ts';
import { driftByCause } from '../../src/replay/report.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  booksDigest,
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  setBalance,
} from '../support/legacy.ts';
import { liventix, type Run, startLiventix } from '../support/liventix.ts';

const SIZE = { wallets: 120, orgWallets: 12, transactions: 3_000, seed: 7 };
const ROWS = BigInt(SIZE.transactions);
const WALLET_CHECK = 'every legacy wallet equals its account';

const databases: TestDatabase[] = [];
const keep = async (database: Promise<TestDatabase>): Promise<TestDatabase> => {
  databases.push(await database);
  return database;
};
const filled = () => keep(createLegacyTestDatabase(SIZE));
const unfilled = () => keep(createLegacyTestDatabase());
afterEach(async () => {
  for (const database of databases.splice(0)) await database.drop();
});

/** Of the books that one undisturbed run makes of `SIZE`. */
let undisturbed = '';
beforeAll(async () => {
  const database = await createLegacyTestDatabase(SIZE);
  await runBackfill(database.pool);
  undisturbed = await booksDigest(database.pool);
  await database.drop();
});

const backfill = (database: TestDatabase, ...flags: string[]) =>
  liventix(['backfill', 'run', ...flags], { DATABASE_URL: database.url });
const status = async (database: TestDatabase) =>
  JSON.parse((await liventix(['backfill', 'status', '--json'], { DATABASE_URL: database.url })).stdout);
const booksHold = async (pool: Pool) => {
  const { checks } = await verifyBooksAndWallets(pool);
  expect(checks.filter((check) => !check.holds)).toEqual([]);
  return checks;
};
const progressOf = async (pool: Pool) => {
  const { rows } = await pool.query<{ rows: bigint }>(
    'select coalesce(sum(rows), 0)::bigint as rows from replay.progress',
  );
  return rows[0]?.rows ?? 0n;
};
/** What a command says that could not find out: one line, no stack trace, exit code 3. */
const failure = (code: string, text: RegExp | string = '') => ({
  exitCode: 3,
  stdout: '',
  stderr: expect.stringMatching(
    new RegExp(`^liventix: ${code}: [^\n]*${text instanceof RegExp ? text.source : text}[^\n]*\n$`),
  ),
});

describe('a filled legacy database', () => {
  it('is in the log row by row, each exactly once, and nothing else is', async () => {
    const { pool } = await filled();
    expect(await runBackfill(pool)).toMatchObject({
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
    await runBackfill(pool);
    const drift = await driftByCause(pool);
    expect(drift.map(({ cause }) => cause)).toEqual(
      expect.arrayContaining([
        'balance_without_row',
        'cumulative_refund',
        'lost_update',
        'unreferenced_credit',
        'zero_row',
      ]),
    );
    const { rows } = await pool.query<{ suspense: bigint; unexplained: bigint }>(
      `select (select sum(balance_cents) from payments.account_balances where type = 'suspense')::bigint as suspense,
              (select sum(case type when 'cash' then balance_cents when 'revenue' then balance_cents else -balance_cents end)
               from payments.account_balances where type <> 'suspense')::bigint as unexplained`,
    );
    expect(rows[0]?.suspense).toBe(rows[0]?.unexplained);
    expect(drift.reduce((sum, { cents }) => sum + cents, 0n)).toBe(rows[0]?.suspense);
  });

  it('reads each row of the log but a few times, however many chunks there are', async () => {
    const { pool, url } = await keep(createLegacyTestDatabase({ ...SIZE, transactions: 12_000 }));
    // Nobody tells the planner in the middle that the tables have grown.
    for (const table of ['accounts', 'balances', 'entries', 'events']) {
      await pool.query(`alter table payments.${table} set (autovacuum_enabled = false)`);
    }
    // A connection of its own, which tells its statistics when it ends.
    const running = await openPool({ databaseUrl: url });
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
  });

  it('imports nothing and changes nothing when it is run again', async () => {
    const { pool } = await filled();
    await runBackfill(pool);
    expect(await runBackfill(pool)).toMatchObject({ finished: true, legacyTransactions: ROWS, imported: 0n });
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('gives the same books in chunks of 1, of 7 and of 5,000 rows', async () => {
    const digests = new Set<string>();
    for (const chunkRows of [1, 7, 5_000]) {
      const { pool } = await keep(createLegacyTestDatabase({ ...SIZE, transactions: 400 }));
      expect(await runBackfill(pool, { chunkRows })).toMatchObject({ imported: 400n });
      digests.add(await booksDigest(pool));
    }
    expect(digests.size).toBe(1);
  });

  it('gives the same books whatever the time zone and date style of the database, and of the session', async () => {
    const { pool, name, url } = await filled();
    await pool.query(`alter database ${name} set timezone = 'Asia/Kolkata'`);
    await pool.query(`alter database ${name} set datestyle = 'SQL, DMY'`);
    const session = new pg.Pool({ ...connectionConfig({ databaseUrl: url }), options: '-c timezone=America/St_Johns' });
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
    await runBackfill(pool);
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
    expect(await runBackfill(pool, { chunkRows: 3 })).toMatchObject({ finished: true, imported: 20n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([]);
  });

  it('written behind the checkpoint after a run has finished are brought in by the next', async () => {
    const { pool } = await filled();
    await runBackfill(pool);
    const { rows: wallets } = await pool.query<{ id: string }>('select id from wallets order by id limit 1');
    const wallet = { id: wallets[0]?.id ?? '', kind: 'user', ownerId: '' } as const;
    await pool.query('update wallets set balance_credits = balance_credits + 15 where id = $1', [wallet.id]);
    const before = await driftByCause(pool);
    for (const at of ['-infinity', '1999-01-01T00:00:00Z', '2199-01-01T00:00:00Z']) {
      await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 5, at });
    }
    expect(await runBackfill(pool, { chunkRows: 1 })).toMatchObject({ finished: true, imported: 3n });
    expect(await driftByCause(pool)).toEqual(before);
    await booksHold(pool);
    expect(await runBackfill(pool)).toMatchObject({ imported: 0n });
  });

  it('written behind the checkpoint are judged by what is booked already, not the other way round', async () => {
    const { pool } = await unfilled();
    const wallet = await givenWallet(pool, { balance: 100 - 30 });
    const invoice = await givenInvoice(pool, wallet, 100);
    await givenRow(pool, wallet, { type: 'purchase', delta: 100, usdCents: 100, invoice, at: '2024-02-02T00:00:00Z' });
    await givenRow(pool, wallet, { type: 'refund', delta: -30, invoice, at: '2024-02-03T00:00:00Z' });
    const org = await givenWallet(pool, { kind: 'organization', balance: -10 });
    await givenRow(pool, org, { type: 'spend', delta: -10, spendKey: 'k', at: '2024-02-02T00:00:00Z' });
    await runBackfill(pool);
    await givenRow(pool, wallet, { type: 'purchase', delta: 100, usdCents: 100, invoice, at: '2024-01-02T00:00:00Z' });
    await givenRow(pool, wallet, { type: 'refund', delta: -40, invoice, at: '2024-01-03T00:00:00Z' });
    await givenRow(pool, org, { type: 'spend', delta: -10, spendKey: 'k', at: '2024-01-02T00:00:00Z' });
    await setBalance(pool, wallet, 100 - 30 + 100 - 40);
    await setBalance(pool, org, -20);
    expect(await runBackfill(pool)).toMatchObject({ imported: 3n });
    await booksHold(pool);
    expect(await driftByCause(pool)).toEqual([
      { cause: 'cumulative_refund', count: 1n, cents: -30n },
      { cause: 'duplicate_credit', count: 1n, cents: 100n },
      { cause: 'duplicate_spend', count: 1n, cents: -10n },
    ]);
  });

  it('that a wallet was given while its balance was compared wait for the next run, and are no drift', async () => {
    const { pool } = await unfilled();
    const wallet = await givenWallet(pool, { balance: 10 });
    await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 10 });
    await runBackfill(pool);
    const blocker = await pool.connect();
    try {
      await blocker.query('begin');
      await blocker.query('select from payments.balances for no key update');
      const second = runBackfill(pool);
      await eventually('the run waits for the wallet', () => isWaiting(pool));
      await givenRow(pool, wallet, { type: 'adjustment', referenceType: 'system', delta: 7 });
      await setBalance(pool, wallet, 17);
      await blocker.query('commit');
      expect(await second).toMatchObject({ imported: 0n });
    } finally {
      blocker.release();
    }
    expect(await driftByCause(pool)).toEqual([]);
    expect(await runBackfill(pool)).toMatchObject({ imported: 1n });
    expect(await driftByCause(pool)).toEqual([]);
    await booksHold(pool);
  });

  it('of a wallet that was made while the run went on do not stop it', async () => {
    const { pool } = await unfilled();
    await runBackfill(pool);
    const blocker = await pool.connect();
    try {
      await blocker.query('begin');
      await blocker.query(`select from replay.progress where source = 'wallet_transactions' for update`);
      const second = runBackfill(pool);
      await eventually('the run waits to begin its first chunk', () => isWaiting(pool));
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

async function isWaiting(pool: Pool): Promise<boolean> {
  const { rows } = await pool.query(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return rows.length > 0;
}

describe('two backfills at once', () => {
  it('are refused: one works, the other says so and changes nothing', async () => {
    const database = await filled();
    const first = startLiventix(['backfill', 'run', '--chunk', '5', '--json'], { DATABASE_URL: database.url });
    await eventually('the first has begun', async () => (await progressOf(database.pool)) > 0n);
    const second = await backfill(database);
    const between = await progressOf(database.pool);
    expect(second).toEqual(failure('BACKFILL_RUNNING', 'book 1'));
    expect(between).toBeLessThan(ROWS);
    const { exitCode, stdout } = await first.done;
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ finished: true, imported: SIZE.transactions });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('hand over: the second works as soon as the first has ended', async () => {
    const { pool } = await filled();
    const both = await Promise.allSettled([runBackfill(pool), runBackfill(pool)]);
    expect(both.map((run) => run.status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(both.find((run) => run.status === 'rejected')).toMatchObject({ reason: { code: 'BACKFILL_RUNNING' } });
    expect(await runBackfill(pool)).toMatchObject({ finished: true });
  });
});

describe('stopping', () => {
  it.each(['SIGTERM', 'SIGINT'] as const)(
    'on %s ends at a chunk border with exit code 3, says so, and the next run finishes',
    async (signal) => {
      const database = await filled();
      const first = startLiventix(['backfill', 'run', '--chunk', '20'], { DATABASE_URL: database.url });
      await eventually('it is under way', async () => (await progressOf(database.pool)) >= 100n);
      first.kill(signal);
      const stopped = await first.done;
      expect(stopped).toMatchObject({ exitCode: 3, stderr: '' });
      expect(stopped.stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
      const rows = await progressOf(database.pool);
      expect(rows).toBeLessThan(ROWS);
      expect(rows % 20n).toBe(0n);
      expect((await status(database)).sources[0]).toMatchObject({
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
    await runBackfill(pool);
    expect(await booksDigest(pool)).toBe(undisturbed);
  });
});

describe('what the commands print', () => {
  it('is a status before, during and after', async () => {
    const database = await filled();
    const words = async () => (await liventix(['backfill', 'status'], { DATABASE_URL: database.url })) as Run;
    expect(await words()).toEqual({
      exitCode: 0,
      stdout: 'The backfill has not run yet. Start it with: liventix backfill run\n',
      stderr: '',
    });
    expect(await status(database)).toEqual({ sources: [], drift: {} });

    const stop = new AbortController();
    const stopAtSome = ({ step, done }: BackfillProgress) => step === 'rows' && done >= 200n && stop.abort();
    await runBackfill(database.pool, { chunkRows: 100, stop: stop.signal, onProgress: stopAtSome });
    const during = await words();
    expect(during.exitCode).toBe(0);
    expect(during.stdout).toMatch(/^wallet_transactions +200 of [\d,]+ rows, not finished\n/);

    await runBackfill(database.pool);
    const after = await words();
    expect(after.exitCode).toBe(0);
    expect(after.stdout).toMatch(
      /^wallet_transactions +([\d,]+) of \1 rows, finished\norg_wallet_transactions +([\d,]+) of \2 rows, finished\n( {2}[a-z_]+ +\d+ +-?[\d,]+\.\d\d USD\n)+$/,
    );
    const json = await status(database);
    expect(Object.keys(json)).toEqual(['sources', 'drift']);
    expect(json.sources.map(({ rows, total }: { rows: number; total: number }) => rows - total)).toEqual([0, 0]);
    for (const cause of await driftByCause(database.pool)) {
      expect(json.drift[cause.cause]).toEqual({ count: Number(cause.count), cents: Number(cause.cents) });
    }
  });

  it('is one JSON object of a run', async () => {
    const database = await filled();
    const run = await backfill(database, '--json');
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.split('\n')).toHaveLength(2);
    const printed = JSON.parse(run.stdout);
    expect(printed).toEqual({
      finished: true,
      legacyTransactions: SIZE.transactions,
      imported: SIZE.transactions,
      inLog: SIZE.transactions,
      wallets: SIZE.wallets + SIZE.orgWallets,
      seconds: expect.any(Number),
      drift: (await status(database)).drift,
      walletsCompared: SIZE.wallets + SIZE.orgWallets,
      walletsDiffering: 0,
    });
  });

  it('is a summary for people of a run, and nothing on stderr where nobody watches', async () => {
    const database = await filled();
    const run = await backfill(database);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toMatch(/^3,000 of 3,000 rows replayed in [\d.]+ s \([\d,]+\/s\)\n/);
    expect(run.stdout).toMatch(/\n132 wallets compared, 0 differ\n$/);
  });

  it.each(['0', '100001', 'many'])('refuses --chunk %j as wrong usage', async (chunk) => {
    const run = await liventix(['backfill', 'run', `--chunk=${chunk}`], {
      DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none',
    });
    expect(run).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: USAGE: .*100000.*\n$/),
    });
  });
});

describe('a database that is not what the mapping expects', () => {
  const untouched = async (database: TestDatabase) => {
    const { rows } = await database.pool.query(
      `select (select count(*) from payments.events) + (select count(*) from replay.progress) + (select count(*) from replay.findings) as rows`,
    );
    expect(rows).toEqual([{ rows: 0n }]);
  };

  it('with empty legacy tables is backfilled in no time, and its books balance', async () => {
    const database = await unfilled();
    const run = await backfill(database, '--json');
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(JSON.parse(run.stdout)).toMatchObject({
      finished: true,
      legacyTransactions: 0,
      imported: 0,
      wallets: 0,
      drift: {},
      walletsCompared: 0,
      walletsDiffering: 0,
    });
    await booksHold(database.pool);
  });

  it('without legacy tables is refused, and nothing is written', async () => {
    const database = await keep(createDatabase());
    expect(await backfill(database)).toEqual(
      failure('LEGACY_TABLE_MISSING', 'wallets, wallet_transactions, .*DATABASE_URL'),
    );
    await untouched(database);
    expect((await liventix(['backfill', 'status'], { DATABASE_URL: database.url })).exitCode).toBe(0);
  });

  it('with some of the legacy tables is refused by the names of the others, and verifies as before', async () => {
    const database = await unfilled();
    await runBackfill(database.pool);
    await database.pool.query('drop table org_wallets cascade');
    expect(await backfill(database)).toEqual(
      failure('LEGACY_TABLE_MISSING', 'The legacy table org_wallets cannot be found in the schemas'),
    );
    expect((await liventix(['backfill', 'status'], { DATABASE_URL: database.url })).exitCode).toBe(0);
    expect((await liventix(['books', 'verify'], { DATABASE_URL: database.url })).exitCode).toBe(0);
  });

  it.each([
    [
      'alter table wallets drop column balance_credits',
      'public.wallets.balance_credits is missing, expected integer or bigint',
    ],
    [
      'alter table wallet_transactions rename type to kind',
      'public.wallet_transactions.type is missing, expected text',
    ],
    [
      'alter table org_wallet_transactions alter credits_delta type numeric',
      'public.org_wallet_transactions.credits_delta is numeric, expected integer or bigint',
    ],
    [
      'alter table wallet_transactions alter created_at type timestamp',
      'public.wallet_transactions.created_at is timestamp without time zone, expected timestamp with time zone',
    ],
  ])('after %s is refused by the name of the column, and nothing is written', async (change, fault) => {
    const database = await unfilled();
    await database.pool.query('alter table org_wallet_transactions drop constraint org_wallet_txn_sign_by_type_chk');
    await database.pool.query(change);
    expect(await backfill(database)).toEqual(failure('LEGACY_COLUMN_MISMATCH', fault.replaceAll('.', '\\.')));
    await untouched(database);
  });

  it('names every column at once that is not as expected', async () => {
    const database = await unfilled();
    await database.pool.query(
      'alter table wallets drop column created_at; alter table invoices drop column amount_usd_cents',
    );
    await expect(runBackfill(database.pool)).rejects.toMatchObject({
      code: 'LEGACY_COLUMN_MISMATCH',
      details: {
        faults: [expect.stringContaining('invoices.amount_usd_cents'), expect.stringContaining('wallets.created_at')],
      },
    });
  });

  it('takes credits of 64 bits, and refuses a balance beyond them without a half-written chunk', async () => {
    const database = await unfilled();
    const { pool } = database;
    await pool.query(
      'alter table wallet_transactions alter credits_delta type bigint; alter table wallets alter balance_credits type bigint',
    );
    const [first, second] = [await givenWallet(pool), await givenWallet(pool)];
    for (const wallet of [first, second]) {
      await pool.query(
        `insert into wallet_transactions (wallet_id, type, credits_delta, reference_type) values ($1, 'adjustment', 9223372036854775807, 'system')`,
        [wallet.id],
      );
    }
    expect(await backfill(database)).toEqual({
      ...failure('LEDGER_AMOUNT_OVERFLOW', 'Nothing was written'),
      exitCode: 2,
    });
    expect((await pool.query(`select from payments.events where type <> 'account.opened'`)).rows).toEqual([]);
  });

  it('does not mind unknown tables and columns in public, nor a table of a known name in another schema', async () => {
    const { pool } = await filled();
    await pool.query(`create table public.anything (id text); create table public.accounts (id integer)`);
    await pool.query(
      `alter table wallets add column colour text; alter table wallet_transactions add column tags text[]`,
    );
    await pool.query(`create schema other; create table other.wallets (id text)`);
    await runBackfill(pool);
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('finds the tables in their target schemas behind views of the old names, with the same books', async () => {
    const database = await filled();
    const { pool } = database;
    await pool.query('create schema organizations');
    for (const [table, schema] of [
      ['wallets', 'payments'],
      ['wallet_transactions', 'payments'],
      ['invoices', 'payments'],
      ['org_wallets', 'organizations'],
      ['org_wallet_transactions', 'organizations'],
    ]) {
      await pool.query(`alter table public.${table} set schema ${schema}`);
      await pool.query(
        `create view public.${table} with (security_invoker = true) as select * from ${schema}.${table}`,
      );
    }
    await runBackfill(pool);
    expect(await booksDigest(pool)).toBe(undisturbed);
    expect((await booksHold(pool)).map(({ check }) => check)).toContain(WALLET_CHECK);
  });

  it('goes on with the same log when the tables move between two runs', async () => {
    const { pool } = await filled();
    const stop = new AbortController();
    await runBackfill(pool, {
      chunkRows: 100,
      stop: stop.signal,
      onProgress: ({ step }) => step === 'rows' && stop.abort(),
    });
    await pool.query('create schema organizations; alter table public.wallet_transactions set schema payments');
    await pool.query('alter table public.org_wallets set schema organizations');
    expect(await runBackfill(pool)).toMatchObject({ finished: true, imported: ROWS - 100n });
    expect(await booksDigest(pool)).toBe(undisturbed);
  });

  it('refuses tables of which row-level security shows it only a part, instead of finding them empty', async () => {
    const database = await filled();
    await runBackfill(database.pool);
    const admin = new pg.Client({ connectionString: database.adminUrl });
    await admin.connect();
    try {
      await admin.query('alter table public.wallets owner to current_user; grant select on public.wallets to liventix');
    } finally {
      await admin.end();
    }
    const refused = failure('DB_PERMISSION_DENIED', 'public\\.wallets');
    expect(await backfill(database)).toEqual(refused);
    expect(await liventix(['books', 'verify', '--json'], { DATABASE_URL: database.url })).toEqual(refused);
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });
});

describe('books verify', () => {
  let database: TestDatabase;
  const verify = async () => {
    const run = await liventix(['books', 'verify', '--json'], { DATABASE_URL: database.url });
    return { exitCode: run.exitCode, stderr: run.stderr, ...JSON.parse(run.stdout) };
  };
  const names = (verification: { checks: { check: string }[] }) => verification.checks.map(({ check }) => check);

  beforeAll(async () => {
    database = await createDatabase({ from: 'empty' });
    await createLegacyDatabase(database.pool);
    await fillLegacyDatabase(database.pool, SIZE);
  });
  afterAll(() => database.drop());

  it('holds before the backfill without a wallet check, on a database that was migrated beside its legacy tables', async () => {
    expect((await migrate(database.url)).length).toBeGreaterThan(0);
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 0, stderr: '', balance: true });
    expect(names(verification)).not.toContain(WALLET_CHECK);
  });

  it('could not find out about the wallets while the backfill is half-way, and says how far it is', async () => {
    const stop = new AbortController();
    await runBackfill(database.pool, {
      chunkRows: 100,
      stop: stop.signal,
      onProgress: ({ step }) => step === 'rows' && stop.abort(),
    });
    const rows = Number(await progressOf(database.pool));
    expect(rows).toBeGreaterThan(0);
    const reason = `not compared, the backfill has not finished (${rows} of 3,000 rows)`;
    const verification = await verify();
    expect(verification).toMatchObject({
      exitCode: 3,
      stderr: '',
      balance: null,
      skipped: [{ check: WALLET_CHECK, reason }],
    });
    expect(names(verification)).not.toContain(WALLET_CHECK);
    const words = await liventix(['books', 'verify'], { DATABASE_URL: database.url });
    expect(words).toMatchObject({ exitCode: 3, stderr: '' });
    expect(words.stdout).toMatch(new RegExp(`\nskipped  ${WALLET_CHECK}: ${reason.replace(/[()]/g, '\\$&')}\n`));
    expect(words.stdout).not.toContain('The books balance.');
  });

  it('does not hold half-way when something else fails, whatever it could not find out', async () => {
    await database.pool.query('alter table payments.events disable trigger events_append_only');
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 1, balance: false, skipped: [{ check: WALLET_CHECK }] });
    await database.pool.query('alter table payments.events enable always trigger events_append_only');
  });

  it('holds after the backfill with every wallet compared, and the books are those of any other run', async () => {
    expect((await backfill(database)).exitCode).toBe(0);
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 0, balance: true, skipped: [] });
    expect(verification.checks.at(-1)).toMatchObject({
      check: WALLET_CHECK,
      holds: true,
      examined: SIZE.wallets + SIZE.orgWallets,
      unit: 'wallets',
    });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it.each(['wallets', 'org_wallets'])(
    'does not hold when a balance of %s is changed by hand afterwards, and names the wallet',
    async (table) => {
      const { rows } = await database.pool.query<{ id: string; balance: number }>(
        `select id, balance_credits as balance from ${table} order by id desc limit 1`,
      );
      const [wallet] = rows;
      await database.pool.query(`update ${table} set balance_credits = balance_credits + 1 where id = $1`, [
        wallet?.id,
      ]);
      const verification = await verify();
      expect(verification).toMatchObject({ exitCode: 1, balance: false });
      const named = `${table} ${wallet?.id} holds ${(wallet?.balance ?? 0) + 1}, its account ${wallet?.balance}`;
      expect(verification.checks.at(-1)).toMatchObject({
        check: WALLET_CHECK,
        holds: false,
        faults: 1,
        first: [named],
      });
      const words = await liventix(['books', 'verify'], { DATABASE_URL: database.url });
      expect(words.exitCode).toBe(1);
      expect(words.stdout).toContain(`\n         ${named}\n`);
      await database.pool.query(`update ${table} set balance_credits = balance_credits - 1 where id = $1`, [
        wallet?.id,
      ]);
      expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
    },
  );

  it('does not hold when a wallet appears that has no account yet, until the next backfill', async () => {
    const wallet = await givenWallet(database.pool, { balance: 3 });
    expect((await verify()).checks.at(-1)).toMatchObject({
      holds: false,
      first: [`wallets ${wallet.id} holds 3, its account does not exist`],
    });
    expect((await backfill(database)).exitCode).toBe(0);
    expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
  });
  it.each(['user', 'organization'] as const)(
    'does not hold when the wallet of a %s is gone whose money the ledger still holds, and names the account',
    async (kind) => {
      const wallet = await givenWallet(database.pool, { kind, balance: 9_042 });
      const emptied = await givenWallet(database.pool, { kind });
      expect((await backfill(database)).exitCode).toBe(0);
      const { rows } = await database.pool.query<{ id: string }>(
        'select id from payments.accounts where coalesce(user_id, organization_id) = $1',
        [wallet.ownerId],
      );
      const table = kind === 'user' ? 'wallets' : 'org_wallets';
      await database.pool.query(`delete from ${table} where id = any ($1)`, [[wallet.id, emptied.id]]);
      const verification = await verify();
      expect(verification).toMatchObject({ exitCode: 1, balance: false });
      expect(verification.checks.at(-1)).toMatchObject({
        check: WALLET_CHECK,
        holds: false,
        faults: 1,
        first: [`account ${rows[0]?.id} holds 90.42, its wallet is gone`],
      });
      await database.pool.query(
        `insert into ${table} (id, ${kind === 'user' ? 'user_id' : 'org_id'}, balance_credits) values ($1, $2, 9042)`,
        [wallet.id, wallet.ownerId],
      );
      expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
    },
  );

  it('does not miss the wallet of an account that the replay never booked on', async () => {
    const holder = randomUUID();
    const [account = '', revenue = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', userId: holder },
      { type: 'revenue', currency: 'USD', name: 'beside' },
    ]);
    await post(database.pool, transfer(revenue, account));
    expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
  });
});
