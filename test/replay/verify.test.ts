import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { migrate } from '../../src/db/migrate.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { turnCaptureOff, turnCaptureOn } from '../../src/replay/capture.ts';
import { backfill, progressOf, runBackfillUntil, SIZE, undisturbedDigest, WALLET_CHECK } from '../support/backfill.ts';
import { transfer } from '../support/books.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { booksDigest, givenWallet } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';

let undisturbed = '';
beforeAll(async () => {
  undisturbed = await undisturbedDigest();
});

describe('books verify', () => {
  let database: TestDatabase;
  const verify = async () => {
    const run = await liventix(['books', 'verify', '--json'], { DATABASE_URL: database.url });
    return { exitCode: run.exitCode, stderr: run.stderr, ...JSON.parse(run.stdout) };
  };
  const names = (verification: { checks: { check: string }[] }) => verification.checks.map(({ check }) => check);

  beforeAll(async () => {
    database = await createDatabase({ template: EMPTY });
    await createLegacyDatabase(database.pool);
    await fillLegacyDatabase(database.pool, SIZE);
  });
  afterAll(() => database.drop());

  it('holds before the backfill without a wallet check, on a database that was migrated beside its legacy tables', async () => {
    expect((await migrate(database.url)).length).toBeGreaterThan(0);
    await turnCaptureOn(database.pool);
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 0, stderr: '', balance: true });
    expect(names(verification)).not.toContain(WALLET_CHECK);
  });

  it('could not find out about the wallets while the backfill is half-way, and says how far it is', async () => {
    await runBackfillUntil(database.pool, ({ step }) => step === 'rows', { chunkRows: 100 });
    const rows = Number(await progressOf(database.pool));
    expect(rows).toBeGreaterThan(0);
    const reason = `not compared, the backfill has not finished (${rows} of 3,000 rows)`;
    const verification = await verify();
    expect(verification).toMatchObject({
      exitCode: 3,
      stderr: '',
      balance: null,
      skipped: [{ check: WALLET_CHECK, reason }],
    });
    expect(names(verification)).not.toContain(WALLET_CHECK);
    const words = await liventix(['books', 'verify'], { DATABASE_URL: database.url });
    expect(words).toMatchObject({ exitCode: 3, stderr: '' });
    expect(words.stdout).toMatch(new RegExp(`\nskipped  ${WALLET_CHECK}: ${reason.replace(/[()]/g, '\\$&')}\n`));
    expect(words.stdout).not.toContain('The books balance.');
  });

  it('does not hold half-way when something else fails, whatever it could not find out', async () => {
    await database.pool.query('alter table payments.events disable trigger events_append_only');
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 1, balance: false, skipped: [{ check: WALLET_CHECK }] });
    await database.pool.query('alter table payments.events enable always trigger events_append_only');
  });

  it('holds after the backfill with every wallet compared, and the books are those of any other run', async () => {
    expect((await backfill(database)).exitCode).toBe(0);
    const verification = await verify();
    expect(verification).toMatchObject({ exitCode: 0, balance: true, skipped: [] });
    expect(verification.checks.at(-1)).toMatchObject({
      check: WALLET_CHECK,
      holds: true,
      examined: SIZE.wallets + SIZE.orgWallets,
      unit: 'wallets',
    });
    expect(await booksDigest(database.pool)).toBe(undisturbed);
  });

  it('does not compare a wallet that changed since, until the next run brings it in', async () => {
    const count = SIZE.wallets + SIZE.orgWallets;
    await database.pool.query('update wallets set balance_credits = balance_credits + 1');
    const changing = await verify();
    expect(changing).toMatchObject({ exitCode: 0, balance: true });
    expect(changing.checks.at(-1)).toMatchObject({ check: WALLET_CHECK, holds: true, examined: SIZE.orgWallets });
    await database.pool.query('update wallets set balance_credits = balance_credits - 1');
    await runBackfill(database.pool, { settleMs: 0 });
    expect((await verify()).checks.at(-1)).toMatchObject({ check: WALLET_CHECK, holds: true, examined: count });
  });

  it('could not find out about wallets that changed long ago and nobody brought in', async () => {
    await database.pool.query('update wallets set balance_credits = balance_credits + 1');
    await database.pool.query(`update replay.captured_wallets set captured_at = captured_at - interval '1 hour'`);
    const reason = new RegExp(`^${SIZE.wallets} changed since .* and nobody brought that in: liventix backfill run$`);
    expect(await verify()).toMatchObject({
      exitCode: 3,
      balance: null,
      skipped: [{ check: WALLET_CHECK, reason: expect.stringMatching(reason) }],
    });
    await database.pool.query('update wallets set balance_credits = balance_credits - 1');
    await runBackfill(database.pool, { settleMs: 0 });
  });

  it.each(['wallets', 'org_wallets'])(
    'does not hold when a balance of %s is changed by hand after the capture, and names the wallet',
    async (table) => {
      await turnCaptureOff(database.pool);
      const { rows } = await database.pool.query<{ id: string; balance: number }>(
        `select id, balance_credits as balance from ${table} order by id desc limit 1`,
      );
      const [wallet] = rows;
      await database.pool.query(`update ${table} set balance_credits = balance_credits + 1 where id = $1`, [
        wallet?.id,
      ]);
      const verification = await verify();
      expect(verification).toMatchObject({ exitCode: 1, balance: false });
      const named = `${table} ${wallet?.id} holds ${(wallet?.balance ?? 0) + 1}, its account ${wallet?.balance}`;
      expect(verification.checks.at(-1)).toMatchObject({
        check: WALLET_CHECK,
        holds: false,
        faults: 1,
        first: [named],
      });
      const words = await liventix(['books', 'verify'], { DATABASE_URL: database.url });
      expect(words.exitCode).toBe(1);
      expect(words.stdout).toContain(`\n         ${named}\n`);
      await database.pool.query(`update ${table} set balance_credits = balance_credits - 1 where id = $1`, [
        wallet?.id,
      ]);
      expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
    },
  );

  it('does not hold when a wallet appears that has no account yet, until the next backfill', async () => {
    const wallet = await givenWallet(database.pool, { balance: 3 });
    expect((await verify()).checks.at(-1)).toMatchObject({
      holds: false,
      first: [`wallets ${wallet.id} holds 3, its account does not exist`],
    });
    await turnCaptureOn(database.pool);
    expect((await backfill(database)).exitCode).toBe(0);
    expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
  });
  it.each(['user', 'organization'] as const)(
    'does not hold when the wallet of a %s is gone whose money the ledger still holds, and names the account',
    async (kind) => {
      const wallet = await givenWallet(database.pool, { kind, balance: 9_042 });
      const emptied = await givenWallet(database.pool, { kind });
      await turnCaptureOn(database.pool);
      expect((await backfill(database)).exitCode).toBe(0);
      await turnCaptureOff(database.pool);
      const { rows } = await database.pool.query<{ id: string }>(
        'select id from payments.accounts where coalesce(user_id, organization_id) = $1',
        [wallet.ownerId],
      );
      const table = kind === 'user' ? 'wallets' : 'org_wallets';
      await database.pool.query(`delete from ${table} where id = any ($1)`, [[wallet.id, emptied.id]]);
      const verification = await verify();
      expect(verification).toMatchObject({ exitCode: 1, balance: false });
      expect(verification.checks.at(-1)).toMatchObject({
        check: WALLET_CHECK,
        holds: false,
        faults: 1,
        first: [`account ${rows[0]?.id} holds 90.42, its wallet is gone`],
      });
      await database.pool.query(
        `insert into ${table} (id, ${kind === 'user' ? 'user_id' : 'org_id'}, balance_credits) values ($1, $2, 9042)`,
        [wallet.id, wallet.ownerId],
      );
      expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
    },
  );

  it('does not miss the wallet of an account that the replay never booked on', async () => {
    const holder = randomUUID();
    const [account = '', revenue = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'wallet', userId: holder },
      { type: 'revenue', currency: 'USD', name: 'beside' },
    ]);
    await post(database.pool, transfer(revenue, account));
    expect(await verify()).toMatchObject({ exitCode: 0, balance: true });
  });
});
