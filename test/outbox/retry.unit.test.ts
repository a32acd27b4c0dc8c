import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decideNextStep } from '../../src/outbox/next-step.ts';
import {
  MAX_RETRY_AFTER_MS,
  parseRetryAfterMs,
  retryDelayMs,
  STANDARD_RETRY_DELAYS_MS,
} from '../../src/outbox/retry.ts';

const [S, M, H] = [1_000, 60_000, 3_600_000];
const schedule = (input: { scheduleAttempt: number; random?: number; retryAfterMs?: number }) =>
  retryDelayMs({ delaysMs: STANDARD_RETRY_DELAYS_MS, random: 0.5, retryAfterMs: undefined, ...input });

describe('the retry schedule', () => {
  it.each([
    [1, 5 * S],
    [2, 5 * M],
    [3, 30 * M],
    [4, 2 * H],
    [5, 5 * H],
    [6, 10 * H],
    [7, 14 * H],
    [8, 20 * H],
    [9, 24 * H],
    [10, undefined],
  ])('after attempt %i waits %s ms', (attempt, expected) =>
    expect(schedule({ scheduleAttempt: attempt })).toBe(expected),
  );

  it('jitters within a fifth to both sides', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (attempt, random) => {
          const scheduled = STANDARD_RETRY_DELAYS_MS[attempt - 1] ?? 0;
          const delay = schedule({ scheduleAttempt: attempt, random }) ?? 0;
          expect(delay).toBeGreaterThanOrEqual(scheduled * 0.8 - 1);
          expect(delay).toBeLessThanOrEqual(scheduled * 1.2 + 1);
        },
      ),
    );
    expect([0, 0.5, 0.999999].map((random) => schedule({ scheduleAttempt: 1, random }))).toEqual([4_000, 5_000, 6_000]);
  });

  it('takes Retry-After as a floor, never as a shortcut, and only up to a day', () => {
    expect(schedule({ scheduleAttempt: 1, retryAfterMs: 90 * S })).toBe(90 * S);
    expect(schedule({ scheduleAttempt: 2, retryAfterMs: 1 * S })).toBe(5 * M);
    expect(schedule({ scheduleAttempt: 1, retryAfterMs: 400 * H })).toBe(MAX_RETRY_AFTER_MS);
    expect(schedule({ scheduleAttempt: 10, retryAfterMs: 1 * S })).toBeUndefined();
  });
});

describe('Retry-After', () => {
  const now = new Date('2026-01-01T00:00:00Z');
  it.each([
    ['120', 120_000],
    [' 0 ', 0],
    ['0', 0],
    ['007', 7_000],
    ['9999999999', 9_999_999_999_000],
    ['Thu, 01 Jan 2026 00:01:00 GMT', 60_000],
    ['Wed, 31 Dec 2025 23:59:00 GMT', 0],
    ['Thu, 01 Jan 2026 00:00:00 GMT', 0],
    ['Fri, 31 Dec 9999 23:59:59 GMT', 251_635_075_199_000],
    ['Thu, 01 Jan 1970 00:00:00 GMT', 0],
    // The two obsolete forms, which a recipient has to read.
    ['Thursday, 01-Jan-26 00:01:00 GMT', 60_000],
    ['Thu Jan  1 00:01:00 2026', 60_000],
    ['Thu, 32 Jan 2026 00:01:00 GMT', undefined],
    ['Thu, 01 Foo 2026 00:01:00 GMT', undefined],
    ['Thu, nonsense', undefined],
    // Of which time zone?
    ['Thu, 01 Jan 2026 00:01:00', undefined],
    ['Thu, 01 Jan 2026 00:01:00 CET', undefined],
    ['-5', undefined],
    ['+5', undefined],
    ['1e3', undefined],
    ['0x10', undefined],
    ['5 seconds', undefined],
    ['5, 10', undefined],
    ['１２', undefined],
    ['NaN', undefined],
    ['Infinity', undefined],
    ['', undefined],
    ['1.5', undefined],
    ['soon', undefined],
    ['99999999999999999999', undefined],
    ['2026-01-01', undefined],
    [undefined, undefined],
  ])('%s is %s ms', (header, expected) => expect(parseRetryAfterMs(header, now)).toBe(expected));
});

describe('what follows from an attempt', () => {
  const input = { delaysMs: [100], random: 0.5 };
  const failed = { status: 'failed', error: 'x' } as const;
  it.each([
    ['a 2xx', { status: 'delivered', statusCode: 200, response: '' }, 1, { state: 'delivered' }],
    ['a failure', { ...failed, errorClass: 'status' }, 1, { state: 'pending', delayMs: 100 }],
    ['the last failure', { ...failed, errorClass: 'timeout' }, 2, { state: 'dead', disableEndpoint: false }],
    ['a refused address', { ...failed, errorClass: 'egress_refused' }, 1, { state: 'pending', delayMs: 100 }],
    ['a 410', { ...failed, errorClass: 'gone' }, 1, { state: 'dead', disableEndpoint: true }],
    [
      'a payload that does not fit',
      { ...failed, errorClass: 'payload_invalid' },
      1,
      { state: 'dead', disableEndpoint: false },
    ],
    ['a worker that stops', { ...failed, errorClass: 'worker_stopped' }, 2, { state: 'pending', delayMs: 0 }],
  ] as const)('%s', (_what, outcome, attempt, expected) => {
    expect(decideNextStep(outcome, { ...input, scheduleAttempt: attempt })).toEqual(expected);
  });
});
