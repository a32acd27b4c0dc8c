import type { Command } from 'commander';
import type { CommandContext } from './context.ts';
import { registerRestructureAccesses } from './restructure-accesses.ts';
import { registerRestructureApply } from './restructure-apply.ts';
import { registerRestructureIsolate } from './restructure-isolate.ts';
import { registerRestructureLint } from './restructure-lint.ts';
import { registerRestructurePerf } from './restructure-perf.ts';
import { registerRestructurePlan } from './restructure-plan.ts';
import { registerRestructureVerify } from './restructure-verify.ts';

export function registerRestructure(program: Command, context: CommandContext): void {
  const restructure = program
    .command('restructure')
    .description('move tables into other schemas while they are used, behind views under their old names, and back')
    .addHelpText('after', '\nExamples:\n  liventix restructure plan\n  liventix restructure apply --dry-run');
  registerRestructurePlan(restructure, context);
  registerRestructureApply(restructure, context);
  registerRestructureIsolate(restructure, context);
  registerRestructureVerify(restructure, context);
  registerRestructureAccesses(restructure, context);
  registerRestructurePerf(restructure, context);
  registerRestructureLint(restructure, context);
}
