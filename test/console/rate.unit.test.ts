import { expect, it } from 'vitest';
import { startRate } from '../../src/console/rate.ts';

const looks = (...seen: readonly (readonly [atMs: number, amount: bigint])[]) => {
  let at = 0;
  const rate = startRate(() => at);
  return seen.map(([atMs, amount]) => {
    at = atMs;
    return rate.seen(amount);
  });
};

it('is known from the second look on that lies a second apart', () => {
  expect(looks([0, 100n], [500, 150n], [2_000, 300n])).toEqual([undefined, undefined, 100]);
});

it('is of the last minute', () => {
  expect(looks([0, 0n], [50_000, 1_000n], [100_000, 1_500n])).toEqual([undefined, 20, 10]);
});

it('begins anew where there is less than before', () => {
  expect(looks([0, 1_000n], [10_000, 10n], [12_000, 30n])).toEqual([undefined, undefined, 10]);
});
