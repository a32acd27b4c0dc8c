import type { Spread } from './recording.ts';

const sorted = (values: readonly number[]): readonly number[] => values.toSorted((one, other) => one - other);

/** The value below which a share of all lies, the nearest that there is; 0 of none. */
export function quantile(values: readonly number[], share: number): number {
  const ordered = sorted(values);
  return ordered[Math.min(ordered.length - 1, Math.max(0, Math.ceil(share * ordered.length) - 1))] ?? 0;
}

export const spreadOf = (values: readonly number[]): Spread => ({
  p50: quantile(values, 0.5),
  p90: quantile(values, 0.9),
  p99: quantile(values, 0.99),
  max: quantile(values, 1),
});

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Standard deviations to each side of the middle that hold 95 %. */
const Z = 1.96;

/**
 * Where the true median lies with a confidence of 95 %, whatever the times are distributed like: between two of the values themselves, by how
 * often a fair coin falls (order statistics). Of fewer than six values, between the first and the last.
 */
export function medianInterval(values: readonly number[]): Interval {
  const ordered = sorted(values);
  const { length } = ordered;
  const reach = (Z * Math.sqrt(length)) / 2;
  const at = (place: number): number => ordered[Math.min(length - 1, Math.max(0, place))] ?? 0;
  return { low: at(Math.floor(length / 2 - reach) - 1), high: at(Math.ceil(length / 2 + reach)) };
}

export interface Ratio extends Interval {
  /** How many times as fast it became: of the medians. */
  readonly ratio: number;
}

/** Below that a clock tells nothing: it keeps a quotient from running away. */
const LEAST_MS = 0.001;

/** As far apart as the two medians may be, and as close. */
export function ratioOf(before: readonly number[], after: readonly number[]): Ratio {
  const [former, latter] = [medianInterval(before), medianInterval(after)];
  const over = (one: number, other: number): number => Math.max(one, LEAST_MS) / Math.max(other, LEAST_MS);
  return {
    ratio: over(quantile(before, 0.5), quantile(after, 0.5)),
    low: over(former.low, latter.high),
    high: over(former.high, latter.low),
  };
}
