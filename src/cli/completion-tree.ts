import type { Argument, Command, Option } from 'commander';

/** What may stand in a place: one of a set, a file, or what nobody can foresee. */
export type Value =
  | { readonly kind: 'choice'; readonly names: readonly string[] }
  | { readonly kind: 'file' }
  | { readonly kind: 'free' };

export interface CompletedFlag {
  /** With its dashes. */
  readonly name: string;
  readonly description: string;
  /** Undefined where it takes none. */
  readonly value: Value | undefined;
}

export interface CompletedCommand {
  /** `books verify`; empty of the program itself. */
  readonly path: string;
  /** Paths by which it may be called too. */
  readonly aliases: readonly string[];
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly flags: readonly CompletedFlag[];
  readonly values: readonly Value[];
  /** Whether the last of the values may be given again and again. */
  readonly isVariadic: boolean;
}

/** Every command of a program, itself first, as a shell completes it. */
export function completionTree(command: Command, path = ''): readonly CompletedCommand[] {
  const help = command.createHelp();
  const below = path === '' ? '' : `${path} `;
  const parent = path.slice(0, Math.max(path.lastIndexOf(' '), 0));
  return [
    {
      path,
      aliases: command.aliases().map((alias) => (parent === '' ? alias : `${parent} ${alias}`)),
      commands: command.commands.map((child) => ({ name: child.name(), description: child.description() })),
      flags: help.visibleOptions(command).map(flagOf),
      values: command.registeredArguments.map(takenBy),
      isVariadic: command.registeredArguments.at(-1)?.variadic === true,
    },
    ...command.commands.flatMap((child) => completionTree(child, `${below}${child.name()}`)),
  ];
}

function flagOf(option: Option): CompletedFlag {
  const takesValue = option.required || option.optional;
  return {
    name: option.long ?? '',
    description: option.description,
    value: takesValue ? valueNamed(/<(.*)>/.exec(option.flags)?.[1] ?? '', option.argChoices) : undefined,
  };
}

const takenBy = (argument: Argument): Value => valueNamed(argument.name(), argument.argChoices);

/** What stands for a file in a help; `before` and `after` are recordings. */
const FILES = ['file', 'path', 'before', 'after'];

function valueNamed(name: string, choices: readonly string[] | undefined): Value {
  if (choices !== undefined) return { kind: 'choice', names: choices };
  return { kind: FILES.includes(name) ? 'file' : 'free' };
}
