import type { AttemptRecord } from './attempts.ts';

/**
 * What was recorded a moment ago. Commits of the outbox do not wait for the disk, so a server that crashed may have forgotten it: then it
 * is recorded again, which changes nothing where it was not forgotten.
 */
export interface RecentRecords {
  add(records: readonly AttemptRecord[]): void;
  all(): readonly AttemptRecord[];
}

/** PostgreSQL writes its log at the latest after three times `wal_writer_delay`, 0.2 s; and whoever lost it finds out a little later. */
const KEPT_MS = 10_000;
/** At most so many, the last ones: more than a worker records in the time that counts. */
const MAX_KEPT = 20_000;
/** And at most so much of what endpoints answered, which is as long as they like: the longest answers of two thousand attempts. */
const MAX_KEPT_BYTES = 32 * 1024 * 1024;
const BYTES_A_CHARACTER = 2;

export function createRecentRecords(now: () => number = () => performance.now()): RecentRecords {
  let kept: { readonly at: number; readonly records: readonly AttemptRecord[]; readonly bytes: number }[] = [];
  let count = 0;
  let bytes = 0;
  const forget = () => {
    while (kept[0] !== undefined && (now() - kept[0].at > KEPT_MS || count > MAX_KEPT || bytes > MAX_KEPT_BYTES)) {
      count -= kept[0].records.length;
      bytes -= kept[0].bytes;
      kept = kept.slice(1);
    }
  };
  return {
    add: (records) => {
      const added = { at: now(), records, bytes: sizeOf(records) };
      kept.push(added);
      count += records.length;
      bytes += added.bytes;
      forget();
    },
    all: () => {
      forget();
      // Once each, as it was last: it may have been recorded again before.
      const records = kept.flatMap((batch) => batch.records);
      return lastOfEach(records);
    },
  };
}

/** Of what is not short; at most, because text of one byte a character is kept as such. */
function sizeOf(records: readonly AttemptRecord[]): number {
  return records.reduce((sum, { response }) => sum + (response?.length ?? 0) * BYTES_A_CHARACTER, 0);
}

/** Each attempt once, as it was recorded last. */
export function lastOfEach(records: readonly AttemptRecord[]): readonly AttemptRecord[] {
  return [...new Map(records.map((record) => [`${record.deliveryId} ${record.attempt}`, record])).values()];
}
