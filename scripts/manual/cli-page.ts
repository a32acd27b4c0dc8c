import type { Argument, Command, Option } from 'commander';
import { buildProgram } from '../../src/cli/main.ts';
import { loadConfig } from '../../src/config.ts';
import { anchorOf, code, fence, opening, page, table } from './markdown.ts';

const INTRO = [
  'Every command, as its own `--help` says it. In a checkout the program is `bin/liventix`. A flag wins over the environment',
  '([configuration](configuration.md)), that over the default. Data goes to stdout, all else to stderr; a failure is one line,',
  '`liventix: CODE: message`, explained in [errors](../errors.md).',
];

const PROGRAM = 'liventix';

/** docs/reference/cli.md */
export async function cliPage(): Promise<string> {
  const program = await documentedProgram();
  const commands = program.commands.flatMap(withItsOwn);
  const groups = program.commands.map((group) => [
    link(group),
    group.description(),
    withItsOwn(group)
      .slice(1)
      .map((command) => link(command, nameOf(group)))
      .join(', '),
  ]);
  return page([
    ...opening('The command line', [...INTRO, '', ...notesOf(program)]),
    ...table(['command', 'what it is for', 'its commands'], groups),
    ...commands.flatMap(section),
  ]);
}

/** As the command line has it, where nothing is set in the environment. */
export function documentedProgram(): Promise<Command> {
  const nowhere = { write: () => true };
  return buildProgram({
    config: loadConfig({}),
    out: nowhere,
    err: nowhere,
    stop: new AbortController().signal,
    exitWith: () => undefined,
  });
}

const withItsOwn = (command: Command): Command[] => [command, ...command.commands.flatMap(withItsOwn)];

function nameOf(command: Command): string {
  return command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;
}

/** @param within the name of the command above, which is left out */
const link = (command: Command, within = PROGRAM): string =>
  `[${code(nameOf(command).slice(within.length + 1))}](#${anchorOf(nameOf(command))})`;

function section(command: Command): string[] {
  const { notes, examples } = afterHelp(command);
  const help = command.createHelp();
  return [
    `## ${nameOf(command)}`,
    '',
    `${sentence(command.description())}`,
    '',
    ...fence('text', [`${nameOf(command)} ${command.usage()}`.trim()]),
    ...table(['argument', 'meaning'], command.registeredArguments.map(argumentRow)),
    ...table(['option', 'meaning', 'default'], help.visibleOptions(command).filter(isItsOwn).map(optionRow)),
    ...fence('text', notes),
    ...fence('sh', examples),
  ];
}

const sentence = (text: string): string =>
  `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? '' : '.'}`;

/** Every command has that one. */
const isItsOwn = (option: Option): boolean => option.long !== '--help';

function argumentRow(argument: Argument): string[] {
  return [
    code(`${argument.name()}${argument.variadic ? '…' : ''}`),
    `${argument.description}${oneOf(argument.argChoices)}`,
  ];
}

function optionRow(option: Option): string[] {
  const needed = option.mandatory ? ' Required.' : '';
  return [
    code(option.flags),
    `${sentence(`${option.description}${oneOf(option.argChoices)}`)}${needed}`,
    code(defaultOf(option)),
  ];
}

const oneOf = (choices: readonly string[] | undefined): string =>
  choices === undefined ? '' : `; one of ${choices.map(code).join(', ')}`;

function defaultOf({ defaultValue, defaultValueDescription, negate }: Option): string {
  if (defaultValueDescription !== undefined) return defaultValueDescription;
  const isSaid = defaultValue !== undefined && typeof defaultValue !== 'boolean' && !negate;
  return isSaid ? String(defaultValue) : '';
}

function notesOf(program: Command): string[] {
  return afterHelp(program).notes;
}

/** What a command's help says beside its options: text, and examples, without the indentation. */
function afterHelp(command: Command): { notes: string[]; examples: string[] } {
  let written = '';
  command.configureOutput({
    ...command.configureOutput(),
    writeOut: (text) => {
      written += text;
    },
  });
  command.outputHelp();
  const after = written.slice(command.helpInformation().length);
  const [, notes = '', examples = '', rest = ''] =
    /^([\s\S]*?)(?:\n?Examples?:\n((?: +.*\n?)+)([\s\S]*))?$/.exec(after) ?? [];
  return {
    notes: `${notes}${rest}`
      .trim()
      .split('\n')
      .filter((line) => line !== '' || notes.trim() !== ''),
    examples: examples
      .trimEnd()
      .split('\n')
      .map((line) => line.replace(/^ {2}/, ''))
      .filter((line) => line !== ''),
  };
}
