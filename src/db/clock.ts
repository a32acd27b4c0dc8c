import type { Queryable } from './pool.ts';

/** One look at both clocks, in milliseconds since 1970. */
export interface ClockSample {
  readonly sentAtMs: number;
  readonly serverAtMs: number;
  readonly receivedAtMs: number;
}

export async function sampleClock(db: Queryable, now: () => number): Promise<ClockSample> {
  const sentAtMs = now();
  const { rows } = await db.query<{ at: number }>('select extract(epoch from clock_timestamp())::float8 * 1000 as at');
  return { sentAtMs, serverAtMs: rows[0]?.at ?? Number.NaN, receivedAtMs: now() };
}

/**
 * How far the server's clock is ahead of ours, by the sample with the shortest round trip: the server looked at its
 * clock some time during it, so the middle is wrong by half of it at most (as in RFC 5905), and by the millisecond
 * that our own clock counts in.
 */
export function clockSkew(samples: readonly ClockSample[]): {
  readonly aheadMs: number;
  readonly errorMs: number;
  readonly sample: ClockSample;
} {
  const [sample] = samples.toSorted((a, b) => roundTripMs(a) - roundTripMs(b));
  if (sample === undefined) throw new RangeError('no sample');
  const middleMs = (sample.sentAtMs + sample.receivedAtMs) / 2;
  return { aheadMs: sample.serverAtMs - middleMs, errorMs: roundTripMs(sample) / 2 + 1, sample };
}

function roundTripMs(sample: ClockSample): number {
  return sample.receivedAtMs - sample.sentAtMs;
}
