import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

function run(...flags: string[]) {
  return liventix(['books', 'trial-balance', ...flags], { DATABASE_URL: database.url });
}

describe('books trial-balance on an empty ledger', () => {
  it('says that there are no accounts, and exits with 0', async () => {
    expect(await run()).toEqual({ exitCode: 0, stderr: '', stdout: 'Book 1 has no accounts.\n' });
    expect(await run('--json')).toEqual({
      exitCode: 0,
      stderr: '',
      stdout: '{"book":1,"balance":true,"currencies":[]}\n',
    });
  });
});

describe('books trial-balance', () => {
  beforeAll(async () => {
    const { clearing, wallet, revenue, yen } = await openTestAccounts(database.pool);
    const [yenSales = '', drift = '', forged = '', _untouched] = await openAccounts(database.pool, [
      { type: 'revenue', currency: 'JPY', name: 'sales' },
      { type: 'suspense', currency: 'USD', name: 'drift' },
      { type: 'suspense', currency: 'USD', name: 'forged_row' },
      { type: 'suspense', currency: 'USD', name: 'never_posted_to' },
    ]);
    await post(database.pool, transfer(clearing, wallet, { amountCents: 123_456n }));
    await post(database.pool, transfer(wallet, revenue, { amountCents: 23_400n }));
    await post(database.pool, transfer(drift, wallet, { amountCents: 500n }));
    await post(database.pool, transfer(wallet, forged, { amountCents: 70n }));
    await post(database.pool, transfer(yen, yenSales, { amountCents: 1_500n, currency: 'JPY' }));
  });

  it('prints debits, credits and balance by type and currency, suspense by cause, and the zero it comes to', async () => {
    expect(await run()).toEqual({
      exitCode: 0,
      stderr: '',
      stdout: `\
Trial balance, JPY                     debit          credit         balance
  receivable                           1,500               0           1,500
  revenue                                  0           1,500          -1,500
  total                                1,500           1,500               0

Trial balance, USD                     debit          credit         balance
  cash                                  0.00        1,004.86       -1,004.86
  receivable                        1,234.56            0.00        1,234.56
  revenue                               0.00          234.00         -234.00
  suspense                              5.00            0.70            4.30
  total                             1,239.56        1,239.56            0.00
Of suspense, by cause
  drift                                 5.00            0.00            5.00
  forged_row                            0.00            0.70           -0.70

Every currency sums to zero.
`,
    });
  });

  it('says the same to machines', async () => {
    const { exitCode, stdout } = await run('--json');
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      book: 1,
      balance: true,
      currencies: [
        { currency: 'JPY', decimalPlaces: 0, debitCents: 1_500, creditCents: 1_500, balanceCents: 0, suspense: [] },
        {
          currency: 'USD',
          decimalPlaces: 2,
          lines: [
            { type: 'cash', accounts: 1, debitCents: 0, creditCents: 100_486, balanceCents: -100_486 },
            { type: 'receivable', accounts: 1, debitCents: 123_456, creditCents: 0, balanceCents: 123_456 },
            { type: 'revenue', accounts: 1, debitCents: 0, creditCents: 23_400, balanceCents: -23_400 },
            { type: 'suspense', accounts: 3, debitCents: 500, creditCents: 70, balanceCents: 430 },
          ],
          suspense: [
            { cause: 'drift', debitCents: 500, creditCents: 0, balanceCents: 500 },
            { cause: 'forged_row', debitCents: 0, creditCents: 70, balanceCents: -70 },
          ],
          debitCents: 123_956,
          creditCents: 123_956,
          balanceCents: 0,
        },
      ],
    });
  });

  describe('of another book', () => {
    beforeAll(async () => {
      await database.pool.query(`insert into payments.books (book_id, name) values (2, 'other')`);
      const other = { bookId: 2 };
      const [cash = '', sales = ''] = await openAccounts(
        database.pool,
        [
          { type: 'receivable', currency: 'EUR', name: 'clearing' },
          { type: 'revenue', currency: 'EUR', name: 'sales' },
        ],
        other,
      );
      await post(database.pool, transfer(cash, sales, { currency: 'EUR' }), other);
    });

    it('shows that book alone', async () => {
      const { exitCode, stdout } = await run('--book', '2', '--json');
      expect(exitCode).toBe(0);
      const { book, currencies } = JSON.parse(stdout) as { book: number; currencies: { currency: string }[] };
      expect(book).toBe(2);
      expect(currencies.map(({ currency }) => currency)).toEqual(['EUR']);
    });

    it('is refused where there is no such book', async () => {
      expect(await run('--book', '99')).toMatchObject({
        exitCode: 2,
        stdout: '',
        stderr: expect.stringMatching(/^liventix: LEDGER_BOOK_UNKNOWN: Book 99 does not exist\.[^\n]*\n$/),
      });
    });
  });

  describe('when a balance was changed behind the guards', () => {
    const change = (cents: number) =>
      database.pool.query(`
        begin;
        alter table payments.balances disable trigger user;
        update payments.balances b set balance_cents = balance_cents + (${cents})
        from payments.accounts a where (a.book_id, a.id) = (b.book_id, b.account_id) and a.type = 'cash';
        commit`);
    beforeEach(async () => {
      await change(-1);
      return () => change(1);
    });

    it('exits with 1, and says which currency does not sum to zero, and by how much', async () => {
      const text = await run();
      expect(text).toMatchObject({ exitCode: 1, stderr: '' });
      expect(text.stdout).toMatch(/\n {2}total +1,239\.56 +1,239\.57 +-0\.01\n/);
      expect(text.stdout).toMatch(/\n\nUSD sums to -0\.01, not to zero\. See why: liventix books verify\n$/);
      const machine = await run('--json');
      expect(machine.exitCode).toBe(1);
      expect(JSON.parse(machine.stdout)).toMatchObject({
        balance: false,
        currencies: [{ balanceCents: 0 }, { balanceCents: -1 }],
      });
    });
  });

  it('exits with 3 when it could not find out', async () => {
    const url = Object.assign(new URL(database.url), { port: '1' });
    expect(await liventix(['books', 'trial-balance'], { DATABASE_URL: url.href })).toMatchObject({
      exitCode: 3,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: DB_UNREACHABLE: [^\n]*\n$/),
    });
  });
});

it('adds up what passes 64 bits, as no single balance does', async () => {
  const MAX = 9_223_372_036_854_775_807n;
  await database.pool.query(`insert into payments.books (book_id, name) values (3, 'rich')`);
  const rich = { bookId: 3 };
  const [a = '', b = '', c = '', d = ''] = await openAccounts(
    database.pool,
    ['first', 'second'].flatMap((name) => [
      { type: 'receivable', currency: 'USD', name },
      { type: 'payable', currency: 'USD', name },
    ]),
    rich,
  );
  await post(database.pool, transfer(a, b, { amountCents: MAX }), rich);
  await post(database.pool, transfer(c, d, { amountCents: MAX }), rich);
  expect(await trialBalance(database.pool, rich)).toMatchObject([
    { debitCents: 2n * MAX, creditCents: 2n * MAX, balanceCents: 0n },
  ]);
  expect((await run('--book', '3')).stdout).toMatch(
    /\n {2}total +184,467,440,737,095,516\.14 +184,467,440,737,095,516\.14 +0\.00\n/,
  );
});
