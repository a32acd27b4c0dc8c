import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GUARDS } from '../../src/ledger/guards.ts';
import { postAll } from '../../src/ledger/ledger.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { fillLogBooks, type LogBooks } from '../support/tamperings/log.ts';
import { disguised } from '../support/tamperings/tampering.ts';

// What the command says, and how it ends; what the verification finds is told in test/ledger/tamper.drill.test.ts and those beside it.

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await fillLogBooks(database.pool);
});
afterAll(() => database.drop());

describe('books verify', () => {
  const WAYS = [
    { how: 'books verify', flags: [], checks: 20 },
    { how: 'books verify --independent', flags: ['--independent'], checks: 22 },
  ];

  /** Runs it on books of its own after they were tampered with. */
  async function verifyAfter(sql: (books: LogBooks) => string, ...flags: string[]) {
    const own = await createDatabase();
    const filled = await fillLogBooks(own.pool);
    await own.pool.query(sql(filled));
    const run = await liventix(['books', 'verify', ...flags], { DATABASE_URL: own.url });
    await own.drop();
    return { ...run, books: filled };
  }
  const deleteVictim = ({ victim }: LogBooks) =>
    `begin; ${disguised(`delete from payments.entries where transaction_id = '${victim}'`)}; commit`;

  it.each(WAYS)('exits 0, one line a check, on untouched books: $how', async ({ flags, checks }) => {
    const run = await verifyAfter(() => 'select', ...flags);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.match(/^holds /gm)).toHaveLength(checks);
    expect(run.stdout).toContain('The books balance.');
  });

  it.each(WAYS)('exits 1, and names what fails, and where: $how', async ({ flags }) => {
    const run = await verifyAfter(deleteVictim, ...flags);
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(run.stdout).toMatch(
      new RegExp(`^FAILS {2}the entries are what the log posted .*\\n {9}entry .*${run.books.victim}`, 'm'),
    );
    expect(run.stdout).toContain('The books do NOT balance.');
  });

  it.each(WAYS)('exits 1, and says that the rows hold, where a guard alone is off: $how', async ({ flags }) => {
    const run = await verifyAfter(() => 'alter table payments.entries disable trigger entries_append_only', ...flags);
    expect(run).toMatchObject({ exitCode: 1, stderr: '' });
    expect(run.stdout.match(/^FAILS /gm)).toHaveLength(1);
    expect(run.stdout).toMatch(
      /\nEvery row that was checked holds, but NOT what guards them: what it keeps out may be there, such as the same row twice\.\n$/,
    );
  });

  it.each(WAYS)('says the same to machines: $how', async ({ flags }) => {
    const run = await verifyAfter(deleteVictim, '--json', ...flags);
    expect(run.exitCode).toBe(1);
    const verification = JSON.parse(run.stdout);
    expect(verification.balance).toBe(false);
    const failing = verification.checks.filter((check: { holds: boolean }) => !check.holds);
    expect(failing).toContainEqual(
      expect.objectContaining({ check: 'the entries are what the log posted', faults: 2 }),
    );
  });

  it.each(WAYS)('names the first and counts the rest: $how', async ({ flags }) => {
    const run = await verifyAfter(
      () => `begin; ${disguised('update payments.entries set balance_after_cents = 0')}; commit`,
      ...flags,
    );
    expect(run.stdout).toMatch(/and \d more/);
  });

  it('takes --independent for one book, and not beside --since', async () => {
    const run = (...flags: string[]) =>
      liventix(['books', 'verify', '--independent', ...flags], { DATABASE_URL: database.url });
    expect(await run('--book', '1')).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await run('--book', '99')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/LEDGER_BOOK_UNKNOWN/),
    });
    expect(await run('--since', '1')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^liventix: USAGE: /),
    });
  });

  it('says in its JSON whether it was made independently', async () => {
    for (const { flags } of WAYS) {
      const run = await liventix(['books', 'verify', '--json', ...flags], { DATABASE_URL: database.url });
      expect(JSON.parse(run.stdout)).toMatchObject({ independently: flags.length > 0, balance: true });
    }
  });

  it('exits 3 when it could not find out', async () => {
    const url = new URL(database.url);
    url.port = '1';
    const run = await liventix(['books', 'verify'], { DATABASE_URL: url.href });
    expect(run).toMatchObject({
      exitCode: 3,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: DB_UNREACHABLE: [^\n]*\n$/),
    });
  });

  it.each(WAYS)('holds on books in which nothing was ever posted: $how', async ({ flags }) => {
    const empty = await createDatabase();
    const run = await liventix(['books', 'verify', ...flags], { DATABASE_URL: empty.url });
    await empty.drop();
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
  });

  it.each(WAYS)(
    'names the guards that are not in place first, each by its name, whatever else they let through: $how',
    async ({ flags }) => {
      const run = await verifyAfter(
        () =>
          'begin; alter table payments.balances disable trigger user; alter table payments.events disable trigger user; update payments.balances set balance_cents = 0; commit',
        ...flags,
      );
      expect(run).toMatchObject({ exitCode: 1, stderr: '' });
      expect(run.stdout).toMatch(/^FAILS {2}every guard of the ledger is in place {2}/);
      const disabled = GUARDS.filter(({ table }) => table === 'balances' || table === 'events');
      for (const { table, trigger } of disabled) {
        expect(run.stdout).toContain(
          `trigger ${trigger} on payments.${table} is disabled; put it back: alter table payments.${table} enable always trigger ${trigger};\n`,
        );
      }
    },
  );
});

describe('the memory of books verify --independent', () => {
  it('does not grow with events and entries: 64 MB suffice for books of three times as much', async () => {
    const own = await createDatabase();
    const accounts = await openTestAccounts(own.pool);
    const description = 'd'.repeat(10_000);
    for (let batch = 0; batch < 20; batch += 1) {
      await postAll(
        own.pool,
        Array.from({ length: 350 }, () => transfer(accounts.clearing, accounts.wallet, { description })),
      );
    }
    const run = await liventix(['books', 'verify', '--independent'], {
      DATABASE_URL: own.url,
      NODE_OPTIONS: '--max-old-space-size=64',
    });
    await own.drop();
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
  });
});
