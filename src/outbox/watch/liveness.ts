import type { Part } from '../observer.ts';

/** How long a worker has been without, in milliseconds. */
export interface Vitals {
  readonly stage: 'starting' | 'running' | 'stopping';
  readonly stageMs: number;
  /** The longest that its event loop was blocked of late. */
  readonly blockedMs: number;
  /** Since the relay and the presence last got on with anything, be it a try to connect. */
  readonly silentMs: Readonly<Record<Exclude<Part, 'attempts'>, number>>;
  /** For how long jobs have been waiting in a queue that answers, and this worker neither took one nor finished an attempt. */
  readonly jobsLeftMs: number;
  /** For how long this worker has led, something was due, everything it needs worked, and nothing was attempted by anybody. */
  readonly standstillMs: number;
}

export interface Fault {
  readonly part: string;
  readonly found: string;
  readonly seconds: number;
  readonly limitSeconds: number;
}

/**
 * Beyond these a worker makes no progress by any fault but its own. A turn of the relay is at most a connection's timeout (10 s), a
 * statement's (5 s) or a command of the queue (15 s); an attempt takes a minute at most, so in two something is finished.
 */
export const LIVENESS_LIMITS_MS = {
  starting: 120_000,
  blocked: 5_000,
  relay: 30_000,
  presence: 30_000,
  jobsLeft: 120_000,
  standstill: 180_000,
} as const;

/**
 * Why a restart would help; nothing when it would not. A server that is away is no reason: the worker goes on trying, its loops turn, and
 * one that was restarted could not do more.
 */
export function judgeLiveness(vitals: Vitals): readonly Fault[] {
  const limits = LIVENESS_LIMITS_MS;
  const judged: readonly (readonly [part: string, ms: number, limitMs: number, found: string])[] = [
    ['event-loop', vitals.blockedMs, limits.blocked, 'the event loop was blocked'],
    ...(vitals.stage === 'starting'
      ? [['start', vitals.stageMs, limits.starting, 'it has not come to the end of its start'] as const]
      : []),
    ...(vitals.stage === 'running'
      ? ([
          ['relay', vitals.silentMs.relay, limits.relay, 'the relay neither looked nor tried to connect'],
          ['presence', vitals.silentMs.presence, limits.presence, 'the presence neither beat nor tried to connect'],
          ['queue', vitals.jobsLeftMs, limits.jobsLeft, 'jobs wait, and none was taken or finished'],
          ['deliveries', vitals.standstillMs, limits.standstill, 'something is due, and nothing is attempted'],
        ] as const)
      : []),
  ];
  return judged
    .filter(([, ms, limitMs]) => ms > limitMs)
    .map(([part, ms, limitMs, found]) => ({ part, found, seconds: ms / 1_000, limitSeconds: limitMs / 1_000 }));
}
