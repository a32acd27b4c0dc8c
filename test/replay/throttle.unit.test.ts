import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lagSeconds, walMbPerSecond } from '../../src/replay/pace/load.ts';
import {
  DEFAULT_LIMITS,
  decidePace,
  ENOUGH_CANARIES,
  FULL_PACE,
  firstPace,
  LEAST_SHARE,
  type Limits,
  type Measured,
  type Pace,
  restAfterMs,
  rowsAt,
  underWayAt,
} from '../../src/replay/pace/throttle.ts';

const CALM: Measured = {
  canary: {
    writes: ENOUGH_CANARIES,
    p99Ms: 4,
    beside: { writes: ENOUGH_CANARIES, meanMs: 2 },
    apart: { p99Ms: 4, meanMs: 2 },
  },
  isPaused: false,
  isAlone: false,
  lockWaiters: 0,
  replicationLagSeconds: 0,
  walMbPerSecond: 30,
};
const canary = (p99Ms: number | undefined, writes = ENOUGH_CANARIES) => ({ canary: { ...CALM.canary, p99Ms, writes } });
const beside = (meanMs: number, writes = ENOUGH_CANARIES) => ({
  canary: { ...CALM.canary, beside: { writes, meanMs } },
});
const HALF: Pace = { share: 0.5, passed: { name: 'lock_waiters', value: 3, limit: 1 }, passedAt: 1 };

describe('a pace', () => {
  it.each<[string, Partial<Measured>, Partial<Limits>, Pace['passed']]>([
    [
      'a canary takes a fifth of a second, and others are at work',
      canary(201),
      {},
      { name: 'canary_ms', value: 201, limit: 200 },
    ],
    [
      'it takes three times as long as without us, where that is longer',
      { canary: { ...CALM.canary, p99Ms: 301, apart: { p99Ms: 100, meanMs: 2 } } },
      {},
      { name: 'canary_ms', value: 301, limit: 300 },
    ],
    [
      'a canary takes longer than is allowed',
      canary(21),
      { maxCanaryMs: 20 },
      { name: 'canary_ms', value: 21, limit: 20 },
    ],
    [
      'that is so with nobody else at work',
      { ...canary(21), isAlone: true },
      { maxCanaryMs: 20 },
      { name: 'canary_ms', value: 21, limit: 20 },
    ],
    ['nothing at all is allowed', canary(0.1), { maxCanaryMs: 0 }, { name: 'canary_ms', value: 0.1, limit: 0 }],
    [
      'the first canary since has not come through yet, and took too long already',
      canary(300, 0),
      {},
      { name: 'canary_ms', value: 300, limit: 200 },
    ],
    ['sessions wait for it', { lockWaiters: 2 }, {}, { name: 'lock_waiters', value: 2, limit: 1 }],
    ['a replica is behind', { replicationLagSeconds: 11 }, {}, { name: 'replication_lag_s', value: 11, limit: 10 }],
    ['the server writes too much WAL', {}, { maxWalMbPerSecond: 16 }, { name: 'wal_mb_per_s', value: 30, limit: 16 }],
  ])('is halved where %s', (_, measured, limits, passed) => {
    const judged = { ...CALM, ...measured };
    const held = { ...DEFAULT_LIMITS, ...limits };
    expect(decidePace(FULL_PACE, judged, held)).toEqual({ share: 0.5, passed, passedAt: 1 });
    expect(decidePace(HALF, judged, held)).toEqual({ share: 0.25, passed, passedAt: 0.5 });
    const least = { ...HALF, share: LEAST_SHARE };
    expect(decidePace(least, judged, held)).toEqual({ share: LEAST_SHARE, passed, passedAt: LEAST_SHARE });
  });

  it.each<[string, Partial<Measured>, Partial<Limits>]>([
    ['a canary takes as long as is allowed', canary(200), {}],
    ['a canary takes long and nobody else is at work', { ...canary(500), isAlone: true }, {}],
    ['canaries that meet a chunk hardly take longer', beside(2.15), {}],
    ['they do, and nobody else is at work', { ...beside(9), isAlone: true }, {}],
    ['they do, and how long all may take is told', beside(9), { maxCanaryMs: 20 }],
    ['one session waits', { lockWaiters: 1 }, {}],
    ['a replica is as far behind as it may', { replicationLagSeconds: 10 }, {}],
    ['nobody limits the WAL', { walMbPerSecond: 10_000 }, {}],
  ])('is not slowed down, and recovers, where %s', (_, measured, limits) => {
    const judged = { ...CALM, ...measured };
    const held = { ...DEFAULT_LIMITS, ...limits };
    expect(decidePace(FULL_PACE, judged, held)).toEqual(FULL_PACE);
    expect(decidePace(HALF, judged, held)).toEqual({ ...HALF, share: 0.55 });
    expect(decidePace({ ...HALF, share: 0.98 }, judged, held)).toEqual(FULL_PACE);
  });

  it.each([
    ['twice', 4, 0.08],
    ['three times', 6, 0.04],
    ['half as long again', 3, 0.16],
    ['a hundred times', 200, LEAST_SHARE],
  ])(
    'is what others do not notice, where a write that meets a chunk takes %s what one does that does not',
    (_, meanMs, share) => {
      for (const pace of [FULL_PACE, HALF, { ...HALF, share: 0.95 * share }]) {
        const value = 2 + pace.share * (meanMs - 2);
        expect(decidePace(pace, { ...CALM, ...beside(meanMs) }, DEFAULT_LIMITS)).toMatchObject({
          share: expect.closeTo(share, 10),
          passed: { name: 'canary_mean_ms', value: expect.closeTo(value, 10), limit: expect.closeTo(2.16, 10) },
        });
      }
      const from = { ...HALF, share: share / 2 };
      if (from.share > LEAST_SHARE) {
        const next = decidePace(from, { ...CALM, ...beside(meanMs) }, DEFAULT_LIMITS);
        expect(next.share / from.share).toBeCloseTo(1.1, 10);
      }
    },
  );

  it('is slow while others are at work and too few canaries met a chunk to tell', () => {
    const few = { ...CALM, ...beside(200, ENOUGH_CANARIES - 1) };
    expect(decidePace(FULL_PACE, few, DEFAULT_LIMITS)).toEqual({ ...FULL_PACE, share: 0.125 });
    expect(decidePace({ ...HALF, share: 0.1 }, few, DEFAULT_LIMITS)).toEqual({ ...HALF, share: 0.1 });
    expect(decidePace(FULL_PACE, { ...few, isAlone: true }, DEFAULT_LIMITS)).toEqual(FULL_PACE);
  });

  it('goes carefully where a limit was passed before, and quickly beyond', () => {
    const at = (share: number): Pace => ({ ...HALF, share, passedAt: 0.4 });
    const next = (share: number) => decidePace(at(share), CALM, DEFAULT_LIMITS).share / share;
    expect([0.2, 0.27, 0.29, 0.4, 0.43, 0.45].map((share) => Number(next(share).toFixed(4)))).toEqual([
      1.1, 1.1, 1.03, 1.03, 1.03, 1.1,
    ]);
  });

  it('begins at full speed where nobody is at work, and slowly where somebody is', () => {
    expect(firstPace({ ...CALM, isAlone: true })).toEqual(FULL_PACE);
    const first = firstPace(CALM);
    expect(first).toEqual({ ...FULL_PACE, share: 0.125 });
    expect(decidePace(first, CALM, DEFAULT_LIMITS)).toEqual({ ...first, share: 0.125 * 1.1 });
  });

  it('does not recover before enough canaries came through to tell', () => {
    expect(decidePace(HALF, { ...CALM, ...canary(4, ENOUGH_CANARIES - 1) }, DEFAULT_LIMITS)).toEqual(HALF);
    expect(decidePace(HALF, { ...CALM, ...canary(undefined, 0) }, DEFAULT_LIMITS)).toEqual(HALF);
  });

  it('does not recover while it is paused, and is slowed down then too', () => {
    const paused = { ...CALM, isPaused: true };
    expect(decidePace(HALF, paused, DEFAULT_LIMITS)).toEqual(HALF);
    expect(decidePace(HALF, { ...paused, lockWaiters: 2 }, DEFAULT_LIMITS).share).toBe(0.25);
  });

  const number = fc.double({ min: 0, max: 1e6, noNaN: true });
  const anyMeasured: fc.Arbitrary<Measured> = fc.record({
    canary: fc.record({
      writes: fc.nat(100),
      p99Ms: fc.option(number, { nil: undefined }),
      beside: fc.record({ writes: fc.integer({ min: ENOUGH_CANARIES, max: 60 }), meanMs: number }),
      apart: fc.record({ p99Ms: number, meanMs: fc.double({ min: 0.01, max: 1e6, noNaN: true }) }),
    }),
    isPaused: fc.boolean(),
    isAlone: fc.boolean(),
    lockWaiters: fc.nat(100),
    replicationLagSeconds: number,
    walMbPerSecond: number,
  });
  const anyLimits: fc.Arbitrary<Limits> = fc.record({
    maxCanaryMs: fc.option(number, { nil: undefined }),
    maxLockWaiters: fc.nat(10),
    maxReplicationLagSeconds: number,
    maxWalMbPerSecond: fc.option(number, { nil: undefined }),
  });
  const isSlowerSaid = ({ share, passed }: Pace) => (share === 1) === (passed === undefined);
  const fullSpeedIn = 80;

  it('is never below the least nor above full speed, never slower without saying why, and full speed again once it is calm', () => {
    fc.assert(
      fc.property(fc.array(anyMeasured, { maxLength: 40 }), anyLimits, (history, limits) => {
        let pace = FULL_PACE;
        for (const measured of history) {
          pace = decidePace(pace, measured, limits);
          expect(pace.share).toBeGreaterThanOrEqual(LEAST_SHARE);
          expect(pace.share).toBeLessThanOrEqual(1);
          expect(isSlowerSaid(pace)).toBe(true);
        }
        const quiet = { ...CALM, ...canary(0), walMbPerSecond: 0 };
        for (let nth = 0; nth < fullSpeedIn; nth += 1) pace = decidePace(pace, quiet, limits);
        expect(pace).toEqual(FULL_PACE);
      }),
    );
  });

  it('makes chunks smaller and rarer, and never so small or rare that nothing goes on', () => {
    const share = fc.double({ min: LEAST_SHARE, max: 1, noNaN: true });
    fc.assert(
      fc.property(share, fc.integer({ min: 1, max: 100_000 }), number, (share, most, workedMs) => {
        const pace = { ...FULL_PACE, share };
        expect(rowsAt(pace, most)).toBeGreaterThanOrEqual(Math.min(most, 50));
        expect(rowsAt(pace, most)).toBeLessThanOrEqual(most);
        expect(restAfterMs(pace, workedMs)).toBeGreaterThanOrEqual(0);
        expect(restAfterMs(pace, workedMs)).toBeLessThanOrEqual(2_000);
      }),
    );
    expect([rowsAt(FULL_PACE, 5_000), underWayAt(FULL_PACE, 2), restAfterMs(FULL_PACE, 400)]).toEqual([5_000, 2, 0]);
    expect([rowsAt(HALF, 5_000), underWayAt(HALF, 2), restAfterMs(HALF, 200)]).toEqual([2_500, 1, 200]);
  });
});

describe('how far a replica is behind', () => {
  const positions = [
    { atMs: 1_000, position: 100 },
    { atMs: 2_000, position: 100 },
    { atMs: 3_000, position: 250 },
    { atMs: 4_000, position: 400 },
  ];
  it.each([
    ['there is none', null, 0],
    ['it has everything', 400, 0],
    ['it lacks what was written last', 399, 1],
    ['it has what was written until three seconds ago', 100, 2],
    ['it has nothing of what we saw', 0, 4],
  ])('is told where %s', (_, replayed, seconds) => {
    expect(lagSeconds(positions, replayed, 5_000)).toBe(seconds);
  });

  it('is beside the rate of the WAL, of the last two seconds', () => {
    const mb = (count: number) => count * 1_000_000;
    const at = (atMs: number, count: number) => ({ atMs, position: mb(count) });
    expect(walMbPerSecond([])).toBe(0);
    expect(walMbPerSecond([at(0, 7)])).toBe(0);
    expect(walMbPerSecond([at(0, 0), at(1_000, 900), at(2_000, 920), at(3_000, 940)])).toBe(20);
  });
});
