import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { placeHold } from '../../src/ledger/holds.ts';
import { type NewTransaction, openAccounts, postAll } from '../../src/ledger/ledger.ts';
import {
  balancesByBeancount,
  balancesByCsv,
  balancesByHledger,
  balancesOfBook,
  differences,
} from '../support/accounting-tools.ts';
import { balanceOf, ledgerState, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type LiventixOptions, liventix, type Run, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

let database: TestDatabase;
let accounts: TestAccounts;
let folder: string;
const env = () => ({ DATABASE_URL: database.url });

beforeAll(async () => {
  database = await createDatabase();
  accounts = await openTestAccounts(database.pool);
  folder = await mkdtemp(join(tmpdir(), 'liventix-ledger-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
  await database.drop();
});

const run = (...args: string[]): Promise<Run> => liventix(['ledger', ...args], env());
const start = (args: readonly string[], options: LiventixOptions = {}): RunningLiventix =>
  startLiventix(['ledger', ...args], env(), options);

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
    ['ledger account slots me --slots 2', /'me' is invalid for argument 'account-id'\. Give a UUID such as/],
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
  it('opens a book, finds it again, and lists it', async () => {
    expect(await run('book', 'open', '--name', 'Liventix EU')).toEqual({
      exitCode: 0,
      stdout: '2\n',
      stderr: '',
    });
    expect((await run('book', 'open', '--name', ' Liventix EU ', '--json')).stdout).toBe('{"bookId":2}\n');
    const list = await run('book', 'list', '--json');
    expect(JSON.parse(list.stdout)).toMatchObject([
      { bookId: 1, name: 'main', accounts: 4 },
      { bookId: 2, name: 'Liventix EU', accounts: 0 },
    ]);
    expect((await run('book', 'list')).stdout).toMatch(
      /^1 {2}main {2}opened .* 4 accounts\n2 {2}Liventix EU {2}opened .* 0 accounts\n$/,
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
    expect(text).toMatch(new RegExp(`^${accountId} +0\\.00 USD {2}cash {2}limited {2}4\\.50 held$`, 'm'));
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
      expect.stringMatching(new RegExp(`^${wallet} +1,234 JPY {2}cash {2}wallet {2}user ${user}$`)),
      expect.stringMatching(new RegExp(`^${share} +0 JPY {2}payable {2}share {2}organization ${organization}$`)),
      expect.stringMatching(new RegExp(`^${clearing} +1,234 JPY {2}receivable {2}clearing$`)),
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
    expect(await list()).toMatch(new RegExp(`^${accountId} +3\\.00 USD {2}receivable {2}busy$`, 'm'));
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

interface Result {
  readonly line: number;
  readonly status: 'posted' | 'duplicate' | 'rejected';
  readonly transaction_id?: string;
  readonly event_position?: number;
  readonly account_seqs?: number[];
  readonly balances_after_cents?: (number | string)[];
  readonly code?: string;
  readonly message?: string;
}

describe('ledger post', () => {
  const results = ({ stdout }: { stdout: string }): Result[] =>
    stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Result);
  const line = (fields: Record<string, unknown> = {}, amount: number | string = 100): string =>
    JSON.stringify({
      idempotency_key: randomUUID(),
      entries: [
        { account_id: accounts.clearing, amount_cents: amount, currency: 'USD' },
        {
          account_id: accounts.wallet,
          amount_cents: typeof amount === 'number' ? -amount : `-${amount}`,
          currency: 'USD',
        },
      ],
      ...fields,
    });
  const file = async (...lines: (string | Buffer)[]): Promise<string> => {
    const path = join(folder, `${randomUUID()}.jsonl`);
    await writeFile(path, Buffer.concat(lines.flatMap((text) => [Buffer.from(text), Buffer.from('\n')])));
    return path;
  };
  const countOf = async (where: string): Promise<bigint> => {
    const { rows } = await database.pool.query<{ n: bigint }>(
      `select count(*) as n from payments.events where type = 'transaction.posted' and ${where}`,
    );
    return rows[0]?.n ?? -1n;
  };

  const everything = () => ledgerState(database.pool);
  const answerOf = ({ line, status, code, message }: Result) => ({ line, status, code, message });

  it('posts every line in its order, and nothing twice', async () => {
    const lines = Array.from({ length: 25 }, (_, index) =>
      line({ description: `n ${index}` }, index % 2 === 0 ? index + 1 : `${index + 1}`),
    );
    const path = await file(...lines);
    const before = await balanceOf(database.pool, accounts.wallet);
    const first = await run('post', '--file', path, '--batch-size', '10');
    expect(first).toMatchObject({
      exitCode: 0,
      stderr: expect.stringMatching(/^25 lines: 25 posted, 0 posted before, 0 rejected, in /),
    });
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before - 325n);
    const ids = results(first).map(({ transaction_id }) => transaction_id);
    const { rows } = await database.pool.query<{ event_id: string; position: bigint; description: string }>(
      `select event_id, position, payload ->> 'description' as description from payments.events where event_id = any ($1) order by position`,
      [ids],
    );
    expect(rows.map(({ event_id, position }) => [event_id, Number(position)])).toEqual(
      results(first).map(({ transaction_id, event_position }) => [transaction_id, event_position]),
    );
    expect(rows.map(({ description }) => description)).toEqual(lines.map((_, index) => `n ${index}`));
    // A batch is a database transaction: 25 lines in tens are three.
    const { rows: written } = await database.pool.query(
      'select count(distinct xid::text) as n from payments.events where event_id = any ($1)',
      [ids],
    );
    expect(written).toEqual([{ n: 3n }]);

    const again = await run('post', '--file', path, '--json');
    expect(again.exitCode).toBe(0);
    expect(JSON.parse(again.stderr)).toMatchObject({ lines: 25, posted: 0, duplicates: 25, rejected: 0 });
    expect(results(again)).toEqual(results(first).map((result) => ({ ...result, status: 'duplicate' })));
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before - 325n);
  });

  it('says of each entry its number within its account and the balance after it, and the same again for a duplicate', async () => {
    const [clearing = '', wallet = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'counted_clearing' },
      { type: 'cash', currency: 'USD', name: 'counted_wallet' },
    ]);
    const entries = (cents: bigint) => [
      { account_id: clearing, amount_cents: `${cents}`, currency: 'USD' },
      { account_id: wallet, amount_cents: `${-cents}`, currency: 'USD' },
    ];
    const unbalanced = entries(1n).map((entry) => ({ ...entry, amount_cents: '1' }));
    const path = await file(
      ...[entries(100n), unbalanced, entries(50n), entries(2n ** 60n)].map((each) => line({ entries: each })),
    );
    const first = await run('post', '--file', path);
    const [one, refused, two, large] = results(first);
    expect(one).toMatchObject({ status: 'posted', account_seqs: [1, 1], balances_after_cents: [100, -100] });
    expect(refused).toEqual({ line: 2, status: 'rejected', code: 'LEDGER_UNBALANCED', message: expect.any(String) });
    expect(two).toMatchObject({ account_seqs: [2, 2], balances_after_cents: [150, -150] });
    // Beyond 2^53 as text, as everywhere.
    const sum = 2n ** 60n + 150n;
    expect(large).toMatchObject({ account_seqs: [3, 3], balances_after_cents: [`${sum}`, `${-sum}`] });
    expect(results(await run('post', '--file', path))).toEqual(
      results(first).map((result) => (result.status === 'posted' ? { ...result, status: 'duplicate' } : result)),
    );
  });

  it('says of each bad line what is wrong with it, and posts the others', async () => {
    const unbalanced = line().replace('-100', '-99');
    const key = randomUUID();
    const path = await file(
      line(),
      'no JSON',
      '',
      line({ idempotency_key: key }),
      Buffer.from([0x7b, 0xff, 0x7d]),
      line({ description: '\0' }),
      line({ description: '\ud800' }),
      '[1, 2]',
      '{"a": 1}, {"b": 2}',
      unbalanced,
      line({ idempotency_key: key, description: 'another body' }),
      // All of it, and no more than 64 bits hold.
      line({}, '9223372036854775807'),
      line({}).replace(':100,', ':1e1000000,'),
      `${'['.repeat(200_000)}${']'.repeat(200_000)}`,
      `"${'x'.repeat(10_000_001)}"`,
      `${line()}\r`,
      line(),
    );
    const before = await countOf('true');
    const posted = await run('post', '--file', path);
    expect(posted.exitCode).toBe(1);
    expect(posted.stderr).toMatch(/^16 lines: 4 posted, 0 posted before, 12 rejected, in /);
    expect(results(posted).map(({ line, status, code }) => [line, code ?? status])).toEqual([
      [1, 'posted'],
      [2, 'LEDGER_LINE_INVALID'],
      [4, 'posted'],
      [5, 'LEDGER_LINE_INVALID'],
      [6, 'LEDGER_LINE_INVALID'],
      [7, 'LEDGER_LINE_INVALID'],
      [8, 'LEDGER_INVALID'],
      [9, 'LEDGER_LINE_INVALID'],
      [10, 'LEDGER_UNBALANCED'],
      [11, 'LEDGER_IDEMPOTENCY_CONFLICT'],
      [12, 'LEDGER_AMOUNT_OVERFLOW'],
      [13, 'LEDGER_LINE_INVALID'],
      [14, 'LEDGER_LINE_INVALID'],
      [15, 'LEDGER_LINE_INVALID'],
      [16, 'posted'],
      [17, 'posted'],
    ]);
    for (const { status, message } of results(posted)) if (status === 'rejected') expect(message).toMatch(/^.{10,}$/);
    expect(await countOf('true')).toBe(before + 4n);
  });

  it('posts linked lines all or none, also where they are more than a batch', async () => {
    const linked = (fields: Record<string, unknown> = {}) => line({ linked: true, ...fields });
    const unbalanced = line().replace('-100', '-99');
    const lines = [
      line(),
      linked(),
      linked(),
      line(),
      linked(),
      linked(),
      unbalanced,
      line(),
      linked(),
      'no JSON',
      line(),
      linked(),
    ];
    const before = await countOf('true');
    const posted = await run('post', '--file', await file(...lines), '--batch-size', '2');
    expect(posted.exitCode).toBe(1);
    expect(results(posted).map(({ line, status, code }) => [line, code ?? status])).toEqual([
      [1, 'posted'],
      [2, 'posted'],
      [3, 'posted'],
      [4, 'posted'],
      [5, 'LEDGER_LINK_FAILED'],
      [6, 'LEDGER_LINK_FAILED'],
      [7, 'LEDGER_UNBALANCED'],
      [8, 'posted'],
      [9, 'LEDGER_LINK_FAILED'],
      [10, 'LEDGER_LINE_INVALID'],
      [11, 'LEDGER_LINK_FAILED'],
      [12, 'LEDGER_INVALID'],
    ]);
    // By the numbers of the file, not of the call that a line went out in.
    expect(results(posted)[4]?.message).toBe('It is linked to line 7, which was refused: LEDGER_UNBALANCED.');
    expect(results(posted)[5]?.message).toBe(results(posted)[4]?.message);
    expect(await countOf('true')).toBe(before + 5n);
  });

  it('brings the text of a line into the database as it is: no number is rounded', async () => {
    const number = '12345678901234567890.123456789012345678901234567890';
    const path = await file(
      line({ metadata: { exact: 'EXACT' } }, 'AMOUNT')
        .replace('"EXACT"', number)
        .replaceAll(/"(-?)AMOUNT"/g, '$19007199254740993'),
    );
    const [result] = results(await run('post', '--file', path));
    const { rows } = await database.pool.query(
      `select (metadata -> 'exact')::text as exact, amount_cents from payments.entries where transaction_id = $1 order by id`,
      [result?.transaction_id],
    );
    expect(rows).toEqual([
      { exact: number, amount_cents: 9_007_199_254_740_993n },
      { exact: number, amount_cents: -9_007_199_254_740_993n },
    ]);
  });

  it('reads what is piped in, with a byte order mark and without a last line break', async () => {
    const posting = start(['post', '--file', '-'], { stdin: true });
    posting.stdin.end(`\uFEFF${line()}\n${line()}`);
    const posted = await posting.done;
    expect(results(posted).map(({ line, status }) => [line, status])).toEqual([
      [1, 'posted'],
      [2, 'posted'],
    ]);
    expect(posted.exitCode).toBe(0);
  });

  it('has nothing to do with an empty file', async () => {
    expect(await run('post', '--file', await file())).toMatchObject({
      exitCode: 0,
      stdout: '',
      stderr: expect.stringMatching(/^0 lines: /),
    });
  });

  it.each([
    ['that is not there', () => join(folder, 'none.jsonl'), /ENOENT/],
    ['that is a folder', () => folder, /EISDIR/],
  ])('refuses a file %s', (_what, path, says) =>
    expectRefusal({ code: 'SYSTEM_FAILED', says }, ['ledger', 'post', '--file', path()], env()),
  );

  it('names a book that is not there', async () =>
    expectRefusal(
      { code: 'LEDGER_BOOK_UNKNOWN', says: /Book 77 does not exist/ },
      ['ledger', 'post', '--file', await file(line()), '--book', '77'],
      env(),
    ));

  it('finishes on Ctrl-C the batch under way, says how far it came, and goes on when it is run again', async () => {
    const path = await file(...Array.from({ length: 30 }, () => line()));
    const before = await countOf('true');
    const blocker = await database.pool.connect();
    await blocker.query('begin');
    await blocker.query('select from payments.balances where account_id = $1 for update', [accounts.clearing]);
    const posting = start(['post', '--file', path, '--batch-size', '10']);
    await waitsForLock('post_transactions');
    posting.kill('SIGINT');
    await blocker.query('rollback');
    blocker.release();
    const stopped = await posting.done;
    expect(stopped.exitCode).toBe(3);
    expect(stopped.stderr).toMatch(
      /^10 lines: 10 posted, [^\n]*\nliventix: STOPPED: SIGINT stopped the posting after line 10; [^\n]*\n$/,
    );
    expect(results(stopped)).toHaveLength(10);
    expect(await countOf('true')).toBe(before + 10n);

    const rest = await run('post', '--file', path);
    expect(rest).toMatchObject({
      exitCode: 0,
      stderr: expect.stringMatching(/^30 lines: 20 posted, 10 posted before, /),
    });
    expect(results(rest).slice(0, 10)).toEqual(results(stopped).map((result) => ({ ...result, status: 'duplicate' })));
    expect(await countOf('true')).toBe(before + 30n);
  });

  it('posts what is piped in as it comes: every outcome is told while the pipe stays open', async () => {
    const posting = start(['post', '--file', '-'], { stdin: true });
    let told = '';
    posting.stdout.on('data', (text: string) => {
      told += text;
    });
    // A chain waits for its end; what came before it does not.
    posting.stdin.write(`${line()}\n${line()}\n${line({ linked: true })}\n`);
    await eventually('the first two are told', () => results({ stdout: told }).length === 2);
    posting.stdin.write(`${line()}\n${line().slice(0, 20)}`);
    await eventually('the chain is told', () => results({ stdout: told }).length === 4);
    posting.stdin.end();
    const posted = await posting.done;
    expect(results(posted).map(({ line, code, status }) => [line, code ?? status])).toEqual([
      [1, 'posted'],
      [2, 'posted'],
      [3, 'posted'],
      [4, 'posted'],
      [5, 'LEDGER_LINE_INVALID'],
    ]);
  });

  it('ends on Ctrl-C while it waits for what is piped in', async () => {
    const posting = start(['post', '--file', '-'], { stdin: true, unread: true });
    posting.stdin.write(`${line()}\n${line()}\n${line({ linked: true })}\n`);
    await once(posting.stdout, 'readable');
    posting.kill('SIGINT');
    expect(await posting.done).toMatchObject({
      exitCode: 3,
      stderr: expect.stringMatching(/STOPPED: SIGINT stopped the posting after line 2; /),
    });
  });

  it('says in a dry run what would become of every line, and writes nothing', async () => {
    const [before, known] = [randomUUID(), randomUUID()];
    await run('post', '--file', await file(line({ idempotency_key: before }, 5)));
    const twice = line({ idempotency_key: known });
    const [holder = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'dry', floorCents: 0n },
    ]);
    const move = (cents: number) => ({
      entries: [
        { account_id: accounts.clearing, amount_cents: cents, currency: 'USD' },
        { account_id: holder, amount_cents: -cents, currency: 'USD' },
      ],
    });
    const path = await file(
      twice,
      twice,
      line({ idempotency_key: known, description: 'another body' }),
      line({ idempotency_key: before }, 5),
      'no JSON',
      line({ description: '\0' }),
      line().replace('-100', '-99'),
      // What is spent was brought in by an earlier line, of another batch.
      line({ announce: 'dry.run', ...move(70) }),
      line(move(-70)),
      line(move(-1)),
      line({ linked: true }),
      line({}, 0),
    );
    const unwritten = await everything();
    const tried = await run('post', '--file', path, '--batch-size', '3', '--dry-run');
    expect(await everything()).toBe(unwritten);
    expect(tried.exitCode).toBe(1);
    expect(tried.stderr).toMatch(
      /^12 lines: 3 would be posted, 2 posted before, 7 rejected, in [^\n]*\nNothing was posted\.\n$/,
    );
    const json = await run('post', '--file', path, '--dry-run', '--json');
    expect(JSON.parse(json.stderr)).toMatchObject({ lines: 12, wouldPost: 3, duplicates: 2, rejected: 7 });
    expect(await everything()).toBe(unwritten);

    const posted = await run('post', '--file', path, '--batch-size', '3');
    expect(results(tried).map(answerOf)).toEqual(results(posted).map(answerOf));
    expect(results(posted).map(({ line, status, code }) => [line, code ?? status])).toEqual([
      [1, 'posted'],
      [2, 'duplicate'],
      [3, 'LEDGER_IDEMPOTENCY_CONFLICT'],
      [4, 'duplicate'],
      [5, 'LEDGER_LINE_INVALID'],
      [6, 'LEDGER_LINE_INVALID'],
      [7, 'LEDGER_UNBALANCED'],
      [8, 'posted'],
      [9, 'posted'],
      [10, 'LEDGER_FLOOR_PASSED'],
      [11, 'LEDGER_LINK_FAILED'],
      [12, 'LEDGER_AMOUNT_INVALID'],
    ]);
    // Machines that read both shall not take one for the other.
    const isDry = tried.stdout
      .split('\n')
      .filter(Boolean)
      .map((text) => 'dry_run' in JSON.parse(text));
    expect(isDry).toEqual(results(tried).map(() => true));
    expect(posted.stdout).not.toContain('dry_run');
  });

  it('posts nothing of a dry run that Ctrl-C ends, and says so', async () => {
    const unwritten = await everything();
    const trying = start(['post', '--file', '-', '--dry-run'], { stdin: true, unread: true });
    trying.stdin.write(`${line()}\n`);
    await once(trying.stdout, 'readable');
    trying.kill('SIGINT');
    const stopped = await trying.done;
    expect(stopped.exitCode).toBe(3);
    expect(stopped.stderr).toMatch(/STOPPED: SIGINT stopped the dry run after line 1; nothing was posted\. /);
    expect(await everything()).toBe(unwritten);
  });

  it('killed at any moment and run again, has posted every line once', async () => {
    const keys = Array.from({ length: 400 }, (_, index) => `killed-${index}`);
    const path = await file(...keys.map((idempotency_key) => line({ idempotency_key })));
    const before = await balanceOf(database.pool, accounts.wallet);
    for (const enough of [20n, 150n]) {
      const posting = start(['post', '--file', path, '--batch-size', '10']);
      await eventually('some are posted', async () => (await countOf(`idempotency_key like 'killed-%'`)) >= enough);
      posting.kill('SIGKILL');
      await posting.done;
    }
    expect((await run('post', '--file', path)).exitCode).toBe(0);
    expect(await countOf(`idempotency_key like 'killed-%'`)).toBe(400n);
    expect(await balanceOf(database.pool, accounts.wallet)).toBe(before - 40_000n);
  });
});

/** Awaits that a statement of another connection waits for a lock. */
async function waitsForLock(text: string): Promise<void> {
  await eventually('it waits for a lock', async () => {
    const { rowCount } = await database.pool.query(
      `select from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock' and query like '%' || $1 || '%' and pid <> pg_backend_pid()`,
      [text],
    );
    return (rowCount ?? 0) > 0;
  });
}

describe('ledger export', () => {
  const TRANSACTIONS = 4_000;
  beforeAll(async () => {
    const filler = 'x'.repeat(1_000);
    const transactions = Array.from(
      { length: TRANSACTIONS },
      (_, index): NewTransaction =>
        transfer(accounts.clearing, accounts.revenue, { description: `sale ${index}`, metadata: { filler } }),
    );
    for (let from = 0; from < TRANSACTIONS; from += 1_000)
      await postAll(database.pool, transactions.slice(from, from + 1_000));
  });

  it('writes the days from --from to --to, both included', async () => {
    const [from = '', to = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'days-from' },
      { type: 'revenue', currency: 'USD', name: 'days-to' },
    ]);
    const days = [
      '2026-02-27T23:59:59.999Z',
      '2026-02-28T00:00:00Z',
      '2026-02-28T23:59:59.999Z',
      '2026-03-01T00:00:00Z',
    ];
    await postAll(
      database.pool,
      days.map((day, nth) => transfer(from, to, { effectiveAt: new Date(day), description: `day ${nth}` })),
    );
    const exported = async (...flags: string[]) => {
      const { exitCode, stdout } = await run('export', '--format', 'csv', ...flags);
      return { exitCode, days: [...new Set(stdout.match(/day \d/g))] };
    };
    expect(await exported('--from', '2026-02-28', '--to', '2026-02-28')).toEqual({
      exitCode: 0,
      days: ['day 1', 'day 2'],
    });
    expect(await exported('--to', '2026-02-27')).toEqual({ exitCode: 0, days: ['day 0'] });
    expect(await exported('--from', '2026-03-01', '--to', '9999-12-31')).toEqual({ exitCode: 0, days: ['day 3'] });
  });

  it.each([
    ['hledger', balancesByHledger],
    ['beancount', balancesByBeancount],
    ['csv', balancesByCsv],
  ] as const)(
    'writes for %s a file that its reader finds our balances in, and the same to stdout',
    async (format, read) => {
      const path = join(folder, `whole.${format}`);
      expect(await run('export', '--format', format, '--output', path)).toEqual({
        exitCode: 0,
        stdout: '',
        stderr: '',
      });
      expect(differences(await balancesOfBook(database.pool, 1), await read(path))).toEqual([]);
      const printed = await run('export', '--format', format);
      expect(printed.exitCode).toBe(0);
      expect(printed.stdout).toBe(await readFile(path, 'utf8'));
    },
  );

  it('is of one instant: what is posted meanwhile is not in it, and whoever reads it slowly slows nobody down', async () => {
    const reading = start(['export', '--format', 'csv'], { unread: true });
    await waitsForReader();
    const ours = await balancesOfBook(database.pool, 1);
    const [posted] = await postAll(database.pool, [
      transfer(accounts.clearing, accounts.wallet, { description: 'meanwhile' }),
    ]);
    expect(posted?.status).toBe('posted');
    let text = '';
    for await (const chunk of reading.stdout) text += chunk as string;
    expect((await reading.done).exitCode).toBe(0);
    expect(text).not.toContain('meanwhile');
    const path = join(folder, 'instant.csv');
    await writeFile(path, text);
    expect(differences(ours, await balancesByCsv(path))).toEqual([]);
  });

  it('holds little of it in memory', async () => {
    // The file has several times what the heap may.
    const small = { ...env(), NODE_OPTIONS: '--max-old-space-size=48' };
    for (let times = 0; times < 2; times += 1) {
      await database.pool.query(
        `select count(*) from payments.post_transactions(1, (
           select jsonb_agg(jsonb_build_object('entries', e.payload -> 'entries', 'metadata', jsonb_build_object('filler', repeat('y', 8000))))
           from (select payload from payments.events where payload -> 'metadata' ? 'filler' order by position limit 4000) e))`,
      );
    }
    const path = join(folder, 'large.csv');
    const exported = await liventix(['ledger', 'export', '--format', 'csv', '--output', path], small);
    expect(exported).toEqual({ exitCode: 0, stdout: '', stderr: '' });
    expect((await readFile(path)).length).toBeGreaterThan(100_000_000);
  }, 180_000);

  it('stopped in the middle, leaves the file as it was and nothing beside it', async () => {
    const own = await mkdtemp(join(folder, 'stopped-'));
    const path = join(own, 'export.journal');
    await writeFile(path, 'before');
    const blocker = await database.pool.connect();
    await blocker.query('begin; lock table ref.currencies');
    const exporting = start(['export', '--format', 'hledger', '--output', path]);
    await waitsForLock('ref.currencies');
    expect(await readdir(own)).toHaveLength(2);
    exporting.kill('SIGINT');
    const stopped = await exporting.done;
    await blocker.query('rollback');
    blocker.release();
    expect(stopped).toMatchObject({ exitCode: 3, stdout: '' });
    expect(stopped.stderr).toMatch(/^liventix: STOPPED: SIGINT stopped the command [^\n]*\n$/);
    expect(await readdir(own)).toEqual(['export.journal']);
    expect(await readFile(path, 'utf8')).toBe('before');
  });

  it('stopped while nobody reads what it prints, ends all the same', async () => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    // Somebody who has it open, and never reads.
    const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(pipe, 'w');
    const command = ['bin/liventix', 'ledger', 'export', '--format', 'beancount'];
    const exporting = spawn(process.execPath, command, {
      env: { ...process.env, ...env() },
      stdio: ['ignore', writer, 'pipe'],
    });
    closeSync(writer);
    let stderr = '';
    exporting.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    await waitsForReader();
    exporting.kill('SIGINT');
    const [exitCode] = await once(exporting, 'close');
    closeSync(reader);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 3,
      stderr: expect.stringMatching(/^liventix: STOPPED: SIGINT [^\n]*\n$/),
    });
  });
});

/** Awaits that an export holds its transaction open and has not asked it for anything for a while. */
async function waitsForReader(): Promise<void> {
  await eventually('it waits for whoever reads it', async () => {
    const { rowCount } = await database.pool.query(
      `select from pg_stat_activity
       where datname = current_database() and state = 'idle in transaction' and query like 'fetch %'
         and clock_timestamp() - state_change > interval '1 second'`,
    );
    return (rowCount ?? 0) > 0;
  });
}
