import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { placeHold } from '../../src/ledger/holds.ts';
import { openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix, type Run } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

let database: TestDatabase;
let folder: string;
const env = () => ({ DATABASE_URL: database.url });

beforeAll(async () => {
  database = await createDatabase();
  await openTestAccounts(database.pool);
  folder = await mkdtemp(join(tmpdir(), 'liventix-ledger-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await database.drop();
});

const run = (...args: string[]): Promise<Run> => liventix(['ledger', ...args], env());

describe('wrong usage', () => {
  const nowhere = { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/nothing' };
  it.each<[string, RegExp]>([
    ['ledger', /which command\? See: liventix ledger --help$/m],
    ['ledger exprot', /unknown command 'exprot' \(Did you mean export\?\) See: liventix ledger --help/],
    ['ledger export', /required option '--format <format>' not specified/],
    [
      'ledger export --format pdf',
      /'pdf' is invalid\. Allowed choices are hledger, beancount, csv\. See: liventix ledger export/,
    ],
    ['ledger export --format csv --from yesterday', /'yesterday' is invalid\. Give a day such as 2026-03-01\./],
    ['ledger export --format csv --from 2026-02-29', /'2026-02-29' is invalid\. Give a day/],
    ['ledger export --format csv --from 2026-2-1', /'2026-2-1' is invalid\. Give a day/],
    ['ledger export --format csv --to 0000-01-01', /'0000-01-01' is invalid\. Give a day/],
    ['ledger export --format csv --to 2026-01-01T00:00:00Z', /is invalid\. Give a day/],
    ['ledger export --format csv --from 2026-01-02 --to 2026-01-01', /--from 2026-01-02 is after --to 2026-01-01\./],
    ['ledger export --format csv --book 0', /'0' is invalid\. Give a whole number from 1 to 2147483647\./],
    ['ledger post', /required option '--file <file>' not specified/],
    ['ledger post --file x --batch-size 0', /Give a whole number from 1 to 10000/],
    ['ledger post --file x --batch-size 10001', /Give a whole number from 1 to 10000/],
    ['ledger book open', /required option '--name <name>' not specified/],
    ['ledger book', /which command\? See: liventix ledger book --help$/m],
    ['ledger account open --type cash --currency USD', /required option '--name <name>' not specified/],
    ['ledger account slots me --slots 2', /'me' is no account-id\. Give a UUID such as/],
    ['ledger account slots 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4', /required option '--slots <n>' not specified/],
    ['ledger account slots 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --slots 1', /Give a whole number from 2 to 64/],
    ['ledger account list --user me', /'me' is invalid\. Give a UUID such as/],
  ])('%s', (line, says) => expectRefusal({ code: 'USAGE', says }, line.split(' '), nowhere));

  it.each(['export --format csv', 'post --file -', 'book open --name x', 'book list', 'account list'])(
    'ledger %s: asks for DATABASE_URL where it is not set',
    (line) =>
      expectRefusal(
        { code: 'CONFIG_DATABASE_URL_MISSING', says: /Set it to postgresql:/ },
        ['ledger', ...line.split(' ')],
        { DATABASE_URL: '' },
      ),
  );

  it.each(['export', 'post', 'book open', 'book list', 'account open', 'account list', 'account slots'])(
    'ledger %s has help with an example',
    async (line) => {
      const help = await run(...line.split(' '), '--help');
      expect(help).toMatchObject({ exitCode: 0, stderr: '' });
      expect(help.stdout).toMatch(new RegExp(`\\nExamples?:\\n  (.* \\| )?liventix ledger ${line} `));
      for (const text of help.stdout.split('\n')) expect(text.length).toBeLessThanOrEqual(140);
    },
  );

  it.each([
    'export --format csv',
    'account list',
    'account open --type cash --currency USD --name x',
    'account slots 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --slots 2',
  ])('ledger %s: names a book that is not there', (line) =>
    expectRefusal(
      { code: 'LEDGER_BOOK_UNKNOWN', says: /Book 77 does not exist/ },
      ['ledger', ...line.split(' '), '--book', '77'],
      env(),
    ),
  );

  it.each([
    ['in no folder', 'none/export.csv', /ENOENT/],
    ['that is a folder', '.', /EISDIR/],
    ['where nothing can be', '/proc/export.csv', /EACCES|ENOENT/],
  ])('ledger export refuses a file %s', (_what, file, says) =>
    expectRefusal(
      { code: 'SYSTEM_FAILED', says },
      ['ledger', 'export', '--format', 'csv', '--output', join('/', file.startsWith('/') ? '' : folder, file)],
      env(),
    ),
  );
});

describe('books and accounts', () => {
  it('tries out a book, an account and slots, and leaves nothing of them', async () => {
    const tried = async (...args: string[]) => {
      const { exitCode, stdout, stderr } = await run(...args, '--dry-run');
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: 'Nothing was changed.\n' });
      return stdout;
    };
    const before = (await run('account', 'list')).stdout;
    expect(await tried('book', 'open', '--name', 'tried')).toBe('Would open a book of that name.\n');
    expect(await tried('book', 'open', '--name', 'main', '--json')).toBe('{"wouldOpen":false,"bookId":1}\n');
    const account = ['account', 'open', '--type', 'cash', '--currency', 'USD', '--name', 'tried'];
    expect(await tried(...account)).toMatch(/^Would open [0-9a-f-]{36}\n$/);
    const [accountId = ''] = await openAccounts(database.pool, [{ type: 'fees', currency: 'USD', name: 'there' }]);
    expect(await tried('account', 'open', '--type', 'fees', '--currency', 'USD', '--name', 'there')).toBe(
      `There is ${accountId}\n`,
    );
    expect(await tried('account', 'slots', accountId, '--slots', '3')).toBe('It would have 3 slots.\n');
    const after = (await run('account', 'list', '--slots')).stdout;
    expect(after.split('\n').filter((line) => !before.includes(line))).toEqual([expect.stringContaining(accountId)]);
    expect((await run('book', 'list')).stdout).not.toContain('tried');
  });

  it('opens a book, finds it again, and lists it', async () => {
    expect(await run('book', 'open', '--name', 'Liventix EU')).toEqual({
      exitCode: 0,
      stdout: '2\n',
      stderr: '',
    });
    expect((await run('book', 'open', '--name', ' Liventix EU ', '--json')).stdout).toBe('{"bookId":2}\n');
    const list = await run('book', 'list', '--json');
    expect(JSON.parse(list.stdout)).toMatchObject([
      { bookId: 1, name: 'main', accounts: 5 },
      { bookId: 2, name: 'Liventix EU', accounts: 0 },
    ]);
    expect((await run('book', 'list')).stdout).toMatch(
      /^1 {2}main +opened .* 5 accounts\n2 {2}Liventix EU {2}opened .* 0 accounts\n$/,
    );
  });

  it('refuses a name that is none, in one line', () =>
    expectRefusal(
      { code: 'LEDGER_INVALID', says: /A book cannot be called "": its name has 1 to 100 characters/ },
      ['ledger', 'book', 'open', '--name', ' '],
      env(),
    ));

  it('opens an account with limits, shows what of it is held, and prints nothing but its id', async () => {
    const opened = await run(
      ...['account', 'open', '--type', 'cash', '--currency', 'USD', '--name', 'limited'],
      ...['--floor-cents', '-500', '--ceiling-cents', '100000'],
    );
    expect(opened).toMatchObject({ exitCode: 0, stderr: '' });
    expect(opened.stdout).toMatch(/^[0-9a-f-]{36}\n$/);
    const accountId = opened.stdout.trim();
    await placeHold(database.pool, { accountId, amountCents: 450n, currency: 'USD' });
    const listed = JSON.parse((await run('account', 'list', '--json')).stdout) as { accountId: string }[];
    expect(listed.find((account) => account.accountId === accountId)).toMatchObject({
      floorCents: -500,
      ceilingCents: 100_000,
      availableCents: -450,
    });
    const text = (await run('account', 'list')).stdout;
    expect(text).toMatch(new RegExp(`^${accountId} +0\\.00 USD {2}cash +limited {2}4\\.50 held$`, 'm'));
  });

  it('opens an account of the platform, of a user, of an organization, and lists them with their balances', async () => {
    const open = async (...flags: string[]) => {
      const opened = await run('account', 'open', '--book', '2', '--currency', 'JPY', '--json', ...flags);
      expect(opened).toMatchObject({ exitCode: 0, stderr: '' });
      return (JSON.parse(opened.stdout) as { accountId: string }).accountId;
    };
    const [user, organization] = [randomUUID(), randomUUID()];
    const wallet = await open('--type', 'cash', '--name', 'wallet', '--user', user.toUpperCase());
    const share = await open('--type', 'payable', '--name', 'share', '--organization', organization);
    const clearing = await open('--type', 'receivable', '--name', 'clearing');
    expect(await open('--type', 'receivable', '--name', 'clearing')).toBe(clearing);
    await postAll(database.pool, [transfer(clearing, wallet, { currency: 'JPY', amountCents: 1_234n })], { bookId: 2 });

    const list = async (...flags: string[]) => {
      const listed = await run('account', 'list', '--book', '2', '--json', ...flags);
      return JSON.parse(listed.stdout) as unknown[];
    };
    const mine = {
      accountId: wallet,
      userId: user,
      organizationId: null,
      balanceCents: 1_234,
      decimalPlaces: 0,
      entries: 1,
    };
    expect(await list()).toMatchObject([mine, { accountId: share }, { accountId: clearing }]);
    expect(await list('--user', user)).toMatchObject([mine]);
    expect(await list('--organization', organization)).toMatchObject([
      { accountId: share, organizationId: organization },
    ]);
    expect(await list('--user', organization)).toEqual([]);
    const text = await run('account', 'list', '--book', '2');
    expect(text.stdout.split('\n')).toEqual([
      expect.stringMatching(new RegExp(`^${wallet} +1,234 JPY {2}cash +wallet {2}user ${user}$`)),
      expect.stringMatching(new RegExp(`^${share} +0 JPY {2}payable +share {2}organization ${organization}$`)),
      expect.stringMatching(new RegExp(`^${clearing} +1,234 JPY {2}receivable +clearing$`)),
      '',
    ]);
  });

  it('gives an account slots, shows it as one account everywhere, and its slots where they are asked for', async () => {
    const opened = await run(
      'account',
      'open',
      '--currency',
      'USD',
      '--type',
      'receivable',
      '--name',
      'busy',
      '--json',
    );
    const { accountId } = JSON.parse(opened.stdout) as { accountId: string };
    const given = await run('account', 'slots', accountId, '--slots', '2');
    expect(given).toMatchObject({ exitCode: 0, stderr: '' });
    const [, slot = ''] = given.stdout.split('\n').map((line) => line.split(/ +/)[2]);
    expect(given.stdout).toBe(`slot  0  ${accountId}\nslot  1  ${slot}\n`);
    const json = await run('account', 'slots', accountId, '--slots', '2', '--json');
    expect(JSON.parse(json.stdout)).toEqual({ accountId, slots: [accountId, slot] });
    const [other = ''] = await openAccounts(database.pool, [{ type: 'revenue', currency: 'USD', name: 'busy' }]);
    await postAll(database.pool, [
      transfer(slot, other, { amountCents: 500n }),
      transfer(other, slot, { amountCents: 200n }),
    ]);

    const list = async (...flags: string[]) => (await run('account', 'list', ...flags)).stdout;
    expect(await list()).toMatch(new RegExp(`^${accountId} +3\\.00 USD {2}receivable +busy$`, 'm'));
    expect(await list()).not.toContain(slot);
    expect(await list('--slots')).toMatch(
      new RegExp(`^${accountId} .*\n${accountId} +0\\.00 USD {2}.*slot 0\n${slot} +3\\.00 USD {2}.*slot 1$`, 'm'),
    );
    const listed = JSON.parse(await list('--slots', '--json')) as { accountId: string; slots?: unknown }[];
    expect(listed.find((account) => account.accountId === accountId)?.slots).toEqual([
      { accountId, balanceCents: 0, entries: 0 },
      { accountId: slot, balanceCents: 300, entries: 2 },
    ]);
    expect(listed.find((account) => account.accountId === other)).not.toHaveProperty('slots');
    const balance = await liventix(['books', 'balance', accountId, '--json'], env());
    expect(JSON.parse(balance.stdout)).toMatchObject({ balance: { cents: 300 }, entries: 2 });
    const statement = await liventix(['books', 'statement', accountId, '--json'], env());
    expect(JSON.parse(statement.stdout)).toMatchObject({ closing: { cents: 300 }, lines: [{}, {}] });
    const refused = await run('account', 'slots', slot, '--slots', '2');
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toContain('liventix: LEDGER_SLOTS_REFUSED: ');
  });

  it.each([
    ['--type', 'wallet', 'LEDGER_ACCOUNT_TYPE_UNKNOWN'],
    ['--currency', 'usd', 'LEDGER_CURRENCY_UNKNOWN'],
    ['--name', "x'; drop table payments.accounts", 'LEDGER_INVALID'],
  ] as const)('refuses an account with %s %s', (flag, value, code) => {
    const given = { '--type': 'cash', '--currency': 'USD', '--name': 'x', [flag]: value };
    return expectRefusal(
      { code, says: /cannot be opened/ },
      ['ledger', 'account', 'open', ...Object.entries(given).flat()],
      env(),
    );
  });
});
