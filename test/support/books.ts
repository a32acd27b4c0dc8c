import { expect } from 'vitest';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { type NewTransaction, openAccounts } from '../../src/ledger/ledger.ts';
import { type CheckResult, runChecks } from '../../src/ledger/verify.ts';
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

/** Every table of the ledger and the outbox, by count and hash of its rows, as one text: what changes when anything is written. */
export async function ledgerState(db: Queryable): Promise<string> {
  const { rows: tables } = await db.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c
     where c.relkind = 'r' and (c.relnamespace = 'payments'::regnamespace or c.oid = 'public.outbox'::regclass)
     order by 1`,
  );
  const hashes = tables.map(
    ({ name }) =>
      `(select concat('${name} ', count(*), ' ', sum(hashtextextended(t::text, 0)::numeric)) from ${name} t)`,
  );
  const { rows } = await db.query<{ state: string }>(`select concat_ws(e'\\n', ${hashes.join(', ')}) as state`);
  return rows[0]?.state ?? '';
}

/** As `ledgerState`, with every trigger and how it is enabled. */
export async function liveState(db: Queryable): Promise<string> {
  const { rows } = await db.query<{ triggers: string }>(
    `select string_agg(concat(tgrelid::regclass, ' ', tgname, ' ', tgenabled), ', ' order by tgrelid, tgname) as triggers
     from pg_trigger where not tgisinternal`,
  );
  return `${await ledgerState(db)}\n${rows[0]?.triggers}`;
}
