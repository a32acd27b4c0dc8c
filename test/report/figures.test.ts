import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { type PeriodFigures, periodFigures, type Step } from '../../src/ledger/period-figures.ts';
import { closePeriod, previewPeriod } from '../../src/ledger/periods.ts';
import { parsePeriod } from '../../src/report/period.ts';
import { readReport } from '../../src/report/read.ts';
import { dropVerified, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';

let database: TestDatabase;
let slotted = 0;

beforeAll(async () => {
  database = await createDatabase();
  await fillDiverseBook(database.pool, 1);
  slotted = await openBook(database.pool, 'with slots');
  const [clearing = '', hot = ''] = await openAccounts(
    database.pool,
    [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'revenue', currency: 'USD', name: 'hot' },
    ],
    { bookId: slotted },
  );
  await addSlots(database.pool, { accountId: hot, slots: 4, bookId: slotted });
  // From connections of their own, which choose other slots; some on the other side.
  await Promise.all(
    Array.from({ length: 24 }, (_, at) =>
      post(
        database.pool,
        transfer(at % 3 === 0 ? hot : clearing, at % 3 === 0 ? clearing : hot, {
          amountCents: BigInt(at + 1) * 7n,
          effectiveAt: new Date(Date.UTC(2026, at % 3, 28, 12)),
        }),
        { bookId: slotted },
      ),
    ),
  );
  for (const effectiveAt of AROUND_CLOCK_CHANGES) {
    const posted = transfer(clearing, hot, { amountCents: 1n, effectiveAt: new Date(effectiveAt) });
    await post(database.pool, posted, { bookId: slotted });
  }
});
afterAll(() => dropVerified(database));

/** In both of Havana's midnights of 1 November, and before and after that of Cairo on 24 April, which there is not. */
const AROUND_CLOCK_CHANGES = [
  ...['2026-11-01T03:59:59Z', '2026-11-01T04:30:00Z', '2026-11-01T05:30:00Z'],
  ...['2026-04-23T21:59:59Z', '2026-04-23T22:00:00Z', '2026-04-24T21:00:00Z'],
];

const figuresOf = (request: { bookId: number; from: string; until: string; zone?: string; step?: Step }) =>
  withTransaction(database.pool, (tx) => periodFigures(tx, { zone: 'UTC', step: 'day', ...request }), ONE_SNAPSHOT);

interface Entry {
  readonly accountId: string;
  readonly type: string;
  readonly name: string;
  readonly currency: string;
  readonly cents: bigint;
  readonly at: string;
  readonly day: string;
  readonly transactionId: string;
}

/** Every entry of a book as it is: what is made of them is this test's own. An entry of a slot is its account's. */
async function entriesOf(bookId: number, zone: string): Promise<readonly Entry[]> {
  const { rows } = await database.pool.query<Entry>(
    `select a.id as "accountId", a.type, a.name, a.currency, e.amount_cents as cents, payments.instant_text(e.effective_at) as at,
            to_char(e.effective_at at time zone $2, 'YYYY-MM-DD') as day, e.transaction_id as "transactionId"
     from payments.entries e
     left join payments.account_slots k on k.book_id = e.book_id and k.slot_account_id = e.account_id
     join payments.accounts a on a.book_id = e.book_id and a.id = coalesce(k.account_id, e.account_id)
     where e.book_id = $1`,
    [bookId, zone],
  );
  return rows;
}

const sum = (of: readonly bigint[]) => of.reduce((total, each) => total + each, 0n);
const above = (of: readonly bigint[]) => sum(of.filter((cents) => cents > 0n));

function groups<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const found = new Map<string, T[]>();
  for (const item of items) found.set(keyOf(item), [...(found.get(keyOf(item)) ?? []), item]);
  return found;
}

function movementOf(entries: readonly Entry[], { from, until }: { from: string; until: string }) {
  const before = entries.filter(({ at }) => at < from).map(({ cents }) => cents);
  const within = entries.filter(({ at }) => at >= from && at < until).map(({ cents }) => cents);
  const accounts = [...groups(entries, ({ accountId }) => accountId).values()];
  const balances = accounts.map((of) => sum(of.filter(({ at }) => at < until).map(({ cents }) => cents)));
  const negated = (of: readonly bigint[]) => of.map((cents) => -cents);
  return {
    openingCents: sum(before),
    debitedCents: above(within),
    creditedCents: above(negated(within)),
    debits: BigInt(within.filter((cents) => cents > 0n).length),
    credits: BigInt(within.filter((cents) => cents < 0n).length),
    debitCents: above(balances),
    creditCents: above(negated(balances)),
    closingCents: sum(before) + sum(within),
  };
}

/** The same figures from the entries alone, one by one. */
function recomputed(
  all: readonly Entry[],
  { from, until, step = 'day' }: { from: string; until: string; step?: Step },
): Pick<PeriodFigures, 'currencies' | 'transactions' | 'entries'> {
  const span = { from, until };
  const known = all.filter(({ at }) => at < until);
  const within = known.filter(({ at }) => at >= from);
  const grouped = (of: readonly Entry[], key: (entry: Entry) => string) =>
    [...groups(of, key)].toSorted(([one], [other]) => (one < other ? -1 : 1));
  const first = {
    day: (day: string) => day,
    month: (day: string) => `${day.slice(0, 7)}-01`,
    year: (day: string) => `${day.slice(0, 4)}-01-01`,
  }[step];
  return {
    currencies: grouped(known, ({ currency }) => currency).map(([currency, of]) => ({
      currency,
      decimalPlaces: { USD: 2, JPY: 0, BHD: 3, CLF: 4 }[currency] ?? -1,
      types: grouped(of, ({ type }) => type).map(([type, ofType]) => ({
        type,
        normalSide: expect.stringMatching(/^(debit|credit)$/),
        accounts: BigInt(groups(ofType, ({ accountId }) => accountId).size),
        standing: BigInt(
          [...groups(ofType, ({ accountId }) => accountId).values()].filter(
            (each) => sum(each.map(({ cents }) => cents)) !== 0n,
          ).length,
        ),
        ...movementOf(ofType, span),
      })),
      total: movementOf(of, span),
      suspense: grouped(
        of.filter(({ type }) => type === 'suspense'),
        ({ name }) => name,
      ).map(([cause, ofCause]) => ({
        cause,
        ...movementOf(ofCause, span),
      })),
      turnover: grouped(
        of.filter(({ at }) => at >= from),
        ({ day }) => first(day),
      ).map(([day, ofDay]) => ({
        day,
        debitedCents: above(ofDay.map(({ cents }) => cents)),
        entries: BigInt(ofDay.length),
      })),
    })),
    transactions: BigInt(new Set(within.map(({ transactionId }) => transactionId)).size),
    entries: BigInt(within.length),
  };
}

/** By name: the database sorts types by its own collation. */
const sorted = ({ currencies, transactions, entries }: PeriodFigures) => ({
  currencies: currencies.map(({ types, suspense, ...rest }) => ({
    ...rest,
    types: types.toSorted((one, other) => (one.type < other.type ? -1 : 1)),
    suspense: suspense.toSorted((one, other) => (one.cause < other.cause ? -1 : 1)),
  })),
  transactions,
  entries,
});

describe('the figures of a period', () => {
  it.each([
    ['a month', { from: '2026-02-01T00:00:00.000000Z', until: '2026-03-01T00:00:00.000000Z' }],
    [
      'a month of another zone',
      { from: '2026-01-31T23:00:00.000000Z', until: '2026-02-28T23:00:00.000000Z', zone: 'Europe/Berlin' },
    ],
    [
      'a month with a day that has no midnight',
      { from: '2026-03-31T22:00:00.000000Z', until: '2026-04-30T21:00:00.000000Z', zone: 'Africa/Cairo' },
    ],
    [
      'a month that begins at the first of two midnights',
      { from: '2026-11-01T04:00:00.000000Z', until: '2026-12-01T05:00:00.000000Z', zone: 'America/Havana' },
    ],
    [
      'a month beyond the date line',
      { from: '2026-02-28T10:00:00.000000Z', until: '2026-03-31T10:00:00.000000Z', zone: 'Pacific/Kiritimati' },
    ],
    ['a year', { from: '2026-01-01T00:00:00.000000Z', until: '2027-01-01T00:00:00.000000Z' }],
    ['what was dated back before', { from: '2020-06-01T00:00:00.000000Z', until: '2020-07-01T00:00:00.000000Z' }],
    [
      'two centuries by months',
      { from: '1900-01-01T00:00:00.000000Z', until: '2100-01-01T00:00:00.000000Z', step: 'month' as const },
    ],
    [
      'all of it by years',
      { from: '0001-01-01T00:00:00.000000Z', until: '9999-12-31T00:00:00.000000Z', step: 'year' as const },
    ],
    ['the future', { from: '2199-12-01T00:00:00.000000Z', until: '2200-01-01T00:00:00.000000Z' }],
    ['a month in which nothing was', { from: '2024-02-01T00:00:00.000000Z', until: '2024-03-01T00:00:00.000000Z' }],
    ['before the beginning', { from: '1800-01-01T00:00:00.000000Z', until: '1800-02-01T00:00:00.000000Z' }],
  ])(
    'of %s are what its entries add up to, in each book',
    async (_, span: { from: string; until: string; zone?: string; step?: Step }) => {
      for (const bookId of [1, slotted]) {
        const figures = await figuresOf({ bookId, ...span });
        expect(sorted(figures)).toEqual(recomputed(await entriesOf(bookId, span.zone ?? 'UTC'), span));
      }
    },
  );

  it('are those that the period is closed with', async () => {
    for (const bookId of [1, slotted]) {
      const until = '2026-02-15T00:00:00.000000Z';
      const preview = await previewPeriod(database.pool, { until, bookId });
      const figures = await figuresOf({ bookId, from: '0001-01-01T00:00:00.000000Z', until, step: 'year' });
      const closed = await closePeriod(database.pool, { until, bookId });
      const balances = figures.currencies.flatMap(({ currency, types }) =>
        types.map(({ type, debitCents, creditCents, closingCents }) => ({
          currency,
          type,
          debitCents,
          creditCents,
          balanceCents: closingCents,
        })),
      );
      expect(closed.hash).toBe(preview.hash);
      expect(new Set(balances)).toEqual(new Set(closed.balances));
      expect(balances).toHaveLength(closed.balances.length);
      expect([figures.transactions, figures.entries]).toEqual([BigInt(closed.transactions), BigInt(closed.entries)]);
      expect(figures.lastPosition).toBe(BigInt(closed.lastPosition));
    }
  });

  it.each([
    ['2026-11', 'America/Havana', '2026-11-01T04:00:00.000000Z', '2026-12-01T05:00:00.000000Z'],
    ['2026-04-24..2026-04-24', 'Africa/Cairo', '2026-04-23T22:00:00.000000Z', '2026-04-24T21:00:00.000000Z'],
    ['2026-10', 'Europe/Berlin', '2026-09-30T22:00:00.000000Z', '2026-10-31T23:00:00.000000Z'],
    ['0001', 'Asia/Tokyo', '0001-01-01T00:00:00.000000Z', expect.stringMatching(/^0001-12-31T14:/)],
    ['9999-12', 'UTC', '9999-12-01T00:00:00.000000Z', '10000-01-01T00:00:00.000000Z'],
  ])('of %s in %s are from its first midnight until that after its last day', async (text, zone, from, until) => {
    const request = { bookId: slotted, period: parsePeriod(text), zone, version: 'test' };
    const { period } = await readReport(database.pool, { ...request, verification: async () => undefined });
    expect(period).toMatchObject({ from, until });
  });

  it('are refused of a book that is not there', async () => {
    await expect(
      figuresOf({ bookId: 404, from: '2026-01-01T00:00:00Z', until: '2026-02-01T00:00:00Z' }),
    ).rejects.toMatchObject({ code: 'LEDGER_BOOK_UNKNOWN' });
  });
});
