import type { Queryable } from '../db/pool.ts';
import { MAIN_BOOK } from './ledger.ts';

interface TrialBalanceLine {
  readonly type: string;
  readonly accounts: bigint;
  /** Sum of the accounts that stand on the debit side. */
  readonly debitCents: bigint;
  /** Sum of the accounts that stand on the credit side, as a positive number. */
  readonly creditCents: bigint;
}

export interface TrialBalance {
  readonly currency: string;
  /** The currency's exponent: how many decimal places a cent amount is printed with. */
  readonly decimalPlaces: number;
  readonly lines: readonly TrialBalanceLine[];
  readonly debitCents: bigint;
  readonly creditCents: bigint;
}

/** Every account's balance on its side, by account type, per currency. Debits equal credits, or the books are broken. */
export async function trialBalance(db: Queryable, options: { bookId?: number } = {}): Promise<TrialBalance[]> {
  const { rows } = await db.query<TrialBalanceLine & { currency: string; decimalPlaces: number }>(
    `select a.currency, c.decimal_places as "decimalPlaces", a.type, count(*) as accounts,
            coalesce(sum(b.balance_cents) filter (where b.balance_cents > 0), 0)::bigint as "debitCents",
            coalesce(-sum(b.balance_cents) filter (where b.balance_cents < 0), 0)::bigint as "creditCents"
     from payments.accounts a
     join payments.balances b on b.book_id = a.book_id and b.account_id = a.id
     join ref.currencies c on c.code = a.currency
     where a.book_id = $1
     group by a.currency, c.decimal_places, a.type
     order by a.currency, a.type`,
    [options.bookId ?? MAIN_BOOK],
  );
  const byCurrency = new Map<string, typeof rows>();
  for (const row of rows) byCurrency.set(row.currency, [...(byCurrency.get(row.currency) ?? []), row]);
  return [...byCurrency].map(([currency, found]) => ({
    currency,
    decimalPlaces: found[0]?.decimalPlaces ?? 0,
    lines: found.map(({ type, accounts, debitCents, creditCents }) => ({ type, accounts, debitCents, creditCents })),
    debitCents: found.reduce((sum, row) => sum + row.debitCents, 0n),
    creditCents: found.reduce((sum, row) => sum + row.creditCents, 0n),
  }));
}
