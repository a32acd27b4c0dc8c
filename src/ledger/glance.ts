import { randomInt } from 'node:crypto';
import type { Tx } from '../db/pool.ts';
import type { Rows } from './scope.ts';

/** What one glance can clear; each stands for checks that are dear to make row by row. */
export interface Glance {
  /** The entries are, but for their numbers and balances, the legs that the log posted. */
  readonly isAsPosted: boolean;
  /** The entries of every transaction sum to zero per currency, and so do those of every book. */
  readonly isBalanced: boolean;
  /** Every account numbers its entries in the order of the log, carries its balance, and has the last one as its balance. */
  readonly isCarried: boolean;
}

/**
 * Looks at books as a whole, by sums of hashes: where they agree, so do the rows, and nobody need compare them one by one; where
 * they do not, it says nothing about which. The hashes have a seed that is drawn for each glance, so that no rows can be made
 * whose hashes cancel each other out; that two differing sums agree by chance has a probability of 2^-60.
 *
 * PostgreSQL's hash of a record is a sum over its columns, so that two rows could exchange what one column says and nobody would
 * see it in the sum of both: the seed of each record is therefore the hash of its key. And the hash of an int8, or an instant,
 * takes its upper half and its lower one together, so that 1 is like 2^32: they go in as bytes, or half by half.
 *
 * A posting of which a number was written in another way than PostgreSQL would ("007"), or an id in capitals, does not pass a
 * glance, though nothing is wrong with it: the closer look finds that out.
 */
export async function glance(tx: Tx, rows: Rows): Promise<Glance> {
  const seed = randomInt(2 ** 47);
  const posted = await sumsOf(tx, sumOfLegs(rows, seed));
  const entries = await sumsOf(tx, sumsOfEntries(rows, seed));
  const balances = await sumsOf(tx, sumOfBalances(rows, seed));
  const order = await sumsOf(tx, countOutOfOrder(rows, seed));
  return {
    isAsPosted: entries['rows'] === posted['rows'] && entries['legs'] === posted['legs'],
    isBalanced: entries['balance'] === '0',
    isCarried: entries['steps'] === balances['steps'] && order['rows'] === '0',
  };
}

async function sumsOf(tx: Tx, sql: string): Promise<Record<string, string>> {
  const { rows } = await tx.query<Record<string, string>>(sql);
  return rows[0] ?? {};
}

const LEGS = `case when jsonb_typeof(e.payload -> 'entries') = 'array' then jsonb_array_length(e.payload -> 'entries') else 0 end`;

function sumOfLegs({ events }: Rows, seed: number): string {
  const hash = (number: string, text: (key: string) => string, metadata: string) => `hash_record_extended(row(
      lower(${text('account_id')}), ${text('amount_cents')}, ${text('currency')},
      coalesce(${text('description')}, e.payload ->> 'description'), coalesce(${metadata}, e.payload -> 'metadata', '{}')::text,
      e.event_id, timestamptz_send(e.effective_at), timestamptz_send(e.recorded_at), e.created_by, e.payload ->> 'reference_type',
      e.payload ->> 'reference_id'), ${seedOfLeg('e.book_id', 'e.position', number, seed)})`;
  const at = (nth: number) =>
    hash(
      `${nth + 1}`,
      (key) => `(e.payload #>> '{entries,${nth},${key}}')`,
      `e.payload #> '{entries,${nth},metadata}'`,
    );
  const each = hash('l.ordinality', (key) => `(l.value ->> '${key}')`, `l.value -> 'metadata'`);
  // Nearly all postings have two legs, which are read where they are, by two processes: taking arrays apart costs three times as
  // much, and whatever is a query of its own is left to one.
  return `
    select coalesce(sum(legs), 0)::text as legs, coalesce(sum(rows), 0)::text as rows
    from (
      select sum(${at(0)}::numeric + ${at(1)}) as legs, 2 * count(*) as rows
      from ${events} e
      where e.type = 'transaction.posted' and ${LEGS} = 2
      union all
      select sum(${each}), count(*)
      from ${events} e
      cross join lateral jsonb_array_elements(e.payload -> 'entries') with ordinality as l
      where e.type = 'transaction.posted' and ${LEGS} not in (0, 2)
    ) s`;
}

// Three sums in one pass. legs: over what the log must have said. balance: the amounts, each times a number that is drawn for its
// transaction and currency; it is zero only where each of these sums to zero. steps: from one number and balance of an
// account to the next: of a whole chain only its ends are left.
function sumsOfEntries({ entries }: Rows, seed: number): string {
  return `
    select count(*)::text as rows,
           coalesce(sum(hash_record_extended(row(
             n.account_id::text, n.amount_cents::text, n.currency, n.description, n.metadata::text, n.transaction_id,
             timestamptz_send(n.effective_at), timestamptz_send(n.created_at), n.created_by, n.reference_type, n.reference_id),
             ${seedOfLeg('n.book_id', 'n.event_position', 'n.id - (n.event_position << 10)', seed)})), 0)::text as legs,
           coalesce(sum(n.amount_cents * hashtextextended(n.currency, uuid_hash_extended(n.transaction_id, ${seedOfBook('n.book_id', seed)}))::numeric), 0)::text
             as balance,
           coalesce(sum(${standing('n.account_seq', 'n.balance_after_cents', seed)}
             - ${standing('greatest(n.account_seq, 0) - 1', BALANCE_BEFORE, seed)}), 0)::text as steps
    from ${entries} n`;
}

function sumOfBalances({ balances }: Rows, seed: number): string {
  return `
    select coalesce(sum(${standing('n.last_seq', 'n.balance_cents', seed)} - ${standing('0', '0', seed)}), 0)::text as steps
    from ${balances} n`;
}

/** How an account stands after an entry, as a number. */
const standing = (seq: string, cents: string, seed: number) =>
  `${hashOfNumber(cents, hashOfNumber(seq, `uuid_hash_extended(n.account_id, ${seedOfBook('n.book_id', seed)})`))}::numeric`;

/** Half by half, because PostgreSQL's own takes both together. */
const hashOfNumber = (number: string, seed: string) =>
  `hashint8extended((${number})::bigint, hashint8extended((${number})::bigint >> 32, ${seed}))`;

const seedOfBook = (bookId: string, seed: number) => `hashint4extended(${bookId}, ${seed})`;
const seedOfLeg = (bookId: string, position: string, number: string, seed: number) =>
  hashOfNumber(number, hashOfNumber(position, seedOfBook(bookId, seed)));

// Where it would pass 64 bits, which only somebody's own hand brings about, any number but the right one will do.
const BALANCE_BEFORE = `case
      when n.amount_cents > 0 and n.balance_after_cents < -9223372036854775807 + n.amount_cents
        or n.amount_cents < 0 and n.balance_after_cents > 9223372036854775807 + n.amount_cents then 0
      else n.balance_after_cents - n.amount_cents end`;

// Accounts by their hash, because numbers are sorted faster than ids. Whoever is not the first of his account follows his
// predecessor, if accounts number their entries without a gap.
function countOutOfOrder({ entries }: Rows, seed: number): string {
  return `
    select count(*)::text as rows
    from (
      select n.account_seq, n.id, lag(n.id) over (order by n.account, n.account_seq) as before
      from (
        select hash_record_extended(row(n.book_id, n.account_id), ${seed}) as account, n.account_seq, n.id from ${entries} n
      ) n
    ) n
    where n.account_seq > 1 and (n.id < n.before) is not false`;
}
