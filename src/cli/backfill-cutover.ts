import { type Command, InvalidArgumentError } from 'commander';
import { toJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { approveDrift } from '../replay/approve.ts';
import { cutOver, rollBack } from '../replay/cut-over.ts';
import { finishCutOver } from '../replay/finish.ts';
import type { FlipOptions, FlipResult } from '../replay/flip.ts';
import type { Owners } from '../replay/owners.ts';
import { findWalletFunctions, replaceWalletFunctions, restoreWalletFunctions } from '../replay/wallet-functions.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { minorUnits, uuid } from './options.ts';
import { formatCount, formatMoney } from './output.ts';
import { createProgress, waitingFor } from './progress.ts';

interface OwnerFlags {
  readonly organization?: string;
  readonly user?: string;
  readonly all?: boolean;
  readonly json?: boolean;
}

interface FlipFlags extends OwnerFlags {
  readonly dryRun?: boolean;
}

interface CutOverFlags extends FlipFlags {
  readonly maxUnexplainedCents?: bigint;
}

interface RollBackFlags extends FlipFlags {
  readonly alsoDiffering?: boolean;
}

const NAMED_REFUSALS = 10;

/** Whose word counts for a wallet, the old tables' or the ledger's. */
export function registerCutOver(backfill: Command, context: CommandContext): void {
  withOwners(
    backfill.command('cutover').description('let the ledger keep the wallets of an owner; the old tables mirror it'),
  )
    .option(
      '--max-unexplained-cents <n>',
      'how much of a wallet may be unexplained without approval (default: 0)',
      minorUnits,
    )
    .option('--dry-run', 'compare, say who would be cut over, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
What was captured of an owner is drained and every row compared with the log while old code goes on; then, in one short transaction in
which writes of that owner wait, what came since. An owner of whom something differs stays as he is, and is named; the exit code is 1.

Examples:
  liventix backfill cutover --organization 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --dry-run
  liventix backfill cutover --all`,
    )
    .action((flags: CutOverFlags) =>
      flip(context, flags, (pool, options) =>
        cutOver(pool, {
          ...options,
          maxUnexplainedCents: flags.maxUnexplainedCents ?? 0n,
          dryRun: flags.dryRun === true,
        }),
      ),
    );

  withOwners(
    backfill
      .command('rollback')
      .description('let the old tables keep the wallets of an owner again; nothing written since is lost'),
  )
    .option('--also-differing', 'also wallets of which something differs: from then on what the old tables say counts')
    .option('--dry-run', 'compare, say who would go back, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
A wallet differs where old code wrote to it while the capture was gone, which is in the old tables alone. With --also-differing it goes
back all the same; then abort, capture on and run bring what the log does not know into it, each as a correction that says resync.

Example:
  liventix backfill rollback --user 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4`,
    )
    .action((flags: RollBackFlags) =>
      flip(context, flags, (pool, options) =>
        rollBack(pool, { ...options, alsoDiffering: flags.alsoDiffering === true, dryRun: flags.dryRun === true }),
      ),
    );

  registerFunctions(backfill, context);
  registerApprove(backfill, context);
  registerFinish(backfill, context);
}

function registerFunctions(backfill: Command, context: CommandContext): void {
  backfill
    .command('functions')
    .description(
      'replace the old functions over wallets, lots and dead letters: same names and answers, without their faults',
    )
    .option('--restore', 'bring the old ones back as they were, with their grants, once nobody is cut over any more')
    .option('--dry-run', 'say which of them there are, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nThey work for owners on either side of the cut-over. What changes for callers: docs/wallet-compatibility.md.\n\nExamples:\n  liventix backfill functions --dry-run\n  liventix backfill functions --restore',
    )
    .action(({ dryRun = false, restore = false, json }: { dryRun?: boolean; restore?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        if (restore && !dryRun) {
          const { refused } = await restoreWalletFunctions(pool, { stop: context.stop });
          for (const line of refused) context.err.write(`not brought back: ${line}\n`);
          if (refused.length > 0) context.exitWith(1);
        } else if (!dryRun)
          await waitingFor(context, 'replacing functions', () => replaceWalletFunctions(pool, { stop: context.stop }));
        const functions = await findWalletFunctions(pool);
        const lines = functions.map(({ signature, isReplaced }) => `${isReplaced ? 'new' : 'OLD'}  ${signature}\n`);
        const last = dryRun ? `${formatCount(lines.length)} functions found. Nothing was changed.\n` : '';
        context.out.write(json ? `${toJson({ functions })}\n` : `${lines.join('')}${last}`);
      }),
    );
}

function registerApprove(backfill: Command, context: CommandContext): void {
  withOwners(
    backfill
      .command('approve')
      .description('sign for what nobody can explain, so that it no longer keeps its owner from being cut over'),
  )
    .requiredOption(
      '--reason <text>',
      'why; it stays in the log for ever, so name nobody (1 to 500 characters)',
      reason,
    )
    .option('--dry-run', 'say how much would be signed for, and sign for nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nExample:\n  liventix backfill approve --all --reason "moved by hand in 2021, see ticket 4711"',
    )
    .action((flags: FlipFlags & { reason: string }) => {
      const owners = ownersOf(flags);
      return withDatabase(context, async (pool) => {
        const { dryRun = false } = flags;
        const approved = await waitingFor(context, 'adding up what is unexplained', () =>
          approveDrift(pool, { owners, reason: flags.reason, dryRun }),
        );
        const { wallets, cents } = approved;
        const words =
          wallets === 0n
            ? 'Nothing is unexplained that nobody has signed for.'
            : `${dryRun ? 'Would sign' : 'Signed'} for ${formatMoney(cents)} USD in all, too much and too little added up, of ${formatCount(wallets)} wallets.`;
        context.out.write(flags.json ? `${toJson(dryRun ? { wouldApprove: approved } : approved)}\n` : `${words}\n`);
        if (dryRun) context.err.write('Nothing was changed.\n');
      });
    });
}

function registerFinish(backfill: Command, context: CommandContext): void {
  backfill
    .command('finish')
    .description('retire the old tables: no capture and no mirror any more, and no way back')
    .option('--dry-run', 'say whether anything stands against it, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nRefused with exit code 1 while an owner is kept by the old tables, or a wallet differs from its account.\n\n' +
        'From then on whoever moves money in the old tables, the old wallet functions too, is refused (LEGACY_RETIRED): the ledger\n' +
        'would never know. Reads, settings, empty wallets and deletions go on.\n\nExample:\n  liventix backfill finish --dry-run',
    )
    .action(({ dryRun = false, json }: { dryRun?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        await waitingFor(context, 'comparing wallets, and retiring the old tables', () =>
          finishCutOver(pool, { dryRun, stop: context.stop }),
        );
        const words = dryRun
          ? 'Nothing stands against it. Nothing was changed.'
          : 'The old tables are retired: who moves money there is refused, and nothing follows them or feeds them any more.';
        context.out.write(json ? `${toJson({ finished: !dryRun })}\n` : `${words}\n`);
      }),
    );
}

function reason(text: string): string {
  const trimmed = text.trim();
  if (trimmed.length >= 1 && trimmed.length <= 500) return trimmed;
  throw new InvalidArgumentError('Give 1 to 500 characters.');
}

function withOwners(command: Command): Command {
  return command
    .option('--organization <id>', 'the organization', uuid)
    .option('--user <id>', 'the user', uuid)
    .option('--all', 'every owner, and every wallet that is made from then on');
}

async function flip(
  context: CommandContext,
  flags: FlipFlags,
  work: (pool: Parameters<typeof cutOver>[0], options: FlipOptions) => Promise<FlipResult>,
): Promise<void> {
  const owners = ownersOf(flags);
  await withDatabase(
    context,
    async (pool) => {
      const progress = createProgress(context);
      const onProgress = (done: bigint, total: bigint) => progress.update('owners', done, total);
      const result = await work(pool, { owners, stop: context.stop, onProgress }).finally(progress.clear);
      context.out.write(flags.json ? `${toJson(result)}\n` : flipText(result, flags.dryRun === true));
      if (!result.finished) context.exitWith(3);
      else if (result.refused.length > 0) context.exitWith(1);
    },
    { stopsItself: true },
  );
}

function ownersOf({ organization, user, all }: OwnerFlags): Owners {
  const chosen = [organization, user, all].filter((choice) => choice !== undefined);
  if (chosen.length !== 1) throw new AppError('USAGE', 'Say whose wallets: one of --organization, --user and --all.');
  if (organization !== undefined) return { kind: 'organization', id: organization };
  return user !== undefined ? { kind: 'user', id: user } : 'all';
}

function flipText(result: FlipResult, isDryRun: boolean): string {
  const { finished, flipped, already, caughtUp, refused, longestMs } = result;
  const named = refused
    .slice(0, NAMED_REFUSALS)
    .map(({ table, walletId, reason }) => `  ${table} ${walletId}: ${reason}\n`);
  const more = refused.length - named.length;
  const missed =
    caughtUp === 0n ? '' : `, ${formatCount(caughtUp)} of them given what a mirror that was gone may have missed`;
  return [
    `${formatCount(flipped)} wallets ${isDryRun ? 'would be flipped' : 'flipped'}, ${formatCount(already)} were there already${missed}, ${formatCount(refused.length)} refused\n`,
    ...named,
    ...(more > 0 ? [`  and ${formatCount(more)} more: --json names all\n`] : []),
    isDryRun
      ? 'Nothing was changed.\n'
      : `The longest that writes of one owner could have to wait: ${longestMs.toFixed(0)} ms\n`,
    ...(finished ? [] : ['Stopped before the end. Run it again to go on.\n']),
  ].join('');
}
