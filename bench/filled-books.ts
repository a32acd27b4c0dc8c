import { openPool, type Pool } from '../src/db/pool.ts';
import { openAccounts } from '../src/ledger/ledger.ts';
import { print } from './figures.ts';

const CALL_TRANSACTIONS = 1_000;
const CALL_ACCOUNTS = 10_000;
const WRITERS = 2;

/**
 * Posts so many transactions of two entries between accounts of its own: by calls of 1,000 that the server writes to itself, on
 * two connections that share no account.
 * @param books.days effective at random within so many days up to now, every one; when left out, when they are posted
 */
export async function fillBooks(
  databaseUrl: string,
  { accounts, transactions, days }: { accounts: number; transactions: number; days?: number },
): Promise<void> {
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: WRITERS }, async (_, writer) => {
      const pool = await openPool({ databaseUrl, max: 1 });
      try {
        await pool.query('set synchronous_commit = off');
        const ids = await open(pool, writer, accounts / WRITERS);
        await fill(pool, ids, { transactions: transactions / WRITERS, days });
      } finally {
        await pool.end();
      }
    }),
  );
  const seconds = (performance.now() - startedAt) / 1_000;
  print(`filled with ${transactions} transactions, ${Math.round(transactions / seconds)}/s`);
}

/** By calls of as many as one may have. */
async function open(pool: Pool, writer: number, accounts: number): Promise<string[]> {
  const ids: string[] = [];
  while (ids.length < accounts) {
    const next = Array.from({ length: Math.min(CALL_ACCOUNTS, accounts - ids.length) }, (_, at) => ids.length + at);
    const opened = await openAccounts(
      pool,
      next.map((nth) => ({
        type: nth % 2 === 0 ? 'payable' : 'receivable',
        currency: 'USD',
        name: `of_${writer}_${nth}`,
      })),
    );
    ids.push(...opened);
  }
  return ids;
}

async function fill(
  pool: Pool,
  accountIds: readonly string[],
  { transactions, days }: { transactions: number; days: number | undefined },
): Promise<void> {
  for (let done = 0; done < transactions; done += CALL_TRANSACTIONS) {
    await pool.query(
      `select count(*) from payments.post_transactions(1, (
         select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'effective_at', now() - random() * $4::int * interval '1 day', 'idempotency_key', gen_random_uuid(), 'reference_type', 'order', 'reference_id', n.number::text,
           'entries', jsonb_build_array(
             jsonb_build_object('account_id', ($1::uuid[])[n.debit], 'amount_cents', n.cents, 'currency', 'USD'),
             jsonb_build_object('account_id', ($1::uuid[])[n.debit % cardinality($1::uuid[]) + 1], 'amount_cents', -n.cents, 'currency', 'USD')))))
         from (
           select number, 1 + floor(random() * cardinality($1::uuid[]))::int as debit, 1 + floor(random() * 100000)::int as cents
           from generate_series($2::int, $2::int + $3::int - 1) as number offset 0
         ) n))`,
      [accountIds, done, Math.min(CALL_TRANSACTIONS, transactions - done), days ?? null],
    );
  }
}
