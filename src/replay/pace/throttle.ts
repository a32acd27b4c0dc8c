/**
 * How fast the backfill may go, decided from what was measured since the last decision. Nothing here looks at a clock or a server.
 *
 *   measured                            what it does
 *   a limit is passed                   half the share, down to the least
 *   none is passed, seen long enough    the share times 1.1, up to full speed; times 1.03 near where one was passed last
 *     and others would notice that      the share at which they do not
 *   none is passed, not long enough     nothing
 *   none is passed, while it is paused  nothing: that is no leave to go faster afterwards
 *
 * The share scales a chunk's rows, and the part of the time in which one is under way. It is never zero: what stands still without
 * being told to looks broken.
 *
 * What others notice is not found by trying: a write beside a chunk takes so much longer than one apart from it, whatever the share, and
 * the share says how many writes meet a chunk. By trying, a run went up and down between a 64th and half of its speed.
 */

import type { CanaryWrites } from './canary.ts';

export interface Limits {
  /** The p99 of a write as old code makes it, whoever else is at work; left out, writes are held near what they take apart from the run. */
  readonly maxCanaryMs?: number | undefined;
  /** Sessions at a time that wait for a lock of ours. */
  readonly maxLockWaiters: number;
  readonly maxReplicationLagSeconds: number;
  /** Of the whole server; left out, any. */
  readonly maxWalMbPerSecond?: number | undefined;
}

export const DEFAULT_LIMITS = { maxLockWaiters: 1, maxReplicationLagSeconds: 10 } as const satisfies Limits;

/** How much longer others' writes may take, on average over those that meet a chunk and those that do not. */
const NOTICED = 0.08;
/** What a mean does not tell: a few that wait for very long, as for a lock. */
const FAR_LONGER = { factor: 3, leastMs: 200 };

export interface Measured {
  readonly canary: CanaryWrites;
  readonly isPaused: boolean;
  /** No other session of the database did anything lately, so that there is nobody to notice. */
  readonly isAlone: boolean;
  readonly lockWaiters: number;
  readonly replicationLagSeconds: number;
  readonly walMbPerSecond: number;
}

export type LimitName = 'canary_ms' | 'canary_mean_ms' | 'lock_waiters' | 'replication_lag_s' | 'wal_mb_per_s';

export interface Passed {
  readonly name: LimitName;
  readonly value: number;
  readonly limit: number;
}

export interface Pace {
  /** Of full speed: above 0, at most 1. */
  readonly share: number;
  /** What it was slowed down by, until full speed is reached again; undefined below that where no faster was tried yet. */
  readonly passed: Passed | undefined;
  /** The share at which that was. */
  readonly passedAt: number | undefined;
}

export const FULL_PACE: Pace = { share: 1, passed: undefined, passedAt: undefined };
/** Whoever is at work should not notice the first chunks either, by which nothing is known yet. */
const FIRST_SHARE = 1 / 8;

export function firstPace({ isAlone }: Pick<Measured, 'isAlone'>): Pace {
  return isAlone ? FULL_PACE : { ...FULL_PACE, share: FIRST_SHARE };
}

export const LEAST_SHARE = 1 / 64;
const BACK_OFF = 0.5;
const RECOVERY = 1.1;
/** Where a limit was passed, it will be again: then by little, and rarely. */
const CAREFUL_RECOVERY = 1.03;
const NEAR = { least: 0.7, most: 1.1 };
/** Before that many canaries came through, nobody knows that a pace is bearable; nor before that many met a chunk. */
export const ENOUGH_CANARIES = 15;

export function decidePace(pace: Pace, measured: Measured, limits: Limits): Pace {
  const passed = findPassed(measured, limits);
  if (passed !== undefined) {
    return { share: Math.max(LEAST_SHARE, pace.share * BACK_OFF), passed, passedAt: pace.share };
  }
  if (measured.isPaused || measured.canary.writes < ENOUGH_CANARIES) return pace;
  const faster = Math.min(1, pace.share * (isNear(pace) ? CAREFUL_RECOVERY : RECOVERY));
  if (isRelative(measured, limits)) {
    if (measured.canary.beside.writes < ENOUGH_CANARIES) return { ...pace, share: Math.min(pace.share, FIRST_SHARE) };
    const unnoticed = unnoticedShare(measured.canary);
    if (unnoticed < faster) return { ...pace, share: unnoticed, passed: noticed(pace, measured.canary) };
  }
  return faster === 1 ? FULL_PACE : { ...pace, share: faster };
}

function isRelative({ isAlone }: Measured, { maxCanaryMs }: Limits): boolean {
  return !isAlone && maxCanaryMs === undefined;
}

/** At most how great a share others do not notice. */
function unnoticedShare({ beside, apart }: CanaryWrites): number {
  return Math.max(LEAST_SHARE, NOTICED / Math.max(NOTICED, beside.meanMs / apart.meanMs - 1));
}

function noticed({ share }: Pace, { beside, apart }: CanaryWrites): Passed {
  const value = apart.meanMs + share * (beside.meanMs - apart.meanMs);
  return { name: 'canary_mean_ms', value, limit: apart.meanMs * (1 + NOTICED) };
}

function isNear({ share, passedAt }: Pace): boolean {
  return passedAt !== undefined && share >= passedAt * NEAR.least && share < passedAt * NEAR.most;
}

function findPassed(measured: Measured, limits: Limits): Passed | undefined {
  const { canary } = measured;
  const farLonger = isRelative(measured, limits)
    ? Math.max(canary.apart.p99Ms * FAR_LONGER.factor, FAR_LONGER.leastMs)
    : undefined;
  const candidates: { name: LimitName; value: number | undefined; limit: number | undefined }[] = [
    { name: 'lock_waiters', value: measured.lockWaiters, limit: limits.maxLockWaiters },
    { name: 'replication_lag_s', value: measured.replicationLagSeconds, limit: limits.maxReplicationLagSeconds },
    { name: 'canary_ms', value: canary.p99Ms, limit: limits.maxCanaryMs ?? farLonger },
    { name: 'wal_mb_per_s', value: measured.walMbPerSecond, limit: limits.maxWalMbPerSecond },
  ];
  for (const { name, value, limit } of candidates) {
    if (value !== undefined && limit !== undefined && value > limit) return { name, value, limit };
  }
  return undefined;
}

/** Below that, a chunk is mostly its own overhead. */
const LEAST_ROWS = 50;
const MOST_REST_MS = 2_000;

/** How many rows the next chunk may have, where there may be so many at most. */
export function rowsAt({ share }: Pace, most: number): number {
  return Math.min(most, Math.max(LEAST_ROWS, Math.round(most * share)));
}

/** How many chunks may be under way at once, where so many may at most: two keep two processors busy. */
export function underWayAt({ share }: Pace, most: number): number {
  return share < 1 ? 1 : most;
}

/** How long to leave the server alone after having worked for so long. */
export function restAfterMs({ share }: Pace, workedMs: number): number {
  return Math.min(MOST_REST_MS, workedMs * (1 / share - 1));
}
