import { createHash, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Tx } from '../../src/db/pool.ts';
import { changeAccount } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { markOfSeal, type Scope } from '../../src/ledger/scope.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { type CheckResult, runChecks } from '../../src/ledger/verify.ts';
import { balanceOf, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { liventix } from '../support/liventix.ts';
import { disguised, undone } from '../support/tamperings/tampering.ts';

const EVENTS = 'no event changed since it was written';
const ENTRIES = 'the entries are what the log posted';
const BALANCES = 'every balance is the sum of its entries';
const STATES = "every account's limits, state and held amount are what the log says";
const SEALS = 'every seal follows from the one before';

let database: TestDatabase;
let accounts: TestAccounts;
let folder: string;
/** The first that covers something. */
let seal: number;
beforeAll(async () => {
  database = await createDatabase();
  folder = await mkdtemp(join(tmpdir(), 'liventix-'));
  await fillDiverseBook(database.pool, 1);
  accounts = await openTestAccounts(database.pool);
  for (let count = 0; count < 20; count += 1) await post(database.pool, transfer(accounts.clearing, accounts.wallet));
  seal = (await sealBook(database.pool, 1)).length;
});
afterAll(async () => {
  await rm(folder, { recursive: true });
  await database.drop();
});

const failedIn = (checks: readonly CheckResult[]) => checks.filter(({ holds }) => !holds).map(({ check }) => check);
const examinedBy = (checks: readonly CheckResult[], name: string) =>
  checks.find(({ check }) => check === name)?.examined;
const since = async (tx: Tx, number = seal): Promise<Scope> => ({ bookId: 1, since: await markOfSeal(tx, 1, number) });
const verify = (...args: string[]) => liventix(['books', 'verify', ...args], { DATABASE_URL: database.url });

/** Everything that an event can do, to accounts that are older than it. */
async function doAllSorts(): Promise<void> {
  const { pool } = database;
  const [vault = ''] = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: `vault_${randomUUID()}`, userId: randomUUID(), floorCents: 0n },
  ]);
  const paid = await post(pool, transfer(accounts.clearing, vault, { amountCents: 900n }));
  const { holdId } = await placeHold(pool, { accountId: vault, amountCents: 300n, currency: 'USD' });
  await post(pool, transfer(vault, accounts.revenue, { amountCents: 100n, capture: { holdId } }));
  await voidHold(pool, { holdId });
  await post(pool, transfer(vault, accounts.clearing, { amountCents: 50n, reverses: paid.transactionId } as object));
  await changeAccount(pool, { accountId: vault, status: 'frozen', reason: 'asked for' });
}

describe('books verify --since', () => {
  it('looks at what is new, and at nothing else', async () => {
    await doAllSorts();
    await undone(database.pool, async (tx) => {
      const checks = await runChecks(tx, {}, await since(tx));
      expect(failedIn(checks)).toEqual([]);
      expect(examinedBy(checks, EVENTS)).toBe(7n);
      expect(examinedBy(checks, ENTRIES)).toBe(6n);
    });
  });

  it('finds nothing on what came after each of several seals, whatever came', async () => {
    const seals = [seal];
    for (let round = 0; round < 3; round += 1) {
      await doAllSorts();
      await closePeriod(database.pool, { until: `201${round}-01-01T00:00:00Z` });
      seals.push(Number((await sealBook(database.pool, 1)).at(-1)?.sealNumber));
      await doAllSorts();
    }
    await undone(database.pool, async (tx) => {
      for (const number of seals) expect(failedIn(await runChecks(tx, {}, await since(tx, number)))).toEqual([]);
    });
  });

  it('takes what the seal covers for verified, and finds what became of an old account with a new entry', async () => {
    const tampered = async (sql: string, find: (tx: Tx) => Promise<string[]>) =>
      undone(database.pool, async (tx) => {
        await tx.query(disguised(sql));
        return find(tx);
      });
    const bySince = async (tx: Tx) => failedIn(await runChecks(tx, {}, await since(tx)));
    const byAll = async (tx: Tx) => failedIn(await runChecks(tx));
    await post(database.pool, transfer(accounts.clearing, accounts.wallet));

    const older = `update payments.entries set description = 'x' where account_id = '${accounts.wallet}' and account_seq = 1`;
    expect(await tampered(older, bySince)).toEqual([]);
    expect(await tampered(older, byAll)).toEqual([ENTRIES]);
    const balance = `update payments.balances set balance_cents = balance_cents + 1 where account_id = '${accounts.wallet}'`;
    expect(await tampered(balance, bySince)).toEqual([BALANCES]);
    const before = `update payments.entries set balance_after_cents = balance_after_cents + 1 where account_id = '${accounts.wallet}' and account_seq = 20`;
    expect(await tampered(before, bySince)).toContain(ENTRIES);
  });

  it('finds another name of a book that a seal covers', async () => {
    const bookId = await openBook(database.pool, 'sealed');
    const newest = (await sealBook(database.pool, bookId)).at(-1);
    await undone(database.pool, async (tx) => {
      await tx.query(disguised(`update payments.books set name = 'other' where book_id = ${bookId}`));
      const scope = { bookId, since: await markOfSeal(tx, bookId, Number(newest?.sealNumber)) };
      expect(failedIn(await runChecks(tx, {}, scope))).toEqual(['the books are what the log opened']);
    });
  });

  it('believes no seal whose columns do not give its hash: what is new is found by them', async () => {
    const { number, hash } = (await sealsOf(1)).at(-1) ?? { number: 0n, hash: '' };
    const { eventPosition } = await post(database.pool, transfer(accounts.clearing, accounts.wallet));
    const doubled = `
      update payments.entries set amount_cents = amount_cents * 2, balance_after_cents = balance_after_cents + amount_cents
      where event_position = ${eventPosition};
      update payments.balances b set balance_cents = e.balance_after_cents
      from payments.entries e where e.event_position = ${eventPosition} and e.account_id = b.account_id`;
    const foundWith = (columns: string) =>
      undone(database.pool, async (tx) => {
        await tx.query(disguised(`${doubled}; update payments.seals set ${columns} where seal_number = ${number}`));
        const scope = await since(tx, Number(number));
        expect(scope.since?.sealHash).toBe(hash);
        return failedIn(await runChecks(tx, {}, scope));
      });
    expect(await foundWith('seal_number = seal_number')).toEqual([ENTRIES]);
    for (const forged of [
      `open_positions = '{[1000000,)}'`,
      `open_positions = '{[9223372036854775000,)}'`,
      `open_positions = '{[9223372036854775000,9223372036854775001), [9223372036854775800,)}'`,
      `open_positions = '{}'`,
      `tree_size = tree_size + 1`,
      `sealed_at = sealed_at - interval '1 day'`,
      `open_writers = '{9/9}'`,
      `event_count = event_count + 1`,
      'frontier = frontier[2:]',
    ]) {
      expect(await foundWith(forged), forged).toContain(SEALS);
    }
  });

  it('finds an entry that was put before the first leg of the first event that is new', async () => {
    const newest = (await sealBook(database.pool, 1)).at(-1);
    await undone(database.pool, async (tx) => {
      const scope = await since(tx, Number(newest?.sealNumber));
      const first = `(select max(lower(r)) from payments.seals s, unnest(s.open_positions) as r where s.seal_number = ${newest?.sealNumber})`;
      await tx.query(
        disguised(
          `insert into payments.entries select (jsonb_populate_record(e, jsonb_build_object('id', ${first} * 1024, 'account_seq', 900))).*
           from payments.entries e where e.account_id = '${accounts.wallet}' and e.account_seq = 1`,
        ),
      );
      expect(failedIn(await runChecks(tx, {}, scope))).toContain(ENTRIES);
    });
  });

  it.each([
    [
      'was changed',
      (accountId: string) => changeAccount(database.pool, { accountId, status: 'frozen', reason: 'asked' }),
    ],
    ['got a hold', (accountId: string) => placeHold(database.pool, { accountId, amountCents: 5n, currency: 'USD' })],
    ['got an entry', (accountId: string) => post(database.pool, transfer(accounts.clearing, accountId))],
  ])('finds that the balance of an old account is gone, which %s', async (_, touch) => {
    const [used = '', unused = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: `used_${randomUUID()}` },
      { type: 'cash', currency: 'USD', name: `unused_${randomUUID()}` },
    ]);
    await post(database.pool, transfer(accounts.clearing, used));
    const newest = (await sealBook(database.pool, 1)).at(-1);
    for (const accountId of [used, unused]) {
      await touch(accountId);
      await undone(database.pool, async (tx) => {
        await tx.query(disguised(`delete from payments.balances where account_id = '${accountId}'`));
        const checks = await runChecks(tx, {}, await since(tx, Number(newest?.sealNumber)));
        expect(checks.find(({ check }) => check === STATES)?.first).toEqual([`account ${accountId} has no balance`]);
        if (accountId === used) expect(failedIn(checks)).toEqual([STATES, BALANCES]);
      });
    }
  });

  it('looks at an event that a seal passed over, because it had not committed yet', async () => {
    const late = await database.pool.connect();
    await late.query('begin');
    const { eventPosition } = await post(late, transfer(accounts.clearing, accounts.revenue));
    const other = await post(database.pool, transfer(accounts.yen, await yenAccount(), { currency: 'JPY' }));
    const newest = (await sealBook(database.pool, 1)).at(-1);
    await late.query('commit');
    late.release();
    expect(other.eventPosition).toBeGreaterThan(eventPosition);

    await undone(database.pool, async (tx) => {
      const scope = await since(tx, Number(newest?.sealNumber));
      expect(examinedBy(await runChecks(tx, {}, scope), EVENTS)).toBe(1n);
      await tx.query(disguised(`update payments.events set created_by = 'x' where position = ${eventPosition}`));
      expect(failedIn(await runChecks(tx, {}, scope))).toContain(EVENTS);
    });
  });

  it('says which hash it believed, and refuses a seal that there is not', async () => {
    const { rows } = await database.pool.query<{ hash: string }>(
      `select encode(seal_hash, 'hex') as hash from payments.seals where book_id = 1 and seal_number = $1`,
      [seal],
    );
    const run = await verify('--since', `${seal}`);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toContain(`Taken for verified: what seal ${seal} covers, of hash ${rows[0]?.hash}.`);
    expect(await verify('--since', '4000')).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: 'liventix: SEAL_UNKNOWN: Book 1 has no seal 4000. See: liventix books seals --book 1\n',
    });
  });
});

describe('books verify --book', () => {
  it('looks at one book, and finds there what is wrong with it', async () => {
    const bookId = await openBook(database.pool, 'second');
    await fillDiverseBook(database.pool, bookId);
    await undone(database.pool, async (tx) => {
      await tx.query(disguised(`update payments.entries set description = 'x' where book_id = ${bookId}`));
      expect(failedIn(await runChecks(tx, {}, { bookId: 1 }))).toEqual([]);
      expect(failedIn(await runChecks(tx, {}, { bookId }))).toEqual([ENTRIES]);
    });
    expect(await verify('--book', `${bookId}`)).toMatchObject({ exitCode: 0 });
    expect(await verify('--book', '99')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('LEDGER_BOOK_UNKNOWN'),
    });
  });
});

describe('a certificate', () => {
  it('says what was checked, of which books, with what seal, and is the file whose hash was printed', async () => {
    const file = join(folder, 'all.json');
    const run = await verify('--certificate', file);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    const text = await readFile(file, 'utf8');
    expect(run.stdout).toContain(`Certificate: ${file}, SHA-256 ${createHash('sha256').update(text).digest('hex')}\n`);
    const newest = (await sealsOf(1)).at(-1);
    const certificate = JSON.parse(text) as { books: { book: number }[]; checks: unknown[] };
    expect(certificate).toMatchObject({
      certificate: 'liventix books verify',
      book: 'all',
      since: null,
      balance: true,
    });
    expect(certificate.checks.length).toBeGreaterThan(15);
    expect(certificate.books[0]).toMatchObject({
      book: 1,
      events: await countOf('events'),
      entries: await countOf('entries'),
      seal: { number: Number(newest?.number), root: newest?.root, sealHash: newest?.hash },
      turnover: expect.arrayContaining([expect.objectContaining({ currency: 'USD' })]),
    });
    for (const { debitCents, creditCents } of (certificate.books[0] as unknown as Turnover).turnover) {
      expect(debitCents).toBe(creditCents);
    }
  });

  it('is written of what is new alone, and of books that do not balance', async () => {
    const file = join(folder, 'new.json');
    expect(await verify('--since', `${seal}`, '--certificate', file)).toMatchObject({ exitCode: 0 });
    expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ book: 1, since: { seal }, balance: true });

    const other = await createDatabase();
    await post(other.pool, transfer(...(await pairIn(other))));
    await other.pool.query(disguised('update payments.balances set balance_cents = 7'));
    const broken = join(folder, 'broken.json');
    const run = await liventix(['books', 'verify', '--certificate', broken], { DATABASE_URL: other.url });
    await other.drop();
    expect(run.exitCode).toBe(1);
    expect(JSON.parse(await readFile(broken, 'utf8'))).toMatchObject({ balance: false });

    const before = await readFile(broken, 'utf8');
    expect(await verify('--certificate', broken)).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: USAGE: "[^"]+broken\.json" is there already, [^\n]+\n$/),
    });
    expect(await readFile(broken, 'utf8')).toBe(before);
  });

  it('that cannot be written is one line, before anything is checked', async () => {
    const run = await verify('--certificate', join(folder, 'no', 'such', 'folder.json'));
    expect(run).toMatchObject({ exitCode: 3, stdout: '' });
    expect(run.stderr).toMatch(/^liventix: SYSTEM_FAILED: [^\n]+\n$/);
  });
});

interface Turnover {
  readonly turnover: readonly { readonly debitCents: string; readonly creditCents: string }[];
}

const pairIn = async ({ pool }: TestDatabase): Promise<[string, string]> => {
  const { clearing, wallet } = await openTestAccounts(pool);
  expect(await balanceOf(pool, wallet)).toBe(0n);
  return [clearing, wallet];
};

async function yenAccount(): Promise<string> {
  const [id = ''] = await openAccounts(database.pool, [{ type: 'payable', currency: 'JPY', name: 'yen' }]);
  return id;
}

async function countOf(table: string): Promise<number> {
  const { rows } = await database.pool.query<{ count: bigint }>(
    `select count(*) from payments.${table} where book_id = 1`,
  );
  return Number(rows[0]?.count);
}

async function sealsOf(bookId: number) {
  const { rows } = await database.pool.query<{ number: bigint; root: string; hash: string }>(
    `select seal_number as number, encode(root, 'hex') as root, encode(seal_hash, 'hex') as hash
     from payments.seals where book_id = $1 order by seal_number`,
    [bookId],
  );
  return rows;
}
