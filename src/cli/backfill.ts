import type { Command } from 'commander';
import type { Pool } from '../db/pool.ts';
import { runBackfill } from '../replay/backfill.ts';
import type { BackfillProgress } from '../replay/backfill-run.ts';
import { backfillStatus, compareWallets, type Drift, driftByCause } from '../replay/report.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { wholeNumber } from './options.ts';
import { formatCount, formatMoney, toJson } from './output.ts';
import { createProgress, type Progress } from './progress.ts';

const MAX_CHUNK_ROWS = 100_000;
const DEFAULT_CHUNK_ROWS = 5_000;

export function registerBackfill(program: Command, context: CommandContext): void {
  const backfill = program.command('backfill').description('replay the legacy wallets into the ledger');
  backfill
    .command('run')
    .description('replay what is not replayed yet; stopped or killed at any point, it goes on when run again')
    .option('--chunk <rows>', 'legacy rows a database transaction', wholeNumber(1, MAX_CHUNK_ROWS), DEFAULT_CHUNK_ROWS)
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  DATABASE_URL=postgresql://localhost/app liventix backfill run --json')
    .action((options: { chunk: number; json?: boolean }) =>
      withDatabase(context, (pool) => run(pool, options, context)),
    );

  backfill
    .command('status')
    .description('how far the backfill is, and what it could not explain')
    .option('--json', 'print one JSON object')
    .action((options: { json?: boolean }) => withDatabase(context, (pool) => status(pool, options, context)));
}

async function run(pool: Pool, options: { chunk: number; json?: boolean }, context: CommandContext): Promise<void> {
  const progress = createProgress(context);
  const result = await runBackfill(pool, {
    chunkRows: options.chunk,
    stop: context.stop,
    onProgress: (at) => showBackfill(progress, at),
  });
  progress.clear();
  const drift = await driftByCause(pool);
  const wallets = await compareWallets(pool);
  const holds = result.finished && wallets?.differing === 0n;
  if (options.json) {
    context.out.write(
      `${toJson({ ...result, drift: driftObject(drift), walletsCompared: wallets?.compared, walletsDiffering: wallets?.differing })}\n`,
    );
  } else {
    const rate = result.seconds > 0 ? Math.round(Number(result.imported) / result.seconds) : 0;
    context.out.write(
      `${formatCount(result.imported)} of ${formatCount(result.legacyTransactions)} rows replayed in ${result.seconds.toFixed(1)} s (${formatCount(rate)}/s)\n${driftLines(drift)}`,
    );
    if (wallets !== undefined) {
      context.out.write(
        `${formatCount(wallets.compared)} wallets compared, ${formatCount(wallets.differing)} differ\n`,
      );
      context.out.write(wallets.first.map((line) => `  ${line}\n`).join(''));
    }
    if (!result.finished) context.out.write('Stopped before the end. Run it again to go on.\n');
  }
  if (!holds) context.exitWith(1);
}

async function status(pool: Pool, options: { json?: boolean }, context: CommandContext): Promise<void> {
  const sources = await backfillStatus(pool);
  const drift = await driftByCause(pool);
  if (options.json) {
    context.out.write(`${toJson({ sources, drift: driftObject(drift) })}\n`);
    return;
  }
  if (sources.length === 0) context.out.write('The backfill has not run yet. Start it with: liventix backfill run\n');
  for (const source of sources) {
    const state = source.finished ? 'finished' : 'not finished';
    context.out.write(
      `${source.source.padEnd(26)} ${formatCount(source.rows)} of ${formatCount(source.total)} rows, ${state}\n`,
    );
  }
  context.out.write(driftLines(drift));
}

function showBackfill(progress: Progress, at: BackfillProgress): void {
  progress.update(`${at.source}: ${at.step}`, at.done, at.total);
}

export function driftObject(drift: readonly Drift[]): Record<string, { count: bigint; cents: bigint }> {
  return Object.fromEntries(drift.map(({ cause, count, cents }) => [cause, { count, cents }]));
}

export function driftLines(drift: readonly Drift[]): string {
  return drift
    .map(
      ({ cause, count, cents }) =>
        `  ${cause.padEnd(22)} ${formatCount(count).padStart(8)}  ${formatMoney(cents).padStart(16)} USD\n`,
    )
    .join('');
}
