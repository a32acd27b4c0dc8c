import { invalid, shown } from './input.ts';

/** Of so many weights a message tells. */
const MAX_SHOWN = 10;

/**
 * Splits an amount by weights into whole cents, none lost: the parts sum to the amount, and each is less than one cent from
 * its exact share. The largest remainder method (Hamilton's); of equal remainders the first gets the cent. As
 * `payments.split_amount` does in SQL.
 * @param weights not negative, not all zero: `[97n, 3n]` for a fee of 3 %
 * @throws AppError LEDGER_INVALID
 */
export function splitAmount(amountCents: bigint, weights: readonly bigint[]): bigint[] {
  if (typeof amountCents !== 'bigint') throw invalid(`${shown(amountCents)} cannot be split: give a bigint.`);
  if (!Array.isArray(weights) || weights.some((weight) => typeof weight !== 'bigint')) {
    throw invalid('Weights are given as an array of bigints, and nothing else.');
  }
  const total = weights.reduce((sum, weight) => sum + weight, 0n);
  if (total <= 0n || weights.some((weight) => weight < 0n)) {
    throw invalid(
      `Weights ${weights.slice(0, MAX_SHOWN).join(', ') || '(none)'} cannot split an amount: none may be negative, and one must be above 0.`,
    );
  }
  const sign = amountCents < 0n ? -1n : 1n;
  const amount = amountCents * sign;
  const shares = weights.map((weight, nth) => ({
    nth,
    part: (amount * weight) / total,
    remainder: (amount * weight) % total,
  }));
  const short = amount - shares.reduce((sum, { part }) => sum + part, 0n);
  // toSorted is stable: of equal remainders the first stays first.
  const byRemainder = shares.toSorted((a, b) => (a.remainder < b.remainder ? 1 : a.remainder > b.remainder ? -1 : 0));
  const lucky = new Set(byRemainder.slice(0, Number(short)).map(({ nth }) => nth));
  return shares.map(({ nth, part }) => sign * (part + (lucky.has(nth) ? 1n : 0n)));
}
