import { describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { type ClockJump, createServerClock } from '../../src/outbox/server-clock.ts';

const HOUR_MS = 3_600_000;

/** A server and a clock of ours, both of which the test sets; an answer takes `latencyMs`. */
function setUp() {
  const clocks = { ours: 5_000, server: Date.parse('2026-11-29T00:30:00Z'), latencyMs: 2 };
  const pass = (ms: number) => {
    clocks.ours += ms;
    clocks.server += ms;
  };
  const db = {
    query: async () => {
      pass(clocks.latencyMs / 2);
      const at = clocks.server;
      pass(clocks.latencyMs / 2);
      return { rows: [{ at }] };
    },
  } as unknown as Queryable;
  const clock = createServerClock(() => clocks.ours);
  const look = async () => {
    let jump: ClockJump | undefined;
    await clock.watch(db, async (found) => {
      jump = found;
    });
    return jump;
  };
  return { clocks, pass, clock, db, look };
}

describe("the server's clock", () => {
  it.each([-HOUR_MS, HOUR_MS, -1_000, 1_000])('is noticed when it jumps by %d ms, once', async (byMs) => {
    const { clocks, pass, look } = setUp();
    expect(await look()).toBeUndefined();
    pass(400);
    clocks.server += byMs;
    const jumpedAt = clocks.server;
    pass(400);
    const jump = await look();
    expect(jump?.byMs).toBe(byMs);
    expect(jumpedAt - (jump?.since.getTime() ?? 0)).toBeGreaterThanOrEqual(0);
    expect(jumpedAt - (jump?.since.getTime() ?? 0)).toBeLessThan(1_500);
    pass(1_000);
    expect(await look()).toBeUndefined();
  });

  it('is not said to have jumped while it is slewed, or runs apart from ours', async () => {
    const { clocks, pass, look } = setUp();
    for (let second = 0; second < 5_000; second += 1) {
      clocks.server += 0.5;
      expect(await look()).toBeUndefined();
      pass(1_000);
    }
  });

  it('is judged by answers that came soon, and no jump is forgotten over one that did not', async () => {
    const { clocks, look } = setUp();
    await look();
    clocks.server -= HOUR_MS;
    clocks.latencyMs = 4_000;
    expect(await look()).toBeUndefined();
    clocks.latencyMs = 2;
    expect((await look())?.byMs).toBe(-HOUR_MS);
  });

  it('is found to have jumped again by the next look, when what follows from it failed', async () => {
    const { clocks, clock, db, look } = setUp();
    await look();
    clocks.server -= HOUR_MS;
    const failing = clock.watch(db, () => Promise.reject(new Error('the connection was lost')));
    await expect(failing).rejects.toThrow('the connection was lost');
    expect((await look())?.byMs).toBe(-HOUR_MS);
    expect(await look()).toBeUndefined();
  });

  it.each<[string, (setting: ReturnType<typeof setUp>) => void]>([
    ['somebody else watched it meanwhile', ({ clock }) => clock.forget()],
    ['nobody watched it for so long that it may have run apart', ({ pass }) => pass(HOUR_MS + 1)],
  ])('is looked at anew when %s', async (_when, happens) => {
    const setting = setUp();
    await setting.look();
    setting.clocks.server -= HOUR_MS;
    happens(setting);
    expect(await setting.look()).toBeUndefined();
  });
});
