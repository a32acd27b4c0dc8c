import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import type { Pool } from '../db/pool.ts';
import { findCapture, turnCaptureOff, turnCaptureOn } from '../replay/capture.ts';
import { countCaptured } from '../replay/drain.ts';
import { getLegacyTables } from '../replay/legacy.ts';
import { pauseBackfill, pauseStatus, resumeBackfill } from '../replay/pause.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount } from './output.ts';
import { createProgress, waitingFor } from './progress.ts';

interface Flags {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

/** What is done to a backfill beside running it, from any terminal. */
export function registerBackfillControl(backfill: Command, context: CommandContext): void {
  const say = ({ json }: Flags, outcome: Record<string, unknown>, words: string) =>
    context.out.write(json ? `${toJson(outcome)}\n` : `${words}\n`);

  const sayWould = (words: string, name: string, flags: Flags, would: boolean) => {
    say(flags, { [name]: would }, would ? words : 'There would be nothing to do.');
    context.err.write('Nothing was changed.\n');
  };

  backfill
    .command('capture')
    .description('record what old code does to the wallets while they are replayed')
    .addHelpText('after', '\nExample:\n  liventix backfill capture on --dry-run')
    .command('on')
    .description('install the triggers that record it; done before, it does nothing')
    .option('--dry-run', 'say on which tables, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
All of it is installed in one database transaction. Whatever lock it does not get within 50 ms it leaves to the old platform,
and tries again a little later, at most 40 times. TRUNCATE of the wallet tables is refused from then on.

Example:
  DATABASE_URL=postgresql://localhost/app liventix backfill capture on`,
    )
    .action((flags: Flags) =>
      withDatabase(
        context,
        async (pool) => {
          if (flags.dryRun) {
            const { invoices: _, ...tables } = await getLegacyTables(pool);
            const names = Object.values(tables);
            say(
              flags,
              { wouldCapture: names },
              `Would capture what changes in ${names.join(', ')}. Nothing was changed.`,
            );
            return;
          }
          const progress = createProgress(context);
          const turnedOn = await turnCaptureOn(pool, {
            stop: context.stop,
            onBusy: (tries) => progress.update('waiting for the wallet tables, tries', tries, 0),
          }).finally(progress.clear);
          say(flags, { turnedOn }, turnedOn ? 'Changes are captured from now on.' : 'Changes were captured already.');
        },
        { stopsItself: true },
      ),
    );

  backfill
    .command('pause')
    .description('let the backfill stand still after the chunk under way, until it is resumed')
    .option('--dry-run', 'say whether it is paused, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix backfill pause')
    .action((flags: Flags) =>
      withDatabase(context, async (pool) => {
        if (flags.dryRun) return sayWould('It would be paused.', 'wouldPause', flags, !(await isPaused(pool)));
        const paused = await pauseBackfill(pool);
        say(flags, { paused }, paused ? 'Paused. Go on with: liventix backfill resume' : 'It was paused already.');
      }),
    );

  backfill
    .command('resume')
    .description('let a paused backfill go on')
    .option('--dry-run', 'say whether it is paused, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  liventix backfill resume')
    .action((flags: Flags) =>
      withDatabase(context, async (pool) => {
        if (flags.dryRun) return sayWould('It would go on.', 'wouldResume', flags, await isPaused(pool));
        const resumed = await resumeBackfill(pool);
        say(flags, { resumed }, resumed ? 'It goes on.' : 'It was not paused.');
      }),
    );

  backfill
    .command('abort')
    .description('give the backfill up: end the capture; what is in the log stays there')
    .option('--dry-run', 'say what would be forgotten, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nChanges that were captured and are not in the log yet are forgotten. A later backfill reads all rows again, and books none twice.\n\nExample:\n  liventix backfill abort --dry-run',
    )
    .action((flags: Flags) =>
      withDatabase(context, async (pool) => {
        const forgotten = await countCaptured(pool);
        if (flags.dryRun) {
          const would =
            (await findCapture(pool)) === undefined
              ? 'Nothing is captured.'
              : `Would end the capture and forget ${formatCount(forgotten)} changes.`;
          say(flags, { wouldForget: forgotten }, `${would} Nothing was changed.`);
          return;
        }
        const aborted = await waitingFor(context, 'ending the capture', () =>
          turnCaptureOff(pool, { stop: context.stop }),
        );
        await resumeBackfill(pool);
        const words = aborted
          ? `The capture has ended, and ${formatCount(forgotten)} changes that were not in the log yet are forgotten.`
          : 'Nothing was captured.';
        say(flags, { aborted, forgotten: aborted ? forgotten : 0 }, words);
      }),
    );
}

const isPaused = async (pool: Pool): Promise<boolean> => (await pauseStatus(pool)).pausedAt !== null;
