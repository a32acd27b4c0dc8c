import { Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runCommand } from '../../src/cli/main.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { NORMAL_SIDES } from '../../src/ledger/verify.ts';
import { HOLDER, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { serverNow } from '../support/history.ts';
import { liventix } from '../support/liventix.ts';

const DAYS = ['2026-01-10', '2026-01-31', '2026-02-01', '2026-02-20'];

let database: TestDatabase;
let wallet: string;
let yen: string;
let firstPosition: bigint;
let halfway: string;

beforeAll(async () => {
  database = await createDatabase();
  const [clearing = '', ...others] = await openAccounts(database.pool, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', userId: HOLDER },
    { type: 'receivable', currency: 'JPY', name: 'clearing' },
    { type: 'payable', currency: 'JPY', name: 'owed' },
  ]);
  [wallet = '', yen = ''] = others;
  // The latest first: the order of the log is not that of the dates.
  for (const [index, day] of DAYS.toReversed().entries()) {
    const { eventPosition } = await post(
      database.pool,
      transfer(clearing, wallet, {
        amountCents: 123_400n + BigInt(index),
        effectiveAt: new Date(`${day}T23:59:59.999Z`),
        referenceType: 'invoice',
        referenceId: `inv-${index}`,
        description: index === 0 ? 'one, "two"\n\u001b[2Jthree' : `of ${day}`,
      }),
    );
    if (index === 0) firstPosition = eventPosition;
    if (index === 1) halfway = await serverNow(database.pool);
  }
  await post(database.pool, transfer(yen, others[2] ?? '', { amountCents: 1_500n, currency: 'JPY' }));
});
afterAll(() => database.drop());

const run = (...args: string[]) => liventix(['books', ...args], { DATABASE_URL: database.url });
const json = async (...args: string[]) => JSON.parse((await run(...args, '--json')).stdout);

describe('books balance', () => {
  it('says what the account has now, positive on its normal side', async () => {
    expect(await run('balance', wallet)).toEqual({
      exitCode: 0,
      stderr: '',
      stdout: `account  ${wallet}: cash wallet, USD, positive on the credit side, book 1\nbalance  4,936.06 USD\nas       recorded now\nof       4 entries\n`,
    });
    expect(await json('balance', wallet)).toEqual({
      book: 1,
      accountId: wallet,
      type: 'cash',
      name: 'wallet',
      currency: 'USD',
      decimalPlaces: 2,
      normalSide: 'credit',
      balance: { cents: 493_606, signedCents: -493_606 },
      entries: 4,
    });
    expect((await run('balance', yen)).stdout).toContain('\nbalance  1,500 JPY\n');
  });

  it('says what it had, as recorded at an instant and up to a position', async () => {
    expect(await json('balance', wallet, '--as-of', halfway)).toMatchObject({
      at: halfway,
      balance: { cents: 246_801 },
      entries: 2,
    });
    expect(await json('balance', wallet, '--position', `${firstPosition}`)).toMatchObject({
      balance: { cents: 123_400 },
    });
    expect((await run('balance', wallet, '--position', '0')).stdout).toContain(
      'balance  0.00 USD\nas       recorded up to position 0 of the log\nof       0 entries\n',
    );
    expect(await json('balance', wallet, '--as-of', '2025-01-01')).toMatchObject({ balance: { cents: 0 }, entries: 0 });
  });

  it('takes a date for its whole day of UTC', async () => {
    const entriesAt = async (effective: string) =>
      (await json('balance', wallet, '--as-of', effective, '--by', 'effective')).entries;
    expect(await entriesAt('2026-01-30')).toBe(1);
    expect(await entriesAt('2026-01-31')).toBe(2);
    expect(await entriesAt('2026-01-31T23:59:59.998999Z')).toBe(1);
    expect(await entriesAt('2026-02-01T00:59:59.999+01:00')).toBe(2);
    expect((await run('balance', wallet, '--as-of', '2026-01-31', '--by', 'effective')).stdout).toContain(
      'as       effective at 2026-01-31T23:59:59.999999Z, as far as is known now\n',
    );
  });

  it.each<[string, string[], RegExp]>([
    ['an account that is no UUID', ['12'], /'12' is no .*Give a UUID/],
    [
      'an instant without its offset',
      [HOLDER, '--as-of', '2026-01-01T00:00:00'],
      /Give an instant with its offset, .* or a date/,
    ],
    ['a day that there is not', [HOLDER, '--as-of', '2026-02-29'], /Give an instant with its offset/],
    ['a position that is none', [HOLDER, '--position', '-1'], /whole number from 0/],
    ['two times at once', [HOLDER, '--as-of', '2026-01-01', '--position', '1'], /cannot be used with option/],
    ['an order of no instant', [HOLDER, '--by', 'effective'], /--by says what --as-of means: give both/],
    ['no account', [], /missing required argument 'account-id'/],
  ])('refuses %s in one line', async (_what, args, says) => {
    const refused = await run('balance', ...args);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: [^\n]+ See: liventix books balance --help\n$/);
    expect(refused.stderr).toMatch(says);
  });

  it('names an account, or a book, that there is not', async () => {
    const unknown = await run('balance', HOLDER);
    expect(unknown).toMatchObject({
      exitCode: 2,
      stderr: `liventix: LEDGER_ACCOUNT_UNKNOWN: Account ${HOLDER} does not exist in book 1.\n`,
    });
    expect(await run('statement', wallet, '--book', '9')).toMatchObject({
      exitCode: 2,
      stderr: 'liventix: LEDGER_BOOK_UNKNOWN: Book 9 does not exist.\n',
    });
  });
});

describe('books statement', () => {
  it('shows opening, lines and closing, in the order of the dates', async () => {
    const { exitCode, stdout, stderr } = await run(
      'statement',
      wallet,
      '--by',
      'effective',
      '--from',
      '2026-01-31',
      '--to',
      '2026-02-01',
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    const [title, range, , head, opening, first, second, closing, ...rest] = stdout.split('\n');
    expect(title).toBe(`Statement of account ${wallet}: cash wallet, USD, positive on the credit side, book 1`);
    expect(range).toBe(
      'by what was effective, from 2026-01-31T00:00:00Z to before 2026-02-02T00:00:00Z; opening 1,234.03, closing 3,702.06',
    );
    expect(head).toMatch(/^recorded \(UTC\) +effective \(UTC\) +amount +balance$/);
    expect(opening).toMatch(/^ +1,234\.03 {2}opening balance$/);
    expect(first).toMatch(
      /^2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d {2}2026-01-31 23:59:59 +1,234\.02 +2,468\.05 {2}invoice inv-2 of 2026-01-31$/,
    );
    expect(second).toMatch(/2026-02-01 23:59:59 +1,234\.01 +3,702\.06 {2}invoice inv-1 of 2026-02-01$/);
    expect(closing).toMatch(/^ +3,702\.06 {2}closing balance$/);
    expect(rest).toEqual(['']);
  });

  it('keeps what would move the cursor from the terminal', async () => {
    const { stdout } = await run('statement', wallet);
    expect(stdout).toContain('invoice inv-0 one, "two" [2Jthree\n');
    expect(stdout).not.toContain('\u001b');
  });

  it('goes from page to page by the token that each names', async () => {
    const first = await run('statement', wallet, '--limit', '3');
    const token = /\nMore follows: the same command with --page (\S+)\n$/.exec(first.stdout)?.[1] ?? '';
    expect(first.stdout).toMatch(/ opening balance\n(.*\n){3} +3,702\.03 {2}carried forward\n/);
    const last = await run('statement', wallet, '--limit', '3', '--page', token);
    expect(last.stdout).toMatch(/ +3,702\.03 {2}brought forward\n.*\n +4,936\.06 {2}closing balance\n$/);
    const page = await json('statement', wallet, '--limit', '3', '--page', token);
    expect(page).toMatchObject({
      book: 1,
      by: 'recorded',
      opening: { cents: 0 },
      broughtForward: { cents: 370_203 },
      closing: { cents: 493_606, signedCents: -493_606 },
      lines: [{ accountSeq: 4, amount: { cents: 123_403, signedCents: -123_403 }, balance: { cents: 493_606 } }],
    });
    expect(page).not.toHaveProperty('nextPage');
    const damaged = await run('statement', wallet, '--page', token.slice(1));
    expect(damaged).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^liventix: LEDGER_INVALID: [^\n]+\n$/),
    });
  });

  it('writes the whole as CSV, which adds up', async () => {
    const { exitCode, stdout } = await run('statement', wallet, '--csv', '--limit', '1');
    expect(exitCode).toBe(0);
    const rows = csvRows(stdout);
    const [head = []] = rows;
    const column = (name: string) => rows.slice(1).map((row) => row[head.indexOf(name)]);
    expect(column('line')).toEqual(['opening', 'entry', 'entry', 'entry', 'entry', 'closing']);
    expect(column('amount')).toEqual(['', '1234.00', '1234.01', '1234.02', '1234.03', '']);
    expect(column('balance')).toEqual(['0.00', '1234.00', '2468.01', '3702.03', '4936.06', '4936.06']);
    expect(column('signed_amount_cents')).toEqual(['', '-123400', '-123401', '-123402', '-123403', '']);
    expect(column('description')[1]).toBe('one, "two"\n\u001b[2Jthree');
    expect(new Set(rows.map(({ length }) => length))).toEqual(new Set([head.length]));
  });

  it('writes CSV in which no text of others is a formula, and each can be had back', async () => {
    const [clearing = '', paid = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'formulas' },
      { type: 'cash', currency: 'USD', name: 'formulas' },
    ]);
    const texts = ['=1+1', '+1', '-1', '@SUM(A1)', '＝1', "'quoted", '\tx', 'plain = text'];
    for (const text of texts) {
      await post(
        database.pool,
        transfer(clearing, paid, { referenceType: `=${text}`, referenceId: text, description: text }),
      );
    }
    const { stdout } = await run('statement', paid, '--csv');
    const [head = [], ...rows] = csvRows(stdout);
    const column = (name: string) => rows.slice(1, -1).map((row) => row[head.indexOf(name)] ?? '');
    expect(column('reference_type')).toEqual(texts.map((text) => `'=${text}`));
    for (const name of ['reference_id', 'description']) {
      expect(column(name)).toEqual(texts.map((text) => (text === 'plain = text' ? text : `'${text}`)));
    }
    // Numbers stay numbers.
    expect(column('signed_amount_cents')).toEqual(texts.map(() => '-100'));
  });

  it('waits for whoever reads the CSV', async () => {
    const unread: (() => void)[] = [];
    const out = new Writable({ highWaterMark: 1, write: (_chunk, _encoding, read) => void unread.push(read) });
    const ended = runCommand(['books', 'statement', wallet, '--csv'], {
      env: { DATABASE_URL: database.url },
      out,
      err: { write: () => true },
      stop: new AbortController().signal,
    });
    await eventually('it waits', () => out.listenerCount('drain') === 1);
    unread.pop()?.();
    expect(await ended).toBe(0);
  });

  it.each<[string, string[], RegExp]>([
    ['another order', ['--by', 'size'], /Allowed choices are recorded, effective/],
    ['too many lines', ['--limit', '10001'], /from 1 to 10000/],
    ['CSV of one page', ['--csv', '--page', 'x'], /cannot be used with option/],
    ['CSV and JSON', ['--csv', '--json'], /cannot be used with option/],
    ['a time of day that there is not', ['--from', '2026-01-01T25:00:00Z'], /Give an instant/],
  ])('refuses %s in one line', async (_what, args, says) => {
    const refused = await run('statement', wallet, ...args);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    expect(refused.stderr).toMatch(/^liventix: USAGE: [^\n]+\n$/);
    expect(refused.stderr).toMatch(says);
  });

  it('refuses dates in the wrong order', async () => {
    const refused = await run('statement', wallet, '--from', '2026-02-01', '--to', '2026-01-01');
    expect(refused).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^liventix: LEDGER_INVALID: .*end before it begins\.\n$/),
    });
  });
});

/** RFC 4180, as any reader of CSV would. */
function csvRows(text: string): string[][] {
  const rows: string[][] = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n"]*))(,|\r\n|$)/g)) {
    if (end === '' && quoted === undefined && plain === '') break;
    rows.at(-1)?.push(quoted?.replaceAll('""', '"') ?? plain ?? '');
    if (end === '\r\n') rows.push([]);
  }
  return rows.filter(({ length }) => length > 0);
}

describe('books trial-balance --as-of', () => {
  it('is that of a date by what was effective, and of an instant by what was recorded', async () => {
    const effective = await run('trial-balance', '--as-of', '2026-01-31', '--by', 'effective');
    expect(effective.stdout).toMatch(/^By what was effective at 2026-01-31T23:59:59\.999999Z\.\n\nTrial balance, JPY/);
    expect(effective.stdout).toMatch(/\n {2}cash +0\.00 +2,468\.05 +-2,468\.05\n/);
    const recorded = await json('trial-balance', '--as-of', halfway);
    expect(recorded).toMatchObject({
      asOf: { at: halfway, by: 'recorded' },
      balance: true,
      currencies: [
        { currency: 'JPY', debitCents: 0 },
        { currency: 'USD', debitCents: 246_801 },
      ],
    });
  });

  it('wants an instant for its order', async () => {
    expect(await run('trial-balance', '--by', 'effective')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/^liventix: USAGE: --by says what --as-of means: give both\./),
    });
    expect(await run('trial-balance', '--as-of', '2026-13-01')).toMatchObject({ exitCode: 2, stdout: '' });
  });
});

it('books account-types lists every type with its normal side', async () => {
  const types = (await json('account-types')) as { type: string; normalSide: string }[];
  expect(Object.fromEntries(types.map(({ type, normalSide }) => [type, normalSide]))).toEqual(NORMAL_SIDES);
  expect((await run('account-types')).stdout).toMatch(/^adjustments +debit +corrections made by an administrator\n/);
});
