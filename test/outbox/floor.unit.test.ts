import { describe, expect, it } from 'vitest';
import { type Floor, NO_FLOOR } from '../../src/outbox/fan-out.ts';
import { MessageFloor } from '../../src/outbox/floor.ts';

const at = (seq: number, day = '2026-11-29'): Floor => ({ day, seq: BigInt(seq) });

/** A look every 10 ms, each of which takes a message: the one of its number. */
function lookFor(floor: MessageFloor, { from, to }: { from: number; to: number }): void {
  for (let n = from; n < to; n += 1) floor.reached(at(n), n * 10);
}

describe('the floor of the messages', () => {
  it('is where a look had come two seconds ago, or a little more, however long it goes on', () => {
    const floor = new MessageFloor();
    lookFor(floor, { from: 1, to: 100 });
    expect(floor.get(1_000)).toEqual(NO_FLOOR);
    for (let n = 100; n < 5_000; n += 1) {
      floor.reached(at(n), n * 10);
      if (n < 400) continue;
      const { seq } = floor.get(n * 10);
      expect(n - Number(seq)).toBeGreaterThanOrEqual(200);
      expect(n - Number(seq)).toBeLessThan(250);
    }
  });

  it('is gone for one look when everything is looked at, even if that found as much as it may', () => {
    const floor = new MessageFloor();
    lookFor(floor, { from: 1, to: 1_000 });
    const before = floor.get(10_000);
    floor.fall();
    expect(floor.get(10_000)).toEqual(NO_FLOOR);
    floor.reached(at(1_000), 10_000);
    expect(floor.get(10_000)).toEqual(before);
  });

  it('stays gone while what committed late is still being found below it, which does not lower it', () => {
    const floor = new MessageFloor();
    lookFor(floor, { from: 1, to: 1_000 });
    const before = floor.get(10_000);
    floor.fall();
    floor.reached(at(5), 10_000);
    expect(floor.get(10_000)).toEqual(NO_FLOOR);
    floor.reached(undefined, 10_000);
    expect(floor.get(10_000)).toEqual(before);
  });
});
