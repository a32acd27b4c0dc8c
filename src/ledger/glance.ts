import { randomInt } from 'node:crypto';
import type { Tx } from '../db/pool.ts';
import type { Rows } from './scope.ts';

/** What one glance can clear; each stands for checks that are dear to make row by row. */
export interface Glance {
  /** Every event has the leaf hash that it was written with. */
  readonly isUnchanged: boolean;
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
 * whose hashes cancel each other out.
 *
 * PostgreSQL's hash of a record is a sum over its columns, so that two rows could exchange what one column says and nobody would
 * see it in the sum of both: the seed of each record is therefore the hash of its key. And the hash of an int8, or an instant,
 * takes its upper half and its lower one together, so that 1 is like 2^32: they go in as text or bytes, or half by half.
 *
 * Where somebody wrote an amount in another way than PostgreSQL would ("007"), the legs are looked at once more, with each amount
 * read as a number, which takes longer.
 */
export async function glance(tx: Tx, rows: Rows): Promise<Glance> {
  const seed = randomInt(2 ** 47);
  const legsOf = async (amount: ReadAmount) => {
    const events = await sumsOf(tx, sumsOfEvents(rows, seed, amount));
    const others =
      events['others'] === 0n ? { legs: 0n, rows: 0n } : await sumsOf(tx, sumOfOtherLegs(rows, seed, amount));
    return {
      isUnchanged: events['changed'] === 0n,
      rows: (events['rows'] ?? 0n) + (others['rows'] ?? 0n),
      legs: (events['legs'] ?? 0n) + (others['legs'] ?? 0n),
    };
  };
  const posted = await legsOf(AS_WRITTEN);
  const entries = await sumsOf(tx, sumsOfEntries(rows, seed));
  const accounts = await sumsOf(tx, sumsOfAccounts(rows, seed));
  return {
    isUnchanged: posted.isUnchanged,
    isAsPosted:
      entries['rows'] === posted.rows &&
      (entries['legs'] === posted.legs || entries['legs'] === (await legsOf(AS_NUMBER)).legs),
    isBalanced: entries['balance'] === 0n,
    isCarried: entries['steps'] === accounts['steps'] && accounts['outOfOrder'] === 0n && accounts['gone'] === 0n,
  };
}

/** Sums pass 64 bits, and come as text. */
async function sumsOf(tx: Tx, sql: string): Promise<Record<string, bigint>> {
  const { rows } = await tx.query<Record<string, string>>(sql);
  return Object.fromEntries(Object.entries(rows[0] ?? {}).map(([name, sum]) => [name, BigInt(sum)]));
}

/** Of an event e. */
export const LEAF_DIFFERS = `e.leaf_hash is distinct from payments.event_leaf_hash(e.book_id, e.position, e.event_id, e.effective_at,
        e.recorded_at, e.type, e.created_by, e.idempotency_scope, e.idempotency_key, e.request_hash, e.payload)`;

const IS_PAIR = `(e.type = 'transaction.posted' and case jsonb_typeof(e.payload -> 'entries')
      when 'array' then jsonb_array_length(e.payload -> 'entries') = 2 else false end)`;

/** SQL of an amount that is to be hashed, from that of its text in the log. */
type ReadAmount = (text: string) => string;
const AS_WRITTEN: ReadAmount = (text) => text;
const AS_NUMBER: ReadAmount = (text) => `payments.try_amount(${text})::text`;

interface Leg {
  readonly number: string;
  readonly text: (key: string) => string;
  readonly metadata: string;
}

function legHash(seed: number, amount: ReadAmount, { number, text, metadata }: Leg): string {
  return `hash_record_extended(row(
      lower(${text('account_id')}), ${amount(text('amount_cents'))}, ${text('currency')},
      coalesce(${text('description')}, e.payload ->> 'description'), coalesce(${metadata}, e.payload -> 'metadata', '{}')::text,
      e.event_id, timestamptz_send(e.effective_at), timestamptz_send(e.recorded_at), e.created_by, e.payload ->> 'reference_type',
      e.payload ->> 'reference_id'), ${seedOfLeg('e.book_id', 'e.position', number, seed)})`;
}

// Nearly all postings have two legs, which are read where they are, by several processes: taking arrays apart costs three times
// as much. The others are left for a pass of their own, if there are any.
function sumsOfEvents({ events }: Rows, seed: number, amount: ReadAmount): string {
  const at = (nth: number) =>
    legHash(seed, amount, {
      number: `${nth + 1}`,
      text: (key) => `(e.payload #>> '{entries,${nth},${key}}')`,
      metadata: `e.payload #> '{entries,${nth},metadata}'`,
    });
  return `
    select (count(*) filter (where ${LEAF_DIFFERS}))::text as changed,
           coalesce(sum(case when ${IS_PAIR} then ${at(0)}::numeric + ${at(1)} end), 0)::text as legs,
           (2 * count(*) filter (where ${IS_PAIR}))::text as rows,
           (count(*) filter (where e.type = 'transaction.posted') - count(*) filter (where ${IS_PAIR}))::text as others
    from ${events} e`;
}

function sumOfOtherLegs({ events }: Rows, seed: number, amount: ReadAmount): string {
  const leg = legHash(seed, amount, {
    number: 'l.ordinality',
    text: (key) => `(l.value ->> '${key}')`,
    metadata: `l.value -> 'metadata'`,
  });
  return `
    select coalesce(sum(${leg}), 0)::text as legs, count(*)::text as rows
    from ${events} e
    cross join lateral jsonb_array_elements(case jsonb_typeof(e.payload -> 'entries') when 'array' then e.payload -> 'entries' end)
      with ordinality as l
    where e.type = 'transaction.posted' and not ${IS_PAIR}`;
}

// Three sums in one pass. legs: over what the log must have said. balance: the amounts, each times a number that is drawn for its
// transaction and currency; it is zero only where each of these sums to zero. steps: from one number and balance of an
// account to the next: of a whole chain only its ends are left.
function sumsOfEntries({ entries }: Rows, seed: number): string {
  const leg = `hash_record_extended(row(
             n.account_id::text, n.amount_cents::text, n.currency, n.description, n.metadata::text, n.transaction_id,
             timestamptz_send(n.effective_at), timestamptz_send(n.created_at), n.created_by, n.reference_type, n.reference_id),
             ${seedOfLeg('n.book_id', 'n.event_position', 'n.id - (n.event_position << 10)', seed)})`;
  const drawn = `hashtextextended(n.currency, uuid_hash_extended(n.transaction_id, ${seedOfBook('n.book_id', seed)}))::numeric`;
  const after = standing('n.account_seq', 'n.balance_after_cents', seed);
  const before = standing('greatest(n.account_seq, 0) - 1', BALANCE_BEFORE, seed);
  return `
    select count(*)::text as rows, coalesce(sum(${leg}), 0)::text as legs,
           coalesce(sum(n.amount_cents * ${drawn}), 0)::text as balance,
           coalesce(sum(${after} - ${before}), 0)::text as steps
    from ${entries} n`;
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

// steps: from how the accounts stood before to their balances. gone: balances of such accounts that are not there: in steps, one
// that stood and has not moved is nothing either way. outOfOrder: in the order of the log, the entries of an account have
// the numbers 1, 2, 3 …, and so their chain hash is that of these numbers; two of them, because each keeps 32 bits from one number
// to the next. Entries come by an index in that order: to sort them by account took three times as long as all else.
function sumsOfAccounts({ entries, balances, standings, areAll }: Rows, seed: number): string {
  // Of a whole history no account stood anywhere before; and beside a join PostgreSQL would sort.
  const numbers = areAll
    ? `select n.book_id, n.account_id, n.account_seq from ${entries} n order by n.id`
    : `select n.book_id, n.account_id, n.account_seq - coalesce(s.seq, 0) as account_seq
       from ${entries} n
       left join stood s on s.book_id = n.book_id and s.account_id = n.account_id
       order by n.id`;
  const chains = (number: string) =>
    [seed, seed + 1].map((mixed) => `payments.chain_hash(${number} # ${mixed})`) as [string, string];
  const [first, second] = chains('n.account_seq');
  const [expectedFirst, expectedSecond] = chains('e.number');
  return `
    with stood as materialized (
      select s.* from ${standings} s
    ), numbered as materialized (
      select n.book_id, n.account_id, count(*) as entries, ${first} as first, ${second} as second
      from (${numbers}) n
      group by n.book_id, n.account_id
    )
    select (
      select coalesce(sum(${standing('n.last_seq', 'n.balance_cents', seed)}
               - ${standing('coalesce(s.seq, 0)', 'coalesce(s.cents, 0)', seed)}), 0)
      from ${balances} n
      left join stood s on s.book_id = n.book_id and s.account_id = n.account_id
    )::text as steps, (
      select count(*)
      from stood s
      where not exists (select from ${balances} n where n.book_id = s.book_id and n.account_id = s.account_id)
    )::text as gone, (
      select count(*)
      from numbered n
      left join (
        select e.number, ${expectedFirst} over upward as first, ${expectedSecond} over upward as second
        from generate_series(1, (select max(n.entries) from numbered n)) as e (number)
        window upward as (order by e.number)
      ) e on e.number = n.entries
      where (n.first, n.second) is distinct from (e.first, e.second)
    )::text as "outOfOrder"`;
}
