import type { Queryable } from '../db/pool.ts';
import { currentSeq, type Outcome, readMissed, readOutcomes } from './outcomes.ts';

/**
 * Hears what attempts came to, in the order of their numbers and each once. A number that is passed over may belong to a transaction that
 * has yet to commit: it is asked for until that would have been given up, or turns out to be nobody's.
 */
export interface Hearing {
  /** @param fromDay of the oldest message that is under way */
  hear(fromDay: string): Promise<readonly Outcome[]>;
  /** The last that were recorded before, `limit` at most. */
  before(limit: number): Promise<readonly Outcome[]>;
}

const OUTCOMES_LIMIT = 2_000;
/** No statement that records outcomes takes longer. */
const LATE_MS = 5_000;
/** The oldest are given up beyond that: whatever is not heard of, the sweep asks for. */
const MAX_MISSED = 5_000;

/** Hears what is recorded from now on. */
export async function startHearing(db: Queryable, now: () => number = () => performance.now()): Promise<Hearing> {
  const began = await currentSeq(db);
  let last = began;
  const missed = new Map<bigint, number>();

  function note({ seq }: Outcome): void {
    if (missed.delete(seq)) return;
    for (let number = last + 1n; number < seq && number > seq - BigInt(MAX_MISSED); number += 1n)
      missed.set(number, now());
    last = seq;
  }

  function giveUp(): void {
    for (const [number, at] of missed) {
      if (now() - at < LATE_MS && missed.size <= MAX_MISSED) return;
      missed.delete(number);
    }
  }

  return {
    before: (limit) => readOutcomes(db, { since: began - BigInt(limit), fromDay: '-infinity', limit }),
    hear: async (fromDay) => {
      giveUp();
      const late = missed.size === 0 ? [] : await readMissed(db, { numbers: [...missed.keys()], fromDay });
      const next = await readOutcomes(db, { since: last, fromDay, limit: OUTCOMES_LIMIT });
      for (const outcome of [...late, ...next]) note(outcome);
      return [...late, ...next];
    },
  };
}
