import { type Command, CommanderError, type Option } from 'commander';
import { beforeAll, describe, expect, it } from 'vitest';
import { commandsOf, examplesIn, helpOf, type Node, program } from '../support/command-tree.ts';

const MAX_COLUMNS = 140;

// Built here, for `it.each` names each command.
const nodes = commandsOf(await program({ out: { write: () => true, columns: 1_000 } as never }));
const named = nodes.map((node) => [node.path || 'liventix', node] as const);
const acting = named.filter(([, { acts }]) => acts);
const groups = named.filter(([, { command }]) => command.commands.length > 0);
const shown = (command: Command): readonly Option[] => command.createHelp().visibleOptions(command);

describe('the help of every command', () => {
  it.each(named)('%s: has an example, the exit codes, and lines that fit', (_name, { command }) => {
    const help = helpOf(command);
    expect(examplesIn(help)).not.toEqual([]);
    expect(help).toContain('Exit codes: 0 holds or done, 1 does not hold, 2 wrong usage, 3 could not find out.');
    expect(help.split('\n').filter((line) => line.length > MAX_COLUMNS)).toEqual([]);
    expect(command.description()).not.toBe('');
  });

  it.each(named)('%s: describes every option and argument', (_name, { command }) => {
    expect(
      shown(command)
        .filter(({ description }) => description === '')
        .map(({ flags }) => flags),
    ).toEqual([]);
    expect(command.registeredArguments.filter(({ description }) => description === '')).toEqual([]);
  });

  it.each(groups)('%s: lists each of its commands', (_name, { command }) => {
    const help = helpOf(command);
    for (const child of command.commands) expect(help).toMatch(new RegExp(`^  ${child.name()}\\b`, 'm'));
  });

  it.each(named)('%s: its examples are what it takes', async (_name, { command, path }) => {
    for (const line of examplesIn(helpOf(command))) {
      const commands = commandLinesIn(line);
      expect(`${commands[0]?.join(' ')} `, line).toMatch(path === '' ? /./ : new RegExp(`^${path} `));
      for (const words of commands) {
        await expect(parsed(words), line).resolves.toBeDefined();
      }
    }
  });

  it('shows a default that is a list as one writes it', async () => {
    const attach = nodes.find(({ path }) => path === 'embeddings attach') as Node;
    expect(helpOf(attach.command)).toContain('(default: anon,authenticated)');
    expect(nodes.map(({ command }) => helpOf(command)).join('')).not.toContain('default: [');
  });
});

/** What is the same is called the same, wherever it is said: the flag, and what stands for its value. */
const MEANINGS: Readonly<Record<string, { flags: readonly string[]; not?: readonly string[] }>> = {
  'output for machines': { flags: ['--json'], not: ['--format json', '--as-json'] },
  'changing nothing': { flags: ['--dry-run'], not: ['--check', '--simulate', '--no-act', '--pretend'] },
  'going on although it costs something': { flags: ['--yes'], not: ['--confirm', '--force'] },
  'the book': { flags: ['--book <n>'], not: ['--book-id', '--ledger'] },
  'an organization': { flags: ['--organization <id>'], not: ['--org', '--organization-id', '--tenant'] },
  'a user': { flags: ['--user <id>'], not: ['--user-id'] },
  'an endpoint': { flags: ['--endpoint <id>'], not: ['--endpoint-id'] },
  'where a file is written': { flags: ['--output <file>'], not: ['--out', '--to-file'] },
  'the file that declares what there is to be': { flags: ['--mapping <file>'], not: ['--declarations', '--map'] },
  'how many are listed': { flags: ['--limit <n>'], not: ['--lines', '--count', '--max'] },
  'an instant that is looked back to': { flags: ['--as-of <instant>'], not: ['--at', '--effective'] },
  'how often a table in use is tried': { flags: ['--tries <n>'], not: ['--retries', '--attempts'] },
  'looking again and again': { flags: ['--watch'], not: ['--follow'] },
  'the seed of what is drawn': { flags: ['--seed <n>'] },
  seconds: { flags: ['--seconds <s>'] },
};

describe('flags', () => {
  const all = nodes.flatMap(({ command, path }) => shown(command).map((option) => ({ path, option })));

  it.each(Object.entries(MEANINGS))('%s has one name', (_meaning, { flags, not = [] }) => {
    for (const flag of flags) {
      const long = flag.split(' ')[0];
      const asSaid = new Set(all.filter(({ option }) => option.long === long).map(({ option }) => option.flags));
      expect([...asSaid]).toEqual([flag]);
    }
    expect(all.filter(({ option }) => not.includes(option.long ?? '')).map(({ path }) => path)).toEqual([]);
  });

  it('are long, and a number of time or size says its unit', () => {
    for (const { path, option } of all) {
      expect(option.short, `${path} ${option.flags}`).toBeUndefined();
      const unit = /-(ms|seconds|days|mb-per-second|cents)$/.exec(option.long ?? '')?.[1];
      if (unit !== undefined) expect(option.flags).toMatch(/ <(ms|s|n|mb)>$/);
    }
  });

  // What prints a file of a format of its own, or never ends.
  const WITHOUT_JSON = ['books prove', 'ledger export', 'worker', 'console', 'completion'];
  it.each(acting)('%s: prints JSON for machines', (name, { command }) => {
    expect(shown(command).some(({ long }) => long === '--json') || WITHOUT_JSON.includes(name)).toBe(true);
  });

  // What reads; what the worker does by itself all the time; and what changes something only where a flag of its own says so.
  const WITHOUT_DRY_RUN: Readonly<Record<string, readonly string[]>> = {
    reads: [
      'migrate status',
      'backfill plan',
      'backfill reconcile',
      'backfill proof verify',
      'backfill shadow',
      'backfill status',
      'replay verify',
      'books verify',
      'books trial-balance',
      'books balance',
      'books statement',
      'books account-types',
      'books periods',
      'books seals',
      'books prove',
      'books report',
      'console user list',
      'ledger book list',
      'ledger account list',
      'ledger export',
      'outbox endpoint list',
      'outbox endpoint show',
      'outbox topic list',
      'outbox topic show',
      'outbox deliveries',
      'outbox show',
      'outbox list',
      'outbox status',
      'states list',
      'states show',
      'states history',
      'states verify',
      'restructure plan',
      'restructure status',
      'restructure verify',
      'restructure accesses record',
      'restructure accesses compare',
      'restructure perf record',
      'restructure perf compare',
      'restructure lint',
      'partitions plan',
      'partitions verify',
      'partitions status',
      'rollups plan',
      'rollups verify',
      'rollups status',
      'embeddings status',
      'embeddings models list',
      'embeddings verify',
      'doctor',
      'completion',
    ],
    'does what the worker does by itself': [
      'books seal',
      'partitions maintain',
      'rollups run',
      'rollups refresh',
      'worker',
    ],
    'seals, as the worker does, and writes a file': ['backfill proof write'],
    'changes nothing without --swap': ['replay rebuild'],
    'has a database of its own': ['demo'],
    'changes nothing until somebody presses a button': ['console'],
  };
  const exempt = Object.values(WITHOUT_DRY_RUN).flat();
  it.each(acting)('%s: tries out what it would change', (name, { command }) => {
    const hasDryRun = shown(command).some(({ long }) => long === '--dry-run');
    expect(hasDryRun, `${name} changes things and has no --dry-run`).toBe(!exempt.includes(name));
  });
});

describe('what flags were called before', () => {
  let latest: Command;
  beforeAll(async () => {
    latest = await program();
  });

  it.each([
    [
      'backfill cutover --org 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4',
      'organization',
      '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4',
    ],
    ['books balance 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --at 2026-03-31', 'asOf', '2026-03-31T23:59:59.999999Z'],
    ['books statement 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --lines 7', 'limit', 7],
    ['partitions maintain --confirm', 'yes', true],
    ['restructure plan --out shop.json', 'output', 'shop.json'],
    ['restructure perf record --out before.json', 'output', 'before.json'],
    ['rollups apply --file rollups.json', 'mapping', 'rollups.json'],
    ['backfill reconcile --format csv', 'format', 'csv'],
  ])('%s still means what it meant, and no help says it', async (line, name, value) => {
    const command = await parsed(line.split(' '));
    expect(command.getOptionValue(name)).toBe(value);
    expect(helpOf(command)).not.toMatch(/--(org|at|lines|confirm|out|file|format)\b/);
    expect(latest.name()).toBe('liventix');
  });
});

/** Parses a command line as the program does, without doing what it says; answers the command that it is. */
async function parsed(words: readonly string[]): Promise<Command> {
  const root = await program();
  let called: Command | undefined;
  for (const { command, acts } of commandsOf(root)) {
    if (acts)
      command.action((...args: unknown[]) => {
        called = args.at(-1) as Command;
      });
  }
  try {
    await root.parseAsync([...words], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError && error.exitCode === 0)) throw error;
    called = root;
  }
  if (called === undefined) throw new Error(`${words.join(' ')} does nothing`);
  return called;
}

/** The words after `liventix` of each command of a line of the shell: up to a pipe, a redirection, `&&` or a comment. */
function commandLinesIn(line: string): readonly (readonly string[])[] {
  const found: string[][] = [];
  let current: string[] | undefined;
  for (const { groups: token = {} } of line.matchAll(TOKEN)) {
    const word = PLACEHOLDERS[token['bare'] ?? ''] ?? token['double'] ?? token['single'] ?? token['bare'] ?? '';
    if (token['bare'] !== undefined && /^(#|[|<>]|&&$)/.test(word)) {
      current = undefined;
      if (word === '#') break;
    } else if (current !== undefined) current.push(word);
    else if (word === 'liventix') {
      current = [];
      found.push(current);
    }
  }
  return found;
}

// What an example names, where what it stands for would not fit on a line.
const PLACEHOLDERS: Readonly<Record<string, string>> = { ROOT: '0'.repeat(64) };

const TOKEN = /"(?<double>[^"]*)"|'(?<single>[^']*)'|(?<bare>[^\s'"]+)/g;
