import { type Command, Option } from 'commander';
import { STREAMED } from '../db/cursor.ts';
import { toJson } from '../db/json-value.ts';
import type { Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { csvLine } from '../ledger/csv.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { type ReconciledWallet, reconcile, type Standing, standingOf } from '../replay/reconcile.ts';
import { countByMode } from '../replay/report.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, formatMoney, paintOut, writeOut } from './output.ts';
import type { Paint } from './paint.ts';
import { createProgress, createProgressBeside } from './progress.ts';
import { type Cell, tableText } from './table.ts';

const FORMATS = ['text', 'json', 'csv'] as const;
type Format = (typeof FORMATS)[number];

interface Flags {
  readonly json?: boolean;
  readonly csv?: boolean;
  /** What the two were before. */
  readonly format: Format;
  readonly all?: boolean;
}

const formatOf = ({ json, csv, format }: Flags): Format => (json ? 'json' : csv ? 'csv' : format);

const COLUMNS = [
  'standing',
  'table',
  'wallet_id',
  'owner_id',
  'kept_by',
  'balance_cents',
  'rows',
  'rows_cents',
  'ledger_cents',
  'drift',
  'findings',
];

export function registerReconcile(backfill: Command, context: CommandContext): void {
  backfill
    .command('reconcile')
    .description('every old wallet beside its books: what its rows come to, what is booked beyond them, and why')
    .addOption(new Option('--csv', 'print one line of CSV a wallet').conflicts('json'))
    .option('--all', 'with --json or --csv: wallets with nothing to explain, too')
    .option('--json', 'print one JSON object a line, of each wallet')
    .addOption(new Option('--format <format>').choices(FORMATS).default('text').hideHelp())
    .addHelpText(
      'after',
      `
A wallet is equal (nothing to explain), explained (what it has beyond its rows, or rows that no flow explains, are booked by cause, or
somebody has signed for it), unexplained, or open (its books are not those of its balance yet). One snapshot.
Exits with 1 when a wallet is unexplained or open.

Examples:
  liventix backfill reconcile
  liventix backfill reconcile --csv > wallets.csv`,
    )
    .action((flags: Flags) =>
      withDatabase(context, (pool) => withTransaction(pool, (tx) => runReconcile(tx, flags, context), STREAMED)),
    );
}

async function runReconcile(tx: Tx, { all = false, ...flags }: Flags, context: CommandContext): Promise<void> {
  const format = formatOf(flags);
  const tally = startTally();
  // Lines about wallets come while it goes on, sums at the end.
  const progress = format === 'text' ? createProgress(context) : createProgressBeside(context);
  try {
    const { legacy, ledger } = await countByMode(tx);
    let looked = 0;
    if (format === 'csv') await writeOut(context.out, csvLine(COLUMNS), context.stop);
    for await (const wallets of reconcile(tx, MAIN_BOOK)) {
      for (const wallet of wallets) {
        const standing = standingOf(wallet);
        tally.add(wallet, standing);
        if (format === 'text' || (standing === 'equal' && !all)) continue;
        await writeOut(context.out, lineOf(wallet, standing, format), context.stop);
      }
      looked += wallets.length;
      progress.update('wallets', looked, legacy + ledger);
    }
  } finally {
    progress.clear();
  }
  if (format === 'text') context.out.write(tally.text(context));
  if (!tally.holds()) context.exitWith(1);
}

function lineOf(wallet: ReconciledWallet, standing: Standing, format: 'json' | 'csv'): string {
  if (format === 'json') return `${toJson({ standing, ...wallet })}\n`;
  const { table, walletId, ownerId, mode, balanceCents, rows, rowsCents, ledgerCents, drift, findings } = wallet;
  return csvLine([
    standing,
    table,
    walletId,
    ownerId,
    mode,
    balanceCents,
    rows,
    rowsCents,
    ledgerCents,
    pairs(drift),
    pairs(findings),
  ]);
}

/** `lost_update=-500 opening_balance=20` */
function pairs(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([cause, count]) => `${cause}=${count}`)
    .join(' ');
}

/** What a cause comes to, over all wallets. */
interface Cause {
  wallets: bigint;
  cents: bigint;
  rows: bigint;
}

function causesText(context: CommandContext, causes: ReadonlyMap<string, Cause>): string {
  const rows = [...causes]
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([cause, { wallets, rows, cents }]) => [
      cause,
      formatCount(wallets),
      formatCount(rows),
      `${formatMoney(cents)} USD`,
    ]);
  return tableText(
    context,
    [['cause', 'wallets', 'rows', 'beyond the rows'], ...rows],
    [{ min: 22 }, { align: 'right', min: 9 }, { align: 'right', min: 9 }, { align: 'right', min: 18 }],
    1,
  );
}

const standingCell = (standing: Standing, wallets: bigint, { bad, warn }: Paint): Cell => {
  if (wallets === 0n || standing === 'equal' || standing === 'explained') return standing;
  return { text: standing, paint: standing === 'open' ? warn : bad };
};

const NAMED = 10;

function startTally() {
  const standings: Record<Standing, bigint> = { equal: 0n, explained: 0n, unexplained: 0n, open: 0n };
  const causes = new Map<string, Cause>();
  const named: string[] = [];
  const of = (cause: string) => {
    const counted = causes.get(cause) ?? { wallets: 0n, cents: 0n, rows: 0n };
    causes.set(cause, counted);
    return counted;
  };
  return {
    add: (wallet: ReconciledWallet, standing: Standing): void => {
      standings[standing] += 1n;
      for (const cause of new Set([...Object.keys(wallet.drift), ...Object.keys(wallet.findings)])) {
        const counted = of(cause);
        counted.wallets += 1n;
        counted.cents += BigInt(wallet.drift[cause] ?? 0);
        counted.rows += BigInt(wallet.findings[cause] ?? 0);
      }
      if ((standing === 'open' || standing === 'unexplained') && named.length < NAMED) {
        const { table, walletId, balanceCents, rowsCents, ledgerCents } = wallet;
        named.push(
          `  ${standing}: ${table} ${walletId} holds ${balanceCents}, its rows come to ${rowsCents}, its account has ${ledgerCents ?? 'none'}\n`,
        );
      }
    },
    holds: (): boolean => standings.open + standings.unexplained === 0n,
    text: (context: CommandContext): string =>
      [
        tableText(
          context,
          Object.entries(standings).map(([standing, count]) => [
            standingCell(standing as Standing, count, paintOut(context)),
            `${formatCount(count)} wallets`,
          ]),
          [{ min: 12 }, { align: 'right', min: 18 }],
          1,
        ),
        ...(causes.size === 0 ? [] : ['\n', causesText(context, causes)]),
        ...(named.length === 0 ? [] : ['\n', ...named]),
      ].join(''),
  };
}
