import type { Command } from 'commander';
import type { CommandContext } from '../../src/cli/context.ts';
import { buildProgram } from '../../src/cli/main.ts';
import { loadConfig } from '../../src/config.ts';

export interface Node {
  /** `books verify`; empty for the program itself. */
  readonly path: string;
  readonly command: Command;
  /** Whether it does something by itself. */
  readonly acts: boolean;
}

const silent = { write: () => true };

/** A program that writes to nobody. */
export function program(streams: Partial<Pick<CommandContext, 'out' | 'err'>> = {}): Promise<Command> {
  return buildProgram({
    out: silent,
    err: silent,
    stop: new AbortController().signal,
    config: loadConfig({}),
    exitWith: () => undefined,
    ...streams,
  });
}

/** Every command of it, the program first. */
export function commandsOf(command: Command, path: readonly string[] = []): readonly Node[] {
  const acts = (command as unknown as { _actionHandler: unknown })._actionHandler != null;
  return [
    { path: path.join(' '), command, acts },
    ...command.commands.flatMap((child) => commandsOf(child, [...path, child.name()])),
  ];
}

/** What `--help` of a command prints. */
export function helpOf(command: Command): string {
  let text = '';
  const before = command.configureOutput();
  command.configureOutput({
    ...before,
    writeOut: (part) => {
      text += part;
    },
  });
  command.outputHelp();
  command.configureOutput(before);
  return text;
}

/** The command lines under `Example:` or `Examples:` of a help, without `liventix` and what stands before it. */
export function examplesIn(help: string): readonly string[] {
  const [, ...sections] = help.split(/^Examples?:\n/m);
  return sections
    .flatMap((section) => (section.split(/\n\n/)[0] ?? '').split('\n'))
    .filter((line) => /\bliventix /.test(line));
}
