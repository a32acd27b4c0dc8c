import { expect } from 'vitest';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { type NewTransaction, openAccounts } from '../../src/ledger/ledger.ts';
import { type CheckResult, ONE_SNAPSHOT, runChecks } from '../../src/ledger/verify.ts';
import type { TestDatabase } from './database.ts';

export interface TestAccounts {
  readonly clearing: string;
  readonly wallet: string;
  readonly revenue: string;
  readonly yen: string;
}

export const HOLDER = '00000000-0000-4000-8000-000000000101';

/** The accounts that most ledger tests move money between. */
export async function openTestAccounts(db: Queryable): Promise<TestAccounts> {
  const [clearing = '', wallet = '', revenue = '', yen = ''] = await openAccounts(db, [
    { type: 'receivable', currency: 'USD', name: 'clearing' },
    { type: 'cash', currency: 'USD', name: 'wallet', userId: HOLDER },
    { type: 'revenue', currency: 'USD', name: 'sales' },
    { type: 'receivable', currency: 'JPY', name: 'clearing' },
  ]);
  return { clearing, wallet, revenue, yen };
}

/** Debit one account, credit another; a dollar unless told. */
export function transfer(
  debit: string,
  credit: string,
  fields: Partial<NewTransaction> & { amountCents?: bigint; currency?: string } = {},
): NewTransaction {
  const { amountCents = 100n, currency = 'USD', ...rest } = fields;
  return {
    entries: [
      { accountId: debit, amountCents, currency },
      { accountId: credit, amountCents: -amountCents, currency },
    ],
    ...rest,
  };
}

/** Sum of the entries of one account, as kept: debit positive. */
export async function balanceOf(db: Queryable, accountId: string): Promise<bigint> {
  const { rows } = await db.query<{ balance: bigint }>(
    'select balance_cents as balance from payments.balances where account_id = $1',
    [accountId],
  );
  return rows[0]?.balance ?? 0n;
}

/** What the books' own checks find. */
export function verifyBooks(pool: Pool): Promise<CheckResult[]> {
  return withTransaction(pool, (tx) => runChecks(tx), ONE_SNAPSHOT);
}

/** What the verification finds that shares nothing with the database's functions. */
export function verifyBooksIndependently(pool: Pool, options: { bookId?: number } = {}): Promise<CheckResult[]> {
  return withTransaction(pool, (tx) => verifyIndependently(tx, options), ONE_SNAPSHOT);
}

/** Drops a test's database, after its books have been verified in both ways: for `afterAll`. */
export async function dropVerified(database: TestDatabase): Promise<void> {
  const results = [...(await verifyBooks(database.pool)), ...(await verifyBooksIndependently(database.pool))];
  await database.drop();
  expect(results.filter((result) => !result.holds)).toEqual([]);
}
