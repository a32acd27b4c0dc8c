import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { transfer } from '../support/books.ts';
import { damage } from '../support/damage.ts';
import type { TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

const SIZE = { wallets: 20, orgWallets: 4, transactions: 400, seed: 5 };

let database: TestDatabase;
beforeAll(async () => {
  database = await createLegacyTestDatabase(SIZE, { isCaptured: false });
});
afterAll(() => database.drop());

const run = (...args: string[]) => liventix(['backfill', ...args], { DATABASE_URL: database.url });
const json = async (...args: string[]) => JSON.parse((await run(...args, '--json')).stdout);
const refused = (code: Parameters<typeof expectRefusal>[0]['code'], says: RegExp, ...args: string[]) =>
  expectRefusal({ code, says }, ['backfill', ...args], { DATABASE_URL: database.url });
const ofOrganization = async (): Promise<string> => {
  const { rows } = await database.pool.query<{ id: string }>(
    'select org_id as id from org_wallets order by id limit 1',
  );
  return rows[0]?.id ?? '';
};

/** In the order in which an engineer migrates; each goes on from the ones before. */
describe('from the capture to the end', () => {
  it('refuses to run before changes are captured, and says how to turn that on', async () => {
    await refused('CAPTURE_OFF', /liventix backfill capture on$/m, 'run');
    expect((await run('status')).stdout).toContain('changes are not captured: liventix backfill capture on\n');
  });

  it('turns the capture on once, and tells beforehand on which tables', async () => {
    expect(await run('capture', 'on', '--dry-run')).toEqual({
      exitCode: 0,
      stdout:
        'Would capture what changes in public.org_wallet_transactions, public.org_wallets, public.wallet_transactions, public.wallets. Nothing was changed.\n',
      stderr: '',
    });
    expect(await json('status')).toMatchObject({ capture: null });
    expect(await run('capture', 'on')).toMatchObject({ exitCode: 0, stdout: 'Changes are captured from now on.\n' });
    expect(await json('capture', 'on')).toEqual({ turnedOn: false });
  });

  it('is too early to cut over, and wrong usage without one owner', async () => {
    await refused('CUTOVER_TOO_EARLY', /liventix backfill run$/m, 'cutover', '--all');
    await refused('USAGE', /one of --organization, --user and --all/, 'cutover');
    await refused(
      'USAGE',
      /one of --organization, --user and --all/,
      'rollback',
      '--all',
      '--user',
      await ofOrganization(),
    );
    await refused('USAGE', /Give a UUID/, 'cutover', '--organization', 'me');
  });

  it('stands still while it is paused, from another terminal, and goes on', async () => {
    expect(await json('pause', '--dry-run')).toEqual({ wouldPause: true });
    expect(await json('resume', '--dry-run')).toEqual({ wouldResume: false });
    expect(await json('pause')).toEqual({ paused: true });
    expect((await run('pause')).stdout).toBe('It was paused already.\n');
    expect((await run('status')).stdout).toMatch(/^paused since .*: liventix backfill resume$/m);
    const stopped = await liventix(['backfill', 'run'], { DATABASE_URL: database.url }, AbortSignal.timeout(1_500));
    expect(stopped).toMatchObject({
      exitCode: 3,
      stdout: expect.stringContaining('Stopped before the end'),
      stderr: 'paused; it goes on with: liventix backfill resume\n',
    });
    expect((await database.pool.query('select from replay.progress where rows > 0')).rowCount).toBe(0);
    expect((await run('resume', '--dry-run')).stdout).toBe('It would go on.\n');
    expect(await json('resume')).toEqual({ resumed: true });
    expect((await run('resume')).stdout).toBe('It was not paused.\n');
    expect(await run('run')).toMatchObject({ exitCode: 0 });
  });

  it('does not cut over beside functions that are still the old ones', async () => {
    await database.pool.query(
      `create function public.recompute_wallet_balance(p_wallet uuid) returns integer language sql as 'select 1'`,
    );
    await refused(
      'CUTOVER_OLD_FUNCTIONS',
      /recompute_wallet_balance\(uuid\).*liventix backfill functions/,
      'cutover',
      '--all',
    );
    expect((await run('functions', '--dry-run')).stdout).toBe(
      'OLD  recompute_wallet_balance(uuid)\n1 functions found. Nothing was changed.\n',
    );
    const { functions } = await json('functions');
    expect(functions).toHaveLength(18);
    expect(functions.every(({ isReplaced }: { isReplaced: boolean }) => isReplaced)).toBe(true);
  });

  it('names each owner of whom too much is unexplained, and says how to sign', async () => {
    const dryRun = await run('cutover', '--all', '--dry-run');
    expect(dryRun).toMatchObject({ exitCode: 1, stderr: '' });
    expect(dryRun.stdout).toMatch(
      /^\d+ wallets would be flipped, 0 were there already, \d refused\n( {2}(org_)?wallets [0-9a-f-]{36}: \d+ cents of it are unexplained and nobody has signed for them: liventix backfill approve --(user|organization) [0-9a-f-]{36} --reason '…'\n)+Nothing was changed\.\n$/,
    );
    const report = await run('reconcile');
    expect(report).toMatchObject({ exitCode: 1, stderr: '' });
    expect(report.stdout).toMatch(
      /^equal +\d+ wallets\nexplained +\d+ wallets\nunexplained +\d wallets\nopen +0 wallets\n/,
    );
    expect(report.stdout).toMatch(
      /^ {2}unexplained: (org_)?wallets [0-9a-f-]{36} holds -?\d+, its rows come to -?\d+, its account has -?\d+$/m,
    );
    await refused('USAGE', /1 to 500/, 'approve', '--all', '--reason', ' ');
    const tried = await run('approve', '--all', '--reason', 'moved by hand, ticket 4711', '--dry-run');
    expect(tried.stdout).toMatch(/^Would sign for [\d,.]+ USD in all, .*, of \d wallets\.\n$/);
    expect((await run('cutover', '--all', '--dry-run')).stdout).toBe(dryRun.stdout);
    expect((await run('approve', '--all', '--reason', 'moved by hand, ticket 4711')).stdout).toMatch(
      /^Signed for [\d,.]+ USD in all, .*, of \d wallets\.\n$/,
    );
    expect(await json('approve', '--all', '--reason', 'again')).toEqual({ wallets: 0, cents: 0 });
    expect((await run('approve', '--all', '--reason', 'again')).stdout).toMatch(/^Nothing is unexplained/);
    expect(await run('reconcile')).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^unexplained +0 wallets$/m),
    });
    const lines = (await run('reconcile', '--json', '--all')).stdout.trim().split('\n');
    const wallets = lines.map((line) => JSON.parse(line));
    expect(wallets).toHaveLength(24);
    for (const { balanceCents, rowsCents, ledgerCents, drift } of wallets) {
      expect(ledgerCents).toBe(balanceCents);
      const booked = (Object.values(drift) as number[]).reduce((sum, cents) => sum + cents, 0);
      expect(booked).toBe(balanceCents - rowsCents);
    }
    const csv = (await run('reconcile', '--csv')).stdout.split('\r\n');
    expect(csv[0]).toBe(
      'standing,table,wallet_id,owner_id,kept_by,balance_cents,rows,rows_cents,ledger_cents,drift,findings',
    );
    expect(csv).toHaveLength(wallets.filter(({ standing }) => standing !== 'equal').length + 2);
  });

  it('cuts one organization over and back, and then everybody', async () => {
    const org = await ofOrganization();
    expect(await json('cutover', '--organization', org)).toMatchObject({
      finished: true,
      flipped: 1,
      already: 0,
      refused: [],
    });
    await refused('CUTOVER_OWNER_UNKNOWN', /The user .* has no wallet/, 'cutover', '--user', org);
    await refused('CAPTURE_NEEDED', /1 wallets are kept by the ledger.*rollback --all/, 'abort');
    expect(await json('rollback', '--organization', org)).toMatchObject({ flipped: 1, refused: [] });
    const all = await run('cutover', '--all');
    expect(all).toMatchObject({ exitCode: 0, stderr: '' });
    expect(all.stdout).toMatch(
      /^24 wallets flipped, 0 were there already, 0 refused\nThe longest that writes of one owner could have to wait: \d+ ms\n$/,
    );
    expect(await json('cutover', '--all')).toMatchObject({ flipped: 0, already: 24, caughtUp: 0 });
    expect(await liventix(['books', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0 });
    expect(await liventix(['replay', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0 });
  });

  it('says how many wallets were looked at for what the mirror had missed', async () => {
    await database.pool.query('alter table payments.entries disable trigger entries_mirrored');
    const { rows } = await database.pool.query<{ accountId: string }>(
      `select account_id as "accountId" from replay.wallets where source = 'wallet_transactions' limit 1`,
    );
    const { accountId = '' } = rows[0] ?? {};
    const account = { type: 'receivable', currency: 'USD', name: 'clearing' } as const;
    const [clearing = ''] = await openAccounts(database.pool, [account]);
    await post(database.pool, transfer(clearing, accountId, { amountCents: 5n }));
    expect((await run('status')).stdout).toContain('NOT MIRRORED');
    expect((await run('cutover', '--all')).stdout).toContain(
      '0 wallets flipped, 24 were there already, 24 of them given what a mirror that was gone may have missed, 0 refused\n',
    );
    expect((await run('status')).stdout).toMatch(/^wallet_transactions +301 of 301 rows, finished$/m);
  });

  it('tells the old tables nothing of entries that a rebuild puts back', async () => {
    const old = async () => {
      const { rows } = await database.pool.query<{ state: string }>(
        `select concat_ws(' ', (select count(*) from wallet_transactions), (select count(*) from org_wallet_transactions),
                (select sum(balance_credits) from wallets), (select count(*) from replay.mirrored_rows)) as state`,
      );
      return rows[0]?.state;
    };
    const before = await old();
    await damage(
      database.pool,
      `delete from payments.entries where transaction_id in (
         select e.transaction_id from payments.entries e join replay.wallets w on w.account_id = e.account_id order by e.id desc limit 20)`,
    );
    const rebuilt = await liventix(['replay', 'rebuild', '--swap', '--json'], { DATABASE_URL: database.url });
    expect(JSON.parse(rebuilt.stdout).swap.rows).toBeGreaterThanOrEqual(20);
    expect(await old()).toBe(before);
    expect(await liventix(['books', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0 });
    const { rowCount } = await database.pool.query(
      `select from pg_trigger where tgname = 'entries_mirrored' and tgenabled = 'A'`,
    );
    expect(rowCount).toBe(1);
  });

  it('retires the old tables, once', async () => {
    expect((await run('finish', '--dry-run')).stdout).toBe('Nothing stands against it. Nothing was changed.\n');
    expect((await run('finish')).stdout).toMatch(/^The old tables are retired/);
    expect((await run('finish')).stdout).toMatch(/^The old tables are retired/);
    for (const command of ['capture on', 'run', 'pause', 'cutover --all', 'rollback --all', 'functions --restore']) {
      await refused('BACKFILL_RETIRED', /the ledger keeps the wallets/, ...command.split(' '));
    }
    const { stdout } = await run('status');
    expect(stdout).toMatch(/^wallet_transactions .* retired$/m);
    expect(stdout).not.toContain('capture on');
    expect(await liventix(['books', 'verify'], { DATABASE_URL: database.url })).toMatchObject({ exitCode: 0 });
  });
});

describe('abort', () => {
  it('ends the capture, tells how much is forgotten, and lets it begin again with nothing booked twice', async () => {
    const other = await createLegacyTestDatabase(SIZE);
    const abort = (...flags: string[]) => liventix(['backfill', 'abort', ...flags], { DATABASE_URL: other.url });
    try {
      expect(await liventix(['backfill', 'run'], { DATABASE_URL: other.url })).toMatchObject({ exitCode: 0 });
      await other.pool.query('update wallets set balance_credits = balance_credits + 1');
      expect((await abort('--dry-run')).stdout).toBe(
        'Would end the capture and forget 20 changes. Nothing was changed.\n',
      );
      expect(JSON.parse((await abort('--json')).stdout)).toEqual({ aborted: true, forgotten: 20 });
      expect((await abort()).stdout).toBe('Nothing was captured.\n');
      expect((await abort('--dry-run')).stdout).toBe('Nothing is captured. Nothing was changed.\n');
      expect(await liventix(['backfill', 'capture', 'on'], { DATABASE_URL: other.url })).toMatchObject({ exitCode: 0 });
      const again = await liventix(['backfill', 'run', '--json'], { DATABASE_URL: other.url });
      expect(JSON.parse(again.stdout)).toMatchObject({ imported: 0, walletsDiffering: 0, inLog: SIZE.transactions });
    } finally {
      await other.drop();
    }
  });
});
