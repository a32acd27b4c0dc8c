import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command, Option } from 'commander';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildProgram } from '../../src/cli/main.ts';
import { loadConfig } from '../../src/config.ts';
import { ledgerState, openTestAccounts, type TestAccounts } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';

// Every command of `liventix ledger …`, `liventix books …` and `liventix replay …`, with each of its options and arguments spoilt in every way. A
// command that is added and not told how to be called makes a test fail.

let database: TestDatabase;
let accounts: TestAccounts;
let folder: string;
const home = process.cwd();
beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  folder = await mkdtemp(join(tmpdir(), 'liventix-bad-input-'));
  await writeFile(join(folder, 'empty.jsonl'), '');
  // Where a spoilt value is a file's name, it is one here.
  process.chdir(folder);
});
afterAll(async () => {
  process.chdir(home);
  await rm(folder, { recursive: true, force: true });
  await database.drop();
});

interface Ended {
  /** `fine` where the command did what it was asked for. */
  readonly code: string;
  readonly exitCode: number | null;
  readonly message: string;
  readonly stdout: string;
}

async function run(args: readonly string[]): Promise<Ended> {
  const { exitCode, stdout, stderr } = await liventix(args, { DATABASE_URL: database.url });
  const [, code = 'fine', message = ''] = /^liventix: ([A-Z_]+): ([\s\S]*)\n$/.exec(stderr) ?? [];
  return { code, exitCode, message, stdout };
}

const program = await buildProgram({
  config: loadConfig({}),
  out: { write: () => true },
  err: { write: () => true },
  stop: new AbortController().signal,
  exitWith: () => undefined,
});

/** How each command is called with nothing wrong, in an order in which each finds what it needs; none but `slots` and `seal` writes. */
const CALLS: Readonly<Record<string, () => string[]>> = {
  'ledger book open': () => ['--name', 'main'],
  'ledger book list': () => [],
  'ledger account open': () => ['--type', 'receivable', '--currency', 'USD', '--name', 'clearing'],
  'ledger account list': () => [],
  'ledger account slots': () => [accounts.clearing, '--slots', '2'],
  'ledger post': () => ['--file', join(folder, 'empty.jsonl'), '--dry-run'],
  'ledger export': () => ['--format', 'csv'],
  'books verify': () => [],
  'books trial-balance': () => [],
  'replay rebuild': () => [],
  'replay verify': () => [],
  'books balance': () => [accounts.wallet],
  'books statement': () => [accounts.wallet],
  'books account-types': () => [],
  'books close': () => ['--until', '2020-01-01', '--dry-run'],
  'books periods': () => [],
  'books seal': () => [],
  'books seals': () => [],
  'books prove': () => ['1'],
  'books report': () => ['--period', '2026-01', '--format', 'csv', '--no-verify', '--output', '-'],
};

/** Of these a book is no part. */
const OF_NO_BOOK: Readonly<Record<string, string>> = {
  'ledger book open': 'a book is what it opens',
  'ledger book list': 'it lists all books',
  'books account-types': 'the chart is one for all books',
};

const SPOILT = {
  empty: '',
  wrong: `x'; drop table payments.books; --`,
  huge: '9'.repeat(5_000),
  negative: '-1',
} as const;

/** What names a thing may be any text: with these nothing is wrong. */
const FINE: Readonly<Record<string, readonly (keyof typeof SPOILT)[]>> = {
  'ledger book open --name': ['wrong', 'negative'],
  // A limit may be below zero.
  'ledger account open --floor-cents': ['negative'],
  'ledger account open --ceiling-cents': ['negative'],
  // A new file of that name.
  'ledger export --output': ['wrong', 'negative'],
  'books verify --certificate': ['wrong', 'negative'],
  'books report --output': ['wrong', 'negative'],
};

/** What was found out is told all the same. */
const TELLS_BEFORE: readonly string[] = ['books verify --certificate', 'books report --output'];

const LEAVES = leavesOf(program).filter(([name]) => /^(ledger|books|replay) /.test(name));

function leavesOf(command: Command, path: readonly string[] = []): (readonly [string, Command])[] {
  if (command.commands.length === 0) return [[path.join(' '), command]];
  return command.commands.flatMap((child) => leavesOf(child, [...path, child.name()]));
}

const words = (name: string) => name.split(' ');
const flagOf = (option: Option) => option.long ?? '';
const valued = LEAVES.flatMap(([name, command]) =>
  command.options.filter((option) => option.required).map((option) => [name, flagOf(option)] as const),
);

function faultsOf(ended: Ended): string[] {
  const { code, exitCode, message, stdout } = ended;
  return [
    ...(code === 'fine' ? ['accepted'] : []),
    ...(code === 'INTERNAL' || code.startsWith('DB_') ? [`${code}: ${message}`] : []),
    ...(code !== 'fine' && ![1, 2, 3].includes(exitCode ?? 0) ? [`exit code ${exitCode}`] : []),
    ...(/[\r\n]/.test(message) || message.length > 1_000
      ? [`a message of ${message.length} characters: ${message.slice(0, 200)}`]
      : []),
    ...(stdout === '' ? [] : [`prints ${stdout.slice(0, 100)}`]),
  ];
}

describe('every command of ledger, books and replay', () => {
  it('is called here, and works', async () => {
    expect(LEAVES.map(([name]) => name).toSorted()).toEqual(Object.keys(CALLS).toSorted());
    const failed: string[] = [];
    for (const [name, args] of Object.entries(CALLS)) {
      const { code, message } = await run([...words(name), ...args()]);
      if (code !== 'fine') failed.push(`${name}: ${code}: ${message}`);
    }
    expect(failed).toEqual([]);
  });

  it.each(valued)('%s %s: refused with one line and a code, where its value is no good', async (name, flag) => {
    const before = await ledgerState(database.pool);
    const wrong: string[] = [];
    for (const [what, value] of Object.entries(SPOILT)) {
      const { stdout, ...ended } = await run([...words(name), ...(CALLS[name]?.() ?? []), flag, value]);
      const faults = faultsOf({ ...ended, stdout: TELLS_BEFORE.includes(`${name} ${flag}`) ? '' : stdout });
      if (!FINE[`${name} ${flag}`]?.includes(what as keyof typeof SPOILT)) {
        wrong.push(...faults.map((fault) => `${what}: ${fault}`));
      } else if (ended.code !== 'fine') wrong.push(`${what}: ${ended.code}: ${ended.message}`);
      if (value !== '') await rm(join(folder, value), { force: true }).catch(() => undefined);
    }
    expect(wrong).toEqual([]);
    if (name !== 'ledger book open') expect(await ledgerState(database.pool)).toBe(before);
  });

  it.each(LEAVES)(
    '%s: refuses a misspelt option, an argument too many, one that is no good, and says what was meant',
    async (name, command) => {
      const good = CALLS[name]?.() ?? [];
      for (const option of command.createHelp().visibleOptions(command)) {
        const typo = `${flagOf(option)}x`;
        expect(await run([...words(name), ...good, typo])).toMatchObject({
          code: 'USAGE',
          exitCode: 2,
          message: expect.stringMatching(
            new RegExp(`^unknown option '${typo}'.*Did you mean.*liventix ${name} --help$`),
          ),
          stdout: '',
        });
      }
      expect(await run([...words(name), ...good, 'one', 'more'])).toMatchObject({
        code: 'USAGE',
        exitCode: 2,
        stdout: '',
      });
      if (command.registeredArguments.length === 0) return;
      for (const value of Object.values(SPOILT)) {
        expect(faultsOf(await run([...words(name), ...good.slice(1), '--', value]))).toEqual([]);
      }
    },
  );

  it.each(LEAVES.map(([name]) => [name]))('%s: a misspelt subcommand is refused, and it is suggested', async (name) => {
    const [last = '', ...others] = words(name).toReversed();
    const typo = `${last}x`;
    expect(await run([...others.toReversed(), typo])).toMatchObject({
      code: 'USAGE',
      exitCode: 2,
      message: expect.stringMatching(new RegExp(`unknown command '${typo}'.*Did you mean.*${last}`)),
      stdout: '',
    });
  });
});

describe('--help', () => {
  it.each(LEAVES)('of %s is written', (name, command) => {
    expect(command.helpInformation()).toMatch(new RegExp(`^Usage: .*${words(name).at(-1)}`));
  });
});

describe('--book', () => {
  it('is an option of every command that is about one book', () => {
    const without = LEAVES.filter(([, command]) => !command.options.some((option) => flagOf(option) === '--book'));
    expect(without.map(([name]) => name).toSorted()).toEqual(Object.keys(OF_NO_BOOK).toSorted());
  });

  const withBook = LEAVES.filter(([name]) => !(name in OF_NO_BOOK)).map(([name]) => [name]);
  it.each(withBook)('%s: an unknown book is no empty answer', async (name) => {
    expect(await run([...words(name), ...(CALLS[name]?.() ?? []), '--book', '77'])).toMatchObject({
      code: 'LEDGER_BOOK_UNKNOWN',
      exitCode: 2,
      message: expect.stringMatching(/Book 77 does not exist/),
      stdout: '',
    });
  });
});
