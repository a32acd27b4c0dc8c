import pg from 'pg';
import { beforeAll, describe, expect, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import {
  backfill,
  booksHold,
  failure,
  legacyDatabases,
  progressOf,
  ROWS,
  runBackfillUntil,
  undisturbedDigest,
  WALLET_CHECK,
} from '../support/backfill.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { booksDigest, givenWallet } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';

const { keep, filled, unfilled } = legacyDatabases();

let undisturbed = '';
beforeAll(async () => {
  undisturbed = await undisturbedDigest();
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

  it('with some of the legacy tables is refused by the names of the others, and verify could not compare the wallets', async () => {
    const database = await unfilled();
    await runBackfill(database.pool);
    await database.pool.query('drop table org_wallets cascade');
    expect(await backfill(database)).toEqual(
      failure('LEGACY_TABLE_MISSING', 'The legacy table org_wallets cannot be found in the schemas'),
    );
    expect((await liventix(['backfill', 'status'], { DATABASE_URL: database.url })).exitCode).toBe(0);
    const verify = await liventix(['books', 'verify'], { DATABASE_URL: database.url });
    expect(verify).toMatchObject({ exitCode: 3, stderr: '' });
    expect(verify.stdout).toMatch(/\nskipped .*: not compared, the legacy table org_wallets cannot be found\n/);
    // Without any of them, there is nothing left to compare.
    await database.pool.query('drop table wallets cascade');
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

  it('refuses views that have no table of their name behind them, and nothing is written', async () => {
    const database = await unfilled();
    await database.pool.query(
      'alter table wallets rename to wallets_of_before; create view wallets as select * from wallets_of_before',
    );
    expect(await backfill(database)).toEqual(
      failure('LEGACY_TABLE_MISSING', 'The legacy table wallets cannot be found'),
    );
    await untouched(database);
  });

  it('goes on with the same log when the tables move between two runs', async () => {
    const { pool } = await filled();
    await runBackfillUntil(pool, ({ step }) => step === 'rows', { chunkRows: 100 });
    const before = await progressOf(pool);
    expect(before).toBeLessThan(ROWS);
    await pool.query('create schema organizations; alter table public.wallet_transactions set schema payments');
    await pool.query('alter table public.org_wallets set schema organizations');
    expect(await runBackfill(pool)).toMatchObject({ finished: true, imported: ROWS - before });
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
