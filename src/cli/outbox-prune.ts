import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { dropOldDays, listOldDays, type OldDay } from '../outbox/days.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { wholeNumber } from './options.ts';
import { waitingFor } from './progress.ts';

interface PruneOptions {
  readonly keepDays?: number;
  readonly keepDeadDays?: number;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const days = wholeNumber(1, 3_650);

export function registerOutboxPrune(outbox: Command, context: CommandContext): void {
  outbox
    .command('prune')
    .description('drop the days that are older than is kept, as the worker does each hour')
    .option('--keep-days <n>', 'days that are kept of what was delivered (default: OUTBOX_KEEP_DAYS, or 30)', days)
    .option(
      '--keep-dead-days <n>',
      'how long days with dead letters are kept (default: OUTBOX_KEEP_DEAD_DAYS, or 90)',
      days,
    )
    .option('--dry-run', 'say what would be dropped, and drop nothing')
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      '\nA day of which something is still to be delivered is never dropped, however old it is.\n\nExample:\n  liventix outbox prune --keep-days 14 --dry-run',
    )
    .action(({ dryRun, json, ...given }: PruneOptions) =>
      withDatabase(context, async (pool) => {
        const retention = { ...context.config.retention, ...given };
        const old = await waitingFor(context, 'looking for old days, and dropping them', () =>
          dryRun ? listOldDays(pool, retention) : dropOldDays(pool, retention),
        );
        if (json) context.out.write(`${toJson(old)}\n`);
        else if (old.length === 0) context.err.write(`No day is older than ${retention.keepDays} days.\n`);
        else context.out.write(old.map((day) => `${day.day}  ${fateOf(day, dryRun === true)}\n`).join(''));
      }),
    );
}

function fateOf({ fate }: OldDay, isDryRun: boolean): string {
  switch (fate) {
    case 'drop':
      return isDryRun ? 'would be dropped' : 'dropped';
    case 'waiting':
      return 'kept: something of it is still to be delivered';
    case 'dead':
      return 'kept: it has dead letters';
    default:
      return fate satisfies never;
  }
}
