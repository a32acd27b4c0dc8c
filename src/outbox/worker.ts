import { assertMigrated } from '../db/migrate.ts';
import { assertSupportedServer, type Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { type RunningAttempts, startAttempts } from './attempt-runner.ts';
import { claimAttempts, postponeAttempt } from './attempts.ts';
import { startDayKeeping } from './days.ts';
import { within } from './deadline.ts';
import { egressPolicy } from './egress.ts';
import { createEgressAgent } from './egress-agent.ts';
import { createEndpointCache } from './endpoint-cache.ts';
import { assertKeyFits, settleSecrets, someOf } from './endpoint-secrets.ts';
import { handBack } from './hand-back.ts';
import { BREAKER_DEFAULTS } from './health.ts';
import { type Listener, startListener } from './listener.ts';
import type { ReadyAttempt } from './make-attempt.ts';
import { type Presence, startPresence } from './presence.ts';
import { type DeliveryQueue, openQueue } from './queue.ts';
import { createRecorder, type Recorder } from './recorder.ts';
import { type Relay, startRelay } from './relay.ts';
import { STANDARD_RETRY_DELAYS_MS } from './retry.ts';
import { createTopicSchemas } from './topic-schemas.ts';
import { GOODBYE_MS, openConnections, QUERY_TIMEOUT_MS, type WorkerConnections } from './worker-connections.ts';
import { WORKER_DEFAULTS, type WorkerOptions, type WorkerSettings } from './worker-options.ts';

/** How a worker stands at a moment, for whoever looks at it from outside. */
export interface WorkerState {
  readonly leads: boolean;
  readonly listens: boolean;
  /** Whether something of it failed with PostgreSQL, and has not found out yet that it works again. */
  readonly isCutOff: boolean;
  /** Requests on their way, slow ones included. */
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

/** After `drainMs`, for what was broken off to be recorded. */
const HAND_BACK_MS = 3_000;
/** For everything that uses the database's connections to come to its end. */
const CLOSE_MS = 1_500;
/** How much longer than `drainMs` a stop may take. */
export const STOP_MARGIN_MS = HAND_BACK_MS + CLOSE_MS + GOODBYE_MS;
/** How many more attempts may be lost than the schedule has: they are none of the endpoint's. */
const LOST_ATTEMPTS_GRACE = 5;
/** Until a delivery is looked at again that nobody could sign: another worker may have the key, or this one soon. */
const UNSIGNABLE_MS = 15_000;

/** What a worker is made of, and how it ends. */
interface Assembly {
  readonly settings: WorkerSettings;
  readonly delaysMs: readonly number[];
  readonly connections: WorkerConnections;
  /** Aborted when requests under way have to be broken off. */
  readonly breakOff: AbortController;
  /** Aborted when there is no more time to record what attempts came to. */
  readonly abandon: AbortController;
  /** What was opened so far. */
  readonly closers: (() => Promise<unknown>)[];
}

interface Parts {
  readonly queue: DeliveryQueue;
  readonly relay: Relay;
  readonly listener: Listener;
  readonly attempts: RunningAttempts;
}

/**
 * Starts relay and worker in this process. Any number may run against one database, in one process or in many.
 * @throws AppError DB_*, MIGRATIONS_PENDING, OUTBOX_KEY_MISSING, OUTBOX_KEY_WRONG, QUEUE_UNREACHABLE, LISTEN_UNAVAILABLE
 */
export async function startWorker(given: WorkerOptions): Promise<RunningWorker> {
  const settings = { ...WORKER_DEFAULTS, ...given };
  const assembly: Assembly = {
    settings,
    delaysMs: settings.retryDelaysMs ?? STANDARD_RETRY_DELAYS_MS,
    connections: openConnections(settings),
    breakOff: new AbortController(),
    abandon: new AbortController(),
    closers: [],
  };
  try {
    const { db } = assembly.connections;
    await assertSupportedServer(db);
    await assertMigrated(db);
    await prepareSecrets(db, settings);
    return asRunning(assembly, await startParts(assembly));
  } catch (error) {
    await closeAll(assembly);
    throw toAppError(error);
  }
}

async function startParts(assembly: Assembly): Promise<Parts> {
  const { settings, delaysMs, closers } = assembly;
  const { db, sockets, outages } = assembly.connections;
  const queue = await openQueue({ ...settings, redisUrl: settings.redisUrl, db, outage: outages.queue, sockets });
  closers.push(() => queue.close());
  const { record, recordAgain } = createRecorder(db);
  const presence = await startPresence({
    ...settings,
    db,
    sockets,
    outage: outages.postgres,
    onReturn: () => void recordAgain().catch((error: unknown) => outages.postgres.failed('presence', error)),
  });
  closers.push(() => presence.close());
  const relay = startRelay({
    ...settings,
    sockets,
    queryTimeoutMs: QUERY_TIMEOUT_MS,
    queue,
    outages,
    maxLost: delaysMs.length + 1 + LOST_ATTEMPTS_GRACE,
    breaker: { ...BREAKER_DEFAULTS, ...settings.breaker },
  });
  closers.push(() => relay.stop());
  const listener = await startListener({
    ...settings,
    db,
    sockets,
    outage: outages.postgres,
    onWake: relay.wake,
    onChange: relay.recheck,
  });
  closers.push(() => listener.close());
  const days = startDayKeeping({ pool: db, log: settings.log, retention: settings.retention });
  closers.push(() => days.stop());
  const attempts = startMaking(assembly, { presence, relay, record });
  await queue.consume(attempts.take);
  return { queue, relay, listener, attempts };
}

function startMaking(
  { settings, delaysMs, connections, breakOff, abandon, closers }: Assembly,
  { presence, relay, record }: { presence: Presence; relay: Relay; record: Recorder['record'] },
): RunningAttempts {
  const { db, outages } = connections;
  const { worker } = presence;
  const agent = createEgressAgent(egressPolicy(settings.egressAllow, settings.egressDeny));
  closers.push(() => agent.close());
  const endpoints = createEndpointCache({ ...settings, db });
  const topicSchemas = createTopicSchemas({ ...settings, db });
  return startAttempts({
    concurrency: settings.concurrency,
    claim: async (jobs) => {
      const claimed = await claimAttempts(db, jobs, { worker, leaseMarginMs: settings.leaseMarginMs });
      settings.observer.claimed(claimed.length);
      const byEndpoint = await endpoints.get(claimed);
      const misfits = await topicSchemas.judge(claimed);
      return claimed.flatMap((attempt, index): ReadyAttempt[] => {
        const endpoint = byEndpoint.get(attempt.endpointId);
        return endpoint === undefined ? [] : [{ ...attempt, endpoint, misfit: misfits[index] }];
      });
    },
    handBack: (jobs) => handBack(db, jobs),
    context: {
      ...settings,
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
}

function asRunning(assembly: Assembly, { queue, relay, listener, attempts }: Parts): RunningWorker {
  const { db, outages } = assembly.connections;
  const { drainMs } = assembly.settings;
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
        await drain({ relay, queue, attempts, drainMs, breakOff: () => assembly.breakOff.abort() });
        await closeAll(assembly);
      })();
      return stopped;
    },
  };
}

async function closeAll({ closers, connections, breakOff, abandon }: Assembly): Promise<void> {
  // Before the agent closes: what is under way then was broken off by us, and not by its endpoint.
  breakOff.abort();
  abandon.abort();
  // All at once: what one of them waits for in vain is no reason not to tell the others.
  await within(CLOSE_MS, Promise.allSettled(closers.splice(0).map((close) => close())));
  await connections.close();
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
