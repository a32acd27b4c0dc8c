import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { glance } from '../../src/ledger/glance.ts';
import { GUARD_FAULTS, GUARDS } from '../../src/ledger/guards.ts';
import { postJson } from '../../src/ledger/ledger.ts';
import { rowsOf } from '../../src/ledger/scope.ts';
import { CURRENCIES_BY_EXPONENT, NORMAL_SIDES } from '../../src/ledger/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { BOOK_TAMPERINGS, fillOpenedBooks, OPENED_BOOK } from '../support/tamperings/books.ts';
import { FUNCTION_TAMPERINGS, GUARD_TAMPERINGS, IN_PLACE } from '../support/tamperings/guards.ts';
import { fillLogBooks, LOG_TAMPERINGS, type LogBooks } from '../support/tamperings/log.ts';
import { disguised, expectFound, expectSound, undone, VERIFICATIONS } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let books: LogBooks;
beforeAll(async () => {
  database = await createDatabase();
  books = await fillLogBooks(database.pool);
});
afterAll(() => database.drop());

describe('books verify, and the independent verification too,', () => {
  it('find nothing where nothing was tampered with', () => expectSound(database.pool));

  it.each(LOG_TAMPERINGS)('find, and name its cause first and the row: %s', (...tampering) =>
    expectFound(database.pool, books, tampering),
  );
});

describe('books verify, and the independent verification too, of several books,', () => {
  let several: TestDatabase;
  beforeAll(async () => {
    several = await createDatabase();
    await fillOpenedBooks(several.pool);
  });
  afterAll(() => several.drop());

  it('find nothing where nothing was tampered with', () => expectSound(several.pool));

  it.each(BOOK_TAMPERINGS)('find, and name the book: %s', (...tampering) =>
    expectFound(several.pool, undefined, tampering, OPENED_BOOK),
  );
});

it('a glance clears amounts that were written with zeros before them, in transactions of two legs and of more', () =>
  undone(database.pool, async (tx) => {
    const { clearing, wallet } = books.accounts;
    const padded = (...legs: [string, string][]) => ({
      entries: legs.map(([account_id, amount_cents]) => ({ account_id, amount_cents, currency: 'USD' })),
    });
    const posted = await postJson(
      tx,
      JSON.stringify([
        padded([clearing, '007'], [wallet, '-0007']),
        padded([clearing, '03'], [clearing, '04'], [wallet, '-7']),
      ]),
    );
    expect(posted).toMatchObject([{ status: 'posted' }, { status: 'posted' }]);
    expect(await glance(tx, rowsOf({}))).toEqual({
      isUnchanged: true,
      isAsPosted: true,
      isBalanced: true,
      isCarried: true,
    });
  }));

describe('what follows from a changed amount', () => {
  it('is named as well, by both: the sums of its transaction and its book, the history and the balance of its account', () =>
    undone(database.pool, async (tx) => {
      await tx.query(
        disguised(
          `update payments.entries set amount_cents = amount_cents + 1 where account_id = '${books.accounts.wallet}' and account_seq = 5`,
        ),
      );
      for (const { by, verify } of VERIFICATIONS) {
        const failed = (await verify(tx, 1)).filter(({ holds }) => !holds);
        expect(
          failed.map(({ check, first }) => [check, first[0]]),
          by,
        ).toEqual([
          ['the entries are what the log posted', expect.stringMatching(/amount_cents is -99, posted was -100$/)],
          ['every transaction sums to zero per currency', expect.stringMatching(/^transaction \S+ sums to 1 USD$/)],
          ['every book sums to zero per currency', 'book 1 sums to 1 USD'],
          [
            'every account numbers its entries without gaps and carries its balance',
            expect.stringMatching(/is number 5 of account \S+ with balance -500 after it, expected number 5 and -499$/),
          ],
          [
            'every balance is the sum of its entries',
            `account ${books.accounts.wallet} has balance -500 after 5 entries, its 5 entries sum to -499`,
          ],
        ]);
      }
    }));
});

describe('a guard that is not in place', () => {
  // Since a seal they are asked for by the same query.
  const OF_GUARDS = VERIFICATIONS.filter(({ by }) => !by.includes('--since'));

  it.each(GUARD_TAMPERINGS)('is named, with the SQL that puts it back: $guard, $how', ({ guard, sql, state }) =>
    undone(database.pool, async (tx) => {
      await tx.query(`${sql}; savepoint tampered`);
      for (const { by, verify } of OF_GUARDS) {
        const [guards] = await verify(tx, 1);
        expect(guards, by).toMatchObject({ check: IN_PLACE, holds: false });
        const faults = guards?.first.map((fault) => fault.split('; put it back: ')) ?? [];
        expect(faults[0]?.[0], by).toBe(`${guard} ${state}`);
        // With a key go the foreign keys to it.
        for (const [what] of faults.slice(1))
          expect(what, by).toMatch(/^constraint \w+_fkey on payments\.\w+ is missing$/);
        for (const [, repair = ''] of faults) await tx.query(repair);
        expect((await tx.query(GUARD_FAULTS)).rows, by).toEqual([]);
        await tx.query('rollback to savepoint tampered');
      }
    }),
  );

  /** What each verification says of the guards after something was done. */
  const guardsAfter = (sql: string) =>
    undone(database.pool, async (tx) => {
      await tx.query(sql);
      const guards = [];
      for (const { verify } of OF_GUARDS) guards.push((await verify(tx, 1))[0]);
      return guards;
    });

  it.each(['public, payments', 'payments', 'pg_catalog'])('is in place whatever the search_path: %s', async (path) => {
    for (const guards of await guardsAfter(`set local search_path = ${path}`)) {
      expect(guards).toMatchObject({ check: IN_PLACE, holds: true, first: [] });
    }
  });

  it('is named when it runs a function of the same name from another schema', async () => {
    const sql = `create schema elsewhere;
       create function elsewhere.refuse_change() returns trigger language plpgsql as 'begin return new; end';
       drop trigger events_append_only on payments.events;
       create trigger events_append_only before delete or update or truncate on payments.events
         for each statement execute function elsewhere.refuse_change();
       alter table payments.events enable always trigger events_append_only;
       set local search_path = elsewhere`;
    for (const guards of await guardsAfter(sql)) {
      expect(guards?.first).toEqual([
        expect.stringMatching(/^trigger events_append_only on payments\.events was replaced by another; put it back: /),
      ]);
    }
  });

  it.each([
    'alter index payments.entries_pkey set (fillfactor = 90)',
    'alter index payments.events_idempotency_key set (fillfactor = 90)',
    'alter table payments.events validate constraint events_type_values',
  ])('is in place however it is stored or was checked: %s', async (sql) => {
    for (const guards of await guardsAfter(sql)) expect(guards).toMatchObject({ holds: true, first: [] });
  });

  it.each(FUNCTION_TAMPERINGS)(
    'is named when its function was given another body, other settings or another owner, with where it comes from: %s',
    (...tampering) => expectFound(database.pool, books, tampering),
  );

  it('is named also when all are gone', async () => {
    const sql = GUARDS.map(({ table, trigger }) => `drop trigger ${trigger} on payments.${table}`).join('; ');
    for (const guards of await guardsAfter(sql)) expect(guards?.first).toHaveLength(GUARDS.length);
  });
});

describe('the chart of accounts', () => {
  const CHART = 'the chart of accounts is what the migrations say';
  /** What each verification says of the chart after something was done. */
  const chartAfter = (sql: string) =>
    undone(database.pool, async (tx) => {
      await tx.query(sql);
      const charts = [];
      for (const { verify } of VERIFICATIONS) charts.push((await verify(tx, 1)).find(({ check }) => check === CHART));
      return charts;
    });

  it('is named where a type has another normal side, which turns the balances of its accounts', async () => {
    const sql = disguised(
      `update payments.account_types set normal_side = 'debit' where type = 'cash'; delete from payments.account_types where type = 'taxes'`,
    );
    for (const chart of await chartAfter(sql)) {
      expect(chart?.first).toEqual([
        'account type cash has the normal side debit, expected credit',
        'account type taxes is missing',
      ]);
    }
  });

  it('is named where a currency that an account has got another exponent, and no other is', async () => {
    for (const chart of await chartAfter(`update ref.currencies set decimal_places = 3 where code in ('JPY', 'EUR')`)) {
      expect(chart?.first).toEqual(['currency JPY has 3 decimal places, expected 0']);
    }
  });

  it('may be added to', async () => {
    const sql = `insert into payments.account_types (type, normal_side, description) values ('deposits', 'credit', 'ours');
      insert into ref.currencies (code, name, symbol, decimal_places) values ('QQQ', 'ours', 'Q', 3)`;
    for (const chart of await chartAfter(sql)) expect(chart).toMatchObject({ holds: true, first: [] });
  });

  it('is on a fresh database what the books are verified with', async () => {
    const { rows: types } = await database.pool.query<{ type: string; side: 'debit' | 'credit' }>(
      'select type, normal_side as side from payments.account_types',
    );
    expect(Object.fromEntries(types.map(({ type, side }) => [type, side]))).toEqual(NORMAL_SIDES);
    const { rows: currencies } = await database.pool.query<{ places: number; codes: string }>(
      `select decimal_places as places, string_agg(code, ' ' order by code) as codes from ref.currencies group by decimal_places`,
    );
    expect(Object.fromEntries(currencies.map(({ places, codes }) => [places, codes]))).toEqual(CURRENCIES_BY_EXPONENT);
  });
});
