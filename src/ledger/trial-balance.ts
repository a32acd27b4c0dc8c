import type { Queryable } from '../db/pool.ts';
import { ask } from './ask.ts';
import { assertBook } from './books.ts';
import { assertInstant, assertOrder, type HistoryOrder } from './history.ts';
import { assertBookId, assertObject, assertOptions } from './input.ts';
import type { Instant } from './instants.ts';
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

/** Numbers come as text: sums of a type may pass 64 bits, where no single balance does. */
interface Row {
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly type: string;
  readonly cause: string | null;
  readonly accounts: string;
  readonly debit: string;
  readonly credit: string;
}

/** The instant that a trial balance is made as of. */
export interface AsOf {
  readonly at: Instant;
  /** As it was recorded at the instant, or by what was effective at it as far as is known now. */
  readonly by: HistoryOrder;
}

/**
 * Every account's balance on its side, by account type, per currency. Debits equal credits, or the books are broken.
 * Without `asOf`, as the balances are kept now; as of an instant, from all entries of the book.
 * @throws AppError LEDGER_BOOK_UNKNOWN, LEDGER_INVALID
 */
export async function trialBalance(
  db: Queryable,
  options: { bookId?: number; asOf?: AsOf | undefined } = {},
): Promise<TrialBalance[]> {
  assertOptions(options, 'bookId', 'asOf');
  const { asOf } = options;
  const bookId = options.bookId ?? MAIN_BOOK;
  assertBookId(bookId);
  const rows = asOf === undefined ? await kept(db, bookId) : await recomputed(db, bookId, asOf);
  // Nothing posted and no such book look the same until somebody asks.
  if (rows.length === 0) await assertBook(db, bookId);
  return [...groupBy(rows, ({ currency }) => currency)].map(([currency, found]) => ({
    currency,
    decimalPlaces: found[0]?.decimalPlaces ?? 0,
    lines: [...groupBy(found, ({ type }) => type)].map(([type, ofType]) => ({
      type,
      accounts: ofType.reduce((sum, row) => sum + BigInt(row.accounts), 0n),
      ...sumsOf(ofType),
    })),
    suspense: found.flatMap((row) => (row.cause === null ? [] : [{ cause: row.cause, ...sumsOf([row]) }])),
    ...sumsOf(found),
  }));
}

async function kept(db: Queryable, bookId: number): Promise<Row[]> {
  const { rows } = await db.query<Row>(
    `select a.currency, c.decimal_places as "decimalPlaces", a.type, count(*)::text as accounts,
            case when a.type = 'suspense' and b.entries > 0 then a.name end as cause,
            coalesce(sum(b.cents) filter (where b.cents > 0), 0)::text as debit,
            coalesce(-sum(b.cents) filter (where b.cents < 0), 0)::text as credit
     from (
       select coalesce(k.account_id, b.account_id) as account_id, sum(b.balance_cents) as cents, sum(b.last_seq) as entries
       from payments.balances b
       left join payments.account_slots k on k.book_id = b.book_id and k.slot_account_id = b.account_id
       where b.book_id = $1
       group by 1
     ) b
     join payments.accounts a on a.book_id = $1 and a.id = b.account_id
     join ref.currencies c on c.code = a.currency
     group by a.currency, c.decimal_places, a.type, cause
     order by a.currency, a.type, cause`,
    [bookId],
  );
  return rows;
}

async function recomputed(db: Queryable, bookId: number, asOf: AsOf): Promise<readonly Row[]> {
  assertObject('asOf', asOf, AS_OF_FIELDS);
  const { at, by } = asOf;
  assertInstant(at);
  assertOrder(by);
  return ask<Row>(
    db,
    `select currency, decimal_places as "decimalPlaces", type, accounts::text as accounts, cause, debit_cents::text as debit, credit_cents::text as credit
     from payments.trial_balance($1, $2, $3)`,
    [bookId, by, at],
  );
}

const AS_OF_FIELDS: ReadonlySet<string> = new Set(['at', 'by'] satisfies (keyof AsOf)[]);

function sumsOf(rows: readonly Row[]): Sums {
  const debitCents = rows.reduce((sum, row) => sum + BigInt(row.debit), 0n);
  const creditCents = rows.reduce((sum, row) => sum + BigInt(row.credit), 0n);
  return { debitCents, creditCents, balanceCents: debitCents - creditCents };
}

// Map.groupBy came with Node 21.
function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}
