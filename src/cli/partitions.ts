import type { Command } from 'commander';
import type { CommandContext } from './context.ts';
import { registerPartitionsApply } from './partitions-apply.ts';
import { registerPartitionsUpkeep } from './partitions-upkeep.ts';
import { registerPartitionsVerify } from './partitions-verify.ts';

export function registerPartitions(program: Command, context: CommandContext): void {
  const partitions = program
    .command('partitions')
    .description('turn tables into monthly partitions while they are used, and back, and see to the months')
    .addHelpText('after', '\nExample:\n  liventix partitions plan');
  registerPartitionsApply(partitions, context);
  registerPartitionsVerify(partitions, context);
  registerPartitionsUpkeep(partitions, context);
}
