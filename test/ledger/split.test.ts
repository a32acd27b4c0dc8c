import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { splitAmount } from '../../src/ledger/split.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const MAX = 2n ** 63n - 1n;

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const amount = fc.bigInt({ min: -MAX, max: MAX });
const weights = fc
  .array(fc.oneof(fc.bigInt({ min: 0n, max: 100n }), fc.bigInt({ min: 0n, max: MAX })), { minLength: 1, maxLength: 12 })
  .filter((all) => all.some((weight) => weight > 0n));

it('loses no cent, and gives each part its exact share to within one', () => {
  fc.assert(
    fc.property(amount, weights, (cents, shares) => {
      const parts = splitAmount(cents, shares);
      const total = shares.reduce((sum, share) => sum + share, 0n);
      expect(parts.reduce((sum, part) => sum + part, 0n)).toBe(cents);
      parts.forEach((part, nth) => {
        const off = part * total - cents * (shares[nth] ?? 0n);
        expect(off < 0n ? -off : off).toBeLessThan(total);
      });
    }),
    { verbose: 1 },
  );
});

it('is the same in SQL and in TypeScript', async () => {
  await fc.assert(
    fc.asyncProperty(amount, weights, async (cents, shares) => {
      const { rows } = await database.pool.query<{ parts: string[] }>(
        'select payments.split_amount($1, $2)::text[] as parts',
        [cents, shares],
      );
      expect(rows[0]?.parts.map(BigInt)).toEqual(splitAmount(cents, shares));
    }),
    { verbose: 1 },
  );
});

it.each([
  ['a fee of 3 %', 1_001n, [97n, 3n], [971n, 30n]],
  ['a third each', 100n, [1n, 1n, 1n], [34n, 33n, 33n]],
  ['a refund', -100n, [1n, 1n, 1n], [-34n, -33n, -33n]],
  ['nothing', 0n, [1n, 2n], [0n, 0n]],
  ['one cent', 1n, [1n, 1n], [1n, 0n]],
  ['a weight of zero', 10n, [0n, 1n], [0n, 10n]],
])('splits %s', (_what, cents, shares, parts) => {
  expect(splitAmount(cents, shares)).toEqual(parts);
});

it.each<[string, bigint[]]>([
  ['no weights', []],
  ['weights of zero', [0n, 0n]],
  ['a negative weight', [1n, -1n]],
])('refuses %s in both', async (_what, shares) => {
  expect(() => splitAmount(1n, shares)).toThrow(expect.objectContaining({ code: 'LEDGER_INVALID' }));
  await expect(database.pool.query('select payments.split_amount(1, $1)', [shares])).rejects.toMatchObject({
    code: 'LV001',
  });
});
