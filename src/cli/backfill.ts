import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { type BackfillResult, DEFAULT_CHUNK_ROWS, findRemaining, runBackfill } from '../replay/backfill.ts';
import { labelOf } from '../replay/backfill-run.ts';
import { DEFAULT_LIMITS, type Limits } from '../replay/pace/throttle.ts';
import { backfillStatus, compareWallets, type Drift, driftByCause, type WalletComparison } from '../replay/report.ts';
import { registerBackfillControl } from './backfill-control.ts';
import { registerCutOver } from './backfill-cutover.ts';
import { registerPlan } from './backfill-plan.ts';
import { proofText, registerProof, writeProof } from './backfill-proof.ts';
import { registerReconcile } from './backfill-reconcile.ts';
import { registerShadow } from './backfill-shadow.ts';
import { driftObject, driftText, heldBackLines, registerStatus } from './backfill-status.ts';
import { throttleNote } from './backfill-throttle.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { createProgress } from './progress.ts';
import { assertNewFile } from './whole-file.ts';

const MAX_CHUNK_ROWS = 100_000;
const atLeastZero = wholeNumber(0, 1_000_000);
const PAUSED = 'paused; it goes on with: liventix backfill resume';

export function registerBackfill(program: Command, context: CommandContext): void {
  const backfill = program
    .command('backfill')
    .description('replay the legacy wallets into the ledger')
    .addHelpText('after', '\nExamples:\n  liventix backfill plan\n  liventix backfill run');
  registerPlan(backfill, context);
  registerBackfillControl(backfill, context);
  registerReconcile(backfill, context);
  registerProof(backfill, context);
  registerShadow(backfill, context);
  registerCutOver(backfill, context);
  backfill
    .command('run')
    .description('replay what is not replayed yet; stopped or killed at any point, it goes on when run again')
    .option(
      '--chunk <rows>',
      'legacy rows a database transaction, at most',
      wholeNumber(1, MAX_CHUNK_ROWS),
      DEFAULT_CHUNK_ROWS,
    )
    .option(
      '--max-canary-ms <ms>',
      'slow down where a write like those of old code takes longer (default: 8 % more on average than while it rests)',
      atLeastZero,
    )
    .option(
      '--max-lock-waiters <count>',
      'or where more sessions wait for it',
      atLeastZero,
      DEFAULT_LIMITS.maxLockWaiters,
    )
    .option(
      '--max-replication-lag <s>',
      'or a replica is farther behind',
      atLeastZero,
      DEFAULT_LIMITS.maxReplicationLagSeconds,
    )
    .option('--max-wal-mb-per-second <mb>', 'or the server writes more WAL (default: any)', atLeastZero)
    .addOption(
      new Option('--full-speed', 'measure nothing, and slow down for nobody').conflicts([
        'maxCanaryMs',
        'maxLockWaiters',
        'maxReplicationLag',
        'maxWalMbPerSecond',
      ]),
    )
    .addOption(
      new Option(
        '--proof <file>',
        'write what was compared into a new file at the end, as backfill proof write does',
      ).conflicts('dryRun'),
    )
    .option('--dry-run', 'say what there is to replay, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Twenty times a second it locks a random wallet, writes a row of its own and commits. While anybody else is at work, chunks are as small
and as rare, down to a 64th of full speed, as such writes ask for that meet a chunk. --max-canary-ms, for 99 of 100 writes, counts in
place of that, and also when nobody is.
What it does now, and why: liventix backfill status --watch

Exits with 1 when a wallet differs or is held back, with 3 when it was stopped before the end.

Examples:
  DATABASE_URL=postgresql://localhost/app liventix backfill run --json
  DATABASE_URL=postgresql://localhost/app liventix backfill run --max-canary-ms 20 --max-wal-mb-per-second 16`,
    )
    .action((options: RunOptions) =>
      options.dryRun
        ? withDatabase(context, (pool) => dryRun(pool, options, context))
        : withDatabase(context, (pool) => run(pool, options, context), { stopsItself: true }),
    );

  registerStatus(backfill, context);
}

interface RunOptions {
  readonly chunk: number;
  readonly maxCanaryMs?: number;
  readonly maxLockWaiters: number;
  readonly maxReplicationLag: number;
  readonly maxWalMbPerSecond?: number;
  readonly fullSpeed?: boolean;
  readonly proof?: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

function limitsOf(options: RunOptions): Limits {
  return {
    maxCanaryMs: options.maxCanaryMs,
    maxLockWaiters: options.maxLockWaiters,
    maxReplicationLagSeconds: options.maxReplicationLag,
    maxWalMbPerSecond: options.maxWalMbPerSecond,
  };
}

async function dryRun(pool: Pool, options: RunOptions, context: CommandContext): Promise<void> {
  const progress = createProgress(context);
  const onBegin = (source: string) => progress.update(`comparing ${source} with the log`, 0, 0);
  const remaining = await findRemaining(pool, { onBegin }).finally(progress.clear);
  if (options.json) {
    context.out.write(`${toJson({ wouldReplay: remaining })}\n`);
    return;
  }
  for (const { source, wallets, rowsInTable, rowsLeft } of remaining) {
    context.out.write(
      `${source.padEnd(26)} ${formatCount(rowsLeft)} of ${formatCount(rowsInTable)} rows to replay, of ${formatCount(wallets)} wallets\n`,
    );
  }
  context.out.write('Nothing was changed.\n');
}

async function run(pool: Pool, options: RunOptions, context: CommandContext): Promise<void> {
  if (options.proof !== undefined) await assertNewFile(options.proof);
  const progress = createProgress(context);
  let isPaused = false;
  const result = await runBackfill(pool, {
    chunkRows: options.chunk,
    ...(options.fullSpeed ? {} : { limits: limitsOf(options) }),
    stop: context.stop,
    onProgress: (at) => {
      // Where no bar says why nothing happens, a line does.
      if (at.step === 'paused' && !isPaused && context.err.isTTY !== true) context.err.write(`${PAUSED}\n`);
      isPaused = at.step === 'paused';
      progress.update(isPaused ? PAUSED : labelOf(at), at.done, at.total, throttleNote(at.pace));
    },
  });
  progress.clear();
  const outcome = await outcomeOf(pool, result);
  const proof =
    outcome.finished && options.proof !== undefined ? await writeProof(pool, options.proof, context) : undefined;
  context.out.write(
    options.json ? `${toJson({ ...outcomeJson(outcome), proof })}\n` : outcomeText(outcome, context) + proofText(proof),
  );
  if (!outcome.finished) context.exitWith(3);
  else if (outcome.comparison?.differing !== 0n || outcome.heldBack.wallets > 0n) context.exitWith(1);
}

interface Outcome extends BackfillResult {
  /** Rows that this run and those before it brought into the log. */
  readonly inLog: bigint;
  readonly drift: readonly Drift[];
  /** Undefined when it was stopped: until the end, wallets differ. */
  readonly comparison: WalletComparison | undefined;
}

async function outcomeOf(pool: Pool, result: BackfillResult): Promise<Outcome> {
  const sources = await backfillStatus(pool);
  const isAllIn = sources.every((source) => source.finished && source.rows === source.total);
  const comparison = result.finished || isAllIn ? await compareWallets(pool) : undefined;
  return {
    ...result,
    // A stop that came when nothing was left to do stopped nothing.
    finished: result.finished || (comparison?.differing === 0n && comparison.changing === 0n),
    inLog: sources.reduce((sum, source) => sum + source.rows, 0n),
    drift: await driftByCause(pool),
    comparison,
  };
}

function outcomeJson({ comparison, drift, ...outcome }: Outcome): Record<string, unknown> {
  return {
    ...outcome,
    drift: driftObject(drift),
    walletsCompared: comparison?.compared,
    walletsDiffering: comparison?.differing,
    walletsChanging: comparison?.changing,
  };
}

function outcomeText(outcome: Outcome, context: CommandContext): string {
  const { imported, corrected, seconds, legacyTransactions, comparison } = outcome;
  const rate = seconds > 0 ? Math.round(Number(imported) / seconds) : 0;
  const total = formatCount(legacyTransactions);
  return [
    `${formatCount(imported)} of ${total} rows replayed in ${seconds.toFixed(1)} s (${formatCount(rate)}/s)\n`,
    `${formatCount(outcome.inLog)} of ${total} rows are in the log\n`,
    ...(corrected === 0n ? [] : [`${formatCount(corrected)} rows changed after they were booked, each is corrected\n`]),
    driftText(outcome.drift, context),
    ...heldBackLines(outcome.heldBack),
    ...(comparison === undefined ? [] : comparisonLines(comparison)),
    ...(outcome.finished ? [] : ['Stopped before the end. Run it again to go on.\n']),
  ].join('');
}

function comparisonLines({ compared, changing, differing, first }: WalletComparison): string[] {
  return [
    `${formatCount(compared)} wallets compared, ${formatCount(differing)} differ\n`,
    ...(changing === 0n ? [] : [`${formatCount(changing)} wallets changed since, and are not compared\n`]),
    ...first.map((line) => `  ${line}\n`),
  ];
}
