import { type Command, InvalidArgumentError } from 'commander';
import { type Config, parseHttpAddress } from '../config.ts';
import { createKeyRing } from '../outbox/key-ring.ts';
import type { Watch, WatchOptions } from '../outbox/watch/watch.ts';
import { startWorker } from '../outbox/worker.ts';
import { WORKER_DEFAULTS } from '../outbox/worker-options.ts';
import { type CommandContext, requireDatabaseUrl } from './context.ts';
import { createLogger } from './log.ts';
import { wholeNumber } from './options.ts';
import { startRollingUp } from './rolling-up.ts';
import { startSealing } from './sealing.ts';
import { startUpkeep } from './upkeep.ts';

interface Options {
  readonly concurrency: number;
  readonly pollMs: number;
  readonly sweepMs: number;
  readonly queueLeaseMs: number;
  readonly leaseMarginMs: number;
  readonly drainMs: number;
  readonly http?: NonNullable<Config['http']>;
}

const ONE_DAY_MS = 86_400_000;
const MAX_CONCURRENCY = 1_000;
const SECOND_MS = 1_000;
const milliseconds = wholeNumber(1, ONE_DAY_MS);

export function registerWorker(program: Command, context: CommandContext): void {
  program
    .command('worker')
    .description('deliver the outbox, seal the books and keep the rollups, in one process; run as many as you like')
    .option(
      '--concurrency <n>',
      'requests on their way at once, beside those that are slow: of these up to 20 times as many, at most 2000',
      wholeNumber(1, MAX_CONCURRENCY),
      WORKER_DEFAULTS.concurrency,
    )
    .option('--poll-ms <ms>', 'the longest the relay waits before it looks again', milliseconds, WORKER_DEFAULTS.pollMs)
    .option('--sweep-ms <ms>', 'how often lost leases are looked for', milliseconds, WORKER_DEFAULTS.sweepMs)
    .option(
      '--queue-lease-ms <ms>',
      'after how long a queued delivery that nobody started is queued again',
      milliseconds,
      WORKER_DEFAULTS.queueLeaseMs,
    )
    .option(
      '--lease-margin-ms <ms>',
      "how much longer than its endpoint's timeout an attempt is believed to be under way",
      milliseconds,
      WORKER_DEFAULTS.leaseMarginMs,
    )
    .option(
      '--drain-ms <ms>',
      'how long requests in flight may finish after SIGTERM',
      milliseconds,
      WORKER_DEFAULTS.drainMs,
    )
    .option(
      '--http <host:port>',
      'answer GET /livez, /readyz and /metrics there (default: LIVENTIX_HTTP, or off)',
      httpAddress,
    )
    .addHelpText(
      'after',
      '\nRuns until SIGTERM, SIGHUP or Ctrl-C, then drains; Ctrl-C again ends it at once. Jobs go through REDIS_URL, or through DATABASE_URL\nwhen it is not set.\nREDIS_URL names a Redis, or a node of a Redis Cluster, better several: redis://a:6379,redis://b:6379. The worker finds out which.\nOUTBOX_EGRESS_ALLOW lists the networks that webhooks may reach beside public addresses, OUTBOX_EGRESS_DENY those that they may not.\nWhat was delivered is kept for OUTBOX_KEEP_DAYS (30), days with dead letters for OUTBOX_KEEP_DEAD_DAYS (90).\nWith --http it tells whoever asks whether it is alive and ready, and how it does: docs/operations.md. Anybody may ask who reaches it.\nOUTBOX_ENCRYPTION_KEY decrypts what requests are signed with: openssl rand -base64 32 makes one.\nLIVENTIX_SEAL_INTERVAL_S is how often it seals what is new in the books and writes down which holds have expired (60); 0 does neither.\nLIVENTIX_ROLLUP_INTERVAL_S is how often it counts what came to rollups (2); 0 does not, nor refreshes views.\n\nExample:\n  OUTBOX_ENCRYPTION_KEY=… DATABASE_URL=postgresql://localhost/app REDIS_URL=redis://localhost liventix worker --concurrency 100',
    )
    .action((options: Options) => runWorker(options, context));
}

async function runWorker(options: Options, context: CommandContext): Promise<void> {
  const { config } = context;
  const databaseUrl = requireDatabaseUrl(config);
  const address = options.http ?? config.http;
  // First, so that whoever asks while the worker starts is told that it is not ready.
  const watch = address === undefined ? undefined : await startWatchAt({ databaseUrl, address });
  try {
    await runWatched(options, context, { databaseUrl, watch });
  } finally {
    await watch?.close();
  }
}

// Whoever does not want it does not wait for its modules.
async function startWatchAt(options: WatchOptions): Promise<Watch> {
  return (await import('../outbox/watch/watch.ts')).startWatch(options);
}

async function runWatched(
  options: Options,
  context: CommandContext,
  { databaseUrl, watch }: { databaseUrl: string; watch: Watch | undefined },
): Promise<void> {
  const { config, stop } = context;
  const log = createLogger(config.logLevel);
  const worker = await startWorker({
    ...options,
    databaseUrl,
    redisUrl: config.redisUrl,
    egressAllow: config.egressAllow,
    retention: config.retention,
    egressDeny: config.egressDeny,
    keyRing: createKeyRing(config.encryptionKeys),
    log,
    ...(watch === undefined ? {} : { observer: watch.observer }),
  });
  watch?.watch(worker);
  // Here, because the outbox knows nothing of the ledger, nor of tables by month.
  const sealing =
    config.sealIntervalS === 0
      ? undefined
      : startSealing({ databaseUrl, intervalMs: config.sealIntervalS * SECOND_MS, log });
  const rollingUp =
    config.rollupIntervalS === 0
      ? undefined
      : startRollingUp({ databaseUrl, intervalMs: config.rollupIntervalS * SECOND_MS, log });
  const upkeep = startUpkeep({ databaseUrl, log });
  context.out.write(`liventix worker ready: jobs through ${config.redisUrl === undefined ? 'PostgreSQL' : 'Redis'}\n`);
  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener('abort', () => resolve(), { once: true });
  });
  context.err.write('liventix worker draining\n');
  watch?.stopping();
  await Promise.all([worker.stop(), sealing?.stop(), rollingUp?.stop(), upkeep.stop()]);
  context.err.write('liventix worker stopped\n');
}

function httpAddress(text: string): NonNullable<Config['http']> {
  const address = parseHttpAddress(text);
  if (address === undefined) throw new InvalidArgumentError('Give an address such as 127.0.0.1:9464.');
  return address;
}
