import type { LimitName, Passed } from './throttle.ts';

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

/** Why a run goes no faster. */
export function whySlow(passed: Passed | null | undefined): string {
  if (passed == null) return 'others are at work, and faster was not tried yet';
  return WORDS[passed.name](decimal(passed.value), decimal(passed.limit));
}

export const blindness = (what: string): string => BLIND[what] ?? what;

/** A share of full speed. */
export const percent = (share: number): string => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

export const decimal = (value: number): string => String(Math.round(value * 10) / 10);
