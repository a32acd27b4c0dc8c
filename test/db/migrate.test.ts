import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { assertMigrated, migrate, migrationStatus } from '../../src/db/migrate.ts';
import { post } from '../../src/ledger/ledger.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';
import { migrateUntil } from '../support/migrate-until.ts';
import { announce } from '../support/outbox.ts';

describe('migrate', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
  });
  afterAll(() => database.drop());

  it('tells what is pending on an empty database, and changes nothing by telling', async () => {
    const status = await liventix(['migrate', 'status', '--json'], { DATABASE_URL: database.url });
    expect(status.exitCode).toBe(1);
    expect(JSON.parse(status.stdout)).toMatchObject({
      applied: [],
      pending: expect.arrayContaining(['0001_reference_currencies']),
    });
    await expect(assertMigrated(database.pool)).rejects.toMatchObject({ code: 'MIGRATIONS_PENDING' });
    const { rows } = await database.pool.query(`select count(*) as n from pg_namespace where nspname = 'liventix'`);
    expect(rows).toEqual([{ n: 0n }]);
  });

  it('says with --dry-run what it would apply, and changes nothing', async () => {
    const { stdout: text, ...words } = await liventix(['migrate', '--dry-run'], { DATABASE_URL: database.url });
    expect(words).toEqual({ exitCode: 0, stderr: '' });
    const json = await liventix(['migrate', '--dry-run', '--json'], { DATABASE_URL: database.url });
    const { wouldApply } = JSON.parse(json.stdout) as { wouldApply: string[] };
    expect(wouldApply).toEqual((await migrationStatus(database.pool)).pending);
    expect(wouldApply[0]).toBe('0001_reference_currencies');
    expect(text).toBe(wouldApply.map((name) => `would apply ${name}\n`).join(''));
    const { rows } = await database.pool.query(`select from pg_namespace where nspname = 'liventix'`);
    expect(rows).toEqual([]);
  });

  it('lets 20 migrators start at once: one migrates, all succeed', async () => {
    const results = await Promise.all(Array.from({ length: 20 }, () => migrate(database.url)));
    expect(results.filter((applied) => applied.length > 0)).toHaveLength(1);
    expect((await migrationStatus(database.pool)).pending).toEqual([]);
  });

  it('has nothing to do the second time', async () => {
    const run = await liventix(['migrate'], { DATABASE_URL: database.url });
    expect(run).toMatchObject({ exitCode: 0, stdout: 'Nothing to apply: the database is up to date.\n', stderr: '' });
  });

  it('knows the exponents of currencies', async () => {
    const { rows } = await database.pool.query(
      `select code, decimal_places from ref.currencies where code in ('USD', 'JPY', 'BHD', 'CLF') order by code`,
    );
    expect(rows).toEqual([
      { code: 'BHD', decimal_places: 3 },
      { code: 'CLF', decimal_places: 4 },
      { code: 'JPY', decimal_places: 0 },
      { code: 'USD', decimal_places: 2 },
    ]);
  });

  const doctorFinds = async () => {
    const run = await liventix(['doctor', '--json'], { DATABASE_URL: database.url });
    const { checks } = JSON.parse(run.stdout) as { checks: { name: string; result: string }[] };
    return Object.fromEntries(checks.map((check) => [check.name, check]));
  };
  /** A guard with the body that another migration gave it. */
  const withOtherGuard = async (work: () => Promise<void>) => {
    const { rows } = await database.pool.query<{ ours: string }>(
      `select pg_get_functiondef('payments.refuse_change'::regproc) as ours`,
    );
    const ours = rows[0]?.ours ?? '';
    await database.pool.query(ours.replace('begin', 'begin -- otherwise\n'));
    await work();
    await database.pool.query(ours);
  };

  it('makes doctor leave guards unjudged that a pending migration may change', () =>
    withOtherGuard(async () => {
      expect(await doctorFinds()).toMatchObject({ guards: { result: 'failed' } });
      const { rows } = await database.pool.query<{ name: string }>(
        'delete from liventix.migrations where id = (select max(id) from liventix.migrations) returning name',
      );
      expect(await doctorFinds()).toMatchObject({
        migrations: { result: 'failed' },
        guards: { result: 'skipped', todo: null },
      });
      // A trigger of ours that is disabled is wrong in every version.
      await database.pool.query('alter table payments.entries disable trigger entries_whole_transactions');
      expect(await doctorFinds()).toMatchObject({
        guards: {
          result: 'failed',
          found: 'trigger entries_whole_transactions on payments.entries is disabled',
          todo: expect.stringContaining('enable always trigger entries_whole_transactions'),
        },
      });
      await database.pool.query('alter table payments.entries enable always trigger entries_whole_transactions');
      await database.pool.query('insert into liventix.migrations (name, run_on) values ($1, now())', [rows[0]?.name]);
    }));

  describe('that a newer version migrated', () => {
    beforeAll(() =>
      database.pool.query(`insert into liventix.migrations (name, run_on) values ('9999_of_tomorrow', now())`),
    );
    afterAll(() => database.pool.query(`delete from liventix.migrations where name = '9999_of_tomorrow'`));

    it.each(['migrate', 'migrate --dry-run', 'migrate status', 'books verify', 'backfill status', 'worker'])(
      'is refused by %s',
      async (line) => {
        const run = await liventix(line.split(' '), { DATABASE_URL: database.url });
        expect(run.stderr).toMatch(/^liventix: MIGRATION_DRIFT: [^\n]*9999_of_tomorrow[^\n]*newer one\.\n$/);
        expect(run.exitCode).toBe(3);
      },
    );

    it('is found by doctor, with what to do', async () => {
      expect(await doctorFinds()).toMatchObject({
        migrations: {
          result: 'failed',
          found: expect.stringMatching(/^1 of \d+ come from another version of Liventix: 9999_of_tomorrow$/),
          todo: 'Install the version that migrated it, or a newer one.',
        },
        guards: { result: 'ok' },
      });
      // No advice to put back our body would be right.
      await withOtherGuard(async () => {
        expect(await doctorFinds()).toMatchObject({ guards: { result: 'skipped', todo: null } });
      });
    });
  });
});

describe('the bounds of instants that 0046 gives messages', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
  });
  afterAll(() => database.drop());

  it('come where a message has none of them, and while a long transaction announces keep nobody else from it', async () => {
    await migrateUntil(database, '0046_days_lines_and_mirror');
    await database.pool.query(
      `insert into public.outbox (topic, payload, deliver_after) values ('a', '{}', 'infinity')`,
    );
    const long = await database.pool.connect();
    try {
      await long.query('begin');
      await announce(long);
      const migrating = migrate(database.url);
      await waitsForLock(database.pool, 'a day judged before it was locked');
      for (let n = 0; n < 20; n += 1) await announce(database.pool);
      await long.query('commit');
      expect((await migrating)[0]).toBe('0046_days_lines_and_mirror');
    } finally {
      long.release(true);
    }
    const { rows } = await database.pool.query('select count(*)::integer as n from public.outbox');
    expect(rows).toEqual([{ n: 22 }]);
    const refused = database.pool.query(
      `insert into public.outbox (topic, payload, deliver_after) values ('a', '{}', 'infinity')`,
    );
    await expect(refused).rejects.toMatchObject({ constraint: 'outbox_deliver_after_reachable' });
  });
});

describe('announcements made before 0025', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
  });
  afterAll(() => database.drop());

  it('have the book whose posting they announce, and no message of an application has one', async () => {
    await migrateUntil(database, '0025_announcements_by_column');
    const { clearing, wallet } = await openTestAccounts(database.pool);
    const { transactionId } = await post(database.pool, transfer(clearing, wallet, { announce: 'wallet.topped_up' }));
    const own = (topic: string, payload: object) =>
      database.pool.query('insert into public.outbox (topic, payload) values ($1, $2)', [topic, payload]);
    await own('ticket.sold', { book_id: 1, transaction_id: transactionId });
    await own('ticket.sold', { book_id: 'of poems', transaction_id: 'none' });
    const reader = `${database.name}_reader`;
    await database.pool.query(`create role ${reader}`);
    try {
      await database.pool.query('select payments.grant_book($1, 1, false)', [reader]);
      await migrate(database.url);
      const { rows } = await database.pool.query(
        `select topic, ledger_book_id from public.outbox order by topic desc, payload ->> 'book_id'`,
      );
      expect(rows).toEqual([
        { topic: 'wallet.topped_up', ledger_book_id: 1 },
        { topic: 'ticket.sold', ledger_book_id: null },
        { topic: 'ticket.sold', ledger_book_id: null },
      ]);
      const { rows: may } = await database.pool.query(
        `select has_table_privilege($1, 'public.outbox', 'select') as outbox, has_table_privilege($1, 'payments.entries', 'select') as entries`,
        [reader],
      );
      expect(may).toEqual([{ outbox: false, entries: true }]);
    } finally {
      await database.pool.query(`grant ${reader} to current_user; drop owned by ${reader}; drop role ${reader}`);
    }
  });
});
