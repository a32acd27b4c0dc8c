import { describe, expect, it } from 'vitest';
import { clockSkew } from '../../src/db/clock.ts';

describe('clock skew', () => {
  it('is measured from the middle of the round trip, not from its end', () => {
    const { aheadMs, errorMs } = clockSkew([{ sentAtMs: 0, serverAtMs: 1_000, receivedAtMs: 2_000 }]);
    expect({ aheadMs, errorMs }).toEqual({ aheadMs: 0, errorMs: 1_001 });
  });

  it('believes the sample with the shortest round trip', () => {
    const { aheadMs, errorMs } = clockSkew([
      { sentAtMs: 0, serverAtMs: 9_000, receivedAtMs: 4_000 },
      { sentAtMs: 10_000, serverAtMs: 13_002, receivedAtMs: 10_004 },
      { sentAtMs: 20_000, serverAtMs: 20_100, receivedAtMs: 21_000 },
    ]);
    expect({ aheadMs, errorMs }).toEqual({ aheadMs: 3_000, errorMs: 3 });
  });

  it('is negative when the server is behind', () => {
    expect(clockSkew([{ sentAtMs: 5_000, serverAtMs: 1_000, receivedAtMs: 5_000 }]).aheadMs).toBe(-4_000);
  });
});
