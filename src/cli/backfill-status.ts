import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { type CaptureStatus, captureStatus } from '../replay/drain.ts';
import { findHeldBack, type HeldBack } from '../replay/held-back.ts';
import { isMirrorOn, MIRROR_AGAIN } from '../replay/mirror.ts';
import { type ThrottleStatus, throttleStatus } from '../replay/pace/pacing.ts';
import { pauseStatus } from '../replay/pause.ts';
import { backfillStatus, countByMode, type Drift, driftByCause, type SourceStatus } from '../replay/report.ts';
import { throttleLines } from './backfill-throttle.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, formatMoney, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { progressLine, waitingFor } from './progress.ts';
import { tableText } from './table.ts';

const WATCH_MS = 1_000;
const CLEAR_SCREEN = '\u001b[H\u001b[2J';

interface Flags {
  readonly json?: boolean;
  readonly watch?: boolean;
}

export function registerStatus(backfill: Command, context: CommandContext): void {
  backfill
    .command('status')
    .description('how far the backfill is, what was captured and waits, who is cut over, and what nobody could explain')
    .addHelpText('after', '\nExample:\n  liventix backfill status --watch')
    .option('--watch', 'look again every second, with the rate and an estimate, until Ctrl-C')
    .option('--json', 'print one JSON object; with --watch one a line')
    .action((flags: Flags) =>
      withDatabase(context, (pool) => (flags.watch ? watch(pool, flags, context) : look(pool, flags, context)), {
        stopsItself: flags.watch === true,
      }),
    );
}

async function look(pool: Pool, { json }: Flags, context: CommandContext): Promise<void> {
  const status = await waitingFor(context, 'looking', () => statusOf(pool));
  context.out.write(json ? statusJson(status) : statusText(status, context));
}

async function watch(pool: Pool, { json }: Flags, context: CommandContext): Promise<void> {
  let first: { status: Status; at: number } | undefined;
  while (!context.stop.aborted) {
    const status = await statusOf(pool);
    first ??= { status, at: performance.now() };
    const since = { rows: sumOf(first.status.sources, 'rows'), elapsedMs: performance.now() - first.at };
    const screen = context.err.isTTY === true ? CLEAR_SCREEN : '';
    context.out.write(json ? statusJson(status) : `${screen}${watchLine(status, since)}${statusText(status, context)}`);
    await sleep(WATCH_MS, undefined, { signal: context.stop }).catch(() => undefined);
  }
}

interface Status {
  readonly sources: readonly SourceStatus[];
  readonly drift: readonly Drift[];
  readonly capture: CaptureStatus | null;
  readonly pausedAt: Date | null;
  readonly throttle: ThrottleStatus | null;
  readonly heldBack: HeldBack;
  /** Wallets by who keeps them. */
  readonly wallets: { readonly legacy: bigint; readonly ledger: bigint };
  /** Whether what is posted to wallets that the ledger keeps reaches the old tables. */
  readonly isMirrored: boolean;
}

async function statusOf(pool: Pool): Promise<Status> {
  return {
    sources: await backfillStatus(pool),
    drift: await driftByCause(pool),
    capture: await captureStatus(pool),
    ...(await pauseStatus(pool)),
    throttle: await throttleStatus(pool),
    heldBack: await findHeldBack(pool),
    wallets: await countByMode(pool),
    isMirrored: await isMirrorOn(pool),
  };
}

function statusJson({ drift, ...status }: Status): string {
  return `${toJson({ ...status, drift: driftObject(drift) })}\n`;
}

function statusText(status: Status, context: CommandContext): string {
  const { bad } = paintOut(context);
  const { sources, drift, capture, pausedAt, throttle, heldBack } = status;
  const none =
    'The backfill has not run yet. Start it with: liventix backfill capture on, then liventix backfill run\n';
  return [
    ...(sources.length === 0 ? [none] : sources.map(sourceLine)),
    captureLine(capture, sources, bad),
    ...(pausedAt === null ? [] : [`paused since ${pausedAt.toISOString()}: liventix backfill resume\n`]),
    ...throttleLines(throttle),
    ...heldBackLines(heldBack),
    ...keeperLines(status, bad),
    driftText(drift, context),
  ].join('');
}

function keeperLines({ wallets, sources, isMirrored }: Status, bad: Paint['bad']): string[] {
  if (wallets.ledger === 0n) return [];
  const isGone = !isMirrored && sources.every(({ retiredAt }) => retiredAt === null);
  const gone = `; ${bad('NOT MIRRORED')}, a trigger is gone: ${MIRROR_AGAIN}`;
  const { legacy, ledger } = wallets;
  return [
    `${formatCount(ledger)} wallets are kept by the ledger, ${formatCount(legacy)} by the old tables${isGone ? gone : ''}\n`,
  ];
}

function sourceLine({ source, rows, total, finished, retiredAt }: SourceStatus): string {
  const state = retiredAt !== null ? 'retired' : finished ? 'finished' : 'not finished';
  return `${source.padEnd(26)} ${formatCount(rows)} of ${formatCount(total)} rows, ${state}\n`;
}

/** Rows in the log, their rate since the first look, and what is left at it. */
function watchLine({ sources }: Status, since: { rows: bigint; elapsedMs: number }): string {
  const [rows, total] = [sumOf(sources, 'rows'), sumOf(sources, 'total')];
  if (rows >= total) return '';
  const [done, left] = [Number(rows - since.rows), Number(total - since.rows)];
  return `${progressLine({ label: 'rows since the first look', done, total: left, elapsedMs: since.elapsedMs })}\n`;
}

function sumOf(sources: readonly SourceStatus[], what: 'rows' | 'total'): bigint {
  return sources.reduce((sum, source) => sum + source[what], 0n);
}

function captureLine(capture: CaptureStatus | null, sources: readonly SourceStatus[], bad: Paint['bad']): string {
  if (capture === null) {
    const isRetired = sources.some(({ retiredAt }) => retiredAt !== null);
    return isRetired ? '' : 'changes are not captured: liventix backfill capture on\n';
  }
  const { installedAt, isWhole, waiting, oldestSeconds } = capture;
  const lag =
    waiting === 0n ? 'none waits' : `${formatCount(waiting)} wait, the oldest for ${Math.floor(oldestSeconds)} s`;
  const broken = isWhole ? '' : `; ${bad('INTERRUPTED')}, a trigger was dropped, disabled or made anew`;
  return `changes are captured since ${installedAt.toISOString()}, ${lag}${broken}\n`;
}

export function heldBackLines({ wallets, first }: HeldBack): string[] {
  if (wallets === 0n) return [];
  return [`${formatCount(wallets)} wallets are held back, the ledger does not post to their accounts: ${first}\n`];
}

export function driftObject(drift: readonly Drift[]): Record<string, { count: bigint; cents: bigint }> {
  return Object.fromEntries(drift.map(({ cause, count, cents }) => [cause, { count, cents }]));
}

export function driftText(drift: readonly Drift[], context: CommandContext): string {
  const rows = drift.map(({ cause, count, cents }) => [`  ${cause}`, formatCount(count), `${formatMoney(cents)} USD`]);
  return tableText(context, rows, [
    { min: 23, shortens: 12 },
    { align: 'right', min: 8 },
    { align: 'right', min: 20 },
  ]);
}
