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

export function createRecentRecords(now: () => number = () => performance.now()): RecentRecords {
  let kept: { readonly at: number; readonly records: readonly AttemptRecord[] }[] = [];
  let count = 0;
  const forget = () => {
    while (kept[0] !== undefined && (now() - kept[0].at > KEPT_MS || count > MAX_KEPT)) {
      count -= kept[0].records.length;
      kept = kept.slice(1);
    }
  };
  return {
    add: (records) => {
      kept.push({ at: now(), records });
      count += records.length;
      forget();
    },
    all: () => {
      forget();
      // Once each, as it was last: it may have been recorded again before.
      const records = kept.flatMap((batch) => batch.records);
      return [...new Map(records.map((record) => [`${record.deliveryId} ${record.attempt}`, record])).values()];
    },
  };
}
