import type { Command } from 'commander';
import type { CheckResult } from '../ledger/verify.ts';
import { verifyBooksAndWallets } from '../replay/verify.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { formatCount, toJson } from './output.ts';

export function registerBooks(program: Command, context: CommandContext): void {
  const books = program.command('books').description('prove that the books balance');
  books
    .command('verify')
    .description('recompute everything that the ledger promises; exits with 1 when something does not hold')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nReads in one snapshot, changes nothing, and may run at any time.\n\nExample:\n  liventix books verify --json',
    )
    .action((options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const print = (result: CheckResult) => {
          if (!options.json) context.out.write(checkLines(result));
        };
        const verification = await verifyBooksAndWallets(pool, print);
        if (options.json) context.out.write(`${toJson(verification)}\n`);
        else context.out.write(verification.balance ? '\nThe books balance.\n' : '\nThe books do NOT balance.\n');
        if (!verification.balance) context.exitWith(1);
      }),
    );
}

const NAME_WIDTH = 72;

function checkLines(result: CheckResult): string {
  const mark = result.holds ? 'holds ' : 'FAILS ';
  const counted = `${formatCount(result.examined)} ${result.unit}`;
  const line = `${mark} ${result.check.padEnd(NAME_WIDTH)} ${counted.padStart(22)}  ${result.seconds.toFixed(1).padStart(6)} s\n`;
  const faults = result.first.map((fault) => `         ${fault}\n`);
  const more = result.faults - BigInt(result.first.length);
  return line + faults.join('') + (more > 0n ? `         and ${formatCount(more)} more\n` : '');
}
