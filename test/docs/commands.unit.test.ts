import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { documentedProgram } from '../../scripts/manual/cli-page.ts';
import { commandLinesOf, commandsOf, LIVENTIX } from './command-lines.ts';
import { proseOf, readPages } from './pages.ts';

const pages = readPages();
const lines = pages.flatMap(commandLinesOf);
const ours = lines.flatMap(({ at, line }) => commandsOf(line, LIVENTIX).map((args) => ({ at, args })));
const scripts = lines.flatMap(({ at, line }) =>
  commandsOf(line, /^npm$/)
    .filter(([run]) => run === 'run')
    .map((args) => ({ at, name: args.find((arg, index) => index > 0 && !arg.startsWith('-')) })),
);
const { scripts: known } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };

describe('a command line of the manual', () => {
  it('is found where there is one', () => {
    expect(ours.length).toBeGreaterThan(150);
  });

  it.each(ours.map(({ at, args }) => [at, args.join(' '), args] as const))(
    '%s: liventix %s',
    async (_at, _line, args) => {
      await expect(understood(args)).resolves.toBe(true);
    },
  );

  it.each(scripts)('$at: npm run $name', ({ name }) => {
    expect(Object.keys(known)).toContain(name);
  });
});

describe('a command that a text names', () => {
  const named = pages.flatMap((page) =>
    [...proseOf(page).matchAll(/`((?:bin\/)?liventix [^`\n]+)`/g)].flatMap(([, text = '']) =>
      commandsOf(text, LIVENTIX).map((words) => ({ at: page.path, words })),
    ),
  );

  it('is there, with the options that are named', async () => {
    expect(named.length).toBeGreaterThan(100);
    const program = await documentedProgram();
    const faults = named.flatMap(({ at, words }) =>
      unknownOf(program, words).map((word) => `${at}: ${words.join(' ')}: ${word}`),
    );
    expect(faults).toEqual([]);
  });

  it('is missed where it is not', async () => {
    const program = await documentedProgram();
    expect(unknownOf(program, ['books', 'verfy'])).toEqual(['verfy']);
    expect(unknownOf(program, ['books', 'verify', '--since', '41', '--tsv'])).toEqual(['--tsv']);
  });
});

describe('what is no command line of ours', () => {
  it.each([
    ['a command that there is not', 'books verfy'],
    ['an option that there is not', 'books verify --frobnicate'],
    ['an option without its value', 'outbox endpoint add --url'],
    ['a required option that is missing', 'outbox endpoint add --topic a'],
    ['a value that is out of bounds', 'outbox replay --rate 0'],
    ['an argument too many', 'books seal 7'],
    ['a group alone', 'outbox endpoint'],
  ])('is refused: %s', async (_what, line) => {
    await expect(understood(line.split(' '))).rejects.toThrow(/./);
  });

  it('is not taken for one in a comment, and is found behind a pipe, a variable and an &&', () => {
    const line = `A=1 bin/liventix doctor --json && zcat 'a b' | liventix ledger post --file - > out # liventix nothing`;
    expect(commandsOf(line, LIVENTIX)).toEqual([
      ['doctor', '--json'],
      ['ledger', 'post', '--file', '-'],
    ]);
  });
});

/** Parses it as the command line does, and runs nothing. */
async function understood(args: readonly string[]): Promise<boolean> {
  const program = await documentedProgram();
  let called = false;
  disarm(program, () => {
    called = true;
  });
  await program.parseAsync([...args], { from: 'user' });
  return called;
}

/** What does nothing by itself, as most groups, stays so: commander then says which commands there are. */
function disarm(command: Command, note: () => void): void {
  // It says nowhere else whether a command has an action.
  if (Reflect.get(command, '_actionHandler') !== null) command.action(note);
  for (const child of command.commands) disarm(child, note);
}

/** What is neither a command nor an option of the one before it. */
function unknownOf(command: Command, [word, ...rest]: readonly string[]): readonly string[] {
  const child = command.commands.find((each) => each.name() === word);
  if (child !== undefined) return unknownOf(child, rest);
  const isGroup = command.commands.length > 0 && command.registeredArguments.length === 0;
  const said = word === undefined ? [] : [word, ...rest];
  if (isGroup && word !== undefined && /^[a-z]/.test(word)) return [word];
  return said.filter(
    (each) => each.startsWith('--') && !command.options.some(({ long }) => long === each) && each !== '--help',
  );
}
