import type { Queryable } from '../db/pool.ts';
import { type AttemptRecord, recordAttempts } from './attempts.ts';
import { createBatcher } from './batcher.ts';
import { createRecentRecords } from './recent-records.ts';

/** Writes down what attempts came to. */
export interface Recorder {
  /** Answers whether the delivery was still this attempt's. */
  record(record: AttemptRecord): Promise<boolean>;
  /** What a server that crashed may have forgotten. */
  recordAgain(): Promise<unknown>;
}

/** Nobody waits for what is written down, but the next who wants the place. */
const RECORDING = { maxItems: 500, gatherMs: 3 };

export function createRecorder(db: Queryable): Recorder {
  const recent = createRecentRecords();
  const record = createBatcher(async (records: readonly AttemptRecord[]) => {
    const moved = await recordAttempts(db, records);
    recent.add(records);
    return records.map(({ deliveryId }) => moved.has(deliveryId));
  }, RECORDING);
  return { record, recordAgain: () => Promise.all(recent.all().map(record)) };
}
