import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { type NewEntry, openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { balanceOf, dropVerified, openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let accounts: TestAccounts;
let payable: string;

beforeAll(async () => {
  database = await createDatabase({ poolMax: 20 });
  accounts = await openTestAccounts(database.pool);
  [payable = ''] = await openAccounts(database.pool, [{ type: 'payable', currency: 'USD', name: 'organiser' }]);
});
afterAll(() => dropVerified(database));

/** A sale of so many cents: the organiser gets nine tenths, we one. */
const sale = (cents: bigint) =>
  post(database.pool, {
    entries: entries([accounts.clearing, cents], [payable, -(cents * 9n) / 10n], [accounts.revenue, -cents / 10n]),
  });
const entries = (...legs: [string, bigint][]): NewEntry[] =>
  legs.map(([accountId, amountCents]) => ({ accountId, amountCents, currency: 'USD' }));
const balances = async () => [
  await balanceOf(database.pool, accounts.clearing),
  await balanceOf(database.pool, payable),
  await balanceOf(database.pool, accounts.revenue),
];

describe('a reversal', () => {
  it('takes a transaction back whole, leg by leg, and says which', async () => {
    const before = await balances();
    const original = await sale(1_000n);
    const reversal = await post(database.pool, { reverses: original.transactionId, description: 'refund' });
    expect(await balances()).toEqual(before);
    const { rows } = await database.pool.query(
      'select reverses, reversal_seq, is_complete from payments.reversals where transaction_id = $1',
      [reversal.transactionId],
    );
    expect(rows).toEqual([{ reverses: original.transactionId, reversal_seq: 1n, is_complete: true }]);
  });

  it('happens in full at most once', async () => {
    const { transactionId } = await sale(1_000n);
    await post(database.pool, { reverses: transactionId });
    await expect(post(database.pool, { reverses: transactionId })).rejects.toMatchObject({
      code: 'LEDGER_REVERSAL_EXCEEDED',
      message: `Transaction ${transactionId} is reversed already, and nothing of it is left.`,
    });
  });

  it('takes back parts, up to what is left, and then the rest', async () => {
    const before = await balances();
    const { transactionId: reverses } = await sale(1_000n);
    const part = (cents: bigint) =>
      post(database.pool, { reverses, entries: entries([accounts.clearing, -cents], [payable, cents]) });
    await part(300n);
    await part(600n);
    await expect(part(1n)).rejects.toMatchObject({
      code: 'LEDGER_REVERSAL_EXCEEDED',
      message: expect.stringContaining('has 0 left of it to reverse, not 1.'),
    });
    const rest = await post(database.pool, { reverses });
    expect(rest.accountSeqs).toHaveLength(2);
    expect(await balances()).toEqual(before);
    await expect(post(database.pool, { reverses })).rejects.toMatchObject({ code: 'LEDGER_REVERSAL_EXCEEDED' });
  });

  it('that takes the last part by its own entries is complete as well', async () => {
    const { transactionId: reverses } = await sale(1_000n);
    await post(database.pool, {
      reverses,
      entries: entries([accounts.clearing, -1_000n], [payable, 900n], [accounts.revenue, 100n]),
    });
    await expect(post(database.pool, { reverses })).rejects.toMatchObject({ code: 'LEDGER_REVERSAL_EXCEEDED' });
  });

  it.each([
    ['the wrong direction', () => entries([accounts.clearing, 100n], [payable, -100n])],
    ['more than there was', () => entries([accounts.clearing, -901n], [payable, 901n])],
    ['an account that had no part in it', () => entries([accounts.clearing, -100n], [accounts.wallet, 100n])],
  ])('refuses %s, and writes nothing', async (_what, build) => {
    const before = await balances();
    const { transactionId: reverses } = await sale(1_000n);
    await expect(post(database.pool, { reverses, entries: build() })).rejects.toMatchObject({
      code: 'LEDGER_REVERSAL_EXCEEDED',
    });
    await post(database.pool, { reverses });
    expect(await balances()).toEqual(before);
  });

  it('may itself be reversed, which brings the transaction back', async () => {
    const { transactionId } = await sale(1_000n);
    const after = await balances();
    const reversal = await post(database.pool, { reverses: transactionId });
    await post(database.pool, { reverses: reversal.transactionId });
    expect(await balances()).toEqual(after);
  });

  it('of an exchange balances in each currency', async () => {
    const [usd = '', jpy = ''] = await openAccounts(database.pool, [
      { type: 'payable', currency: 'USD', name: 'liquidity' },
      { type: 'payable', currency: 'JPY', name: 'liquidity' },
    ]);
    const { transactionId } = await post(database.pool, {
      entries: [
        { accountId: accounts.clearing, amountCents: 100n, currency: 'USD' },
        { accountId: usd, amountCents: -100n, currency: 'USD' },
        { accountId: jpy, amountCents: 15_000n, currency: 'JPY' },
        { accountId: accounts.yen, amountCents: -15_000n, currency: 'JPY' },
      ],
    });
    await post(database.pool, { reverses: transactionId });
    expect(await balanceOf(database.pool, usd)).toBe(0n);
    expect(await balanceOf(database.pool, jpy)).toBe(0n);
  });

  it('is posted once by one key, also after nothing is left to reverse', async () => {
    const { transactionId } = await sale(1_000n);
    const request = { reverses: transactionId, idempotencyKey: randomUUID() };
    const first = await post(database.pool, request);
    expect(await post(database.pool, request)).toEqual({ ...first, status: 'duplicate' });
  });

  it('keeps to floors like any other transaction', async () => {
    const [wallet = ''] = await openAccounts(database.pool, [
      { type: 'cash', currency: 'USD', name: 'spent', userId: randomUUID(), floorCents: 0n },
    ]);
    const { transactionId } = await post(database.pool, transfer(accounts.clearing, wallet));
    await post(database.pool, transfer(wallet, accounts.revenue));
    await expect(post(database.pool, { reverses: transactionId })).rejects.toMatchObject({
      code: 'LEDGER_FLOOR_PASSED',
    });
  });

  it('has texts of its own, as large as a transaction of its entries may have', async () => {
    const { transactionId } = await sale(1_000n);
    const metadata = { note: 'x'.repeat(100_000) };
    expect(await post(database.pool, { reverses: transactionId, metadata })).toMatchObject({ status: 'posted' });
    const many = await post(database.pool, {
      entries: Array.from({ length: 200 }, (_, nth) => ({
        accountId: nth % 2 === 0 ? accounts.clearing : payable,
        amountCents: nth % 2 === 0 ? 1n : -1n,
        currency: 'USD',
      })),
    });
    await expect(post(database.pool, { reverses: many.transactionId, metadata })).rejects.toMatchObject({
      code: 'LEDGER_INVALID',
      message: expect.stringContaining('16 MiB'),
    });
  });

  it('of what does not exist is refused', async () => {
    await expect(post(database.pool, { reverses: randomUUID() })).rejects.toMatchObject({
      code: 'LEDGER_TRANSACTION_UNKNOWN',
    });
    await expect(post(database.pool, { reverses: 'x' })).rejects.toMatchObject({ code: 'LEDGER_INVALID' });
  });

  it('of one transaction twice in a call is refused the second time, and the neighbours are left alone', async () => {
    const { transactionId: reverses } = await sale(100n);
    const outcomes = await postAll(database.pool, [{ reverses }, { reverses }, transfer(accounts.clearing, payable)]);
    expect(outcomes).toMatchObject([
      { status: 'posted' },
      { status: 'rejected', code: 'LEDGER_REVERSAL_EXCEEDED' },
      { status: 'posted' },
    ]);
  });

  it.each([1, 2, 3])('succeeds for one of 16 who reverse at once, whole or in parts (round %i)', async () => {
    const before = await balances();
    const { transactionId: reverses } = await sale(1_000n);
    const results = await Promise.allSettled(
      Array.from({ length: 16 }, (_, nth) =>
        withTransaction(database.pool, (tx) =>
          post(
            tx,
            nth % 2 === 0 ? { reverses } : { reverses, entries: entries([accounts.clearing, -400n], [payable, 400n]) },
          ),
        ),
      ),
    );
    const codes = results.flatMap((result) => (result.status === 'rejected' ? [result.reason.code] : []));
    expect(new Set(codes)).toEqual(new Set(['LEDGER_REVERSAL_EXCEEDED']));
    expect(await balances()).toEqual(before);
  });
});
