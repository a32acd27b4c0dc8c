import type { Check } from '../db/checks.ts';
import type { Glance } from './glance.ts';
import type { Rows } from './scope.ts';

/**
 * Every leg that the events of the log say there is, with what its entry must say; nothing here fails on a spoilt payload. A
 * position beyond all sense gives ids that no entry has.
 */
const replayedLegs = ({ events, standings }: Rows) => `
  select l.*, coalesce(s.seq, 0) + sum(1) over in_account as account_seq,
         coalesce(s.cents, 0) + sum(l.amount_cents) over in_account as balance_after_cents
  from (
    select e.book_id, least(e.position, 9007199254740990) * 1024 + l.ordinality as id, e.position as event_position,
           payments.try_amount(l.value ->> 'amount_cents') as amount_cents,
           e.effective_at, e.recorded_at as created_at, payments.try_uuid(l.value ->> 'account_id') as account_id,
           e.event_id as transaction_id, l.value ->> 'currency' as currency, e.created_by,
           e.payload ->> 'reference_type' as reference_type, e.payload ->> 'reference_id' as reference_id,
           coalesce(l.value ->> 'description', e.payload ->> 'description') as description,
           coalesce(l.value -> 'metadata', e.payload -> 'metadata', '{}'::jsonb) as metadata
    from ${events} e
    cross join lateral jsonb_array_elements(payments.entries_of(e.payload)) with ordinality as l
    where e.type = 'transaction.posted'
  ) l
  left join ${standings} s on s.book_id = l.book_id and s.account_id = l.account_id
  window in_account as (partition by l.book_id, l.account_id order by l.id rows unbounded preceding)`;

const ENTRY_COLUMNS = [
  'event_position',
  'account_seq',
  'amount_cents',
  'balance_after_cents',
  'effective_at',
  'created_at',
  'account_id',
  'transaction_id',
  'currency',
  'created_by',
  'reference_type',
  'reference_id',
  'description',
  'metadata',
];

/** That the books, the accounts and the entries are what the log says. */
export function projectionChecks(rows: Rows, look: () => Promise<Glance>): Check[] {
  return [
    {
      // A book may have been there before any event opened one: then nothing says how it is called.
      name: 'the books are what the log opened',
      unit: 'books',
      examined: `select count(*) from ${rows.books} b`,
      faults: `
        select format('book %s %s', book_id, case
                 when b.name is null then 'is in the log and not among the books'
                 else format('is called %s, its event in the log opened it as %s', to_json(b.name), to_json(e.name)) end)
        from ${rows.books} b
        full join (
          select book_id, (array_agg(payload ->> 'name' order by position desc) filter (where type = 'book.opened'))[1] as name
          from ${rows.bookEvents} e group by book_id
        ) e using (book_id)
        where b.name is null or b.name <> e.name
        order by book_id`,
    },
    {
      name: 'the accounts are what the log opened',
      unit: 'accounts and slots',
      examined: `select count(*) from ${rows.accounts} a`,
      faults: `
        select format('account %s %s', id, case
                 when a.event_position is null then 'is in the log and not among the accounts'
                 when e.position is null then 'has no event in the log'
                 else 'differs from its event ' || e.position end)
        from ${rows.accounts} a
        full join (
          select book_id, event_id as id, position, recorded_at, payload from ${rows.rareEvents} e where type = 'account.opened'
        ) e using (book_id, id)
        where a.event_position is distinct from e.position
          or (a.type, a.currency, a.name, a.user_id::text, a.organization_id::text, a.created_at) is distinct from
             (e.payload ->> 'type', e.payload ->> 'currency', e.payload ->> 'name', e.payload ->> 'user_id',
              e.payload ->> 'organization_id', e.recorded_at)
        order by id`,
    },
    {
      name: 'the entries are what the log posted',
      unit: 'entries',
      examined: `select count(*) from ${rows.entries} e`,
      isCleared: async () => {
        const { isAsPosted, isCarried } = await look();
        return isAsPosted && isCarried;
      },
      faults: `
        select format('entry %s %s', id, case
                 when e.amount_cents is null then format('(event %s, transaction %s, account %s, %s %s) is in the log and not among the entries',
                   r.event_position, r.transaction_id, r.account_id, r.amount_cents, r.currency)
                 when r.amount_cents is null then format('(transaction %s, account %s, %s %s) has no event in the log',
                   e.transaction_id, e.account_id, e.amount_cents, e.currency)
                 else format('of transaction %s differs from its event %s: %s', e.transaction_id, r.event_position, concat_ws(', ',
                   ${ENTRY_COLUMNS.map(
                     (column) =>
                       `case when e.${column} is distinct from r.${column} then format('${column} is %s, posted was %s', e.${column}, r.${column}) end`,
                   ).join(',\n                   ')})) end)
        from ${rows.entries} e
        full join (${replayedLegs(rows)}) r using (book_id, id)
        where ${ENTRY_COLUMNS.map((column) => `e.${column} is distinct from r.${column}`).join('\n          or ')}
        order by id`,
    },
  ];
}

/** That the entries sum to zero, and add up to the balances. */
export function sumChecks(rows: Rows, look: () => Promise<Glance>): Check[] {
  const isBalanced = async () => (await look()).isBalanced;
  const isCarried = async () => (await look()).isCarried;
  return [
    {
      name: 'every transaction sums to zero per currency',
      unit: 'transactions',
      examined: `select count(*) from ${rows.events} e where type = 'transaction.posted'`,
      isCleared: isBalanced,
      faults: `
        select format('transaction %s sums to %s %s', transaction_id, sum(amount_cents), currency)
        from ${rows.entries} e group by book_id, transaction_id, currency having sum(amount_cents) <> 0
        order by min(id)`,
    },
    {
      name: 'every book sums to zero per currency',
      unit: 'entries',
      examined: `select count(*) from ${rows.entries} e`,
      isCleared: isBalanced,
      faults: `
        select format('book %s sums to %s %s', book_id, sum(amount_cents), currency)
        from ${rows.entries} e group by book_id, currency having sum(amount_cents) <> 0 order by book_id, currency`,
    },
    {
      name: 'every account numbers its entries without gaps and carries its balance',
      unit: 'entries',
      examined: `select count(*) from ${rows.entries} e`,
      isCleared: isCarried,
      faults: `
        select format('entry %s is number %s of account %s with balance %s after it, expected number %s and %s', id,
                      account_seq, account_id, balance_after_cents, expected_seq, expected_balance)
        from (
          select e.id, e.account_id, e.account_seq, e.balance_after_cents,
                 coalesce(s.seq, 0) + row_number() over in_account as expected_seq,
                 coalesce(s.cents, 0) + sum(e.amount_cents) over in_account as expected_balance
          from ${rows.entries} e
          left join ${rows.standings} s on s.book_id = e.book_id and s.account_id = e.account_id
          window in_account as (partition by e.book_id, e.account_id order by e.account_seq rows unbounded preceding)
        ) history
        where account_seq <> expected_seq or balance_after_cents <> expected_balance
        order by id`,
    },
    {
      name: 'every balance is the sum of its entries',
      unit: 'accounts and slots',
      examined: `select count(*) from ${rows.balances} b`,
      isCleared: isCarried,
      faults: `
        select format('account %s has balance %s after %s entries, its %s entries sum to %s', account_id,
                      coalesce(b.balance_cents::text, 'none'), coalesce(b.last_seq::text, 'no'), coalesce(s.entries, 0),
                      coalesce(s.cents, 0))
        from ${rows.balances} b
        full join (
          select book_id, account_id, sum(cents) as cents, sum(entries) as entries
          from (
            select book_id, account_id, sum(amount_cents) as cents, count(*) as entries
            from ${rows.entries} e group by book_id, account_id
            union all
            select book_id, account_id, cents, seq from ${rows.standings} s
          ) s
          group by book_id, account_id
        ) s using (book_id, account_id)
        full join (select book_id, id as account_id from ${rows.accounts} a) a using (book_id, account_id)
        where b.balance_cents is distinct from coalesce(s.cents, 0) or b.last_seq is distinct from coalesce(s.entries, 0)
        order by account_id`,
    },
  ];
}
