import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NewTransaction, openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { balanceOf, verifyBooks } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const CURRENCIES = ['USD', 'JPY', 'BHD'] as const;
const ACCOUNTS_A_CURRENCY = 4;
const RUNS = process.env['LIVENTIX_DRILLS'] === 'full' ? 200 : 25;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

/** One leg: which account of its currency, and how much. */
const leg = fc.record({
  currency: fc.integer({ min: 0, max: CURRENCIES.length - 1 }),
  account: fc.integer({ min: 0, max: ACCOUNTS_A_CURRENCY - 1 }),
  amountCents: fc.bigInt({ min: -1_000_000_000n, max: 1_000_000_000n }),
});
const transaction = fc.record({
  legs: fc.array(leg, { minLength: 1, maxLength: 6 }),
  /** Whether a closing leg per currency makes it balance. */
  isClosed: fc.boolean(),
  key: fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined }),
});

interface Model {
  readonly balances: Map<string, bigint>;
  readonly bodies: Map<string, string>;
}

describe('whatever is posted', () => {
  it('the database decides as the model does, and every invariant holds after every call', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(transaction, { maxLength: 8 }), { maxLength: 4 }), async (calls) => {
        const scope = `run-${Math.random()}`;
        const ids = await openAccounts(
          database.pool,
          CURRENCIES.flatMap((currency) =>
            Array.from({ length: ACCOUNTS_A_CURRENCY }, (_, index) => ({
              type: 'payable',
              currency,
              name: `p${index}`,
            })),
          ),
        );
        const model: Model = { balances: new Map(), bodies: new Map() };
        for (const id of ids) model.balances.set(id, await balanceOf(database.pool, id));
        for (const call of calls) {
          const requests = call.map((plan) => toRequest(plan, ids, scope));
          const outcomes = await postAll(database.pool, requests);
          expect(outcomes.map((outcome) => outcome.status)).toEqual(requests.map((request) => decide(model, request)));
        }
        for (const [id, balance] of model.balances) expect(await balanceOf(database.pool, id)).toBe(balance);
        for (const balance of await trialBalance(database.pool)) expect(balance.debitCents).toBe(balance.creditCents);
        expect((await verifyBooks(database.pool)).filter((check) => !check.holds)).toEqual([]);
      }),
      { numRuns: RUNS, verbose: 1 },
    );
  });
});

type Plan = typeof transaction extends fc.Arbitrary<infer T> ? T : never;

function toRequest(plan: Plan, ids: readonly string[], scope: string): NewTransaction {
  const idOf = (currency: number, account: number) => ids[currency * ACCOUNTS_A_CURRENCY + account] ?? '';
  const entries = plan.legs.map((each) => ({
    accountId: idOf(each.currency, each.account),
    amountCents: each.amountCents,
    currency: CURRENCIES[each.currency] ?? 'USD',
  }));
  const closing = CURRENCIES.flatMap((currency, index) => {
    const sum = entries
      .filter((entry) => entry.currency === currency)
      .reduce((total, entry) => total + entry.amountCents, 0n);
    return sum === 0n || !plan.isClosed ? [] : [{ accountId: idOf(index, 0), amountCents: -sum, currency }];
  });
  return {
    entries: [...entries, ...closing],
    ...(plan.key === undefined ? {} : { idempotencyKey: `k${plan.key}`, idempotencyScope: scope }),
  };
}

/** The rules in ten lines: what the database must answer, and what it must then hold. */
function decide(model: Model, request: NewTransaction): 'posted' | 'duplicate' | 'rejected' {
  const sums = new Map<string, bigint>();
  for (const { currency, amountCents } of request.entries) sums.set(currency, (sums.get(currency) ?? 0n) + amountCents);
  const isSound = request.entries.length >= 2 && request.entries.every((entry) => entry.amountCents !== 0n);
  if (!isSound || [...sums.values()].some((sum) => sum !== 0n)) return 'rejected';
  const body = JSON.stringify(request.entries.map((entry) => [entry.accountId, entry.amountCents.toString()]));
  const known = request.idempotencyKey === undefined ? undefined : model.bodies.get(request.idempotencyKey);
  if (known !== undefined) return known === body ? 'duplicate' : 'rejected';
  if (request.idempotencyKey !== undefined) model.bodies.set(request.idempotencyKey, body);
  for (const { accountId, amountCents } of request.entries) {
    model.balances.set(accountId, (model.balances.get(accountId) ?? 0n) + amountCents);
  }
  return 'posted';
}
