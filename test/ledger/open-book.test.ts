import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { listBooks, openBook } from '../../src/ledger/books.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { dropVerified, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
});
afterAll(() => dropVerified(database));

describe('opening a book', () => {
  it('gives it the next number, and the same one to whoever asks again', async () => {
    expect(await openBook(database.pool, 'EU')).toBe(2);
    expect(await openBook(database.pool, '  EU\n')).toBe(2);
    expect(await openBook(database.pool, 'main')).toBe(1);
    expect(await openBook(database.pool, 'eu')).toBe(3);
    expect(await listBooks(database.pool)).toMatchObject([
      { bookId: 1, name: 'main', accounts: 0n },
      { bookId: 2, name: 'EU', accounts: 0n },
      { bookId: 3, name: 'eu', accounts: 0n },
    ]);
  });

  it('begins its log with an event that says so, once', async () => {
    const bookId = await openBook(database.pool, 'logged');
    await openBook(database.pool, 'logged');
    const { rows } = await database.pool.query('select type, payload from payments.events where book_id = $1', [
      bookId,
    ]);
    expect(rows).toEqual([{ type: 'book.opened', payload: { name: 'logged' } }]);
  });

  it('is undone with the transaction that it is in', async () => {
    const before = await listBooks(database.pool);
    const undone = withTransaction(database.pool, async (tx) => {
      await openBook(tx, 'undone');
      throw new Error('the caller changed its mind');
    });
    await expect(undone).rejects.toThrow('changed its mind');
    expect(await listBooks(database.pool)).toEqual(before);
  });

  it('lets 16 open at once: as many books as names, each number once', async () => {
    const before = (await listBooks(database.pool)).length;
    const names = Array.from({ length: 16 }, (_, index) => `raced ${index % 8}`);
    const ids = await Promise.all(names.map((name) => withTransaction(database.pool, (tx) => openBook(tx, name))));
    expect(new Set(ids).size).toBe(8);
    for (const [index, id] of ids.entries()) expect(id).toBe(ids[index % 8]);
    expect((await listBooks(database.pool)).map(({ bookId }) => bookId)).toEqual(
      Array.from({ length: before + 8 }, (_, index) => index + 1),
    );
  });

  it.each([
    ['no name', ''],
    ['a blank one', ' \t\n '],
    ['one of 101 characters', 'x'.repeat(101)],
    ['one with a line break', 'two\nlines'],
    ['one that moves the cursor', 'a\u001b[2Jb'],
  ])('refuses %s, in one line', async (_what, name) => {
    const failure = await openBook(database.pool, name).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringMatching(/^A book cannot be called "[^\n]*$/),
    });
  });

  it('refuses null, and takes 100 characters of any kind', async () => {
    await expect(database.pool.query('select payments.open_book(null)')).rejects.toMatchObject({ code: 'LV001' });
    const name = `'; drop table payments.books; -- ${'🎟'.repeat(67)}`;
    const bookId = await openBook(database.pool, name);
    expect((await listBooks(database.pool)).find((book) => book.bookId === bookId)?.name).toBe(name);
  });

  it('is for the owner: no server role may', async () => {
    const { rows } = await database.pool.query(
      `select rolname from pg_roles
       where rolname in ('anon', 'authenticated', 'service_role')
         and has_function_privilege(rolname, 'payments.open_book(text)', 'execute')`,
    );
    expect(rows).toEqual([]);
  });
});

it('a book sums to zero by itself: what is posted in one is in no other', async () => {
  const bookId = await openBook(database.pool, 'by itself');
  const wanted = [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'revenue', currency: 'USD', name: 'sales' },
  ];
  const [a = '', b = ''] = await openAccounts(database.pool, wanted, { bookId });
  await post(database.pool, transfer(a, b), { bookId });
  await expect(post(database.pool, transfer(a, b))).rejects.toMatchObject({ code: 'LEDGER_ACCOUNT_UNKNOWN' });
  expect(await trialBalance(database.pool, { bookId })).toMatchObject([{ debitCents: 100n, creditCents: 100n }]);
  expect(await trialBalance(database.pool)).toEqual([]);
});
