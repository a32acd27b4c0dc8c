import type { Queryable } from '../db/pool.ts';
import { assertBook } from './books.ts';
import { MAIN_BOOK } from './ledger.ts';

interface Sums {
  /** Sum of the accounts that stand on the debit side. */
  readonly debitCents: bigint;
  /** Sum of the accounts that stand on the credit side, as a positive number. */
  readonly creditCents: bigint;
  /** Debit less credit. */
  readonly balanceCents: bigint;
}

interface TrialBalanceLine extends Sums {
  readonly type: string;
  readonly accounts: bigint;
}

interface SuspenseLine extends Sums {
  /** What the old history could not explain: the name of the account. */
  readonly cause: string;
}

export interface TrialBalance extends Sums {
  readonly currency: string;
  /** The currency's exponent: how many decimal places a cent amount is printed with. */
  readonly decimalPlaces: number;
  readonly lines: readonly TrialBalanceLine[];
  /** What the line of type suspense consists of: its accounts that were ever posted to. */
  readonly suspense: readonly SuspenseLine[];
}

/** Sums come as text: those of a type may pass 64 bits, where no single balance does. */
interface Row {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly type: string;
  readonly cause: string | null;
  readonly accounts: bigint;
  readonly debit: string;
  readonly credit: string;
}

/**
 * Every account's balance on its side, by account type, per currency. Debits equal credits, or the books are broken.
 * @throws AppError LEDGER_BOOK_UNKNOWN
 */
export async function trialBalance(db: Queryable, options: { bookId?: number } = {}): Promise<TrialBalance[]> {
  const bookId = options.bookId ?? MAIN_BOOK;
  const { rows } = await db.query<Row>(
    `select a.currency, c.decimal_places as "decimalPlaces", a.type, count(*) as accounts,
            case when a.type = 'suspense' and b.last_seq > 0 then a.name end as cause,
            coalesce(sum(b.balance_cents) filter (where b.balance_cents > 0), 0)::text as debit,
            coalesce(-sum(b.balance_cents) filter (where b.balance_cents < 0), 0)::text as credit
     from payments.accounts a
     join payments.balances b on b.book_id = a.book_id and b.account_id = a.id
     join ref.currencies c on c.code = a.currency
     where a.book_id = $1
     group by a.currency, c.decimal_places, a.type, cause
     order by a.currency, a.type, cause`,
    [bookId],
  );
  // Nothing posted and no such book look the same until somebody asks.
  if (rows.length === 0) await assertBook(db, bookId);
  return [...groupBy(rows, ({ currency }) => currency)].map(([currency, found]) => ({
    currency,
    decimalPlaces: found[0]?.decimalPlaces ?? 0,
    lines: [...groupBy(found, ({ type }) => type)].map(([type, ofType]) => ({
      type,
      accounts: ofType.reduce((sum, row) => sum + row.accounts, 0n),
      ...sumsOf(ofType),
    })),
    suspense: found.flatMap((row) => (row.cause === null ? [] : [{ cause: row.cause, ...sumsOf([row]) }])),
    ...sumsOf(found),
  }));
}

function sumsOf(rows: readonly Row[]): Sums {
  const debitCents = rows.reduce((sum, row) => sum + BigInt(row.debit), 0n);
  const creditCents = rows.reduce((sum, row) => sum + BigInt(row.credit), 0n);
  return { debitCents, creditCents, balanceCents: debitCents - creditCents };
}

// Map.groupBy came with Node 21.
function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}
