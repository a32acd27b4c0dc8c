import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GUARDS } from '../../src/ledger/guards.ts';
import { compareWithRebuild } from '../../src/ledger/rebuild/rebuild.ts';
import { PROJECTIONS } from '../support/damage.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { fillEveryProjection } from '../support/rebuild-book.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await fillEveryProjection(database.pool);
});
afterAll(() => database.drop());

describe('the projections, rebuilt from the log beside the live ones', () => {
  it('are the live ones, row by row, and leave nothing behind', async () => {
    const tables = await compareWithRebuild(database.pool);
    expect(tables.map(({ table }) => table)).toEqual(PROJECTIONS);
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
    const json = await liventix(['replay', 'verify', '--book', '2', '--json'], { DATABASE_URL: database.url });
    expect(JSON.parse(json.stdout)).toMatchObject({
      equal: true,
      tables: expect.arrayContaining([
        expect.objectContaining({ table: 'accounts', rows: 1, rebuiltRows: 1, isEqual: true }),
      ]),
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
    const run = await liventix(['replay', 'verify'], { DATABASE_URL: database.url });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.match(/^same /gm)).toHaveLength(PROJECTIONS.length);
    expect(run.stdout).toContain('Every table is what the log gives.');
    const json = await liventix(['replay', 'verify', '--json'], { DATABASE_URL: database.url });
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
      expect(await liventix(['replay', 'verify'], { DATABASE_URL: copy.url })).toMatchObject({
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
  const tables = ['books', 'events', ...PROJECTIONS];
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
