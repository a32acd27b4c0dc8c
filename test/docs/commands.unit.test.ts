import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { documentedProgram } from '../../scripts/manual/cli-page.ts';
import { fencesOf, readPages } from './pages.ts';

interface CommandLine {
  /** Where it is written. */
  readonly at: string;
  readonly line: string;
}

const lines = readPages().flatMap((page) =>
  fencesOf(page)
    .filter(({ info }) => info === 'sh')
    .flatMap(({ lines: written, firstLine }) =>
      joined(written).map(({ line, offset }): CommandLine => ({ at: `${page.path}:${firstLine + offset}`, line })),
    ),
);
const ours = lines.flatMap(({ at, line }) => commandsOf(line, /^(?:bin\/)?liventix$/).map((args) => ({ at, args })));
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
    expect(commandsOf(line, /^(?:bin\/)?liventix$/)).toEqual([
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

/** A group, which does nothing by itself, has no action that could be replaced. */
function disarm(command: Command, note: () => void): void {
  const acts = command.commands.length === 0 || command.name() === 'migrate' || command.parent === null;
  if (acts && command.parent !== null) command.action(note);
  for (const child of command.commands) disarm(child, note);
}

/** Lines that end in a backslash go on in the next one. */
function joined(written: readonly string[]): { readonly line: string; readonly offset: number }[] {
  const whole: { line: string; offset: number }[] = [];
  let goesOn = false;
  for (const [offset, text] of written.entries()) {
    const last = whole.at(-1);
    if (goesOn && last !== undefined) last.line += ` ${text.replace(/\\$/, '')}`;
    else whole.push({ line: text.replace(/\\$/, ''), offset });
    goesOn = text.endsWith('\\');
  }
  return whole;
}

/** The words after each use of a program in a line, as a shell takes them apart; what is redirected belongs to no program. */
function commandsOf(line: string, program: RegExp): string[][] {
  return simpleCommands(line).flatMap((words) => {
    const named = words.findIndex((word) => !/^[A-Z_]+=/.test(word));
    return program.test(words[named] ?? '') ? [words.slice(named + 1).map(filledIn)] : [];
  });
}

/** An id that is written 6f1c…, … or $NAME stands for a whole one, and ROOT for a root. */
function filledIn(word: string): string {
  return word
    .replace(/^(?:[0-9a-f]*…|\$[A-Z_]+)$/, '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4')
    .replace(/^ROOT$/, 'ab'.repeat(32));
}

function simpleCommands(line: string): string[][] {
  const commands: string[][] = [[]];
  let redirected = false;
  for (const [token] of line.matchAll(
    /&&|\|\|?|;|[0-9]?>>?|<|#.*$|(?:'[^']*'|"[^"]*"|\\.|[^\s'"|;&<>#\\]|(?<=\S)#)+|&/g,
  )) {
    if (/^#/.test(token)) break;
    if (/^(?:&&?|\|\|?|;)$/.test(token)) commands.push([]);
    else if (/^[0-9]?>>?$|^<$/.test(token)) redirected = true;
    else if (redirected) redirected = false;
    else commands.at(-1)?.push(token.replace(/'([^']*)'|"([^"]*)"|\\(.)/g, '$1$2$3'));
  }
  return commands;
}
