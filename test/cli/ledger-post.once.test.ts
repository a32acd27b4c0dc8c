import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openAccounts } from '../../src/ledger/ledger.ts';
import { balanceOf, ledgerState, openTestAccounts, type TestAccounts } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type LiventixOptions, liventix, type Run, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';
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
    await waitsForLock(database.pool, 'post_transactions');
    await posting.interrupt();
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
