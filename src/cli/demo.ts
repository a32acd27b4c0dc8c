import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import { printableDatabaseUrl } from '../config.ts';
import { toJson } from '../db/json-value.ts';
import { type DemoResult, demoHolds, runDemo, webhooksArrived } from '../demo/demo.ts';
import { openDemoHome, stopKeptDemo } from '../demo/home.ts';
import { createKeyRing } from '../outbox/key-ring.ts';
import { driftObject, driftText } from './backfill-status.ts';
import { trialBalanceLines } from './books.ts';
import type { CommandContext } from './context.ts';
import { createLogger } from './log.ts';
import { wholeNumber } from './options.ts';
import { formatCount, paintOut } from './output.ts';
import { createProgress } from './progress.ts';
import { widthOf } from './table.ts';

interface Options {
  readonly wallets: number;
  readonly transactions: number;
  readonly seed: number;
  readonly full?: boolean;
  readonly rows?: number;
  readonly keep?: boolean;
  readonly stop?: boolean;
  readonly json?: boolean;
}

const ENCRYPTION_KEY_BYTES = 32;
const PLATFORM_ROWS = 60_000;
const PACKAGE_ROOT = fileURLToPath(new URL('../..', import.meta.url));

export function registerDemo(program: Command, context: CommandContext): void {
  program
    .command('demo')
    .description('run the main job end to end: legacy wallets in, balanced books and delivered webhooks out')
    .option('--wallets <n>', 'legacy user wallets', wholeNumber(1, 1_000_000), 2_000)
    .option('--transactions <n>', 'legacy wallet transactions', wholeNumber(0, 100_000_000), 100_000)
    .option('--seed <n>', 'the same seed makes the same legacy database', wholeNumber(0, 2_147_483_647), 1)
    .option('--full', 'the whole legacy platform, 148 tables, instead of those that the story needs')
    .option('--rows <n>', 'with --full: rows of its other tables (default: 60000)', wholeNumber(2_000, 50_000_000))
    .option('--keep', 'leave the database, and print how to connect to it')
    .addOption(
      new Option('--stop', 'stop the server that --keep left running, and do nothing else').conflicts(['keep', 'json']),
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nRuns on an embedded PostgreSQL under .liventix/ (of the checkout; of the folder it is run in, when installed), or with\nDATABASE_URL in a new database liventix_demo on that server; webhooks go through REDIS_URL where it is set. Each run\nstarts clean: the embedded server anew, with all that is on it; on yours it removes the database that an earlier demo\nleft, and no other.\n\nIn a checkout, npm run demo -- --full is the same as liventix demo --full.\n\nExamples:\n  liventix demo\n  liventix demo --wallets 200 --transactions 10000 --json\n  liventix demo --full --rows 1000000',
    )
    .action((options: Options) => (options.stop ? stopDemo(context) : demo(options, context)));
}

async function stopDemo(context: CommandContext): Promise<void> {
  const stateDir = stateDirOfDemo({ root: PACKAGE_ROOT, cwd: process.cwd() });
  const stopped = await stopKeptDemo(stateDir);
  context.out.write(
    stopped ? `Stopped the server of the demo kept in ${stateDir}\n` : `No demo was kept in ${stateDir}\n`,
  );
}

/** Where the embedded server lives: one place in a checkout; an installed package has none of its own to write to. */
export function stateDirOfDemo(at: { root: string; cwd: string }): string {
  const isCheckout = existsSync(join(at.root, 'src/cli/main.ts'));
  return join(isCheckout ? at.root : at.cwd, '.liventix');
}

async function demo(options: Options, context: CommandContext): Promise<void> {
  const { config } = context;
  const progress = createProgress(context);
  const home = await openDemoHome({
    databaseUrl: config.databaseUrl,
    stateDir: stateDirOfDemo({ root: PACKAGE_ROOT, cwd: process.cwd() }),
  });
  const [encryptionKey = randomBytes(ENCRYPTION_KEY_BYTES)] = config.encryptionKeys;
  // Only what was shown how to reach is kept: a demo that failed or was stopped leaves no server behind.
  let keep = false;
  try {
    const result = await runDemo({
      ...options,
      platformRows: options.full === true ? (options.rows ?? PLATFORM_ROWS) : null,
      keep: options.keep === true,
      databaseUrl: home.databaseUrl,
      redisUrl: config.redisUrl,
      keyRing: createKeyRing([encryptionKey]),
      log: createLogger(config.logLevel === 'info' ? 'error' : config.logLevel),
      stop: context.stop,
      onStep: (step) => progress.update(step, 0, 0),
      onProgress: progress.update,
    });
    progress.clear();
    keep = options.keep === true;
    // The password of a server that was given is not ours to print.
    const databaseUrl = home.server === 'given' ? printableDatabaseUrl(home.databaseUrl) : home.databaseUrl;
    // Nor is a key.
    const madeKey = config.encryptionKeys.length === 0 ? encryptionKey.toString('base64') : undefined;
    const where = { keep, server: home.server, databaseUrl, madeKey };
    context.out.write(options.json ? `${toJson(demoJson(result, where))}\n` : demoSummary(result, where, context));
    if (!demoHolds(result)) context.exitWith(1);
  } finally {
    progress.clear();
    await home.close({ keep });
  }
}

interface Where {
  readonly keep: boolean;
  readonly databaseUrl: string;
  readonly server: 'embedded' | 'given';
  /** With which a worker can go on in a database that is kept; undefined where one was given. */
  readonly madeKey: string | undefined;
}

function demoJson(result: DemoResult, { keep, databaseUrl, madeKey }: Where): Record<string, unknown> {
  return { ...result, drift: driftObject(result.drift), ...(keep ? { databaseUrl, encryptionKey: madeKey } : {}) };
}

function demoSummary(result: DemoResult, where: Where, context: CommandContext): string {
  const { good, bad } = paintOut(context);
  const { seconds, sponsorships, webhooks, restructured, traffic, cutOver } = result;
  const backfillSeconds = seconds.backfill ?? 0;
  const rate = backfillSeconds > 0 ? Math.round(Number(result.legacyTransactions) / backfillSeconds) : 0;
  const yes = (holds: boolean) => (holds ? good('yes') : bad('NO'));
  const faults = result.verification.checks.filter((check) => !check.holds);
  const lines = [
    '',
    `Restructured   ${formatCount(restructured.moved)} tables into ${restructured.schemas} schemas, ${restructured.left} left; none was locked for more than ${restructured.longestLockMs.toFixed(0)} ms; tenants of ${formatCount(restructured.isolated)} kept apart`,
    ...(traffic === undefined
      ? []
      : [
          `By month       ${traffic.tables} tables of traffic in ${traffic.months} months; none was locked for more than ${traffic.longestLockMs.toFixed(0)} ms; ${traffic.rollups} statistics of them, each what its rows say`,
        ]),
    `Replayed       ${formatCount(result.legacyTransactions)} legacy rows in ${backfillSeconds.toFixed(1)} s (${formatCount(rate)}/s)`,
    `Ledger         ${formatCount(result.events)} events, ${formatCount(result.entries)} entries`,
    `Wallets        ${formatCount(result.walletsCompared)} compared with the old balances, ${formatCount(result.walletsDiffering)} differ`,
    `Cut over       the wallets of ${cutOver.organizations} organizations; ${cutOver.refused} more wait for somebody to sign for what is unexplained`,
    `States         ${sponsorships.machines} machines; ${formatCount(sponsorships.orders)} sponsorships taken through ${formatCount(sponsorships.transitions)} changes, ${formatCount(sponsorships.takenIn)} old ones taken in`,
    `Webhooks       ${formatCount(webhooks.messages)} messages, ${formatCount(webhooks.deliveries)} deliveries: ${formatCount(webhooks.received)} received, ${formatCount(webhooks.verified)} verified`,
    '',
    // Suspense follows by itself, with how often each cause was found.
    ...result.trialBalance.flatMap((balance) => [
      ...trialBalanceLines({ ...balance, suspense: [] }, widthOf(context)),
      '',
    ]),
    'What the old history could not explain, in suspense by cause',
    driftText(result.drift, context),
    `Seconds        ${Object.entries(seconds)
      .map(([step, taken]) => `${step} ${taken.toFixed(1)}`)
      .join(', ')}`,
    '',
    ...restructured.faults.map((fault) => `${bad('FAILS')}  restructuring: ${fault}`),
    ...(traffic?.faults ?? []).map((fault) => `${bad('FAILS')}  by month: ${fault}`),
    ...faults.flatMap((check) => [`${bad('FAILS')}  ${check.check}`, ...check.first.map((fault) => `       ${fault}`)]),
    `Every webhook arrived and verified: ${yes(webhooksArrived(result))}`,
    `Books balance: ${yes(result.booksBalance)}`,
    ...(where.keep ? ['', ...keptLines(where)] : []),
  ];
  return `${lines.join('\n')}\n`;
}

function keptLines(where: Where): string[] {
  const until =
    where.server === 'embedded' ? 'until the next demo, or: liventix demo --stop' : 'until the next demo removes it';
  const key = where.madeKey === undefined ? '' : `OUTBOX_ENCRYPTION_KEY=${where.madeKey} `;
  return [
    `The database stays, ${until}`,
    `  DATABASE_URL=${where.databaseUrl} bin/liventix books verify`,
    `  ${key}DATABASE_URL=${where.databaseUrl} bin/liventix outbox endpoint list`,
  ];
}
