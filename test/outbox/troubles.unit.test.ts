import { describe, expect, it } from 'vitest';
import type { Backlog, EndpointBacklog } from '../../src/outbox/backlog.ts';
import { findTroubles } from '../../src/outbox/troubles.ts';

const WELL: Backlog = {
  unprocessed: 0,
  oldestUndeliveredSeconds: null,
  overdueSeconds: 0,
  isCut: false,
  endpoints: [],
  deletedEndpoints: { pending: 0, queued: 0, delivering: 0, dead: 0 },
  relay: { pid: 1, address: null, since: null },
  workers: 2,
  daysAhead: 4,
};

const endpoint = (given: Partial<EndpointBacklog>): EndpointBacklog => ({
  id: '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4',
  url: 'https://example.com/hook',
  enabled: true,
  disabledReason: null,
  breaker: 'closed',
  probeAt: null,
  pending: 0,
  queued: 0,
  delivering: 0,
  dead: 0,
  ...given,
});

/** The beginning of what is said first, and whether it is urgent. */
function worst(given: Partial<Backlog>, isPrimaryThere = true): readonly [string, boolean] | undefined {
  const backlog = { ...WELL, ...given };
  const [first] = findTroubles(backlog, isPrimaryThere ? backlog : undefined);
  return first && [first.found, first.isUrgent];
}

describe('the trouble that is said first', () => {
  it('is none where all is well, and where a replica cannot tell who is at work', () => {
    expect(worst({})).toBeUndefined();
    expect(worst({ workers: 0, relay: null, unprocessed: 5 }, false)).toBeUndefined();
  });

  it.each<[string, Partial<Backlog>, RegExp, boolean]>([
    ['no worker, and something waits', { workers: 0, relay: null, unprocessed: 1 }, /^No worker runs, and 1 /, true],
    ['no worker, and nothing waits', { workers: 0, relay: null }, /^No worker runs. Nothing waits/, false],
    ['workers of whom none leads', { relay: null, unprocessed: 3 }, /^2 workers run, and none of them leads/, true],
    ['something long due', { overdueSeconds: 125 }, /^Something has been due for 2 min/, true],
    ['no partitions ahead', { daysAhead: 1 }, /^Only 1 day has/, false],
    ['an open breaker', { endpoints: [endpoint({ breaker: 'open' })] }, /^1 endpoint fails.*example\.com/, true],
    [
      'what waits for a disabled one',
      { endpoints: [endpoint({ enabled: false, pending: 7 })] },
      /^7 .* wait for/,
      false,
    ],
    ['dead letters', { endpoints: [endpoint({ dead: 1_200 })] }, /^1,200 deliveries were given up/, false],
  ])('is %s', (_name, given, found, isUrgent) => {
    const said = worst(given);
    expect(said?.[0]).toMatch(found);
    expect(said?.[1]).toBe(isUrgent);
  });

  it('is the urgent one of several', () => {
    const endpoints = [endpoint({ dead: 3 }), endpoint({ breaker: 'half_open' })];
    expect(worst({ workers: 0, relay: null, endpoints })?.[0]).toMatch(/^1 endpoint fails/);
  });

  it('is never a dead letter of a deleted endpoint, which nobody can retry', () => {
    expect(worst({ deletedEndpoints: { pending: 0, queued: 0, delivering: 0, dead: 9 } })).toBeUndefined();
  });
});
