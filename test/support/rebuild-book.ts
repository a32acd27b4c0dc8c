import { randomUUID } from 'node:crypto';
import type { Pool } from '../../src/db/pool.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { placeHold, voidHold } from '../../src/ledger/holds.ts';
import { openAccounts, post, postAll } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { openTestAccounts, type TestAccounts, transfer } from './books.ts';

/** Books with rows in every table that is made from the log, and a second book. */
export async function fillEveryProjection(pool: Pool): Promise<TestAccounts> {
  const accounts = await openTestAccounts(pool);
  const [wallet = ''] = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'w', userId: randomUUID(), floorCents: 0n, ceilingCents: 9_000n },
  ]);
  await postAll(
    pool,
    Array.from({ length: 20 }, () => transfer(accounts.clearing, wallet)),
  );
  const held = await placeHold(pool, { accountId: wallet, amountCents: 500n, currency: 'USD' });
  const voided = await placeHold(pool, { accountId: wallet, amountCents: 100n, currency: 'USD' });
  await voidHold(pool, voided);
  const { transactionId } = await post(pool, transfer(wallet, accounts.revenue, { capture: { holdId: held.holdId } }));
  await post(pool, { reverses: transactionId });
  await changeAccount(pool, { accountId: wallet, status: 'frozen', reason: 'enough' });
  await addSlots(pool, { accountId: accounts.revenue, slots: 3 });
  await post(pool, transfer(accounts.clearing, accounts.revenue));
  await closePeriod(pool, { until: '2026-01-01T00:00:00Z' });
  await pool.query(`insert into payments.books (book_id, name) values (2, 'other')`);
  await openAccounts(pool, [{ type: 'cash', currency: 'USD', name: 'w' }], { bookId: 2 });
  return accounts;
}
