import { describe, expect, it } from 'vitest';
import { Gate } from '../../src/outbox/gate.ts';
import { BREAKER_DEFAULTS } from '../../src/outbox/health.ts';

const gateOf = (limits: { maxInFlight?: number; ratePerSecond?: number | null } = {}): Gate => {
  const gate = new Gate();
  gate.setLimits({ maxInFlight: 10, ratePerSecond: null, ordered: false, ...limits });
  return gate;
};

describe('a gate', () => {
  it('has as many places as its endpoint allows, and one less for each that is taken', () => {
    const gate = gateOf();
    expect(gate.free(0)).toBe(10);
    for (let taken = 0; taken < 10; taken += 1) gate.take(0);
    expect([gate.free(0), gate.nextAt(0)]).toEqual([0, Number.POSITIVE_INFINITY]);
    gate.give();
    expect(gate.free(0)).toBe(1);
  });

  it('has no places when it is shut, and remembers what is under way', () => {
    const gate = gateOf();
    gate.take(0);
    gate.shut();
    expect([gate.isShut, gate.free(0), gate.inFlight]).toEqual([true, 0, 1]);
  });

  it('does not give single places again at once, so that what is asked of the database is asked for many', () => {
    const gate = gateOf();
    for (let taken = 0; taken < 10; taken += 1) gate.take(0);
    gate.give();
    expect([gate.worthwhile(1), gate.worthwhile(10)]).toEqual([0, 1]);
    gate.give();
    gate.give();
    expect(gate.worthwhile(1)).toBe(3);
  });

  it('keeps to a rate, whenever it is asked', () => {
    const gate = gateOf({ maxInFlight: 1_000, ratePerSecond: 50 });
    const begun: number[] = [];
    for (let now = 0; now < 10_000; now += 7) {
      for (let free = gate.free(now); free > 0; free -= 1) {
        gate.take(now);
        begun.push(now);
      }
    }
    for (const from of begun) {
      const inOneSecond = begun.filter((at) => at >= from && at < from + 1_000).length;
      expect(inOneSecond).toBeLessThanOrEqual(55);
    }
    expect(begun.length).toBeGreaterThan(490);
  });

  it('says when a rate that is used up lets the next through', () => {
    const gate = gateOf({ ratePerSecond: 2 });
    gate.expect(0);
    expect(gate.free(0)).toBe(1);
    gate.take(0);
    expect(gate.free(0)).toBe(0);
    expect(gate.nextAt(0)).toBe(500);
    expect(gate.free(499)).toBe(0);
    expect(gate.free(500)).toBe(1);
  });

  it('says when an open breaker lets one try', () => {
    const gate = gateOf();
    gate.expect(0);
    const context = { now: 0, wallClock: 0, settings: BREAKER_DEFAULTS };
    const changes = Array.from({ length: 5 }, () => gate.judge({ errorClass: 'timeout', statusCode: null }, context));
    // It begins to fail, and at last it opens.
    expect(changes).toEqual([true, false, false, false, true]);
    expect([gate.free(0), gate.nextAt(0), gate.free(BREAKER_DEFAULTS.openMs)]).toEqual([0, BREAKER_DEFAULTS.openMs, 1]);
  });
});
