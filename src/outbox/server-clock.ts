import { clockSkew, sampleClock } from '../db/clock.ts';
import type { Queryable } from '../db/pool.ts';

export interface ClockJump {
  /** Negative: it was set back. */
  readonly byMs: number;
  /** By the clock as it goes now: it did not jump before. */
  readonly since: Date;
}

/** Notices that somebody set the server's clock, by one of our own that only goes forward. */
export interface ServerClock {
  /**
   * Looks at it, and has `follow` do what follows from a jump since it was looked at for the last time, in whatever session. Until that is
   * done, every look finds the jump again. Answers whether there was one.
   */
  watch(db: Queryable, follow: (jump: ClockJump) => Promise<void>): Promise<boolean>;
  /** Somebody else watches it now. */
  forget(): void;
}

/** What is set by less than this makes nobody wait for longer. */
const JUMP_MS = 1_000;
/** An answer that took longer says too little of when the server looked at its clock. */
const MAX_ERROR_MS = 250;
/** Clocks run apart by a second in three hours at worst. */
const REMEMBERED_MS = 3_600_000;

export function createServerClock(now: () => number = () => performance.now()): ServerClock {
  let before: { readonly aheadMs: number; readonly at: number } | undefined;
  return {
    watch: async (db, follow) => {
      const sample = await sampleClock(db, now);
      const { aheadMs, errorMs } = clockSkew([sample]);
      if (errorMs > MAX_ERROR_MS) return false;
      const at = sample.receivedAtMs;
      const last = before !== undefined && at - before.at <= REMEMBERED_MS ? before : { aheadMs, at };
      const byMs = Math.round(aheadMs - last.aheadMs);
      const jumped = Math.abs(byMs) >= JUMP_MS;
      if (jumped) await follow({ byMs, since: new Date(sample.serverAtMs - (at - last.at) - 2 * MAX_ERROR_MS) });
      before = { aheadMs, at };
      return jumped;
    },
    forget: () => {
      before = undefined;
    },
  };
}
