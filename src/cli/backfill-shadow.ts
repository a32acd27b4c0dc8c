import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { type ShadowResult, shadow } from '../replay/shadow/shadow.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { wholeNumber } from './options.ts';
import { formatCount } from './output.ts';
import { createProgress } from './progress.ts';
import { tableText } from './table.ts';

interface Flags {
  readonly sample: number;
  readonly seconds?: number;
  readonly json?: boolean;
}

const DEFAULT_SAMPLE = 500;
const MAX_SAMPLE = 100_000;
const MAX_SECONDS = 86_400;

const HELP = `
Draws wallets by chance, and answers from both sides, in one snapshot a wallet, what the application reads of one: its balance, its latest
transactions, how many there are (of those that move credits), what it spent. A wallet of which something is captured and not booked yet
is counted as changing and not compared. Changes nothing. Exits with 1 when an answer differs.

Examples:
  liventix backfill shadow
  liventix backfill shadow --sample 50 --seconds 600 --json`;

export function registerShadow(backfill: Command, context: CommandContext): void {
  backfill
    .command('shadow')
    .description(
      'what the application reads, answered by the old tables and by the ledger: what differs, and how long it takes',
    )
    .option('--sample <n>', 'wallets of each table, in each round', wholeNumber(1, MAX_SAMPLE), DEFAULT_SAMPLE)
    .option(
      '--seconds <s>',
      'rounds follow each other for so long; one round, when left out',
      wholeNumber(1, MAX_SECONDS),
    )
    .option('--json', 'print one JSON object')
    .addHelpText('after', HELP)
    .action(({ sample, seconds, json }: Flags) =>
      withDatabase(
        context,
        async (pool) => {
          const progress = createProgress(context);
          const result = await shadow(pool, {
            sample,
            ...(seconds === undefined ? {} : { seconds }),
            stop: context.stop,
            onProgress: (wallets) => progress.update('wallets', wallets, 0),
          }).finally(progress.clear);
          context.out.write(json ? `${toJson(result)}\n` : shadowText(result, context));
          if (result.differing > 0) context.exitWith(1);
          // Whether they agree, nobody has seen.
          else if (result.wallets > 0 && result.reads === 0) context.exitWith(3);
        },
        { stopsItself: true },
      ),
    );
}

const READ_WIDTH = 24;
const NUMBER_WIDTH = 12;

function shadowText(result: ShadowResult, context: CommandContext): string {
  const { wallets, changing, reads, differing, differences, latencies, seconds } = result;
  const measured = { align: 'right', min: NUMBER_WIDTH } as const;
  return [
    `${formatCount(reads)} reads of ${formatCount(wallets - changing)} wallets in ${seconds.toFixed(1)} s, ${formatCount(differing)} differ\n`,
    ...(changing === 0
      ? []
      : [`${formatCount(changing)} wallets are changing, and were not compared: liventix backfill run\n`]),
    ...differences.map(
      ({ table, walletId, read, old, ledger }) =>
        `  ${table} ${walletId}, ${read}: ${old ?? 'nothing'}, in the ledger ${ledger ?? 'nothing'}\n`,
    ),
    '\n',
    tableText(
      context,
      [
        ['ms', 'old p50', 'old p99', 'ledger p50', 'ledger p99'],
        ...latencies.map(({ read, old, ledger }) => [
          read,
          ...[old.p50Ms, old.p99Ms, ledger.p50Ms, ledger.p99Ms].map((ms) => ms.toFixed(2)),
        ]),
      ],
      [{ min: READ_WIDTH, shortens: 8 }, measured, measured, measured, measured],
      0,
    ),
  ].join('');
}
