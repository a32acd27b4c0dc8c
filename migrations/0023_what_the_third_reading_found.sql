-- What the third reading found: announcements are told by a column, not by what a payload says; expired holds are written down
-- beside accounts that stay locked; a request with a wrong key is told which; who acts has a name of bounded length.

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
      (7, 'LEDGER_ACCOUNT_UNKNOWN', format('account %s has no balance, so that somebody changed the books by hand: see liventix books verify.', l.account_id),
        not exists (select from payments.balances b where b.book_id = p_book_id and b.account_id = l.account_id))
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

-- As in 0022, but past accounts that somebody else has locked. Only where there is nothing else, the one that is due for longest is
-- waited for, so that one that is never found free has its turn too.
create or replace function payments.expire_holds(p_book_id integer, p_limit integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_account_id uuid;
  v_seen uuid[] := '{}';
  v_locked uuid;
  v_expired integer := 0;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  if p_limit is null or p_limit not between 1 and 100000 then
    perform payments.raise_code('LEDGER_INVALID', format('p_limit is %s: give 1 to 100000.', coalesce(p_limit::text, 'null')));
  end if;
  -- Locks are taken out of order here, and none is waited for.
  for v_account_id in
    select h.account_id from payments.holds h
    where h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
    order by h.expires_at
  loop
    exit when v_expired >= p_limit;
    continue when v_account_id = any (v_seen);
    v_seen := v_seen || v_account_id;
    perform from payments.balances b where b.account_id = v_account_id and b.book_id = p_book_id for no key update skip locked;
    if found then
      v_expired := v_expired + payments.expire_account_holds(p_book_id, v_account_id, p_limit - v_expired);
    else
      v_locked := coalesce(v_locked, v_account_id);
    end if;
  end loop;
  if v_expired = 0 and v_locked is not null then
    perform payments.lock_accounts(p_book_id, array[v_locked]);
    v_expired := payments.expire_account_holds(p_book_id, v_locked, p_limit);
  end if;
  return v_expired;
end $$;

-- As in 0008; who calls himself by more than 200 characters is recorded by the first of them, with each entry.
create or replace function payments.acting_user() returns text
language plpgsql stable as $$
declare
  v_claims constant text := nullif(current_setting('request.jwt.claims', true), '');
begin
  if v_claims is null then
    return session_user;
  end if;
  begin
    return coalesce(nullif(left(v_claims::jsonb ->> 'sub', 200), ''), session_user);
  exception when data_exception then
    -- Claims that are no JSON name nobody.
    return session_user;
  end;
end $$;

-- What is new since a seal is found by its position, however much was there before.
create index accounts_event_position on payments.accounts (event_position, book_id);
create index holds_event_position on payments.holds (event_position, book_id);
create index reversals_event_position on payments.reversals (event_position, book_id);

-- Which book announced a message; null in one of the application's own, whatever its payload says.
alter table public.outbox add column ledger_book_id integer;
comment on column public.outbox.ledger_book_id is 'The book of the ledger whose posting announced it; null for a message of the application''s own.';
update public.outbox o set ledger_book_id = e.book_id
from payments.events e
where e.event_id = payments.try_uuid(o.payload ->> 'transaction_id') and o.payload ->> 'book_id' = e.book_id::text
  and o.topic = e.payload ->> 'announce';

-- As in 0017, with the book.
create or replace function payments.announce_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into public.outbox (ledger_book_id, topic, payload)
  select e.book_id, e.payload ->> 'announce', jsonb_build_object(
           'book_id', e.book_id, 'transaction_id', e.event_id, 'event_position', e.position,
           'effective_at', e.effective_at, 'recorded_at', e.recorded_at,
           'reference_type', e.payload -> 'reference_type', 'reference_id', e.payload -> 'reference_id',
           'description', e.payload -> 'description', 'reverses', e.payload -> 'reverses',
           'hold_id', e.payload -> 'capture' -> 'hold_id',
           'entries', (
             select jsonb_agg(l.value || jsonb_build_object('account_id', payments.account_of(p_book_id, (l.value ->> 'account_id')::uuid),
                      'amount_cents', (l.value ->> 'amount_cents')::bigint) order by l.ordinality)
             from jsonb_array_elements(e.payload -> 'entries') with ordinality as l))
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last and e.xid = p_xid and e.payload ->> 'announce' is not null
  order by e.position;
end $$;

drop policy books_granted on public.outbox;
create policy books_granted on public.outbox for select using (
  ledger_book_id is null or ledger_book_id = any ((select payments.books_of(current_user))::integer[]));
-- Whoever is granted to read the outbox, now or later, asks for his books there. By name nobody gets at it without the schema.
grant execute on function payments.books_of(name) to public;

-- Lets a role read a book, and post in it where p_may_post; called again, it changes that. For the owner.
-- Beside the row in payments.book_grants it gives the role the privileges that service_role has, but for those on public.outbox,
-- where the application's messages are too. Raises LEDGER_INVALID where there is no such role, LEDGER_BOOK_UNKNOWN.
create or replace function payments.grant_book(p_role name, p_book_id integer, p_may_post boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_function regprocedure;
  -- A test compares both lists with what service_role has.
  v_relations constant text[] := array['payments.account_balances', 'payments.account_changes', 'payments.account_slots',
    'payments.account_types', 'payments.accounts', 'payments.balances', 'payments.books', 'payments.entries', 'payments.events',
    'payments.hold_entries', 'payments.holds', 'payments.periods', 'payments.reversals', 'payments.seal_tiles', 'payments.seals',
    'ref.currencies'];
  v_functions constant name[] := array['account_of', 'account_statement_bounds', 'account_statement_lines', 'add_slots',
    'balance_after_seq', 'books_of', 'certificate_hash', 'certificate_text', 'certificates_of', 'change_account', 'check_book',
    'check_certificate', 'check_order', 'close_period', 'effective_balance', 'effective_page', 'effective_sum', 'expire_holds', 'instant_before',
    'instant_text', 'is_slotted', 'next_certificate', 'next_period', 'normal_sign', 'open_accounts', 'period_movements', 'place_hold',
    'post_transaction', 'post_transactions', 'raise_code', 'raise_period_code', 'recorded_balance', 'recorded_seq', 'seal_events',
    'seq_at_entry', 'shown', 'slots_of', 'split_amount', 'statement_bounds', 'statement_lines', 'trial_balance', 'try_uuid', 'void_hold'];
begin
  if p_role is null or to_regrole(quote_ident(nullif(p_role, ''))) is null then
    perform payments.raise_code('LEDGER_INVALID', format('There is no role %s to grant a book: create it first.', payments.shown(p_role)));
  elsif p_may_post is null then
    perform payments.raise_code('LEDGER_INVALID', 'p_may_post is null: say true where the role may post, false where it reads only.');
  end if;
  perform payments.check_book(p_book_id);
  execute format('grant usage on schema payments, ref to %I', p_role);
  execute format('grant select on %s to %I', array_to_string(v_relations, ', '), p_role);
  for v_function in
    select p.oid from pg_proc p where p.pronamespace = 'payments'::regnamespace and p.proname = any (v_functions)
  loop
    execute format('grant execute on function %s to %I', v_function, p_role);
  end loop;
  insert into payments.book_grants (book_id, grantee, may_post) values (p_book_id, p_role, p_may_post)
  on conflict (grantee, book_id) do update set may_post = excluded.may_post;
end $$;

-- Raises LEDGER_UNBALANCED where the balances of a certificate do not sum to zero, which somebody's own hand must have brought about:
-- no guard lets it through. A period is closed for ever.
create function payments.check_certificate(p_certificate jsonb) returns void
language plpgsql stable as $$
declare
  v_sums text;
begin
  select string_agg(format('%s %s', b.cents, b.currency), ', ' order by b.currency) into v_sums
  from (
    select l ->> 'currency' as currency, sum(case when l ->> 'balance_cents' ~ '^-?\d{1,40}$' then (l ->> 'balance_cents')::numeric end) as cents
    from jsonb_array_elements(case jsonb_typeof(p_certificate -> 'balances') when 'array' then p_certificate -> 'balances' end) l
    group by 1
  ) b
  where b.cents <> 0;
  if v_sums is not null then
    perform payments.raise_code('LEDGER_UNBALANCED', format(
      'Book %s sums to %s until %s, not to zero, and is not closed: liventix books verify says what was changed.',
      p_certificate ->> 'book', v_sums, p_certificate ->> 'until'));
  end if;
end $$;

-- As in 0010; what does not balance has no certificate.
create or replace function payments.next_certificate(p_book_id integer, p_until timestamptz) returns jsonb
language plpgsql stable as $$
declare
  v_untils constant timestamptz[] := payments.next_period(p_book_id, p_until);
  v_certificate jsonb;
begin
  select c.certificate into v_certificate
  from payments.certificates_of(p_book_id, v_untils, payments.period_movements(p_book_id, v_untils, null, null)) c
  where c.closed_until = p_until;
  perform payments.check_certificate(v_certificate);
  return v_certificate;
end $$;

-- As in 0022, likewise.
create or replace function payments.close_period(p_book_id integer, p_until timestamptz) returns payments.periods
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10s' as $$
declare
  v_untils timestamptz[];
  v_settled bigint;
  v_movements payments.period_movement[];
  v_certificate jsonb;
  v_event_id uuid;
  v_positions bigint[];
  v_period payments.periods;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    perform payments.raise_period_code('LEDGER_PERIOD_INVALID', format(
      'A period is not closed in a transaction of isolation level %s, which does not see what it waited for. Use read committed.',
      current_setting('transaction_isolation')));
  end if;
  perform payments.check_call(p_book_id);
  v_untils := payments.next_period(p_book_id, p_until);

  begin
    perform payments.lock_period(p_book_id);
    select s.last_value into v_settled from payments.events_position_seq s;
    -- Undone, to let others post again.
    raise exception using errcode = 'LV000';
  exception when sqlstate 'LV000' then
    v_movements := payments.period_movements(p_book_id, v_untils, null, v_settled);
  end;

  perform payments.lock_period(p_book_id);
  if payments.next_period(p_book_id, p_until) <> v_untils then
    -- Another close came in between.
    v_untils := payments.next_period(p_book_id, p_until);
    v_movements := payments.period_movements(p_book_id, v_untils, null, v_settled);
  end if;
  v_movements := v_movements || payments.period_movements(p_book_id, v_untils, v_settled, null);
  select c.certificate into v_certificate
  from payments.certificates_of(p_book_id, v_untils, v_movements) c
  where c.closed_until = p_until;
  perform payments.check_certificate(v_certificate);

  v_event_id := payments.named_uuid(format('period:%s:%s', p_book_id, v_certificate ->> 'until'));
  perform payments.check_named_ids(p_book_id, 'period.closed', array[v_event_id]);
  v_positions := payments.append_events(p_book_id, array[jsonb_populate_record(null::payments.new_event, jsonb_build_object(
    'type', 'period.closed',
    'event_id', v_event_id,
    'payload', jsonb_build_object('until', v_certificate -> 'until', 'certificate', v_certificate,
      'hash', encode(payments.certificate_hash(v_certificate), 'hex'))))]);
  perform payments.project_periods(p_book_id, v_positions[1], v_positions[1], pg_current_xact_id());
  update payments.books set closed_until = p_until where book_id = p_book_id;
  select * into v_period from payments.periods p where p.book_id = p_book_id and p.event_position = v_positions[1];
  return v_period;
end $$;

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on function payments.keys_fault(jsonb, text[]), payments.check_certificate(jsonb) from %s', v_role);
  end loop;
  -- What a close would come to is asked with the caller's rights.
  for v_role in
    select quote_ident(r.rolname) from pg_roles r
    where r.rolname = 'service_role' or r.rolname in (select g.grantee from payments.book_grants g)
  loop
    execute format('grant execute on function payments.check_certificate(jsonb) to %s', v_role);
  end loop;
end $$;
