import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { createWaitingLine, type Party } from '../../src/ledger/waiting-line.ts';

interface Numbered extends Party {
  readonly nth: number;
}

const LIMITS = { share: 4, most: 6, mostCharacters: 1_000 };

describe('a waiting line', () => {
  it('lets everybody go once, keeps apart who shares an account, and keeps their order', () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 0, maxLength: 3 }) },
      { weight: 2, arbitrary: fc.constant('let go' as const) },
      { weight: 1, arbitrary: fc.constant('back' as const) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const line = createWaitingLine<Numbered>();
        const underWay: Numbered[][] = [];
        const gone: Numbered[] = [];
        let joined = 0;
        const letGo = () => {
          const parties = line.letGo(LIMITS);
          const busy = new Set(underWay.flat().flatMap(({ accounts }) => accounts));
          expect(parties.flatMap(({ accounts }) => accounts).filter((id) => busy.has(id))).toEqual([]);
          expect(parties.length).toBeLessThanOrEqual(LIMITS.most);
          if (underWay.length === 0 && line.size + parties.length > 0) expect(parties).not.toEqual([]);
          expect(line.characters).toBe(line.size);
          if (parties.length > 0) underWay.push(parties);
          gone.push(...parties);
        };
        const back = () => line.returned(underWay.shift() ?? []);
        for (const each of steps) {
          if (each === 'let go') letGo();
          else if (each === 'back') back();
          else line.join({ nth: joined++, size: 1, characters: 1, accounts: each });
        }
        while (line.size > 0) {
          letGo();
          back();
        }
        expect(gone.map(({ nth }) => nth).toSorted((a, b) => a - b)).toEqual(
          Array.from({ length: joined }, (_, n) => n),
        );
        for (let account = 0; account <= 12; account += 1) {
          const order = gone.filter(({ accounts }) => accounts.includes(account)).map(({ nth }) => nth);
          expect(order).toEqual(order.toSorted((a, b) => a - b));
        }
      }),
    );
  });

  it('takes on whoever would have to wait, up to the most', () => {
    const line = createWaitingLine<Numbered>();
    for (let nth = 0; nth < 10; nth += 1) line.join({ nth, size: 1, characters: 1, accounts: ['hot', nth] });
    expect(line.letGo(LIMITS)).toHaveLength(LIMITS.most);
    expect(line.letGo(LIMITS)).toEqual([]);
    expect(line.size).toBe(4);
  });

  it('lets a party go that is larger than the most, by itself', () => {
    const line = createWaitingLine<Numbered>();
    line.join({ nth: 0, size: 100, characters: 1, accounts: [1] });
    line.join({ nth: 1, size: 1, characters: 1, accounts: [2] });
    expect(line.letGo(LIMITS).map(({ nth }) => nth)).toEqual([0]);
    expect(line.letGo(LIMITS).map(({ nth }) => nth)).toEqual([1]);
  });

  it('lets no more characters go together than it may, but for a party that is larger by itself', () => {
    const line = createWaitingLine<Numbered>();
    for (const [nth, characters] of [400, 600, 1, 5_000, 1_000].entries()) {
      line.join({ nth, size: 1, characters, accounts: ['hot'] });
    }
    const together: number[][] = [];
    while (line.size > 0) {
      const gone = line.letGo(LIMITS);
      together.push(gone.map(({ nth }) => nth));
      line.returned(gone);
    }
    expect(together).toEqual([[0, 1], [2], [3], [4]]);
  });

  it('is not copied where nobody may go', () => {
    const line = createWaitingLine<Numbered>();
    line.join({ nth: 0, size: 1, characters: 1, accounts: ['hot'] });
    line.letGo(LIMITS);
    for (let nth = 1; nth <= 1_000; nth += 1) line.join({ nth, size: 1, characters: 1, accounts: ['hot'] });
    line.letGo(LIMITS);
    const slice = vi.spyOn(Array.prototype, 'slice');
    line.join({ nth: 1_001, size: 1, characters: 1, accounts: ['hot'] });
    line.letGo(LIMITS);
    const copied = slice.mock.results.reduce((sum, { value }) => sum + (value as unknown[]).length, 0);
    slice.mockRestore();
    expect(copied).toBe(0);
  });

  it('looks at nobody again who has to wait, until somebody is back', () => {
    let looks = 0;
    const party = (nth: number): Numbered => ({
      nth,
      size: 1,
      characters: 1,
      get accounts() {
        looks += 1;
        return ['hot'];
      },
    });
    const line = createWaitingLine<Numbered>();
    line.join(party(0));
    const first = line.letGo(LIMITS);
    for (let nth = 1; nth <= 1_000; nth += 1) {
      line.join(party(nth));
      line.letGo(LIMITS);
    }
    expect(looks).toBeLessThan(5_000);
    line.returned(first);
    expect(line.letGo(LIMITS)).toHaveLength(LIMITS.most);
  });
});
