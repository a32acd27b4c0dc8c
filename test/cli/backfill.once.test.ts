import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runBackfill } from '../../src/replay/backfill.ts';
import { driftByCause } from '../../src/replay/report.ts';
import { backfill, backfillStatus, legacyDatabases, progressOf, runBackfillUntil, SIZE } from '../support/backfill.ts';
import type { TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { booksDigest, createLegacyTestDatabase } from '../support/legacy.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

const ROWS = 1_200;

let database: TestDatabase;
beforeAll(async () => {
  database = await createLegacyTestDatabase({ wallets: 40, orgWallets: 5, transactions: ROWS, seed: 3 });
});
afterAll(() => database.drop());

const rowsInLog = async () => Number(await progressOf(database.pool));

/** Told to stop before it begins. */
const runStopped = (...flags: string[]) =>
  liventix(['backfill', 'run', ...flags], { DATABASE_URL: database.url }, AbortSignal.abort());

describe('backfill run', () => {
  it('exits with 3 when it was stopped, and the run that goes on says what all of them brought in', async () => {
    const first = startLiventix(['backfill', 'run', '--full-speed', '--chunk', '20'], { DATABASE_URL: database.url });
    await eventually('it is under way', async () => (await rowsInLog()) >= 100);
    first.kill('SIGTERM');
    const stopped = await first.done;
    const before = await rowsInLog();
    expect(before).toBeLessThan(ROWS);
    expect(stopped).toMatchObject({ exitCode: 3, stderr: '' });
    expect(stopped.stdout).toMatch(
      new RegExp(`^${before} of 1,200 rows replayed in .*\\n${before} of 1,200 rows are in`),
    );
    expect(stopped.stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
    expect(stopped.stdout).not.toContain('wallets compared');

    const rest = await liventix(['backfill', 'run', '--json'], { DATABASE_URL: database.url });
    expect(rest).toMatchObject({ exitCode: 0, stderr: '' });
    expect(JSON.parse(rest.stdout)).toMatchObject({
      finished: true,
      imported: ROWS - before,
      inLog: ROWS,
      legacyTransactions: ROWS,
      walletsCompared: 45,
      walletsDiffering: 0,
    });
  });

  it('does not call itself stopped when nothing was left to do', async () => {
    const { exitCode, stdout } = await runStopped();
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^0 of 1,200 rows replayed in .*\n1,200 of 1,200 rows are in the log\n/);
    expect(stdout).toMatch(/\n45 wallets compared, 0 differ\n$/);
    expect(JSON.parse((await runStopped('--json')).stdout)).toMatchObject({ finished: true });
  });

  it('calls itself stopped when something was left to do, though an earlier run had finished', async () => {
    await database.pool.query('update public.wallets set balance_credits = balance_credits + 1');
    const { exitCode, stdout } = await runStopped();
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/\nStopped before the end\. Run it again to go on\.\n$/);
  });
});

const { filled } = legacyDatabases();

describe('what the commands print', () => {
  it('is a status before, during and after', async () => {
    const database = await filled();
    const words = () => liventix(['backfill', 'status'], { DATABASE_URL: database.url });
    expect(await words()).toEqual({
      exitCode: 0,
      stdout: expect.stringMatching(
        /^The backfill has not run yet\. Start it with: liventix backfill capture on, .*\nchanges are captured since .*, none waits\n$/,
      ),
      stderr: '',
    });
    expect(await backfillStatus(database)).toEqual({
      sources: [],
      drift: {},
      capture: { installedAt: expect.any(String), isWhole: true, waiting: 0, oldestSeconds: 0 },
      pausedAt: null,
      throttle: null,
      heldBack: { wallets: 0, first: null },
      wallets: { legacy: 0, ledger: 0 },
      isMirrored: false,
    });

    await runBackfillUntil(database.pool, ({ step, done }) => step === 'rows' && done >= 200n, { chunkRows: 100 });
    const during = await words();
    expect(during.exitCode).toBe(0);
    const rows = Number(await progressOf(database.pool));
    expect(rows).toBeGreaterThanOrEqual(200);
    expect(during.stdout).toMatch(new RegExp(`^wallet_transactions +${rows} of 2,250 rows, not finished\\n`));

    await runBackfill(database.pool);
    const after = await words();
    expect(after.exitCode).toBe(0);
    expect(after.stdout).toMatch(
      /^wallet_transactions +([\d,]+) of \1 rows, finished\norg_wallet_transactions +([\d,]+) of \2 rows, finished\nchanges are captured since [^\n]*\n( {2}[a-z_]+ +\d+ +-?[\d,]+\.\d\d USD\n)+$/,
    );
    const json = await backfillStatus(database);
    expect(Object.keys(json)).toEqual([
      'sources',
      'capture',
      'pausedAt',
      'throttle',
      'heldBack',
      'wallets',
      'isMirrored',
      'drift',
    ]);
    expect(json.sources.map(({ rows, total }: { rows: number; total: number }) => rows - total)).toEqual([0, 0]);
    for (const cause of await driftByCause(database.pool)) {
      expect(json.drift[cause.cause]).toEqual({ count: Number(cause.count), cents: Number(cause.cents) });
    }
  });

  it('is with --watch a status each second until it is stopped', async () => {
    const database = await filled();
    await runBackfill(database.pool);
    const watching = startLiventix(['backfill', 'status', '--watch', '--json'], { DATABASE_URL: database.url });
    let seen = '';
    watching.stdout.on('data', (chunk: string) => {
      seen += chunk;
    });
    await eventually('it has looked twice', async () => seen.split('\n').length > 2);
    watching.kill('SIGINT');
    const { exitCode, stdout } = await watching.done;
    expect(exitCode).toBe(0);
    const looks = stdout.trim().split('\n');
    expect(looks.length).toBeGreaterThan(1);
    for (const look of looks) expect(JSON.parse(look)).toMatchObject({ capture: { isWhole: true }, pausedAt: null });
  });

  it('is with --dry-run what there is to replay, before and half-way, and nothing is changed by it', async () => {
    const database = await filled();
    const everything = async () => [
      await booksDigest(database.pool),
      (await database.pool.query('select p.*, xmin from replay.progress p')).rows,
      (await database.pool.query('select f.*, xmin from replay.findings f order by legacy_id')).rows,
    ];
    const remaining = async () => {
      const before = await everything();
      const run = await backfill(database, '--dry-run', '--json');
      expect(await everything()).toEqual(before);
      return JSON.parse(run.stdout).wouldReplay;
    };
    const [users, orgs] = [
      { source: 'wallet_transactions', rowsInTable: 2_250, wallets: 120 },
      { source: 'org_wallet_transactions', rowsInTable: 750, wallets: 12 },
    ];
    expect(await remaining()).toEqual([
      { ...users, rowsLeft: 2_250 },
      { ...orgs, rowsLeft: 750 },
    ]);
    await runBackfillUntil(database.pool, ({ step }) => step === 'rows', { chunkRows: 100 });
    const inLog = Number(await progressOf(database.pool));
    expect(await remaining()).toEqual([
      { ...users, rowsLeft: 2_250 - inLog },
      { ...orgs, rowsLeft: 750 },
    ]);
    const words = await backfill(database, '--dry-run');
    expect(words).toMatchObject({ exitCode: 0, stderr: '' });
    expect(words.stdout).toContain(
      `${(2_250 - inLog).toLocaleString('en-US')} of 2,250 rows to replay, of 120 wallets\n`,
    );
    expect(words.stdout).toMatch(/\nNothing was changed\.\n$/);
  });

  it('is one JSON object of a run', async () => {
    const database = await filled();
    const run = await backfill(database, '--json');
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout.split('\n')).toHaveLength(2);
    const printed = JSON.parse(run.stdout);
    expect(printed).toEqual({
      finished: true,
      legacyTransactions: SIZE.transactions,
      imported: SIZE.transactions,
      corrected: 0,
      inLog: SIZE.transactions,
      wallets: SIZE.wallets + SIZE.orgWallets,
      heldBack: { wallets: 0, first: null },
      seconds: expect.any(Number),
      drift: (await backfillStatus(database)).drift,
      walletsCompared: SIZE.wallets + SIZE.orgWallets,
      walletsDiffering: 0,
      walletsChanging: 0,
    });
  });

  it('is a summary for people of a run, and nothing on stderr where nobody watches', async () => {
    const database = await filled();
    const run = await backfill(database);
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toMatch(/^3,000 of 3,000 rows replayed in [\d.]+ s \([\d,]+\/s\)\n/);
    expect(run.stdout).toMatch(/\n132 wallets compared, 0 differ\n$/);
  });

  it('is, beside a run, what it is slowed down by', async () => {
    const database = await filled();
    const flags = ['--chunk', '500', '--max-canary-ms', '0'];
    const running = startLiventix(['backfill', 'run', ...flags], { DATABASE_URL: database.url });
    const words = await eventually('it says that it is slowed down', async () => {
      const { stdout } = await liventix(['backfill', 'status'], { DATABASE_URL: database.url });
      return stdout.includes('slowed down') && stdout;
    });
    expect(words).toMatch(
      /^runs slowed down to [\d.]+ %, a write like those of old code took [\d.]+ ms, allowed are 0; chunks of \d+ rows; p99 of a write .*, [\d.]+ ms while the run rests$/m,
    );
    expect((await backfillStatus(database)).throttle).toMatchObject({
      passed: { name: 'canary_ms', limit: 0 },
      chunkRows: expect.any(Number),
    });
    running.kill('SIGTERM');
    expect(await running.done).toMatchObject({ exitCode: 3 });
    expect(await backfill(database, '--full-speed')).toMatchObject({ exitCode: 0 });
  });

  it.each(['0', '100001', 'many'])('refuses --chunk %j as wrong usage', async (chunk) => {
    const run = await liventix(['backfill', 'run', `--chunk=${chunk}`], {
      DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none',
    });
    expect(run).toMatchObject({
      exitCode: 2,
      stdout: '',
      stderr: expect.stringMatching(/^liventix: USAGE: .*100000.*\n$/),
    });
  });

  it('refuses a limit where nothing is measured', async () => {
    await expectRefusal(
      { code: 'USAGE', says: /'--full-speed' cannot be used with option '--max-canary-ms/ },
      ['backfill', 'run', '--full-speed', '--max-canary-ms', '5'],
      { DATABASE_URL: 'postgresql://nobody@127.0.0.1:1/none' },
    );
  });
});
