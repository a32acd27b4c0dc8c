import type { Logger } from 'pino';
import { migrate } from '../db/migrate.ts';
import { openPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type TrialBalance, trialBalance } from '../ledger/trial-balance.ts';
import { addEndpoint } from '../outbox/endpoints.ts';
import { removeQueue } from '../outbox/redis-backend.ts';
import { outboxStatus } from '../outbox/status.ts';
import { startWorker } from '../outbox/worker.ts';
import { runBackfill } from '../replay/backfill.ts';
import { compareWallets, type Drift, driftByCause } from '../replay/report.ts';
import { type Verification, verifyBooksAndWallets } from '../replay/verify.ts';
import { createLegacyDatabase, fillLegacyDatabase } from './legacy-database.ts';
import { type Receiver, startReceiver } from './receiver.ts';
import { sellTickets } from './ticket-sales.ts';

export interface DemoOptions {
  /** An empty database, whose owner the connection is. */
  readonly databaseUrl: string;
  readonly redisUrl: string | undefined;
  readonly wallets: number;
  readonly transactions: number;
  readonly seed: number;
  /** Whether the database, and with it what Redis holds for it, outlives a demo that comes to its end. */
  readonly keep: boolean;
  readonly log: Logger;
  readonly stop: AbortSignal;
  readonly onStep: (step: DemoStep) => void;
  readonly onProgress: (label: string, done: number | bigint, total: number | bigint) => void;
}

type DemoStep = 'legacy' | 'migrate' | 'backfill' | 'post' | 'deliver' | 'verify';

export interface DemoResult {
  readonly booksBalance: boolean;
  readonly legacyTransactions: bigint;
  readonly events: bigint;
  readonly entries: bigint;
  readonly trialBalance: readonly TrialBalance[];
  readonly walletsCompared: bigint;
  readonly walletsDiffering: bigint;
  readonly drift: readonly Drift[];
  readonly webhooks: DemoWebhooks;
  readonly verification: Verification;
  /** Seconds by step. */
  readonly seconds: Readonly<Partial<Record<DemoStep, number>>>;
}

export interface DemoWebhooks {
  readonly messages: number;
  /** A message times an endpoint that subscribes to it. */
  readonly deliveries: number;
  /** Deliveries that the outbox counts as done. */
  readonly delivered: number;
  /** Requests that reached the receiver: more than deliveries when one was repeated. */
  readonly received: number;
  readonly verified: number;
}

const ORG_WALLETS = 50;
const TICKET_ORDERS = 300;
const DELIVERY_DEADLINE_MS = 60_000;
const LOOPBACK = '127.0.0.0/8';

/**
 * Tells the whole story against real servers: a legacy database with its hazards, the migration, the replay, the proof,
 * new postings that announce themselves, and their delivery to a receiver that verifies every signature.
 * @throws AppError DEMO_STOPPED once `stop` is aborted; DB_*, QUEUE_UNREACHABLE, LISTEN_UNAVAILABLE
 */
export async function runDemo(given: DemoOptions): Promise<DemoResult> {
  const options = { ...given, onProgress: stoppable(given) };
  const pool = await openPool({ databaseUrl: options.databaseUrl });
  const seconds: Partial<Record<DemoStep, number>> = {};
  const step = async <T>(name: DemoStep, work: () => Promise<T>): Promise<T> => {
    throwIfStopped(options.stop);
    options.onStep(name);
    const startedAt = performance.now();
    const result = await work();
    seconds[name] = (performance.now() - startedAt) / 1_000;
    return result;
  };
  let kept = false;
  try {
    await step('legacy', () => makeLegacyDatabase(pool, options));
    await step('migrate', () => migrate(options.databaseUrl));
    const backfill = await step('backfill', () =>
      runBackfill(pool, {
        stop: options.stop,
        onProgress: (at) => options.onProgress(`${at.source}: ${at.step}`, at.done, at.total),
      }),
    );
    const webhooks = await tellTheOutside(pool, options, step);
    const verification = await step('verify', () =>
      verifyBooksAndWallets(pool, (result) => options.onProgress(`verify: ${result.check}`, 0, 0)),
    );
    const summary = await summarize(pool);
    kept = options.keep;
    return {
      ...summary,
      legacyTransactions: backfill.legacyTransactions,
      booksBalance: verification.balance === true,
      webhooks,
      verification,
      seconds,
    };
  } finally {
    if (!kept) await forgetQueue(pool, options);
    await pool.end();
  }
}

// Where it fails, the demo has failed before, for the same reason.
async function forgetQueue(pool: Pool, { redisUrl, log }: Pick<DemoOptions, 'redisUrl' | 'log'>): Promise<void> {
  if (redisUrl === undefined) return;
  await removeQueue(pool, redisUrl).catch((err: unknown) => log.warn({ err }, 'demo: its keys stay in Redis'));
}

/** Whether everything the demo promises came true. */
export function demoHolds(result: DemoResult): boolean {
  return (
    result.booksBalance &&
    result.walletsDiffering === 0n &&
    result.walletsCompared > 0n &&
    webhooksArrived(result.webhooks)
  );
}

/** Every message reached every endpoint that wants it, and every request was genuine. */
export function webhooksArrived(webhooks: DemoWebhooks): boolean {
  return (
    webhooks.messages === TICKET_ORDERS &&
    webhooks.deliveries >= webhooks.messages &&
    webhooks.delivered === webhooks.deliveries &&
    webhooks.received >= webhooks.delivered &&
    webhooks.verified === webhooks.received
  );
}

function throwIfStopped(stop: AbortSignal): void {
  if (stop.aborted) throw new AppError('DEMO_STOPPED', 'The demo was stopped. Run it again to start clean.');
}

// Every long step reports its progress between two statements: there Ctrl-C takes effect.
function stoppable(options: Pick<DemoOptions, 'stop' | 'onProgress'>): DemoOptions['onProgress'] {
  return (label, done, total) => {
    throwIfStopped(options.stop);
    options.onProgress(label, done, total);
  };
}

async function makeLegacyDatabase(pool: Pool, options: DemoOptions): Promise<void> {
  await createLegacyDatabase(pool);
  await fillLegacyDatabase(pool, {
    wallets: options.wallets,
    orgWallets: Math.min(ORG_WALLETS, Math.max(1, options.wallets)),
    transactions: options.transactions,
    seed: options.seed,
    onProgress: (at) => options.onProgress(`legacy database: ${at.step}`, at.done, at.total),
  });
}

type Step = <T>(name: DemoStep, work: () => Promise<T>) => Promise<T>;

/** Two endpoints, one worker, and postings that announce themselves: every message must arrive and verify. */
async function tellTheOutside(pool: Pool, options: DemoOptions, step: Step): Promise<DemoWebhooks> {
  const receiver = await startReceiver({ secrets: [] });
  try {
    const egressAllow = [LOOPBACK];
    const everything = await addEndpoint(pool, { url: `${receiver.url}/everything`, topics: ['*'], egressAllow });
    const tickets = await addEndpoint(pool, { url: `${receiver.url}/tickets`, topics: ['ticket.*'], egressAllow });
    receiver.setSecrets([everything.secret, tickets.secret]);
    const { databaseUrl, redisUrl, log } = options;
    const worker = await startWorker({ databaseUrl, redisUrl, log, egressAllow });
    try {
      await step('post', () => sellTickets(pool, { orders: TICKET_ORDERS, seed: options.seed }));
      return await step('deliver', () => awaitDeliveries({ pool, receiver, onProgress: options.onProgress }));
    } finally {
      await worker.stop();
    }
  } finally {
    await receiver.stop();
  }
}

async function awaitDeliveries(input: {
  pool: Pool;
  receiver: Receiver;
  onProgress: DemoOptions['onProgress'];
}): Promise<DemoWebhooks> {
  const { pool, receiver, onProgress } = input;
  const deadline = performance.now() + DELIVERY_DEADLINE_MS;
  for (;;) {
    const status = await outboxStatus(pool);
    const deliveries = Object.values(status.deliveries).reduce((sum, count) => sum + count, 0);
    const { delivered, dead } = status.deliveries;
    const open = status.messages.unprocessed + deliveries - delivered - dead;
    onProgress('webhooks', delivered, deliveries);
    if (open === 0 || performance.now() > deadline) {
      const { received, verified } = receiver.counts();
      return { messages: status.messages.total, deliveries, delivered, received, verified };
    }
    await receiver.until((counts) => counts.received >= deliveries, 100);
  }
}

async function summarize(
  pool: Pool,
): Promise<Pick<DemoResult, 'events' | 'entries' | 'trialBalance' | 'walletsCompared' | 'walletsDiffering' | 'drift'>> {
  const { rows } = await pool.query<{ events: bigint; entries: bigint }>(
    'select (select count(*) from payments.events) as events, (select count(*) from payments.entries) as entries',
  );
  const wallets = await compareWallets(pool);
  return {
    events: rows[0]?.events ?? 0n,
    entries: rows[0]?.entries ?? 0n,
    trialBalance: await trialBalance(pool),
    walletsCompared: wallets?.compared ?? 0n,
    walletsDiffering: wallets?.differing ?? 0n,
    drift: await driftByCause(pool),
  };
}
