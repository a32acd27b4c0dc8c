import { setTimeout as pause } from 'node:timers/promises';
import type { Queryable } from '../db/pool.ts';
import { type AttemptRecord, recordAttempts } from './attempts.ts';
import { createBatcher } from './batcher.ts';
import { createRecentRecords, lastOfEach } from './recent-records.ts';

/** Writes down what attempts came to. */
export interface Recorder {
  /** Answers whether the delivery was still this attempt's. */
  record(record: AttemptRecord): Promise<boolean>;
  /** What a server that crashed may have forgotten. */
  recordAgain(): Promise<void>;
}

/** Nobody waits for what is written down, but the next who wants the place. */
const RECORDING = { maxItems: 500, gatherMs: 3 };

/** A server that comes back may crash once more, or not be there for all connections at once. */
const TRIES_AGAIN = 5;
const BETWEEN_TRIES_MS = 500;

export function createRecorder(db: Queryable): Recorder {
  const recent = createRecentRecords();
  const record = createBatcher(async (records: readonly AttemptRecord[]) => {
    // A statement takes an attempt once; one that is recorded again may have been made anew meanwhile.
    const moved = await recordAttempts(db, lastOfEach(records));
    recent.add(records);
    return records.map(({ deliveryId }) => moved.has(deliveryId));
  }, RECORDING);

  async function recordRecent(): Promise<void> {
    let left = recent.all();
    for (let tries = 1; left.length > 0; tries += 1) {
      const results = await Promise.allSettled(left.map(record));
      const refused = results.find((result) => result.status === 'rejected');
      if (refused !== undefined && tries === TRIES_AGAIN) throw refused.reason;
      left = left.filter((_, index) => results[index]?.status === 'rejected');
      if (left.length > 0) await pause(BETWEEN_TRIES_MS, undefined, { ref: false });
    }
  }

  // One after the other: a second crash may have forgotten what the first time wrote.
  let before = Promise.resolve();
  return {
    record,
    recordAgain: () => {
      const again = before.then(recordRecent);
      before = again.catch(() => undefined);
      return again;
    },
  };
}
