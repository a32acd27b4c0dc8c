import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { compareWallets, driftByCause } from '../../src/replay/report.ts';
import { verifyBooksAndWallets } from '../../src/replay/verify.ts';
import { balanceOf, transfer } from '../support/books.ts';
import type { TestDatabase } from '../support/database.ts';
import {
  createLegacyTestDatabase,
  givenInvoice,
  givenRow,
  givenWallet,
  type LegacyWallet,
  setBalance,
} from '../support/legacy.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createLegacyTestDatabase();
});
afterEach(() => database.drop());

async function accountsOf(wallet: LegacyWallet): Promise<{ clearing: string; cash: string }> {
  const [clearing = '', cash = ''] = await openAccounts(database.pool, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', userId: wallet.ownerId },
  ]);
  return { clearing, cash };
}

describe('what happens beside the replay', () => {
  it('a posting made after the backfill survives the next one, and the books still balance', async () => {
    const wallet = await givenWallet(database.pool, { balance: 100 });
    const invoice = await givenInvoice(database.pool, wallet, 100);
    await givenRow(database.pool, wallet, { type: 'purchase', delta: 100, invoice, usdCents: 100 });
    await runBackfill(database.pool, { settleMs: 0 });
    const { clearing, cash } = await accountsOf(wallet);
    await post(database.pool, transfer(clearing, cash, { amountCents: 500n }));
    await runBackfill(database.pool, { settleMs: 0 });
    expect(await balanceOf(database.pool, cash)).toBe(-600n);
    expect(await driftByCause(database.pool)).toEqual([]);
    expect(await verifyBooksAndWallets(database.pool)).toMatchObject({ balance: true });
  });

  it('a legacy balance that moves afterwards is told from what was posted beside it', async () => {
    const wallet = await givenWallet(database.pool);
    await runBackfill(database.pool, { settleMs: 0 });
    const { clearing, cash } = await accountsOf(wallet);
    await post(database.pool, transfer(clearing, cash, { amountCents: 500n }));
    await setBalance(database.pool, wallet, 7);
    expect(await compareWallets(database.pool)).toMatchObject({ differing: 0n, changing: 1n });
    await runBackfill(database.pool, { settleMs: 0 });
    expect(await balanceOf(database.pool, cash)).toBe(-507n);
    expect(await compareWallets(database.pool)).toMatchObject({ differing: 0n });
  });

  it('a row written between the survey and its chunk is judged before it is booked', async () => {
    const wallet = await givenWallet(database.pool, { balance: 0 });
    await givenRow(database.pool, wallet, { type: 'spend', delta: -1 });
    let written: Promise<unknown> | undefined;
    await runBackfill(database.pool, {
      onProgress: ({ step, source }) => {
        if (step !== 'accounts' || source !== 'wallet_transactions') return;
        // A forged purchase with its cents, and a spend of the wrong sign: nothing about the rows alone gives them away.
        written ??= Promise.all([
          givenRow(database.pool, wallet, { type: 'purchase', delta: 5_000, usdCents: 5_000 }),
          givenRow(database.pool, wallet, { type: 'spend', delta: 700 }),
        ]);
      },
    });
    await written;
    await runBackfill(database.pool, { settleMs: 0 });
    const causes = (await driftByCause(database.pool)).map(({ cause }) => cause);
    expect(causes).toEqual(expect.arrayContaining(['unreferenced_credit', 'wrong_sign']));
  });

  it('a key that is the hash of a longer one stops nothing', async () => {
    const wallet = await givenWallet(database.pool);
    const long = 'k'.repeat(600);
    const literal = `sha256:${createHash('sha256').update(long).digest('hex')}`;
    await givenRow(database.pool, wallet, { type: 'spend', delta: -1, key: long });
    await givenRow(database.pool, wallet, { type: 'spend', delta: -2, key: literal });
    expect(await runBackfill(database.pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 2n });
  });
});
