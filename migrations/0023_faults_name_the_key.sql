-- A request with a wrong key is told which. A reversal is measured by the entries of what it reverses. An account whose balance
-- somebody removed is refused.

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

-- As in 0014, likewise; an account without its balance, which posting would wait for, is refused.
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
        l.currency <> l.account_currency),
      (7, 'LEDGER_ACCOUNT_UNKNOWN', format('account %s, or a slot of it, has no balance, so that somebody changed the books by hand: see liventix books verify.', l.account_id),
        exists (
          select from (select l.account_id union all
                       select s.slot_account_id from payments.account_slots s where s.book_id = p_book_id and s.account_id = l.account_id) of_it (id)
          where not exists (select from payments.balances b where b.book_id = p_book_id and b.account_id = of_it.id)))
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

-- As in 0021; a reversal that names no entries has those of what it reverses.
create or replace function payments.request_fault(p_transaction jsonb) returns jsonb
language plpgsql stable parallel safe as $$
declare
  v_bytes integer;
  v_fault text;
begin
  if payments.has_long_numbers(p_transaction) then
    return jsonb_build_object('code', 'LEDGER_INVALID', 'message',
      'The transaction has a number of more than 40 digits: give it as text.');
  end if;
  v_bytes := octet_length(p_transaction::text);
  v_fault := coalesce(payments.transaction_fault(p_transaction), case when payments.is_named_uuid(p_transaction ->> 'transaction_id')
    then 'transaction_id is a UUID of version 8, which the ledger makes itself (take one of version 4 or 7, or leave it out):' end);
  return case
    when v_bytes > 1048576 then jsonb_build_object('code', 'LEDGER_INVALID', 'message', format(
      'The transaction has %s bytes, more than 1048576 (1 MiB): keep documents elsewhere and refer to them.', v_bytes))
    when octet_length(concat(p_transaction -> 'metadata', p_transaction ->> 'description', p_transaction ->> 'reference_type', p_transaction ->> 'reference_id'))::bigint
        * case when p_transaction ? 'entries' then jsonb_array_length(payments.entries_of(p_transaction)) else (
          select max(jsonb_array_length(payments.entries_of(e.payload)))
          from payments.events e where e.event_id = payments.try_uuid(p_transaction ->> 'reverses')
        ) end > 16777216
      then jsonb_build_object('code', 'LEDGER_INVALID', 'message',
        'metadata, description and reference are kept with each entry, and would come to more than 16777216 bytes (16 MiB): give them less, or to fewer entries.')
    when v_fault is not null then jsonb_build_object('code', 'LEDGER_INVALID', 'message', v_fault ||
      ' a transaction is an object of 2 to 1000 entries (none: reverse all), transaction_id (UUID), effective_at (an instant with its offset), idempotency_key, idempotency_scope, reference_type, reference_id, description, metadata (an object), announce (a topic), linked (to the next), reverses (a transaction), capture (a hold), and nothing else.')
  end;
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
