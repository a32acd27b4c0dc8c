import type { Pool } from '../../../src/db/pool.ts';
import { post } from '../../../src/ledger/ledger.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../books.ts';
import type { Tampering } from './tampering.ts';

/** Four accounts and five transactions between two of them, the middle one of which is tampered with. */
export interface LogBooks {
  readonly accounts: TestAccounts;
  readonly victim: string;
}

export async function fillLogBooks(pool: Pool): Promise<LogBooks> {
  const accounts = await openTestAccounts(pool);
  let victim = '';
  for (let index = 0; index < 5; index += 1) {
    const posted = await post(
      pool,
      transfer(accounts.clearing, accounts.wallet, { description: `number ${index}`, metadata: { index } }),
    );
    if (index === 2) victim = posted.transactionId;
  }
  return { accounts, victim };
}

// The checks that name a cause; what else fails follows from it.
const LOG = 'no event changed since it was written';
const ACCOUNTS = 'the accounts are what the log opened';
const ENTRIES = 'the entries are what the log posted';
const BALANCES = 'every balance is the sum of its entries';

const entryOf = (b: LogBooks, leg: number) =>
  `book_id = 1 and id = (select min(id) + ${leg} from payments.entries where transaction_id = '${b.victim}')`;

function inventedEntries(b: LogBooks): string {
  return `insert into payments.entries (book_id, id, event_position, account_seq, transaction_id, amount_cents, currency,
      balance_after_cents, effective_at, created_at, account_id, created_by, metadata)
    select 1, last.id + x.n, last.event_position, b.last_seq + 1, last.transaction_id, x.cents, 'USD', b.balance_cents + x.cents,
           now(), now(), x.account_id::uuid, 'owner', '{}'
    from (values (1, 5, '${b.accounts.clearing}'), (2, -5, '${b.accounts.wallet}')) as x (n, cents, account_id)
    join payments.balances b on b.account_id = x.account_id::uuid
    cross join (select * from payments.entries order by id desc limit 1) last`;
}

const STATES = "every account's limits, state and held amount are what the log says";
const SUMS = 'every transaction sums to zero per currency';
const CHART = 'the chart of accounts is what the migrations say';

export const LOG_TAMPERINGS: readonly Tampering<LogBooks>[] = [
  [
    'debit and credit of a transaction, turned round',
    (b) => `update payments.entries set amount_cents = -amount_cents where transaction_id = '${b.victim}'`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the legs of a transaction, in another order',
    (b) =>
      `with other as (select e.id, o.* from payments.entries e join lateral (select account_id, amount_cents, account_seq, balance_after_cents from payments.entries x where x.transaction_id = e.transaction_id and x.id <> e.id) o on true where e.transaction_id = '${b.victim}'),
         moved as (update payments.entries e set account_seq = e.account_seq + 1000 where e.transaction_id = '${b.victim}' returning 1)
       select count(*) from moved;
       update payments.entries e set account_id = o.account_id, amount_cents = o.amount_cents, account_seq = o.account_seq - 1000, balance_after_cents = o.balance_after_cents
       from (select e.id, x.account_id, x.amount_cents, x.account_seq, x.balance_after_cents from payments.entries e join payments.entries x on x.transaction_id = e.transaction_id and x.id <> e.id where e.transaction_id = '${b.victim}') o
       where o.id = e.id`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'who an entry says posted it',
    (b) => `update payments.entries set created_by = 'somebody' where ${entryOf(b, 1)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the reference of an entry',
    (b) => `update payments.entries set reference_type = 'order', reference_id = 'o-1' where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the currency of an entry',
    (b) => `update payments.entries set currency = 'EUR' where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the transaction of an entry',
    (b) => `update payments.entries set transaction_id = gen_random_uuid() where ${entryOf(b, 0)}`,
    () => 'transaction_id is ',
    ENTRIES,
  ],
  [
    'the book of an entry',
    (b) =>
      `insert into payments.books (book_id, name) values (2, 'second'); update payments.entries set book_id = 2 where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the position that an entry names',
    (b) => `update payments.entries set event_position = event_position + 1 where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'a number of an account, left out',
    (b) =>
      `update payments.entries set account_seq = account_seq + 10 where account_id = '${b.accounts.wallet}' and account_seq = 5`,
    () => 'account_seq is 15, posted was 5',
    ENTRIES,
  ],
  [
    'a balance removed',
    (b) => `delete from payments.balances where account_id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    STATES,
  ],
  [
    // PostgreSQL's hash of an int8 is the same.
    'a balance, by 2^32',
    (b) =>
      `update payments.balances set balance_cents = balance_cents + 4294967296 where account_id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    BALANCES,
  ],
  [
    // Here too.
    'a moved effective date, by an hour, eleven minutes and a half and one microsecond',
    (b) =>
      `update payments.entries set effective_at = '2000-01-01 00:00+00'::timestamptz
         + ((extract(epoch from effective_at - '2000-01-01 00:00+00') * 1000000)::bigint # 4294967297) * interval '1 microsecond'
       where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'two transactions, in the log as well, of which each is zero only together with the other',
    (b) => {
      const event = (cents: number) =>
        `row('transaction.posted', gen_random_uuid(), null, null, null, null, '{"entries": [{"account_id": "${b.accounts.wallet}",
           "amount_cents": ${cents}, "currency": "USD"}, {"account_id": "${b.accounts.yen}", "amount_cents": ${-cents}, "currency": "JPY"}]}')::payments.new_event`;
      return `select payments.append_events(1, array[${event(5)}, ${event(-5)}])`;
    },
    () => /sums to -?5 (USD|JPY)/,
    SUMS,
  ],
  [
    'the references of two transactions, exchanged',
    (b) =>
      `update payments.entries set reference_id = 'a', reference_type = 'deal' where transaction_id = '${b.victim}';
       update payments.events set payload = payload || '{"reference_id": "a", "reference_type": "deal"}'
         where position = (select min(position) from payments.events where type = 'transaction.posted');
       update payments.events set leaf_hash = payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type, created_by,
         idempotency_scope, idempotency_key, request_hash, payload)`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'the number of entries of a balance',
    (b) => `update payments.balances set last_seq = last_seq + 1 where account_id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    BALANCES,
  ],
  [
    'balances swapped between accounts',
    (b) =>
      `update payments.balances set balance_cents = -balance_cents where account_id in ('${b.accounts.wallet}', '${b.accounts.clearing}')`,
    (b) => b.accounts.wallet,
    BALANCES,
  ],
  [
    'the currency of a balance',
    (b) => `update payments.balances set currency = 'EUR' where account_id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    STATES,
  ],
  [
    'the type of an account',
    (b) => `update payments.accounts set type = 'payable' where id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    ACCOUNTS,
  ],
  [
    'the name of an account',
    (b) => `update payments.accounts set name = 'other' where id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    ACCOUNTS,
  ],
  [
    'when an account was opened',
    (b) => `update payments.accounts set created_at = created_at - interval '1 day' where id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    ACCOUNTS,
  ],
  [
    'two accounts that changed their ids',
    (b) =>
      `update payments.accounts set id = '00000000-0000-4000-8000-0000000000ff' where id = '${b.accounts.clearing}';
       update payments.accounts set id = '${b.accounts.clearing}' where id = '${b.accounts.yen}';
       update payments.accounts set id = '${b.accounts.yen}' where id = '00000000-0000-4000-8000-0000000000ff'`,
    (b) => b.accounts.clearing,
    ACCOUNTS,
  ],
  [
    'an account that no event opened',
    () =>
      `insert into payments.accounts (id, created_at, event_position, book_id, type, currency, name) values ('00000000-0000-4000-8000-00000000dead', now(), 1, 1, 'cash', 'USD', 'slush')`,
    () => 'account 00000000-0000-4000-8000-00000000dead has no event in the log',
    ACCOUNTS,
  ],
  [
    'the normal side of an account type',
    () => `update payments.account_types set normal_side = 'debit' where type = 'cash'`,
    () => 'account type cash has the normal side debit, expected credit',
    CHART,
  ],
  [
    'an account type removed',
    () => `delete from payments.account_types where type = 'taxes'`,
    () => 'account type taxes is missing',
    CHART,
  ],
  [
    'the exponent of a currency',
    () => `update ref.currencies set decimal_places = 3 where code = 'JPY'`,
    () => 'currency JPY has 3 decimal places, expected 0',
    CHART,
  ],
  [
    'an amount, by an owner who disabled the triggers',
    (b) => `update payments.entries set amount_cents = amount_cents + 1 where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'both amounts of a transaction',
    (b) => `update payments.entries set amount_cents = amount_cents * 2 where transaction_id = '${b.victim}'`,
    (b) => b.victim,
    ENTRIES,
  ],
  ['a deleted entry', (b) => `delete from payments.entries where ${entryOf(b, 1)}`, (b) => b.accounts.wallet, ENTRIES],
  [
    'a deleted transaction',
    (b) => `delete from payments.entries where transaction_id = '${b.victim}'`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'entries swapped between accounts',
    (b) => `update payments.entries set account_id = '${b.accounts.revenue}' where ${entryOf(b, 1)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'a moved effective date',
    (b) => `update payments.entries set effective_at = effective_at - interval '1 month' where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'a changed description',
    (b) => `update payments.entries set description = 'nothing to see' where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'changed metadata',
    (b) => `update payments.entries set metadata = '{"index": 7}' where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  [
    'a changed balance-after',
    (b) => `update payments.entries set balance_after_cents = balance_after_cents + 1 where ${entryOf(b, 0)}`,
    (b) => b.victim,
    ENTRIES,
  ],
  ['an invented pair of entries', (b) => inventedEntries(b), (b) => b.accounts.clearing, ENTRIES],
  [
    'a kept balance',
    (b) => `update payments.balances set balance_cents = balance_cents - 1 where account_id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    BALANCES,
  ],
  [
    'an account given to another holder',
    (b) => `update payments.accounts set user_id = gen_random_uuid() where id = '${b.accounts.wallet}'`,
    (b) => b.accounts.wallet,
    ACCOUNTS,
  ],
  [
    'a deleted account',
    (b) => `delete from payments.accounts where id = '${b.accounts.revenue}'`,
    (b) => b.accounts.revenue,
    ACCOUNTS,
  ],
  [
    "an event's amounts",
    (b) =>
      `update payments.events set payload = jsonb_set(payload, '{entries,0,amount_cents}', '999') where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    "an event's description, in the log and in the entries alike",
    (b) =>
      `with log as (update payments.events set payload = payload || '{"description": "changed"}' where event_id = '${b.victim}') update payments.entries set description = 'changed' where transaction_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    "an event's time, in the log and in the entries alike",
    (b) =>
      `with log as (update payments.events set recorded_at = recorded_at - interval '1 day' where event_id = '${b.victim}') update payments.entries set created_at = created_at - interval '1 day' where transaction_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    "an event's key",
    (b) => `update payments.events set idempotency_scope = 'x', idempotency_key = 'y' where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    "an event's author",
    (b) => `update payments.events set created_by = 'somebody else' where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    'an emptied event',
    (b) => `update payments.events set payload = '{}' where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    'an event made unreadable',
    (b) => `update payments.events set payload = '{"entries": 5}' where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  [
    'an event whose amount is no number',
    (b) =>
      `update payments.events set payload = jsonb_set(payload, '{entries,0,amount_cents}', '"much"') where event_id = '${b.victim}'`,
    (b) => b.victim,
    LOG,
  ],
  ['a deleted event', (b) => `delete from payments.events where event_id = '${b.victim}'`, (b) => b.victim, ENTRIES],
  [
    'two events that changed places',
    (b) =>
      // The first to a place of its own, or the key would be there twice for a moment.
      `with one as (select position from payments.events where event_id = '${b.victim}'),
           other as (select min(position) as position from payments.events where type = 'transaction.posted')
         select set_config('test.one', one.position::text, true), set_config('test.other', other.position::text, true) from one, other;
         update payments.events set position = -1 where position = current_setting('test.one')::bigint;
         update payments.events set position = current_setting('test.one')::bigint where position = current_setting('test.other')::bigint;
         update payments.events set position = current_setting('test.other')::bigint where position = -1`,
    (b) => b.victim,
    LOG,
  ],
];
