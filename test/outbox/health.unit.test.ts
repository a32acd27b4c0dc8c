import { describe, expect, it } from 'vitest';
import { allowedBy, BREAKER_DEFAULTS, HEALTHY, type Health, healthAt, judgeAttempt } from '../../src/outbox/health.ts';

const TIMEOUT = { errorClass: 'timeout', statusCode: null };
const DELIVERED = { errorClass: null, statusCode: 200 };
const status = (statusCode: number) => ({ errorClass: 'status', statusCode });
const PLACES = 10;

const healthAfter = (
  health: Health,
  attempts: readonly Parameters<typeof judgeAttempt>[1][],
  { now = 0, wallClock = 1_000, inFlight = 8 } = {},
): Health =>
  attempts.reduce(
    (current, attempt) =>
      judgeAttempt(healthAt(current, now), attempt, { now, wallClock, inFlight, settings: BREAKER_DEFAULTS }),
    health,
  );
const times = <T>(count: number, what: T): T[] => Array.from({ length: count }, () => what);

describe('the breaker', () => {
  it.each([
    ['a timeout', TIMEOUT],
    ['a refused connection', { errorClass: 'connection_failed', statusCode: null }],
    ['TLS that fails', { errorClass: 'tls_failed', statusCode: null }],
    ['a redirect', { errorClass: 'redirect', statusCode: 302 }],
    ['500', status(500)],
    ['429', status(429)],
    ['408', status(408)],
  ])('opens at the fifth of %s in a row', (_what, attempt) => {
    expect(healthAfter(HEALTHY, times(4, attempt)).breaker).toBe('closed');
    const open = healthAfter(HEALTHY, times(5, attempt), { now: 100 });
    expect(open).toMatchObject({ breaker: 'open', probeAt: 100 + BREAKER_DEFAULTS.openMs, failingSince: 1_000 });
    expect(allowedBy(open, PLACES)).toBe(0);
  });

  it.each([
    ['404', status(404)],
    ['422', status(422)],
    ['410', { errorClass: 'gone', statusCode: 410 }],
  ])('does not open at %s, which says that the endpoint is there', (_what, attempt) => {
    expect(healthAfter(HEALTHY, times(50, attempt))).toMatchObject({
      breaker: 'closed',
      failuresInRow: 0,
      failingSince: 1_000,
    });
  });

  it.each(['worker_lost', 'worker_stopped', 'payload_invalid'])(
    'takes no notice of %s, which is none of the endpoint',
    (errorClass) => {
      expect(healthAfter(HEALTHY, times(50, { errorClass, statusCode: null }))).toEqual(HEALTHY);
    },
  );

  it('counts only what fails in a row', () => {
    expect(healthAfter(HEALTHY, [...times(4, TIMEOUT), DELIVERED, ...times(4, TIMEOUT)]).breaker).toBe('closed');
  });

  it('lets one try when its wait is over, and waits twice as long each time that one fails, up to a limit', () => {
    let health = healthAfter(HEALTHY, times(5, TIMEOUT));
    const waits: number[] = [];
    for (let tries = 0; tries < 8; tries += 1) {
      const now = health.probeAt;
      expect(healthAt(health, now - 1).breaker).toBe('open');
      expect(allowedBy(healthAt(health, now), PLACES)).toBe(1);
      health = healthAfter(health, [TIMEOUT], { now });
      waits.push(health.probeAt - now);
    }
    expect(waits).toEqual([10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000, 300_000]);
  });

  it('closes when the one is delivered, and comes back to all places by and by', () => {
    const open = healthAfter(HEALTHY, times(5, TIMEOUT));
    let health = healthAfter(open, [DELIVERED], { now: open.probeAt });
    expect(health).toMatchObject({ breaker: 'closed', failuresInRow: 0, failingSince: null });
    expect(allowedBy(health, PLACES)).toBe(4);
    health = healthAfter(health, times(50, DELIVERED));
    expect(allowedBy(health, PLACES)).toBe(PLACES);
  });

  it('stays open for what was under way when it opened', () => {
    const open = healthAfter(HEALTHY, times(5, TIMEOUT));
    expect(healthAfter(open, times(8, TIMEOUT), { now: 10 }).probeAt).toBe(open.probeAt);
  });
});

describe('an endpoint that asks for less', () => {
  it.each([429, 502, 503, 504])('gets half of what was under way after %i, once a second, and at least one', (code) => {
    let health = healthAfter(HEALTHY, [status(code), status(code)], { inFlight: 8 });
    expect(allowedBy(health, PLACES)).toBe(4);
    for (const now of [1_000, 2_000, 3_000]) {
      health = { ...healthAfter(health, [status(code)], { now }), breaker: 'closed' };
    }
    expect(allowedBy(health, PLACES)).toBe(1);
  });

  it('is not asked for less by another failure', () => {
    expect(allowedBy(healthAfter(HEALTHY, times(4, status(500))), PLACES)).toBe(PLACES);
  });
});
