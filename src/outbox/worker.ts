import pg from 'pg';
import type { Logger } from 'pino';
import { assertMigrated } from '../db/migrate.ts';
import { assertSupportedServer, connectionConfig, type Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { egressPolicy } from './egress.ts';
import { createEgressAgent } from './egress-agent.ts';
import { startListener } from './listener.ts';
import { makeAttempt } from './make-attempt.ts';
import { type DeliveryQueue, openQueue } from './queue.ts';
import { startRelay } from './relay.ts';
import { STANDARD_RETRY_DELAYS_MS } from './retry.ts';

/** What a worker is started with; every duration has a default that suits production. */
export interface WorkerOptions {
  readonly databaseUrl: string;
  /** BullMQ runs on PostgreSQL when there is none. */
  readonly redisUrl?: string | undefined;
  /** CIDRs that webhooks may reach beside the public addresses. */
  readonly egressAllow: readonly string[];
  readonly log: Logger;
  /** Requests on their way at once. */
  readonly concurrency?: number;
  /** The waits after the first, second, … failed attempt. */
  readonly retryDelaysMs?: readonly number[];
  /** The longest the relay waits before it looks again. */
  readonly pollMs?: number;
  /** How often lost leases are looked for. */
  readonly sweepMs?: number;
  /** After how long a queued delivery that nobody started is queued again. */
  readonly queueLeaseMs?: number;
  /** How much longer than its endpoint's timeout an attempt is believed to be under way. */
  readonly leaseMarginMs?: number;
  /** How long `stop` waits for requests in flight before it breaks them off. */
  readonly drainMs?: number;
  readonly now?: () => Date;
  readonly random?: () => number;
}

export interface RunningWorker {
  /**
   * Takes nothing new, lets the requests in flight finish for `drainMs`, breaks off and hands back the rest, and closes
   * every connection. Safe to call twice.
   */
  stop(): Promise<void>;
}

export const WORKER_DEFAULTS = {
  concurrency: 50,
  pollMs: 1_000,
  sweepMs: 5_000,
  queueLeaseMs: 15_000,
  leaseMarginMs: 15_000,
  drainMs: 20_000,
} as const;

const POOL_MAX = 10;
/** No statement of ours takes this long on a server that answers. */
const QUERY_TIMEOUT_MS = 15_000;
/** After `drainMs`, for what was broken off to be recorded. */
const HAND_BACK_MS = 5_000;
/** For each connection, to say goodbye to a server that may have gone silent. */
const CLOSE_MS = 3_000;
/** Lost attempts allowed beyond the schedule, because the endpoint had no part in them. */
const LOST_ATTEMPTS_GRACE = 5;

/**
 * Starts relay and worker in this process. Any number may run against one database, in one process or in many.
 * @throws AppError DB_*, MIGRATIONS_PENDING, QUEUE_UNREACHABLE, LISTEN_UNAVAILABLE
 */
export async function startWorker(given: WorkerOptions): Promise<RunningWorker> {
  const options = { ...WORKER_DEFAULTS, ...given };
  const delaysMs = options.retryDelaysMs ?? STANDARD_RETRY_DELAYS_MS;
  const closers: (() => Promise<unknown>)[] = [];
  const closeAll = async () => {
    for (const close of closers.splice(0).reverse())
      await within(
        CLOSE_MS,
        close().catch(() => undefined),
      );
  };
  try {
    const db = await openWorkerPool(options.databaseUrl);
    closers.push(() => db.end());
    await assertMigrated(db);
    const queue = await openQueue({ ...options, redisUrl: options.redisUrl, db });
    closers.push(() => queue.close());
    const agent = createEgressAgent(egressPolicy(options.egressAllow));
    closers.push(() => agent.close());
    const relay = startRelay({
      ...options,
      db,
      queue,
      maxAttempts: delaysMs.length + 1 + LOST_ATTEMPTS_GRACE,
    });
    closers.push(() => relay.stop());
    const listener = await startListener({ ...options, db, onWake: relay.wake });
    closers.push(() => listener.close());

    const stopping = new AbortController();
    await queue.consume({
      concurrency: options.concurrency,
      process: async (job) => {
        await makeAttempt(job, { ...options, delaysMs, db, agent, stop: stopping.signal }).catch((error: unknown) => {
          // Not the endpoint's failure but the database's. The delivery's lease brings it back.
          options.log.error({ err: error, ...job }, 'worker: attempt could not be claimed or recorded');
        });
        // Its endpoint has room for the next.
        relay.wake();
      },
    });
    let stopped: Promise<void> | undefined;
    return {
      stop: () => {
        stopped ??= (async () => {
          await relay.stop();
          await drain(queue, { drainMs: options.drainMs, breakOff: () => stopping.abort() });
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

// What is broken off still records its outcome and hands its delivery back; a database that is away may not hold it up.
async function drain(queue: DeliveryQueue, options: { drainMs: number; breakOff: () => void }): Promise<void> {
  const timer = setTimeout(options.breakOff, options.drainMs);
  await within(options.drainMs + HAND_BACK_MS, queue.drain());
  clearTimeout(timer);
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, bound]);
  clearTimeout(timer);
}

// Nothing here has to survive a crash of the server: what it forgets is found again from the messages, which their own
// transactions made durable, and is at worst delivered twice under one webhook-id. So no commit waits for the disk.
async function openWorkerPool(databaseUrl: string): Promise<Pool> {
  const config = connectionConfig({ databaseUrl, applicationName: 'liventix-worker' });
  const pool = new pg.Pool({
    ...config,
    options: `${config.options ?? ''} -c synchronous_commit=off`,
    query_timeout: QUERY_TIMEOUT_MS,
    max: POOL_MAX,
  });
  pool.on('error', () => undefined);
  try {
    await assertSupportedServer(pool);
    return pool;
  } catch (error) {
    await pool.end();
    throw error;
  }
}
