/**
 * How an endpoint does, as far as sending to it is concerned:
 *
 *   closed ── so many failures in a row ──▶ open ── the wait is over ──▶ half_open
 *     ▲                                       ▲                             │
 *     └───────────── delivered ───────────────┼──────────── delivered ◀─────┤
 *                                             └── failed: twice as long ────┘
 *
 * Only failures that say something about the endpoint count: a 404 or a 422 says that it is there, and does not want this one message.
 */
export interface Health {
  readonly breaker: 'closed' | 'open' | 'half_open';
  readonly failuresInRow: number;
  /** By the wall clock in ms, of the first failure since it last took a delivery. */
  readonly failingSince: number | null;
  /** Of `now`'s clock. */
  readonly probeAt: number;
  readonly openForMs: number;
  /** How many may be under way while it recovers from having asked for less; Infinity: as many as it has places. */
  readonly slowedTo: number;
  readonly slowedAt: number;
}

export interface BreakerSettings {
  /** So many failures in a row open it. */
  readonly failures: number;
  readonly openMs: number;
  readonly maxOpenMs: number;
  /** An endpoint that failed for so long, and took nothing meanwhile, is disabled. */
  readonly hopelessAfterDays: number;
}

export const BREAKER_DEFAULTS: BreakerSettings = {
  failures: 5,
  openMs: 5_000,
  maxOpenMs: 300_000,
  hopelessAfterDays: 5,
};

export const HEALTHY: Health = {
  breaker: 'closed',
  failuresInRow: 0,
  failingSince: null,
  probeAt: 0,
  openForMs: 0,
  slowedTo: Number.POSITIVE_INFINITY,
  slowedAt: Number.NEGATIVE_INFINITY,
};

export interface JudgedAttempt {
  /** null: it was delivered. */
  readonly errorClass: string | null;
  readonly statusCode: number | null;
}

/** Why a message is sent to nobody. */
export const MESSAGE_FAULTS: ReadonlySet<string> = new Set(['payload_invalid', 'message_unusable']);
/** None of these is the endpoint's. */
export const NOT_ITS_OWN: ReadonlySet<string> = new Set(['worker_lost', 'worker_stopped', ...MESSAGE_FAULTS]);
const ASKS_FOR_LESS: ReadonlySet<number> = new Set([429, 502, 503, 504]);
/** The answers to what was under way at the same moment ask for the same. */
const SLOWED_AGAIN_MS = 1_000;
const BACK_WITH = 4;

/** What an attempt's outcome makes of an endpoint's health. `inFlight` is how many were under way with it. */
export function judgeAttempt(
  health: Health,
  attempt: JudgedAttempt,
  context: {
    readonly now: number;
    readonly wallClock: number;
    readonly inFlight: number;
    readonly settings: BreakerSettings;
  },
): Health {
  if (attempt.errorClass === null) return recovered(health);
  if (NOT_ITS_OWN.has(attempt.errorClass)) return health;
  const failing = { ...health, failingSince: health.failingSince ?? context.wallClock };
  if (isRefusal(attempt)) return { ...failing, failuresInRow: 0 };
  return broken(slowed(failing, attempt, context), context);
}

// As congestion control does: one more for every round that went well, from a few after it was not there at all.
function recovered(health: Health): Health {
  if (health.breaker === 'closed' && health.slowedTo === Number.POSITIVE_INFINITY && health.failingSince === null)
    return health;
  const slowedTo = health.breaker === 'closed' ? health.slowedTo + 1 / health.slowedTo : BACK_WITH;
  return { ...HEALTHY, slowedTo, slowedAt: health.slowedAt };
}

function isRefusal({ statusCode }: JudgedAttempt): boolean {
  return statusCode !== null && statusCode >= 400 && statusCode < 500 && statusCode !== 408 && statusCode !== 429;
}

function slowed(health: Health, attempt: JudgedAttempt, context: { now: number; inFlight: number }): Health {
  const asks = attempt.statusCode !== null && ASKS_FOR_LESS.has(attempt.statusCode);
  if (!asks || context.now - health.slowedAt < SLOWED_AGAIN_MS) return health;
  const slowedTo = Math.max(1, Math.floor(Math.min(health.slowedTo, context.inFlight) / 2));
  return { ...health, slowedTo, slowedAt: context.now };
}

function broken(health: Health, { now, settings }: { now: number; settings: BreakerSettings }): Health {
  const failuresInRow = health.failuresInRow + 1;
  if (health.breaker === 'open' || (health.breaker === 'closed' && failuresInRow < settings.failures)) {
    return { ...health, failuresInRow };
  }
  const openForMs =
    health.breaker === 'closed'
      ? settings.openMs
      : Math.min(settings.maxOpenMs, Math.max(settings.openMs, 2 * health.openForMs));
  return { ...health, breaker: 'open', failuresInRow, openForMs, probeAt: now + openForMs };
}

/** What it is at a moment: an open breaker whose wait is over lets one delivery try. */
export function healthAt(health: Health, now: number): Health {
  return health.breaker === 'open' && now >= health.probeAt ? { ...health, breaker: 'half_open' } : health;
}

/** How many may be under way at once with an endpoint that has so many places. */
export function allowedBy(health: Health, places: number): number {
  switch (health.breaker) {
    case 'open':
      return 0;
    case 'half_open':
      return Math.min(1, places);
    case 'closed':
      return Math.min(places, Math.floor(health.slowedTo));
    default:
      return health.breaker satisfies never;
  }
}
