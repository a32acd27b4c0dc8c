import type { Logger } from 'pino';
import type { Retention } from './days.ts';
import type { BreakerSettings } from './health.ts';
import type { KeyRing } from './key-ring.ts';
import { NOBODY, type Observer } from './observer.ts';

/** What a worker is started with; every duration has a default that suits production. */
export interface WorkerOptions {
  readonly databaseUrl: string;
  /** BullMQ runs on PostgreSQL when there is none. */
  readonly redisUrl?: string | undefined;
  /** CIDRs that webhooks may reach beside the public addresses. */
  readonly egressAllow: readonly string[];
  /** CIDRs that they may not reach, whatever else is said of them. */
  readonly egressDeny?: readonly string[];
  /** By which the endpoints' secrets are kept. */
  readonly keyRing: KeyRing;
  readonly log: Logger;
  /** Requests on their way at once, beside those that are slow. */
  readonly concurrency?: number;
  /** The waits after the first, second, … failed attempt, at endpoints that have none of their own. */
  readonly retryDelaysMs?: readonly number[];
  /** The longest the relay waits before it looks again. */
  readonly pollMs?: number;
  /** How often the relay asks what became of deliveries that it has not heard of. */
  readonly sweepMs?: number;
  /** After how long a queued delivery that nobody started is queued again. */
  readonly queueLeaseMs?: number;
  /** How much longer than its endpoint's timeout an attempt is believed to be under way. */
  readonly leaseMarginMs?: number;
  /** How long `stop` waits for requests in flight before it breaks them off. */
  readonly drainMs?: number;
  /** How long what is over is kept. */
  readonly retention?: Retention;
  /** When an endpoint that fails is left alone, and for how long. */
  readonly breaker?: Partial<BreakerSettings>;
  /** Who is told what it does. */
  readonly observer?: Observer;
  readonly now?: () => Date;
  readonly random?: () => number;
}

export const WORKER_DEFAULTS = {
  concurrency: 50,
  pollMs: 1_000,
  sweepMs: 1_000,
  queueLeaseMs: 60_000,
  leaseMarginMs: 15_000,
  drainMs: 20_000,
  retention: { keepDays: 30, keepDeadDays: 90 },
  observer: NOBODY,
} as const satisfies Partial<WorkerOptions>;

/** What a worker runs with. */
export type WorkerSettings = WorkerOptions & Required<Pick<WorkerOptions, keyof typeof WORKER_DEFAULTS>>;
