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

/** What may lie outside, on each side. */
const TAIL = 0.025;
/** Standard deviations to each side of the middle that leave that outside. */
const Z = 1.96;
/** Up to there the odds are counted out; of more values they are as good as normal. */
const COUNTED_OUT = 1_000;

/**
 * Where the true median lies with a confidence of 95 %, whatever the times are distributed like: between two of the values themselves, by how
 * often a fair coin falls (order statistics). Of fewer than six values, which do not give as much (`levelOf`), between the first and the last.
 */
export function medianInterval(values: readonly number[]): Interval {
  const ordered = sorted(values);
  const { outside } = leftOutside(ordered.length);
  return { low: ordered[outside] ?? 0, high: ordered[ordered.length - 1 - outside] ?? 0 };
}

/** How sure that interval is of so many values: 0.75 of three, 0.95 and more of six. */
export const levelOf = (count: number): number => Math.max(0, 1 - 2 * leftOutside(count).odds);

/** How many of so many values lie outside on each side, and how often as few heads fall: once in forty times where there are six or more. */
function leftOutside(count: number): { readonly outside: number; readonly odds: number } {
  if (count > COUNTED_OUT) return { outside: Math.floor((count - Z * Math.sqrt(count)) / 2) - 1, odds: TAIL };
  let outside = 0;
  let odds = 0.5 ** count;
  for (let next = odds * count; odds + next <= TAIL; next = (next * (count - outside)) / (outside + 1)) {
    outside += 1;
    odds += next;
  }
  return { outside, odds };
}

export interface Ratio extends Interval {
  /** How many times as fast it became: of the medians. */
  readonly ratio: number;
  /** How sure it is that it lies between `low` and `high`. */
  readonly level: number;
}

/** Below that a clock tells nothing: it keeps a quotient from running away. */
const LEAST_MS = 0.001;

/**
 * Of rounds, each of which has one time for each set of values, one time a round: the geometric mean, so that a set counts by how many times as
 * fast it became, and not by how long it takes.
 */
export const timesOf = (rounds: readonly (readonly number[])[]): readonly number[] =>
  rounds.map((each) => Math.exp(each.reduce((sum, ms) => sum + Math.log(Math.max(ms, LEAST_MS)), 0) / each.length));

/** As far apart as the two medians may be, and as close. */
export function ratioOf(before: readonly number[], after: readonly number[]): Ratio {
  const [former, latter] = [medianInterval(before), medianInterval(after)];
  const over = (one: number, other: number): number => Math.max(one, LEAST_MS) / Math.max(other, LEAST_MS);
  return {
    ratio: over(quantile(before, 0.5), quantile(after, 0.5)),
    low: over(former.low, latter.high),
    high: over(former.high, latter.low),
    level: Math.min(levelOf(before.length), levelOf(after.length)),
  };
}
