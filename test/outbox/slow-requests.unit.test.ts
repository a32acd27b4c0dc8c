import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type SlowRequests, watchSlowRequests } from '../../src/outbox/slow-requests.ts';

const SLOW_MS = 500;
const BOUNDS = { slowMs: SLOW_MS, max: 3, maxBytes: 1_000 };

let slow: SlowRequests;
let released: string[];
beforeEach(() => {
  vi.useFakeTimers();
  slow = watchSlowRequests(BOUNDS);
  released = [];
});
afterEach(() => {
  vi.useRealTimers();
});
const begin = (name: string, { endpointId = name, bytes = 1 } = {}) =>
  slow.watch({ endpointId, bytes }, () => released.push(name));

describe('a permit is given back', () => {
  it('when the request is over, once, however often that is said', () => {
    const over = begin('a');
    expect(released).toEqual([]);
    over();
    over();
    vi.advanceTimersByTime(2 * SLOW_MS);
    expect(released).toEqual(['a']);
  });

  it('when the request is slow, and not again when it is over', () => {
    const over = begin('a');
    vi.advanceTimersByTime(SLOW_MS - 1);
    expect(released).toEqual([]);
    vi.advanceTimersByTime(1);
    expect(released).toEqual(['a']);
    over();
    expect(released).toEqual(['a']);
  });

  it('at once while another request to the endpoint is slow, and no longer', () => {
    const over = begin('a', { endpointId: 'slow' });
    vi.advanceTimersByTime(SLOW_MS);
    const overToo = begin('b', { endpointId: 'slow' });
    begin('c', { endpointId: 'other' });
    expect(released).toEqual(['a', 'b']);
    over();
    overToo();
    begin('d', { endpointId: 'slow' });
    expect(released).toEqual(['a', 'b']);
  });
});

describe('a slow request keeps its permit', () => {
  it('while so many are slow as may be, and gives it back when one of them is over', () => {
    const [over] = ['a', 'b', 'c', 'd', 'e'].map((name) => begin(name, { endpointId: 'slow' }));
    vi.advanceTimersByTime(10 * SLOW_MS);
    expect(released).toEqual(['a', 'b', 'c']);
    over?.();
    vi.advanceTimersByTime(SLOW_MS);
    expect(released).toEqual(['a', 'b', 'c', 'd']);
  });

  it('while the payloads of those that are slow are as large as may be', () => {
    const over = begin('a', { bytes: 900 });
    begin('b', { bytes: 101 });
    begin('c', { bytes: 100 });
    vi.advanceTimersByTime(SLOW_MS);
    expect(released).toEqual(['a', 'c']);
    over();
    vi.advanceTimersByTime(SLOW_MS);
    expect(released).toEqual(['a', 'c', 'b']);
  });
});
