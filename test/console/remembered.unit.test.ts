import { describe, expect, it } from 'vitest';
import { remembering } from '../../src/console/remembered.ts';

/** A clock that stands, and a read that takes so long by it. */
function reads(tookMs: number) {
  const clock = { at: 1_000, now: () => clock.at };
  let count = 0;
  const ask = remembering(async (key: string) => {
    count += 1;
    clock.at += tookMs;
    return `${key} ${count}`;
  }, clock);
  return { clock, ask, count: () => count };
}

describe('what is dear to read', () => {
  it('is read each time when it is cheap', async () => {
    const { ask, count } = reads(49);
    await ask('a');
    expect((await ask('a')).value).toBe('a 2');
    expect(count()).toBe(2);
  });

  it('is shown again for twenty times as long as it took, with the instant at which its reading began', async () => {
    const { clock, ask } = reads(100);
    expect(await ask('a')).toEqual({ value: 'a 1', readAt: new Date(1_000) });
    clock.at += 1_999;
    expect(await ask('a')).toEqual({ value: 'a 1', readAt: new Date(1_000) });
    clock.at += 1;
    expect((await ask('a')).value).toBe('a 2');
  });

  it('is never older than half a minute, however long it takes', async () => {
    const { clock, ask } = reads(10_000);
    await ask('a');
    clock.at += 30_000;
    expect((await ask('a')).value).toBe('a 2');
  });

  it('is read once for all who ask meanwhile, each thing by itself', async () => {
    const { ask, count } = reads(100);
    const all = await Promise.all([ask('a'), ask('b'), ask('a')]);
    expect(all.map(({ value }) => value)).toEqual(['a 1', 'b 2', 'a 1']);
    expect(count()).toBe(2);
  });

  it('is tried again after it failed', async () => {
    let tries = 0;
    const ask = remembering(async () => {
      tries += 1;
      if (tries === 1) throw new Error('away');
      return tries;
    });
    await expect(ask(undefined)).rejects.toThrow('away');
    expect((await ask(undefined)).value).toBe(2);
  });
});
