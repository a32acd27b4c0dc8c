-- A request with a wrong key is told which; expired holds are written down beside accounts that stay locked.

-- What has a key too many says which.
create function payments.keys_fault(p_value jsonb, p_keys text[]) returns text
language sql stable parallel safe
return case
  when jsonb_typeof(p_value) is distinct from 'object' then 'It is no object:'
  when p_value - p_keys <> '{}' then format('It has the key %s, which is not among these:',
    payments.shown((select min(k) from jsonb_object_keys(p_value - p_keys) k)))
end;

-- As in 0014, with the key.
create or replace function payments.transaction_fault(p_transaction jsonb) returns text
language sql stable parallel safe
return coalesce(payments.keys_fault(p_transaction, array['entries', 'transaction_id', 'idempotency_key', 'idempotency_scope',
      'effective_at', 'reference_type', 'reference_id', 'description', 'metadata', 'announce', 'linked', 'reverses', 'capture']), case
  when jsonb_array_length(payments.entries_of(p_transaction)) not between 2 and 1000
      and (p_transaction ? 'entries' or p_transaction ->> 'reverses' is null) then 'entries has not 2 to 1000 elements:'
  when p_transaction ->> 'transaction_id' is not null and payments.try_uuid(p_transaction ->> 'transaction_id') is null
    then 'transaction_id is no UUID:'
  when p_transaction ->> 'effective_at' is not null and coalesce(payments.try_instant(p_transaction ->> 'effective_at')
      not between '1900-01-01 00:00+00' and '2199-12-31 23:59+00', true)
    then 'effective_at is no instant with its offset, from 1900 to 2199:'
end, payments.labels_fault(p_transaction), case
  when coalesce(jsonb_typeof(p_transaction -> 'announce'), 'null') not in ('string', 'null')
      or length(p_transaction ->> 'announce') > 128 or p_transaction ->> 'announce' !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$'
    then 'announce is no topic:'
  when coalesce(jsonb_typeof(p_transaction -> 'linked'), 'boolean') <> 'boolean' then 'linked is neither true nor false:'
  when p_transaction ? 'reverses' and payments.try_uuid(p_transaction ->> 'reverses') is null then 'reverses is no UUID:'
  when p_transaction ? 'capture' and not (payments.has_only_keys(p_transaction -> 'capture', array['hold_id', 'final'])
      and payments.try_uuid(p_transaction -> 'capture' ->> 'hold_id') is not null
      and coalesce(jsonb_typeof(p_transaction -> 'capture' -> 'final'), 'boolean') = 'boolean')
    then 'capture is no object of hold_id (UUID) and at most final (true or false):'
  when p_transaction ? 'capture' and p_transaction ? 'reverses' then 'capture and reverses exclude each other:'
end);

-- As in 0021, likewise.
create or replace function payments.hold_fault(p_hold jsonb) returns text
language sql stable parallel safe
return coalesce(payments.keys_fault(p_hold, array['account_id', 'amount_cents', 'currency', 'expires_at', 'hold_id', 'idempotency_key',
      'idempotency_scope', 'reference_type', 'reference_id', 'description', 'metadata']), case
  when payments.has_long_numbers(p_hold) then 'It has a number of more than 40 digits:'
  when octet_length(p_hold::text) > 1048576 then 'It has more than 1048576 bytes (1 MiB):'
  when p_hold ->> 'hold_id' is not null and payments.try_uuid(p_hold ->> 'hold_id') is null then 'hold_id is no UUID:'
  when payments.is_named_uuid(p_hold ->> 'hold_id')
    then 'hold_id is a UUID of version 8, which the ledger makes itself (take one of version 4 or 7, or leave it out):'
  when p_hold ->> 'expires_at' is not null and coalesce(payments.try_instant(p_hold ->> 'expires_at')
      not between '1900-01-01 00:00+00' and '2199-12-31 23:59+00', true)
    then 'expires_at is no instant with its offset, from 1900 to 2199:'
end, payments.labels_fault(p_hold));

-- As in 0014, likewise.
create or replace function payments.entries_fault(p_book_id integer, p_entries jsonb) returns jsonb
language sql stable
return (
  with leg as (
    select l.ordinality as number, l.value as body, l.value ->> 'currency' as currency, a.id as account_id,
           a.currency as account_currency, l.value ->> 'amount_cents' as amount
    from jsonb_array_elements(p_entries) with ordinality as l
    left join payments.accounts a on a.book_id = p_book_id and a.id = payments.try_uuid(l.value ->> 'account_id')
  ), fault as (
    select l.number, c.rank, c.code, format('Entry %s: %s', l.number, c.message) as message
    from leg l
    cross join lateral (values
      (1, 'LEDGER_INVALID', concat_ws(' ',
          payments.keys_fault(l.body, array['account_id', 'amount_cents', 'currency', 'description', 'metadata']),
          'it is an object of account_id, amount_cents, currency, and at most description and metadata (an object).'),
        not payments.is_entry(l.body)),
      (2, 'LEDGER_AMOUNT_INVALID', format('amount_cents %s is not a whole number other than 0.', payments.shown(l.amount)),
        coalesce(l.amount, '') !~ '^-?\d{1,30}$' or l.amount ~ '^-?0+$'),
      (3, 'LEDGER_AMOUNT_OVERFLOW', format('amount_cents %s passes what 64 bits hold.', payments.shown(l.amount)),
        payments.try_amount(l.amount) is null),
      (4, 'LEDGER_CURRENCY_UNKNOWN', format('currency %s is not in ref.currencies.', payments.shown(l.currency)),
        not exists (select from ref.currencies c where c.code = l.currency)),
      (5, 'LEDGER_ACCOUNT_UNKNOWN', format('account %s does not exist in book %s: open it first.',
        payments.shown(l.body ->> 'account_id'), p_book_id), l.account_id is null),
      (6, 'LEDGER_CURRENCY_MISMATCH', format('currency %s, but account %s holds %s.', l.currency, l.account_id, l.account_currency),
        l.currency <> l.account_currency)
    ) as c (rank, code, message, applies)
    where c.applies
    union all
    select 1000000, 1, 'LEDGER_UNBALANCED', format('The transaction sums to %s; every transaction must sum to zero per currency.',
      string_agg(format('%s %s', s.cents, s.currency), ', ' order by s.currency))
    from (select l.currency, sum(payments.try_amount(l.amount)) as cents from leg l group by l.currency) s
    where s.cents <> 0
    having count(*) > 0
  )
  select jsonb_build_object('code', f.code, 'message', f.message) from fault f order by f.number, f.rank limit 1
);

-- As in 0022, but of accounts that nobody else has locked, which do not wait for those that somebody keeps locked. Where all are
-- locked it waits for them, so that an account that is never found free has its turn too.
create or replace function payments.expire_holds(p_book_id integer, p_limit integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_due uuid[];
  v_accounts uuid[];
  v_expired integer := 0;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  if p_limit is null or p_limit not between 1 and 100000 then
    perform payments.raise_code('LEDGER_INVALID', format('p_limit is %s: give 1 to 100000.', coalesce(p_limit::text, 'null')));
  end if;
  v_due := array(
    select distinct d.account_id
    from (
      select h.account_id from payments.holds h
      where h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
      order by h.expires_at limit p_limit
    ) d);
  v_accounts := array(
    select b.account_id from payments.balances b
    where b.book_id = p_book_id and b.account_id = any (v_due)
    order by b.account_id for no key update skip locked);
  if v_accounts = '{}' then
    v_accounts := v_due;
    perform payments.lock_accounts(p_book_id, v_accounts);
  end if;
  for i in 1 .. cardinality(v_accounts) loop
    exit when v_expired >= p_limit;
    v_expired := v_expired + payments.expire_account_holds(p_book_id, v_accounts[i], p_limit - v_expired);
  end loop;
  return v_expired;
end $$;

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on function payments.keys_fault(jsonb, text[]) from %s', v_role);
  end loop;
end $$;
