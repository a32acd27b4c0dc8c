import type { Command } from 'commander';
import type { CommandContext } from './context.ts';
import { registerRestructureLint } from './restructure-lint.ts';

export function registerRestructure(program: Command, context: CommandContext): void {
  const restructure = program
    .command('restructure')
    .description('move tables under load: what a change of the schema would do to those who use it');
  registerRestructureLint(restructure, context);
}
