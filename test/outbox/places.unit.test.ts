import { describe, expect, it } from 'vitest';
import type { Admitted } from '../../src/outbox/admission.ts';
import { BREAKER_DEFAULTS, HEALTHY } from '../../src/outbox/health.ts';
import { Places } from '../../src/outbox/places.ts';

const DAY = '2026-01-01';
const ENDPOINT = { maxInFlight: 10, ratePerSecond: null, ordered: false };
const NO_LIMIT = 1_000;
const NOTHING: Admitted = { queued: [], nextDueInMs: new Map(), askedAt: new Date(0), isComplete: true };

const placesOf = (...ids: string[]): Places => {
  const places = new Places(BREAKER_DEFAULTS);
  places.setEndpoints(
    ids.map((id) => ({ id, ...ENDPOINT })),
    0,
  );
  // Asked, and nothing was found to wait.
  places.asked(places.wanted(0, NO_LIMIT), NOTHING, 0);
  return places;
};
const fill = (places: Places, endpointId: string, count = ENDPOINT.maxInFlight) => {
  for (let n = 0; n < count; n += 1) {
    places.take({ deliveryId: `${endpointId} ${n}`, endpointId, day: DAY, attempt: 1 }, 0);
  }
};

describe('places', () => {
  it('say whether all endpoints are crowded, some, or none', () => {
    const places = placesOf('a', 'b');
    expect(places.crowded(0)).toBe('none');
    fill(places, 'a');
    expect(places.crowded(0)).toBe('some');
    fill(places, 'b');
    expect(places.crowded(0)).toBe('all');
    expect(placesOf().crowded(0)).toBe('none');
  });

  it('do not count an endpoint that is disabled: nobody waits for its places', () => {
    const places = placesOf('a', 'b');
    fill(places, 'a');
    fill(places, 'b');
    places.setEndpoints([], 0);
    expect(places.crowded(0)).toBe('none');
  });

  it('give an endpoint no more than is said, so that others get some', () => {
    const places = placesOf('a');
    expect(places.free(0, 3).get('a')).toBe(3);
    places.expect('a', 0);
    expect(places.wanted(0, 3)).toMatchObject([{ endpointId: 'a', free: 3 }]);
  });

  it('let an endpoint that is enabled again begin healthy, although what it had under way is not over', () => {
    const places = placesOf('a');
    fill(places, 'a', 1);
    places.setHealth('a', { ...HEALTHY, breaker: 'open', probeAt: Number.POSITIVE_INFINITY });
    expect(places.free(0, NO_LIMIT).get('a')).toBeUndefined();
    places.setEndpoints([], 0);
    places.setEndpoints([{ id: 'a', ...ENDPOINT }], 0);
    places.asked(places.wanted(20, NO_LIMIT), NOTHING, 20);
    expect(places.free(20, NO_LIMIT).get('a')).toBe(9);
  });

  it('name once the endpoints that are not ordered any more', () => {
    const places = placesOf('a');
    const ordered = (isOrdered: boolean) => places.setEndpoints([{ id: 'a', ...ENDPOINT, ordered: isOrdered }], 0);
    ordered(true);
    expect([places.mayHaveLines('a'), places.takeUnlined()]).toEqual([true, []]);
    ordered(false);
    expect([places.mayHaveLines('a'), places.takeUnlined(), places.takeUnlined()]).toEqual([false, ['a'], []]);
  });
});
