import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NewTransaction, openAccounts, postAll } from '../../src/ledger/ledger.ts';
import {
  balancesByBeancount,
  balancesByCsv,
  balancesByHledger,
  balancesOfBook,
  differences,
} from '../support/accounting-tools.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { type LiventixOptions, liventix, type Run, type RunningLiventix, startLiventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';

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
    await waitsForLock(database.pool, 'ref.currencies');
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
