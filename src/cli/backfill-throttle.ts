import type { ThrottleStatus } from '../replay/pace/pacing.ts';
import type { LimitName, Pace, Passed } from '../replay/pace/throttle.ts';
import { formatCount } from './output.ts';

const WORDS: Readonly<Record<LimitName, (value: string, limit: string) => string>> = {
  canary_ms: (value, limit) => `a write like those of old code took ${value} ms, allowed are ${limit}`,
  canary_mean_ms: (value, limit) => `writes like those of old code take ${value} ms on average, allowed are ${limit}`,
  lock_waiters: (value, limit) => `${value} sessions waited for it, allowed are ${limit}`,
  replication_lag_s: (value, limit) => `a replica was ${value} s behind, allowed are ${limit}`,
  wal_mb_per_s: (value, limit) => `the server wrote ${value} MB of WAL a second, allowed are ${limit}`,
};

/** What a role may not see, and what does not hold the backfill because of that. */
const BLIND: Readonly<Record<string, string>> = {
  sessions:
    'whether anybody else is at work is not visible to this role, so that somebody is taken to be (grant pg_read_all_stats)',
  replicas: 'how far replicas are behind is not visible to this role (grant pg_read_all_stats)',
  wallets: 'this role may not lock wallets: the canary only writes',
};

/** What a progress bar adds while the run is slowed down. */
export function throttleNote({ share, passed }: Pace): string {
  if (share === 1) return '';
  return `   slowed down to ${percent(share)}: ${reason(passed)}`;
}

export function throttleLines(throttle: ThrottleStatus | null): string[] {
  if (throttle === null) return [];
  const { share, chunkRows, passed, canaryP99Ms, baselineP99Ms, blind } = throttle;
  const pace = share === 1 ? 'at full speed' : `slowed down to ${percent(share)}, ${reason(passed)}`;
  const now = canaryP99Ms === null ? 'not measured yet' : `${decimal(canaryP99Ms)} ms`;
  return [
    `runs ${pace}; chunks of ${formatCount(chunkRows)} rows; p99 of a write ${now}, ${decimal(baselineP99Ms)} ms while the run rests\n`,
    ...blind.map((what) => `  ${BLIND[what] ?? what}\n`),
  ];
}

function reason(passed: Passed | null | undefined): string {
  if (passed == null) return 'others are at work, and faster was not tried yet';
  return WORDS[passed.name](decimal(passed.value), decimal(passed.limit));
}

const percent = (share: number) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
const decimal = (value: number) => String(Math.round(value * 10) / 10);
