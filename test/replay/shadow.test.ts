import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { cutOver, rollBack } from '../../src/replay/cut-over.ts';
import { shadow } from '../../src/replay/shadow/shadow.ts';
import { transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, type LegacyWallet, setBalance } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';
import { expectRefusal } from '../support/refusal.ts';

const SIZE = { wallets: 20, orgWallets: 4, transactions: 400, seed: 5 };

/** In the order in which a migration goes; each goes on from the ones before. */
describe('shadow reads', () => {
  let database: TestDatabase;
  let wallet: LegacyWallet;
  let wallets = 24;
  const look = () => shadow(database.pool, { sample: 1_000 });
  const nothingDiffers = async () =>
    expect(await look()).toMatchObject({ wallets, changing: 0, reads: 4 * wallets, differing: 0, differences: [] });

  beforeAll(async () => {
    database = await createLegacyTestDatabase(SIZE);
  });
  afterAll(() => database.drop());

  it('are refused before the backfill has finished', async () => {
    await expectRefusal({ code: 'BACKFILL_UNFINISHED', says: /liventix backfill run$/m }, ['backfill', 'shadow'], {
      DATABASE_URL: database.url,
    });
  });

  it('are answered alike by both sides once it has', async () => {
    await runBackfill(database.pool);
    await nothingDiffers();
    const run = await liventix(['backfill', 'shadow'], { DATABASE_URL: database.url });
    expect(run).toMatchObject({ exitCode: 0, stderr: '' });
    expect(run.stdout).toMatch(
      /^96 reads of 24 wallets in \d+\.\d s, 0 differ\n\nms +old p50 +old p99 +ledger p50 +ledger p99\nbalance( +\d+\.\d\d){4}\nlatest 10 transactions/,
    );
  });

  it('of a sample are no more than asked for, and go on for as long as asked for', async () => {
    expect(await shadow(database.pool, { sample: 3 })).toMatchObject({ wallets: 6 });
    const { seconds, wallets: drawn } = await shadow(database.pool, { sample: 3, seconds: 1 });
    expect(seconds).toBeGreaterThanOrEqual(1);
    expect(drawn).toBeGreaterThan(6);
  });

  it('of a wallet that changed are not compared until that is booked', async () => {
    wallet = await givenWallet(database.pool, { balance: 30 });
    wallets += 1;
    await givenRow(database.pool, wallet, { type: 'promo', delta: 50 });
    const spend = await givenRow(database.pool, wallet, { type: 'spend', delta: -20 });
    const gone = await givenRow(database.pool, wallet, { type: 'spend', delta: -1 });
    expect(await look()).toMatchObject({ wallets, changing: 1, differing: 0 });
    await runBackfill(database.pool, { settleMs: 0 });
    await nothingDiffers();
    await database.pool.query('delete from wallet_transactions where id = $1', [gone.id]);
    await database.pool.query(
      `update wallet_transactions set type = 'adjustment', reference_type = 'system', created_at = created_at - interval '1 year' where id = $1`,
      [spend.id],
    );
    expect(await look()).toMatchObject({ changing: 1, differing: 0 });
    await database.pool.query(
      'update wallets set balance_credits = balance_credits + 1; update org_wallets set balance_credits = balance_credits + 1',
    );
    // Whether they are, nobody has seen.
    expect(await liventix(['backfill', 'shadow'], { DATABASE_URL: database.url })).toMatchObject({
      exitCode: 3,
      stdout: expect.stringMatching(
        /^0 reads of 0 wallets in .*\n25 wallets are changing, and were not compared: liventix backfill run\n/,
      ),
    });
    await runBackfill(database.pool, { settleMs: 0 });
    await nothingDiffers();
  });

  it('are answered alike while the ledger keeps the wallets, and after the way back', async () => {
    await cutOver(database.pool, { owners: { kind: 'user', id: wallet.ownerId }, maxUnexplainedCents: 1_000n });
    const [clearing = '', cash = ''] = await openAccounts(database.pool, [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'cash', currency: 'USD', name: 'wallet', userId: wallet.ownerId },
    ]);
    await post(database.pool, { ...transfer(clearing, cash, { amountCents: 40n }), referenceType: 'credit_purchase' });
    await post(database.pool, { ...transfer(cash, clearing, { amountCents: 7n }), referenceType: 'campaign_spend' });
    await setBalance(database.pool, wallet, 99);
    await nothingDiffers();
    expect(await rollBack(database.pool, { owners: 'all' })).toMatchObject({ refused: [] });
    await nothingDiffers();
  });

  it('that differ are named, read by read, with both answers', async () => {
    const { pool } = database;
    await pool.query('alter table wallets disable trigger user; alter table wallet_transactions disable trigger user');
    await setBalance(pool, wallet, 98);
    const row = await givenRow(pool, wallet, { type: 'spend', delta: -2, at: '2199-01-01T00:00:00Z' });
    const result = await look();
    expect(result).toMatchObject({ differing: 4, changing: 0 });
    expect(result.differences.map(({ read, walletId }) => [read, walletId])).toEqual(
      ['balance', 'latest 10 transactions', 'number of transactions', 'sum of spends'].map((read) => [read, wallet.id]),
    );
    expect(result.differences[0]).toEqual({
      table: 'wallets',
      walletId: wallet.id,
      read: 'balance',
      old: '98',
      ledger: '99',
    });
    expect(result.differences[1]?.old).toMatch(new RegExp(`^-2 of ${row.id}, `));
    expect(result.differences[3]).toMatchObject({ old: '9', ledger: '7' });
    const run = await liventix(['backfill', 'shadow', '--json'], { DATABASE_URL: database.url });
    expect(run.exitCode).toBe(1);
    expect(JSON.parse(run.stdout)).toMatchObject({
      differing: 4,
      latencies: [{ read: 'balance', old: { p50Ms: expect.any(Number) } }, {}, {}, {}],
    });
  });
});
