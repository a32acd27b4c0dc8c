import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { GUARDS } from '../../src/ledger/guards.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';

const TABLES = [
  'accounts',
  'entries',
  'balances',
  'account_changes',
  'holds',
  'hold_entries',
  'reversals',
  'periods',
  'account_slots',
];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  const accounts = await openTestAccounts(pool);
  const [wallet = ''] = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'w', userId: randomUUID(), floorCents: 0n, ceilingCents: 9_000n },
  ]);
  await postAll(
    pool,
    Array.from({ length: 20 }, () => transfer(accounts.clearing, wallet)),
  );
  const held = await placeHold(pool, { accountId: wallet, amountCents: 500n, currency: 'USD' });
  const voided = await placeHold(pool, { accountId: wallet, amountCents: 100n, currency: 'USD' });
  await voidHold(pool, voided);
  const { transactionId } = await post(pool, transfer(wallet, accounts.revenue, { capture: { holdId: held.holdId } }));
  await post(pool, { reverses: transactionId });
  await changeAccount(pool, { accountId: wallet, status: 'frozen', reason: 'enough' });
  await addSlots(pool, { accountId: accounts.revenue, slots: 3 });
  await post(pool, transfer(accounts.clearing, accounts.revenue));
  await closePeriod(pool, { until: '2026-01-01T00:00:00Z' });
  await pool.query(`insert into payments.books (book_id, name) values (2, 'other')`);
  await openAccounts(pool, [{ type: 'cash', currency: 'USD', name: 'w' }], { bookId: 2 });
});
afterAll(() => database.drop());

describe('the projections, rebuilt from the log in an empty schema', () => {
  it('are the live ones, row by row, and leave nothing behind', async () => {
    const tables = await compareWithRebuild(database.pool);
    expect(tables.map(({ table }) => table)).toEqual(TABLES);
    for (const { rows, rebuiltRows, isEqual } of tables) {
      expect(rows).toBeGreaterThan(0n);
      expect(rebuiltRows).toBe(rows);
      expect(isEqual).toBe(true);
    }
    const { rows } = await database.pool.query(`select nspname from pg_namespace where nspname like '%rebuilt%'`);
    expect(rows).toEqual([]);
  });

  it('are rebuilt and compared of one book alone', async () => {
    const one = await compareWithRebuild(database.pool, { bookId: 2 });
    expect(one.every(({ isEqual }) => isEqual)).toBe(true);
    expect(Object.fromEntries(one.map(({ table, rows, rebuiltRows }) => [table, [rows, rebuiltRows]]))).toMatchObject({
      accounts: [1n, 1n],
      entries: [0n, 0n],
    });
    const json = await liventix(['books', 'rebuild', '--book', '2', '--json'], { DATABASE_URL: database.url });
    expect(JSON.parse(json.stdout)).toMatchObject({
      equal: true,
      tables: expect.arrayContaining([{ table: 'accounts', rows: 1, rebuiltRows: 1, isEqual: true }]),
    });
    await expect(compareWithRebuild(database.pool, { bookId: 77 })).rejects.toMatchObject({
      code: 'LEDGER_BOOK_UNKNOWN',
    });
  });

  it('differ in one book, and not in another', async () => {
    const copy = await createDatabase();
    try {
      await copyLedger(copy);
      await copy.pool.query(`update payments.accounts set name = 'x' where book_id = 2`);
      const differ = async (bookId: number) =>
        (await compareWithRebuild(copy.pool, { bookId })).filter(({ isEqual }) => !isEqual).map(({ table }) => table);
      expect([await differ(1), await differ(2)]).toEqual([[], ['accounts']]);
    } finally {
      await copy.drop();
    }
  });

  it('are compared by the command, for people and for machines', async () => {
    const run = await liventix(['books', 'rebuild'], { DATABASE_URL: database.url });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.match(/^same /gm)).toHaveLength(TABLES.length);
    expect(run.stdout).toContain('Every table is what the log gives.');
    const json = await liventix(['books', 'rebuild', '--json'], { DATABASE_URL: database.url });
    expect(JSON.parse(json.stdout)).toMatchObject({ equal: true });
  });

  it.each([
    ['entries', `update payments.entries set description = 'x' where id = (select max(id) from payments.entries)`],
    ['entries', 'delete from payments.entries where id = (select max(id) from payments.entries)'],
    ['balances', 'update payments.balances set held_cents = held_cents + 1'],
    ['accounts', `update payments.accounts set name = 'x' where book_id = 2`],
    ['account_changes', `update payments.account_changes set reason = 'x'`],
    ['holds', `update payments.holds set reference_id = 'x'`],
    ['hold_entries', 'update payments.hold_entries set captured_cents = 7'],
    ['reversals', 'update payments.reversals set is_complete = false'],
    ['periods', `update payments.periods set closed_by = 'x'`],
    ['account_slots', 'delete from payments.account_slots where slot_number = 2'],
  ])('differ in payments.%s after: %s', async (table, sql) => {
    const copy = await createDatabase();
    try {
      await copyLedger(copy);
      const tables = [...new Set(GUARDS.map((guard) => guard.table))];
      await copy.pool.query(tables.map((name) => `alter table payments.${name} disable trigger user`).join('; '));
      await copy.pool.query(sql);
      expect(await liventix(['books', 'rebuild'], { DATABASE_URL: copy.url })).toMatchObject({
        exitCode: 1,
        stdout: expect.stringMatching(new RegExp(`^DIFFERS  ${table} `, 'm')),
      });
      expect((await compareWithRebuild(copy.pool)).filter(({ isEqual }) => !isEqual).map((each) => each.table)).toEqual(
        [table],
      );
    } finally {
      await copy.drop();
    }
  });
});

/** The same books in a database of its own, to be tampered with. */
async function copyLedger(copy: TestDatabase): Promise<void> {
  const tables = ['books', 'events', ...TABLES];
  await copy.pool.query(tables.map((name) => `alter table payments.${name} disable trigger user`).join('; '));
  await copy.pool.query(`delete from payments.book_grants; delete from payments.books`);
  for (const table of tables) {
    const { rows } = await database.pool.query<{ rows: string }>(
      `select coalesce(jsonb_agg(t), '[]')::text as rows from payments.${table} t`,
    );
    await copy.pool.query(
      `insert into payments.${table} select * from jsonb_populate_recordset(null::payments.${table}, $1)`,
      [rows[0]?.rows],
    );
  }
}
