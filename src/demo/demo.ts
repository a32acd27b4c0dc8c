import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { migrate } from '../db/migrate.ts';
import { openPool, type Pool } from '../db/pool.ts';
import { AppError } from '../errors.ts';
import { type TrialBalance, trialBalance } from '../ledger/trial-balance.ts';
import { addEndpoint } from '../outbox/endpoints.ts';
import type { KeyRing } from '../outbox/key-ring.ts';
import { removeQueue } from '../outbox/redis-backend.ts';
import { type OutboxStatus, outboxStatus } from '../outbox/status.ts';
import { startWorker } from '../outbox/worker.ts';
import { runBackfill } from '../replay/backfill.ts';
import { labelOf } from '../replay/backfill-run.ts';
import { turnCaptureOn } from '../replay/capture.ts';
import { compareWallets, type Drift, driftByCause } from '../replay/report.ts';
import { type Verification, verifyBooksAndWallets } from '../replay/verify.ts';
import { checkMachines } from '../states/verify.ts';
import { type CutOverOwners, cutOverOrganizations } from './cut-over.ts';
import { createLegacyDatabase, createMachineTables, fillLegacyDatabase } from './legacy-database.ts';
import { fillPlatform } from './platform/filling/fill.ts';
import { createPlatform } from './platform/platform.ts';
import { type Receiver, startReceiver } from './receiver.ts';
import { isRestructured, type Restructured, restructureLegacy } from './restructuring.ts';
import { type Sponsorships, sponsorEvents } from './sponsorships.ts';
import { sellTickets } from './ticket-sales.ts';
import { keepTraffic, type Traffic } from './traffic.ts';

export interface DemoOptions {
  /** An empty database, whose owner the connection is. */
  readonly databaseUrl: string;
  readonly redisUrl: string | undefined;
  /** By which the secrets of its endpoints are kept. */
  readonly keyRing: KeyRing;
  readonly wallets: number;
  readonly transactions: number;
  readonly seed: number;
  /** Rows of the other tables of the whole legacy platform; null where only the tables that the story needs are made. */
  readonly platformRows: number | null;
  /** Whether the database, and with it what Redis holds for it, outlives a demo that comes to its end. */
  readonly keep: boolean;
  readonly log: Logger;
  readonly stop: AbortSignal;
  readonly onStep: (step: DemoStep) => void;
  readonly onProgress: (label: string, done: number | bigint, total: number | bigint) => void;
}

type DemoStep =
  | 'legacy'
  | 'migrate'
  | 'restructure'
  | 'traffic'
  | 'backfill'
  | 'cutover'
  | 'post'
  | 'states'
  | 'deliver'
  | 'verify';

export interface DemoResult {
  readonly booksBalance: boolean;
  readonly restructured: Restructured;
  /** Undefined where the part of the legacy database that was made has none. */
  readonly traffic: Traffic | undefined;
  readonly cutOver: CutOverOwners;
  readonly legacyTransactions: bigint;
  readonly events: bigint;
  readonly entries: bigint;
  readonly trialBalance: readonly TrialBalance[];
  readonly walletsCompared: bigint;
  readonly walletsDiffering: bigint;
  readonly drift: readonly Drift[];
  readonly sponsorships: Sponsorships;
  readonly webhooks: DemoWebhooks;
  readonly endpoints: readonly DemoEndpoint[];
  readonly verification: Verification;
  /** Seconds by step. */
  readonly seconds: Readonly<Partial<Record<DemoStep, number>>>;
}

interface DemoWebhooks {
  readonly messages: number;
  /** A message times an endpoint that subscribes to it. */
  readonly deliveries: number;
  /** Deliveries that the outbox counts as done. */
  readonly delivered: number;
  /** Requests that reached the receiver: more than deliveries when one was repeated. */
  readonly received: number;
  readonly verified: number;
}

/** What one endpoint was sent, and what the receiver behind it says that it got. */
interface DemoEndpoint {
  readonly path: string;
  /** Messages that the outbox sent to it. */
  readonly sent: number;
  /** Different messages that reached it and verified by its own secret. */
  readonly distinctMessages: number;
}

const ORG_WALLETS = 50;
/** How many organizations are asked to let the ledger keep their wallets. */
const CUT_OVER = 10;
const TICKET_ORDERS = 270;
const SPONSORSHIP_ORDERS = 30;
const DELIVERY_DEADLINE_MS = 60_000;
const DELIVERY_POLL_MS = 50;
const LOOPBACK = '127.0.0.0/8';

/**
 * Tells the whole story against real servers: a legacy database with its hazards, the migration, the replay, the proof,
 * new postings and changes of state that announce themselves, and their delivery to a receiver that verifies every signature.
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
    const restructured = await step('restructure', () => restructureLegacy(pool, options.onProgress));
    const traffic = await step('traffic', () => keepTraffic(pool, options.onProgress));
    const backfill = await step('backfill', async () => {
      await turnCaptureOn(pool);
      return runBackfill(pool, {
        stop: options.stop,
        onProgress: (at) => options.onProgress(labelOf(at), at.done, at.total),
      });
    });
    const cutOver = await step('cutover', () =>
      cutOverOrganizations(pool, { most: CUT_OVER, onProgress: options.onProgress }),
    );
    const told = await tellTheOutside(pool, options, step);
    const verification = await step('verify', () =>
      verifyBooksAndWallets(
        pool,
        { onBegin: (check) => options.onProgress(`verify: ${check}`, 0, 0) },
        { beside: checkMachines },
      ),
    );
    const summary = await summarize(pool);
    kept = options.keep;
    return {
      ...summary,
      legacyTransactions: backfill.legacyTransactions,
      restructured,
      traffic,
      cutOver,
      booksBalance: verification.balance === true,
      ...told,
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
    isRestructured(result.restructured) &&
    (result.traffic?.faults ?? []).length === 0 &&
    result.booksBalance &&
    result.walletsDiffering === 0n &&
    result.walletsCompared > 0n &&
    webhooksArrived(result)
  );
}

/** Every message reached every endpoint that wants it, and every request was genuine. */
export function webhooksArrived({ sponsorships, webhooks, endpoints }: Told): boolean {
  return (
    endpoints.every(({ sent, distinctMessages }) => distinctMessages === sent) &&
    endpoints.reduce((sum, { sent }) => sum + sent, 0) === webhooks.deliveries &&
    webhooks.messages === TICKET_ORDERS + sponsorships.transitions &&
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
  const { platformRows } = options;
  if (platformRows === null) await createLegacyDatabase(pool);
  else await createPlatform(pool);
  await fillLegacyDatabase(pool, {
    wallets: options.wallets,
    orgWallets: Math.min(ORG_WALLETS, Math.max(1, options.wallets)),
    transactions: options.transactions,
    seed: options.seed,
    onProgress: (at) => options.onProgress(`legacy database: ${at.step}`, at.done, at.total),
  });
  if (platformRows === null) await createMachineTables(pool);
  else {
    await fillPlatform(pool, {
      rows: platformRows,
      seed: options.seed,
      stop: options.stop,
      onProgress: ({ table, step, done, total }) =>
        options.onProgress(`legacy platform: ${table ?? step}`, done, total),
    });
  }
}

type Told = Pick<DemoResult, 'sponsorships' | 'webhooks' | 'endpoints'>;

type Step = <T>(name: DemoStep, work: () => Promise<T>) => Promise<T>;

/** By path of the endpoint; each is received by itself, with its own secret, so that none can stand in for the other. */
const ENDPOINTS = { '/everything': ['*'], '/tickets': ['ticket.*'] } as const;

/** Two endpoints, one worker, and what announces itself: every message must arrive and verify. */
async function tellTheOutside(pool: Pool, options: DemoOptions, step: Step): Promise<Told> {
  const listeners: Listener[] = [];
  try {
    const egressAllow = [LOOPBACK];
    const { databaseUrl, redisUrl, keyRing, log } = options;
    for (const [path, topics] of Object.entries(ENDPOINTS)) {
      const receiver = await startReceiver({ secrets: [] });
      listeners.push({ path, receiver });
      const url = new URL(path, receiver.url).href;
      const { secret } = await addEndpoint(pool, { url, topics, egressAllow, keyRing });
      receiver.setSecrets([secret]);
    }
    const worker = await startWorker({ databaseUrl, redisUrl, keyRing, log, egressAllow });
    try {
      await step('post', () => sellTickets(pool, { orders: TICKET_ORDERS, seed: options.seed }));
      const sponsorships = await step('states', () => sponsorEvents(pool, { orders: SPONSORSHIP_ORDERS }));
      const delivered = await step('deliver', () =>
        awaitDeliveries({ pool, listeners, onProgress: options.onProgress }),
      );
      return { sponsorships, ...delivered };
    } finally {
      await worker.stop();
    }
  } finally {
    for (const { receiver } of listeners) await receiver.stop();
  }
}

interface Listener {
  readonly path: string;
  readonly receiver: Receiver;
}

async function awaitDeliveries(input: {
  pool: Pool;
  listeners: readonly Listener[];
  onProgress: DemoOptions['onProgress'];
}): Promise<Omit<Told, 'sponsorships'>> {
  const { pool, listeners, onProgress } = input;
  const deadline = performance.now() + DELIVERY_DEADLINE_MS;
  for (;;) {
    const status = await outboxStatus(pool, { exact: true });
    const deliveries = Object.values(status.deliveries).reduce((sum, count) => sum + count, 0);
    const { delivered, dead } = status.deliveries;
    const open = status.messages.unprocessed + deliveries - delivered - dead;
    onProgress('webhooks', delivered, deliveries);
    if (open === 0 || performance.now() > deadline) {
      const counts = listeners.map(({ receiver }) => receiver.counts());
      const received = counts.reduce((sum, count) => sum + count.received, 0);
      const verified = counts.reduce((sum, count) => sum + count.verified, 0);
      return {
        webhooks: { messages: status.messages.total, deliveries, delivered, received, verified },
        endpoints: listeners.map(({ path, receiver }) => ({
          path,
          sent: sentTo(status, path),
          distinctMessages: receiver.counts().distinctMessages,
        })),
      };
    }
    await sleep(DELIVERY_POLL_MS);
  }
}

function sentTo(status: OutboxStatus, path: string): number {
  const {
    waiting = 0,
    paused = 0,
    delivered = null,
    dead = 0,
  } = status.endpoints.find(({ url }) => new URL(url).pathname === path) ?? {};
  return waiting + paused + (delivered ?? 0) + dead;
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
