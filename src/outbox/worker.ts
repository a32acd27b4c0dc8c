import type { Logger } from 'pino';
import { assertMigrated } from '../db/migrate.ts';
import { assertSupportedServer, connectionConfig, createPool, type Pool } from '../db/pool.ts';
import { type Sockets, trackSockets } from '../db/sockets.ts';
import { toAppError } from '../db/sqlstate.ts';
import { type RunningAttempts, startAttempts } from './attempt-runner.ts';
import { type AttemptRecord, claimAttempts, postponeAttempt, recordAttempts } from './attempts.ts';
import { createBatcher } from './batcher.ts';
import { type Retention, startDayKeeping } from './days.ts';
import { within } from './deadline.ts';
import { egressPolicy } from './egress.ts';
import { createEgressAgent } from './egress-agent.ts';
import { createEndpointCache } from './endpoint-cache.ts';
import { assertKeyFits, settleSecrets, someOf } from './endpoint-secrets.ts';
import { BREAKER_DEFAULTS, type BreakerSettings } from './health.ts';
import { OUTBOX_SESSION } from './held-connection.ts';
import type { KeyRing } from './key-ring.ts';
import { startListener } from './listener.ts';
import type { ReadyAttempt } from './make-attempt.ts';
import { NOBODY, type Observer } from './observer.ts';
import { createOutageLog, type OutageLog } from './outage-log.ts';
import { startPresence } from './presence.ts';
import { type DeliveryQueue, openQueue } from './queue.ts';
import { createRecentRecords } from './recent-records.ts';
import { type Outages, type Relay, startRelay } from './relay.ts';
import { STANDARD_RETRY_DELAYS_MS } from './retry.ts';

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
  /** Requests on their way at once. */
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

/** How a worker stands at a moment, for whoever looks at it from outside. */
export interface WorkerState {
  readonly leads: boolean;
  readonly listens: boolean;
  /** Whether something of it failed with PostgreSQL, and has not found out yet that it works again. */
  readonly isCutOff: boolean;
  /** Requests on their way. */
  readonly inFlight: number;
  readonly pool: { readonly total: number; readonly idle: number; readonly waiting: number };
}

export interface RunningWorker {
  state(): WorkerState;
  readonly queue: Pick<DeliveryQueue, 'answers' | 'hasWaiting'>;
  /**
   * Takes nothing new, lets the requests in flight finish for `drainMs`, breaks off and hands back the rest, and closes
   * every connection: within `drainMs` and `STOP_MARGIN_MS`, whatever the servers do. Safe to call twice.
   */
  stop(): Promise<void>;
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
} as const;

const POOL_MAX = 10;
/** No statement of ours takes this long on a server that answers. */
const QUERY_TIMEOUT_MS = 5_000;
/** Nobody waits for what is written down, but the next who wants the place. */
const RECORDING = { maxItems: 500, gatherMs: 3 };
/** After `drainMs`, for what was broken off to be recorded. */
const HAND_BACK_MS = 3_000;
/** For everything that uses the database's connections to come to its end. */
const CLOSE_MS = 1_500;
/** For those connections, to say goodbye to a server that may have gone silent. */
const GOODBYE_MS = 500;
/** How much longer than `drainMs` a stop may take. */
export const STOP_MARGIN_MS = HAND_BACK_MS + CLOSE_MS + GOODBYE_MS;
/** How many more attempts may be lost than the schedule has: they are none of the endpoint's. */
const LOST_ATTEMPTS_GRACE = 5;
/** Until a delivery is looked at again that nobody could sign: another worker may have the key, or this one soon. */
const UNSIGNABLE_MS = 15_000;

/**
 * Starts relay and worker in this process. Any number may run against one database, in one process or in many.
 * @throws AppError DB_*, MIGRATIONS_PENDING, OUTBOX_KEY_MISSING, OUTBOX_KEY_WRONG, QUEUE_UNREACHABLE, LISTEN_UNAVAILABLE
 */
export async function startWorker(given: WorkerOptions): Promise<RunningWorker> {
  const options = { ...WORKER_DEFAULTS, ...given };
  const delaysMs = options.retryDelaysMs ?? STANDARD_RETRY_DELAYS_MS;
  const sockets = trackSockets();
  const outages = watchOutages(options, sockets);
  const [breakOff, abandon] = [new AbortController(), new AbortController()];
  const db = createWorkerPool(options.databaseUrl, sockets);
  const closers: (() => Promise<unknown>)[] = [];
  const closeAll = async () => {
    abandon.abort();
    // All at once: what one of them waits for in vain is no reason not to tell the others.
    await within(CLOSE_MS, Promise.allSettled(closers.splice(0).map((close) => close())));
    await within(GOODBYE_MS, db.end());
    sockets.destroyAll();
  };
  try {
    await assertSupportedServer(db);
    await assertMigrated(db);
    await prepareSecrets(db, options);
    const queue = await openQueue({ ...options, redisUrl: options.redisUrl, db, outage: outages.queue, sockets });
    closers.push(() => queue.close());
    const agent = createEgressAgent(egressPolicy(options.egressAllow, options.egressDeny));
    closers.push(() => agent.close());
    const recent = createRecentRecords();
    const record = createBatcher(async (records: readonly AttemptRecord[]) => {
      const moved = await recordAttempts(db, records);
      recent.add(records);
      return records.map(({ deliveryId }) => moved.has(deliveryId));
    }, RECORDING);
    const recordAgain = () => Promise.all(recent.all().map(record));
    const presence = await startPresence({
      ...options,
      db,
      sockets,
      outage: outages.postgres,
      queryTimeoutMs: QUERY_TIMEOUT_MS,
      onReturn: () => void recordAgain().catch((error: unknown) => outages.postgres.failed('presence', error)),
    });
    closers.push(() => presence.close());
    const relay = startRelay({
      ...options,
      sockets,
      queryTimeoutMs: QUERY_TIMEOUT_MS,
      queue,
      outages,
      maxLost: delaysMs.length + 1 + LOST_ATTEMPTS_GRACE,
      breaker: { ...BREAKER_DEFAULTS, ...options.breaker },
    });
    closers.push(() => relay.stop());
    const listener = await startListener({
      ...options,
      db,
      sockets,
      outage: outages.postgres,
      onWake: relay.wake,
      onChange: relay.recheck,
    });
    closers.push(() => listener.close());
    const days = startDayKeeping({ pool: db, log: options.log, retention: options.retention });
    closers.push(() => days.stop());

    const endpoints = createEndpointCache({ ...options, db });
    const { worker } = presence;
    const attempts = startAttempts({
      concurrency: options.concurrency,
      claim: async (jobs) => {
        const claimed = await claimAttempts(db, jobs, { worker, leaseMarginMs: options.leaseMarginMs });
        options.observer.claimed(claimed.length);
        const byEndpoint = await endpoints.get(claimed);
        return claimed.flatMap((attempt): ReadyAttempt[] => {
          const endpoint = byEndpoint.get(attempt.endpointId);
          return endpoint === undefined ? [] : [{ ...attempt, endpoint }];
        });
      },
      context: {
        ...options,
        delaysMs,
        agent,
        stop: breakOff.signal,
        abandon: abandon.signal,
        postpone: (attempt) => postponeAttempt(db, attempt, { worker, delayMs: UNSIGNABLE_MS }),
        record,
      },
      onFailure: (error) => outages.postgres.failed('relay', error),
      // When its next attempt is due, the relay reads from what was recorded; asleep, it would read too late.
      onFailed: relay.wake,
    });
    await queue.consume(attempts.take);
    let stopped: Promise<void> | undefined;
    return {
      queue,
      state: () => ({
        leads: relay.leads(),
        listens: listener.listens(),
        isCutOff: outages.postgres.lasts(),
        inFlight: attempts.count(),
        pool: { total: db.totalCount, idle: db.idleCount, waiting: db.waitingCount },
      }),
      stop: () => {
        stopped ??= (async () => {
          await drain({ relay, queue, attempts, drainMs: options.drainMs, breakOff: () => breakOff.abort() });
          await closeAll();
        })();
        return stopped;
      },
    };
  } catch (error) {
    await closeAll();
    throw toAppError(error);
  }
}

// Before anything is taken: with keys of another database it would send nothing, and encrypt what nobody else can read.
async function prepareSecrets(db: Pool, { keyRing, log }: Pick<WorkerOptions, 'keyRing' | 'log'>): Promise<void> {
  const { undecryptable } = await assertKeyFits(db, keyRing);
  if (undecryptable.length > 0) {
    log.error(
      { endpoints: undecryptable },
      `worker: OUTBOX_ENCRYPTION_KEY does not decrypt the secrets of ${someOf(undecryptable)}, whose deliveries wait`,
    );
  }
  const { moved, encryptedAnew } = await settleSecrets(db, keyRing);
  if (moved + encryptedAnew > 0) log.info({ moved, encryptedAnew }, 'worker: encrypted secrets of endpoints');
}

function watchOutages({ log, redisUrl }: WorkerOptions, sockets: Sockets): Outages {
  const outage = createOutageLog({ log, server: 'PostgreSQL' });
  const postgres: OutageLog = {
    ...outage,
    failed: (witness, error) => {
      outage.failed(witness, error);
      if (isSilence(error)) sockets.breakAll();
    },
  };
  return { postgres, queue: redisUrl === undefined ? postgres : createOutageLog({ log, server: 'Redis' }) };
}

// What is broken off still records its outcome and hands its delivery back; a server that is away may not hold it up.
async function drain(options: {
  relay: Relay;
  queue: DeliveryQueue;
  attempts: RunningAttempts;
  drainMs: number;
  breakOff: () => void;
}): Promise<void> {
  const { relay, queue, attempts, drainMs, breakOff } = options;
  const timer = setTimeout(breakOff, drainMs);
  // It has nothing to hand over, and is waited for when the connections that it uses are closed.
  void relay.stop();
  await within(drainMs + HAND_BACK_MS, Promise.all([queue.drain(), attempts.settle()]));
  clearTimeout(timer);
}

function createWorkerPool(databaseUrl: string, sockets: Sockets): Pool {
  const options = { databaseUrl, applicationName: 'liventix-worker', max: POOL_MAX };
  return createPool(options, {
    options: `${connectionConfig(options).options ?? ''} ${OUTBOX_SESSION}`,
    query_timeout: QUERY_TIMEOUT_MS,
    stream: sockets.open,
  });
}

/** Whether a statement was not answered in time: its connection leads nowhere, and so, most likely, do the others. */
function isSilence(error: unknown): boolean {
  return error instanceof Error && error.message === 'Query read timeout';
}
