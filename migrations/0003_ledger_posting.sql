-- Posting: the only way into the ledger, and who may do what.
--
-- Tables are looked into row by row: by a subquery, by a lateral one whose limit of 1 says nothing new, by a conflict with
-- a key. A plain join may be planned as a hash of the whole table while that is small, and a connection keeps its plans.

-- A UUID made from a name: RFC 9562 version 8 over SHA-256, which PostgreSQL has built in (version 5 needs SHA-1, and
-- with it an extension). The same name gives the same id on every server.
create function payments.named_uuid(p_name text) returns uuid
language plpgsql immutable strict parallel safe as $$
declare
  v_bytes bytea := substr(sha256(convert_to(p_name, 'UTF8')), 1, 16);
begin
  v_bytes := set_byte(v_bytes, 6, get_byte(v_bytes, 6) & 15 | 128);
  return encode(set_byte(v_bytes, 8, get_byte(v_bytes, 8) & 63 | 128), 'hex')::uuid;
end $$;

-- The hash of one event, the leaf of the tree that seals are made from. Byte layout, version 1: 0x00 (RFC 6962's
-- leaf prefix), book_id int4, position int8, event_id 16 bytes, effective_at and recorded_at int8 microseconds since
-- 2000-01-01 UTC, all big-endian; then type, created_by, idempotency_scope, idempotency_key and request_hash, each after
-- its length as int4, an absent one as length -1; the payload's text to the end.
create function payments.event_leaf_hash(
  p_book_id integer, p_position bigint, p_event_id uuid, p_effective_at timestamptz, p_recorded_at timestamptz,
  p_type text, p_created_by text, p_scope text, p_key text, p_request_hash bytea, p_payload jsonb
) returns bytea
-- Stable, not immutable, because convert_to is: otherwise PostgreSQL would not inline it, at four times the cost.
language sql stable parallel safe
return sha256(
  '\x00'::bytea || int4send(p_book_id) || int8send(p_position) || uuid_send(p_event_id)
  || timestamptz_send(p_effective_at) || timestamptz_send(p_recorded_at)
  || int4send(octet_length(p_type)) || convert_to(p_type, 'UTF8')
  || int4send(octet_length(p_created_by)) || convert_to(p_created_by, 'UTF8')
  || coalesce(int4send(octet_length(p_scope)) || convert_to(p_scope, 'UTF8'), int4send(-1))
  || coalesce(int4send(octet_length(p_key)) || convert_to(p_key, 'UTF8'), int4send(-1))
  || coalesce(int4send(octet_length(p_request_hash)) || p_request_hash, int4send(-1))
  || convert_to(p_payload::text, 'UTF8')
);

-- Text to value, or null where it is not one: a malformed field rejects its own transaction, not the whole batch.
-- Without regular expressions, which cost more than everything else about an entry together.
create function payments.try_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text like '________-____-____-____-____________' and translate(p_text, '0123456789abcdefABCDEF', '') = '----'
  then p_text::uuid end;

create function payments.try_amount(p_text text) returns bigint
language sql immutable parallel safe
return case when length(p_text) between 1 and 20 and translate(ltrim(p_text, '-'), '0123456789', '') = '' and p_text !~~ '--%' and p_text <> '-'
    and p_text::numeric between -9223372036854775807 and 9223372036854775807
  then p_text::bigint end;

create function payments.try_instant(p_text text) returns timestamptz
language plpgsql stable parallel safe as $$
declare
  v_instant timestamptz;
begin
  -- With its offset written out: an instant must not depend on the session's time zone.
  if p_text !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$' then
    return null;
  end if;
  v_instant := p_text::timestamptz;
  return v_instant;
exception when data_exception then
  return null;
end $$;

-- Who is asking: the signed-in user where the request carries one (Supabase), else the database role.
create function payments.acting_user() returns text
language plpgsql stable as $$
begin
  return coalesce(nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', ''), session_user);
exception when data_exception then
  -- Claims that are no JSON name nobody.
  return session_user;
end $$;

-- Applies events to the projections: opens their accounts, writes their entries, moves the balances.
-- The only writer of accounts, entries and balances; a rebuild runs it over the whole log.
-- p_first, p_last: the positions, both included. p_xid: only what that database transaction wrote (null: everything),
-- because others' events that committed meanwhile lie between ours and are applied already.
-- Locks: none of its own; the caller holds the balance rows of every account that the events touch.
create function payments.project_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8)
returns void
language plpgsql as $$
begin
  with opened as (
    insert into payments.accounts (book_id, id, type, currency, name, user_id, organization_id, event_position, created_at)
    select e.book_id, e.event_id, e.payload ->> 'type', e.payload ->> 'currency', e.payload ->> 'name',
           (e.payload ->> 'user_id')::uuid, (e.payload ->> 'organization_id')::uuid, e.position, e.recorded_at
    from payments.events e
    where e.book_id = p_book_id and e.position between p_first and p_last
      and e.type = 'account.opened' and (p_xid is null or e.xid = p_xid)
    returning book_id, id
  )
  insert into payments.balances (book_id, account_id) select book_id, id from opened;

  with event as (
    select e.position, e.event_id, e.effective_at, e.recorded_at, e.created_by, e.payload -> 'entries' as entries,
           e.payload ->> 'reference_type' as reference_type, e.payload ->> 'reference_id' as reference_id,
           e.payload ->> 'description' as description, coalesce(e.payload -> 'metadata', '{}'::jsonb) as metadata
    from payments.events e
    where e.book_id = p_book_id and e.position between p_first and p_last
      and e.type = 'transaction.posted' and (p_xid is null or e.xid = p_xid)
    offset 0
  ), leg as (
    select e.position, e.event_id, e.effective_at, e.recorded_at, e.created_by, e.reference_type, e.reference_id,
           l.ordinality as number, (l.value ->> 'account_id')::uuid as account_id,
           (l.value ->> 'amount_cents')::bigint as amount_cents, l.value ->> 'currency' as currency,
           coalesce(l.value ->> 'description', e.description) as description, coalesce(l.value -> 'metadata', e.metadata) as metadata
    from event e
    cross join lateral jsonb_array_elements(e.entries) with ordinality as l
  ), running as (
    select leg.*,
           row_number() over in_account as nth,
           sum(amount_cents) over in_account as moved_cents
    from leg
    window in_account as (partition by account_id order by position, number rows unbounded preceding)
  ), moved as (
    insert into payments.balances as b (book_id, account_id, balance_cents, last_seq)
    select p_book_id, account_id, sum(amount_cents)::bigint, count(*) from leg group by account_id
    -- It is there since the account was opened.
    on conflict (account_id, book_id) do update
    set balance_cents = b.balance_cents + excluded.balance_cents, last_seq = b.last_seq + excluded.last_seq
  )
  insert into payments.entries (
    book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency, balance_after_cents,
    effective_at, created_at, created_by, reference_type, reference_id, description, metadata
  )
  select p_book_id, r.position * 1024 + r.number, r.position, r.event_id, r.account_id, (r.before).last_seq + r.nth,
         r.amount_cents, r.currency, ((r.before).balance_cents + r.moved_cents)::bigint,
         r.effective_at, r.recorded_at, r.created_by, r.reference_type, r.reference_id, r.description, r.metadata
  from (
    select running.*,
           -- One look per account, at its first leg; in the order that they are in already.
           first_value(case when nth = 1 then (
             select b from payments.balances b where b.book_id = p_book_id and b.account_id = running.account_id
           ) end) over (partition by account_id order by position, number) as before
    from running
  ) r;
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW',
    'A balance would pass what 64 bits hold. Nothing was written: post a smaller amount.');
end $$;

-- Announces what asked for it: one message a transaction, in the same database transaction.
-- Parameters as of project_events.
create function payments.announce_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into public.outbox (topic, payload)
  select e.payload ->> 'announce', jsonb_build_object(
           'book_id', e.book_id, 'transaction_id', e.event_id, 'event_position', e.position,
           'effective_at', e.effective_at, 'recorded_at', e.recorded_at,
           'reference_type', e.payload -> 'reference_type', 'reference_id', e.payload -> 'reference_id',
           'description', e.payload -> 'description', 'entries', e.payload -> 'entries')
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last and e.xid = p_xid and e.payload ? 'announce'
  order by e.position;
end $$;

create type payments.new_event as (
  type text, event_id uuid, effective_at timestamptz, idempotency_scope text, idempotency_key text, request_hash bytea,
  payload jsonb
);

-- Takes the locks of posting: the balance rows of these accounts, in id order, because two transactions that share
-- accounts would otherwise deadlock. Call it in a statement of its own: one that waits for a lock keeps its old
-- snapshot, the next one sees what it waited for.
create function payments.lock_accounts(p_book_id integer, p_account_ids uuid[]) returns void
language plpgsql as $$
begin
  -- no key update: the weakest lock that excludes other posters.
  perform from payments.balances b
  where b.book_id = p_book_id and b.account_id = any (p_account_ids)
  order by b.account_id
  for no key update;
end $$;

-- Writes events to the log, in the order given, and projects them: the only writer of the log.
-- p_events: effective_at null means now.
-- Returns their positions, in the same order.
-- Raises unique_violation on events_event_id_key or events_idempotency_key when another database transaction recorded
-- the same meanwhile: nothing was written, and run again it finds the other's result.
-- Locks: the caller holds those of lock_accounts for all accounts concerned, so that an account's order is the log's.
create function payments.append_events(p_book_id integer, p_events payments.new_event[]) returns bigint[]
language plpgsql as $$
declare
  v_actor constant text := payments.acting_user();
  v_positions bigint[];
begin
  with numbered as (
    select n.*, nextval('payments.events_position_seq') as position, clock_timestamp() as recorded_at
    from unnest(p_events) with ordinality as n
    order by n.ordinality
  ), logged as (
    insert into payments.events (
      book_id, position, event_id, type, effective_at, recorded_at, created_by, idempotency_scope, idempotency_key,
      request_hash, payload, leaf_hash)
    select p_book_id, n.position, n.event_id, n.type, n.effective, n.recorded_at, v_actor, n.idempotency_scope,
           n.idempotency_key, n.request_hash, n.payload,
           payments.event_leaf_hash(p_book_id, n.position, n.event_id, n.effective, n.recorded_at, n.type, v_actor,
             n.idempotency_scope, n.idempotency_key, n.request_hash, n.payload)
    from (select *, coalesce(effective_at, recorded_at) as effective from numbered offset 0) n
    returning position
  )
  select array_agg(position order by position) into v_positions from logged;

  if v_positions is not null then
    perform payments.project_events(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
    perform payments.announce_events(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
  end if;
  return v_positions;
end $$;

-- The id of an account, made from what it is: opening it twice gives one account, and anybody can tell it beforehand.
create function payments.account_id(p_book_id integer, p_type text, p_currency text, p_name text, p_user_id text, p_organization_id text)
returns uuid
language sql immutable parallel safe
return payments.named_uuid(format('account:%s:%s:%s:%s:%s:%s',
  p_book_id, p_type, p_currency, coalesce(lower(p_user_id), '-'), coalesce(lower(p_organization_id), '-'), p_name));

-- Raises where a call names no book, or gives its items as anything but an array.
create function payments.check_call(p_book_id integer, p_items jsonb) returns void
language plpgsql stable as $$
begin
  if not exists (select from payments.books b where b.book_id = p_book_id) then
    perform payments.raise_code('LEDGER_BOOK_UNKNOWN', format('Book %s does not exist.', coalesce(p_book_id::text, 'null')));
  end if;
  if p_items is null or jsonb_typeof(p_items) <> 'array' then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Accounts and transactions are given as a JSON array of objects, not as %s.', coalesce(jsonb_typeof(p_items), 'null')));
  end if;
end $$;

-- Opens accounts; one that exists already is answered as it is, so that opening may be repeated.
-- p_accounts: array of {type, currency, name, user_id?, organization_id?}.
-- Returns for each, in order: its id, and whether this call opened it. All or none: a malformed one raises.
create function payments.open_accounts(p_book_id integer, p_accounts jsonb)
returns table (ordinal integer, account_id uuid, opened boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_events payments.new_event[];
  v_opened uuid[];
  v_fault record;
begin
  perform payments.check_call(p_book_id, p_accounts);

  select a.ordinality, a.value,
    case
      when jsonb_typeof(a.value) <> 'object' then 'LEDGER_INVALID'
      when t.type is null then 'LEDGER_ACCOUNT_TYPE_UNKNOWN'
      when c.code is null then 'LEDGER_CURRENCY_UNKNOWN'
      else 'LEDGER_INVALID'
    end as code
  into v_fault
  from jsonb_array_elements(p_accounts) with ordinality as a
  left join payments.account_types t on t.type = a.value ->> 'type'
  left join ref.currencies c on c.code = a.value ->> 'currency'
  where t.type is null or c.code is null
    or coalesce(a.value ->> 'name', '') !~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'
    or (a.value ->> 'user_id' is not null and a.value ->> 'organization_id' is not null)
    or (a.value ->> 'user_id' is not null and payments.try_uuid(a.value ->> 'user_id') is null)
    or (a.value ->> 'organization_id' is not null and payments.try_uuid(a.value ->> 'organization_id') is null)
  order by a.ordinality
  limit 1;
  if found then
    perform payments.raise_code(v_fault.code, format(
      'Account %s of the list cannot be opened: %s. It needs a known type, a known currency, a name of a-z 0-9 _ . : -, and one owner at most.',
      v_fault.ordinality, left(v_fault.value::text, 200)));
  end if;

  v_ids := array(
    select payments.account_id(p_book_id, a.value ->> 'type', a.value ->> 'currency', a.value ->> 'name',
             a.value ->> 'user_id', a.value ->> 'organization_id')
    from jsonb_array_elements(p_accounts) with ordinality as a
    order by a.ordinality);

  select array_agg(row('account.opened', m.id, null, null, null, null, m.payload)::payments.new_event order by m.ordinality),
         array_agg(m.id)
  into v_events, v_opened
  from (
    select distinct on (i.id) i.id, i.ordinality, jsonb_strip_nulls(jsonb_build_object(
             'type', i.value -> 'type', 'currency', i.value -> 'currency', 'name', i.value -> 'name',
             'user_id', lower(i.value ->> 'user_id'), 'organization_id', lower(i.value ->> 'organization_id'))) as payload
    from rows from (unnest(v_ids), jsonb_array_elements(p_accounts)) with ordinality as i (id, value, ordinality)
    where not exists (select from payments.accounts x where x.book_id = p_book_id and x.id = i.id)
    order by i.id, i.ordinality
  ) m;
  perform payments.append_events(p_book_id, v_events);

  return query
  select i.ordinality::integer, i.id, coalesce(i.id = any (v_opened), false)
  from unnest(v_ids) with ordinality as i (id, ordinality)
  order by i.ordinality;
end $$;

-- The entries of a transaction as a JSON array, empty where there is none to be read.
create function payments.entries_of(p_transaction jsonb) returns jsonb
language sql immutable parallel safe
return case when jsonb_typeof(p_transaction -> 'entries') = 'array' then p_transaction -> 'entries' else '[]'::jsonb end;

-- Whether a JSON value is an object with none but these keys: a misspelt key must not be dropped in silence.
create function payments.has_only_keys(p_value jsonb, p_keys text[]) returns boolean
language sql immutable parallel safe
return case when jsonb_typeof(p_value) = 'object' then p_value - p_keys = '{}'::jsonb else false end;

-- Whether the shape is right; what the fields say is judged later.
create function payments.is_entry(p_entry jsonb) returns boolean
language sql immutable parallel safe
return payments.has_only_keys(p_entry, array['account_id', 'amount_cents', 'currency', 'description', 'metadata'])
  and coalesce(jsonb_typeof(p_entry -> 'metadata'), 'object') = 'object';

-- What is wrong with the shape of a transaction; null where nothing is. Its entries are judged by themselves.
create function payments.transaction_fault(p_transaction jsonb) returns text
language sql stable parallel safe
return case
  when not payments.has_only_keys(p_transaction, array['entries', 'transaction_id', 'idempotency_key', 'idempotency_scope',
      'effective_at', 'reference_type', 'reference_id', 'description', 'metadata', 'announce'])
    then 'It is no object, or has a key that is not among these:'
  when jsonb_array_length(payments.entries_of(p_transaction)) not between 2 and 1000 then 'entries has not 2 to 1000 elements:'
  when p_transaction ->> 'transaction_id' is not null and payments.try_uuid(p_transaction ->> 'transaction_id') is null
    then 'transaction_id is no UUID:'
  when p_transaction ->> 'effective_at' is not null and payments.try_instant(p_transaction ->> 'effective_at') is null
    then 'effective_at is no instant with its offset:'
  when coalesce(jsonb_typeof(p_transaction -> 'metadata'), 'object') <> 'object' then 'metadata is no object:'
  when coalesce(jsonb_typeof(p_transaction -> 'idempotency_key'), 'null') not in ('string', 'null')
    or p_transaction ->> 'idempotency_key' = '' then 'idempotency_key is no text, or an empty one:'
  when coalesce(jsonb_typeof(p_transaction -> 'description'), 'null') not in ('string', 'null') then 'description is no text:'
  -- What an index carries is bounded, or the index refuses it after everything else is done.
  when octet_length(concat(p_transaction ->> 'idempotency_scope', p_transaction ->> 'idempotency_key')) > 1000
    then 'idempotency_scope and idempotency_key have more than 1000 bytes:'
  when octet_length(concat(p_transaction ->> 'reference_type', p_transaction ->> 'reference_id')) > 1000
    then 'reference_type and reference_id have more than 1000 bytes:'
  when length(p_transaction ->> 'announce') > 128 or p_transaction ->> 'announce' !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$'
    then 'announce is no topic:'
end;

create type payments.posting_outcome as (
  ordinal integer, status text, transaction_id uuid, event_position bigint, code text, message text
);

-- Why a transaction's entries are refused, as {code, message}: the first fault of the first faulty entry, else the sums
-- that are not zero; null where nothing is wrong. Only asked about transactions that are refused: it need not be fast.
create function payments.entries_fault(p_book_id integer, p_entries jsonb) returns jsonb
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
      (1, 'LEDGER_INVALID', 'it is an object of account_id, amount_cents, currency, and at most description and metadata (an object).',
        not payments.is_entry(l.body)),
      (2, 'LEDGER_AMOUNT_INVALID', format('amount_cents %s is not a whole number other than 0.', coalesce(l.amount, 'null')),
        coalesce(l.amount, '') !~ '^-?\d{1,30}$' or l.amount ~ '^-?0+$'),
      (3, 'LEDGER_AMOUNT_OVERFLOW', format('amount_cents %s passes what 64 bits hold.', l.amount),
        payments.try_amount(l.amount) is null),
      (4, 'LEDGER_CURRENCY_UNKNOWN', format('currency %s is not in ref.currencies.', coalesce(l.currency, 'null')),
        not exists (select from ref.currencies c where c.code = l.currency)),
      (5, 'LEDGER_ACCOUNT_UNKNOWN', format('account %s does not exist in book %s: open it first.',
        coalesce(l.body ->> 'account_id', 'null'), p_book_id), l.account_id is null),
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

-- Posts many transactions in one call: all of their locks first, then one log write, then one projection.
-- p_transactions: array of {entries: [{account_id, amount_cents, currency, description?, metadata?}], transaction_id?,
--   idempotency_key?, idempotency_scope?, effective_at?, reference_type?, reference_id?, description?, metadata?,
--   announce?: topic}. amount_cents is signed (debit +, credit -), a whole number or the text of one.
-- Returns one row per transaction, in order: posted, duplicate (the first result again), or rejected with its code. A
-- rejected one leaves its neighbours alone.
-- Locks: the balance rows of all accounts named, in id order: two calls that share accounts would otherwise deadlock.
create function payments.post_transactions(p_book_id integer, p_transactions jsonb)
returns setof payments.posting_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_events payments.new_event[];
  v_outcomes payments.posting_outcome[];
  v_nths integer[];
  v_positions bigint[];
begin
  perform payments.check_call(p_book_id, p_transactions);

  perform payments.lock_accounts(p_book_id, array(
    select distinct payments.try_uuid(l.value ->> 'account_id')
    from jsonb_array_elements(p_transactions) as t
    cross join lateral jsonb_array_elements(payments.entries_of(t.value)) as l));

  -- One row per transaction from here on, widened step by step and never joined to itself: PostgreSQL cannot tell how
  -- many there are, and would pair each with each.
  with request as materialized (
    select t.ordinality::integer as ordinal, t.value as body, payments.entries_of(t.value) as entries,
           payments.transaction_fault(t.value) as fault,
           sha256(convert_to(t.value::text, 'UTF8')) as request_hash,
           payments.try_uuid(t.value ->> 'transaction_id') as given_id,
           payments.try_instant(t.value ->> 'effective_at') as effective_at,
           t.value ->> 'idempotency_key' as idempotency_key,
           case when t.value ->> 'idempotency_key' is not null
             then coalesce(t.value ->> 'idempotency_scope', 'default') end as idempotency_scope
    from jsonb_array_elements(p_transactions) with ordinality as t
  ), checked as materialized (
    select r.ordinal, r.body, r.entries, r.request_hash, r.given_id, r.effective_at, r.idempotency_key, r.idempotency_scope,
           coalesce(r.given_id, gen_random_uuid()) as transaction_id, e.normalized,
      case
        when r.fault is not null then jsonb_build_object('code', 'LEDGER_INVALID', 'message', r.fault ||
          ' a transaction is an object of 2 to 1000 entries, transaction_id (UUID), effective_at (an instant with its offset), idempotency_key, idempotency_scope, reference_type, reference_id, description, metadata (an object), announce (a topic), and nothing else.')
        when not coalesce(e.is_sound and e.cents = 0, false) then payments.entries_fault(p_book_id, r.entries)
      end as fault
    from request r
    cross join lateral (
      -- Sound: nothing wrong with any entry, and one currency. Everything else entries_fault looks at in detail.
      select jsonb_agg(l.value || jsonb_build_object('account_id', l.account_id, 'amount_cents', l.amount_cents) order by l.ordinality) as normalized,
             count(*) = count(*) filter (
               where payments.is_entry(l.value) and l.amount_cents <> 0 and l.currency = l.value ->> 'currency')
               and min(l.currency) = max(l.currency) as is_sound,
             sum(l.amount_cents) as cents
      from (
        -- A subquery and not a join: one look into the index per entry, whatever the planner believes.
        select x.value, x.ordinality, x.account_id, payments.try_amount(x.value ->> 'amount_cents') as amount_cents,
               (select a.currency from payments.accounts a where a.book_id = p_book_id and a.id = x.account_id) as currency
        from (
          select j.value, j.ordinality, payments.try_uuid(j.value ->> 'account_id') as account_id
          from jsonb_array_elements(r.entries) with ordinality as j
          offset 0
        ) x
        offset 0
      ) l
    ) e
  ), judged as materialized (
    select c.ordinal, c.fault, c.first_ordinal,
           coalesce(by_id.position, by_key.position) as recorded_position,
           coalesce(by_id.event_id, by_key.event_id, c.first_id) as result_id,
           case when by_id.position is null and by_key.position is null then c.first_hash = c.request_hash
                -- An imported event has no request to compare with: its key and id are taken.
                else coalesce(coalesce(by_id.request_hash, by_key.request_hash) = c.request_hash, false) end as is_same_request,
           coalesce(c.idempotency_key, c.given_id::text) as key,
           -- What becomes a column of the event leaves the payload.
           case when c.fault is null then row('transaction.posted', c.transaction_id, c.effective_at, c.idempotency_scope, c.idempotency_key, c.request_hash,
             c.body - array['transaction_id', 'idempotency_key', 'idempotency_scope', 'effective_at']
               || jsonb_build_object('entries', c.normalized))::payments.new_event end as event
    from (
      -- Within the call, the same key or the same id is the same transaction; one that is refused stands for none.
      select y.*, case when y.key_ordinal < y.ordinal then y.key_ordinal else y.id_ordinal end as first_ordinal,
             case when y.key_ordinal < y.ordinal then y.key_hash else y.id_hash end as first_hash,
             case when y.key_ordinal < y.ordinal then y.key_id else y.transaction_id end as first_id
      from (
        select x.*, first_value(x.ordinal) over same_key as key_ordinal, first_value(x.request_hash) over same_key as key_hash,
               first_value(x.transaction_id) over same_key as key_id, first_value(x.ordinal) over same_id as id_ordinal,
               first_value(x.request_hash) over same_id as id_hash
        from checked x
        window same_key as (
                 partition by x.idempotency_scope, coalesce(x.idempotency_key, x.transaction_id::text), x.fault is null
                 order by x.ordinal),
               same_id as (partition by x.transaction_id, x.fault is null order by x.ordinal)
      ) y
    ) c
    left join lateral (
      select e.position, e.event_id, e.request_hash from payments.events e
      where e.book_id = p_book_id and e.event_id = c.given_id
      limit 1
    ) by_id on true
    left join lateral (
      select e.position, e.event_id, e.request_hash from payments.events e
      where e.book_id = p_book_id and e.idempotency_scope = c.idempotency_scope and e.idempotency_key = c.idempotency_key
      limit 1
    ) by_key on true
  ), decided as materialized (
    select j.*,
      case when j.fault is not null or not j.is_same_request then 'rejected'
           when j.recorded_position is not null or j.first_ordinal < j.ordinal then 'duplicate'
           else 'posted' end as status
    from judged j
  ), counted as (
    select d.*, count(*) filter (where d.status = 'posted') over (order by d.ordinal) as nth from decided d
  )
  select array_agg(c.event order by c.ordinal) filter (where c.status = 'posted'),
         array_agg(row(c.ordinal, c.status, case when c.status <> 'rejected' then c.result_id end,
             case when c.status = 'duplicate' then c.recorded_position end,
             case when c.status = 'rejected' then coalesce(c.fault ->> 'code', 'LEDGER_IDEMPOTENCY_CONFLICT') end,
             case when c.status = 'rejected' then coalesce(c.fault ->> 'message', format(
               'The key or id %s was used with another body; send the first body again, or a new key.', c.key)) end
           )::payments.posting_outcome order by c.ordinal),
         array_agg(case when c.status <> 'rejected' then c.nth_of_first end order by c.ordinal)
  into v_events, v_outcomes, v_nths
  from (select c.*, first_value(c.nth) over (partition by c.first_ordinal order by c.ordinal) as nth_of_first from counted c) c;

  v_positions := payments.append_events(p_book_id, v_events);
  return query
  select o.ordinal, o.status, o.transaction_id, coalesce(o.event_position, v_positions[o.nth]), o.code, o.message
  from unnest(v_outcomes, v_nths) as o (ordinal, status, transaction_id, event_position, code, message, nth);
end $$;

-- Imports transactions that another system of record has already decided, in bulk: no idempotency keys, no judging, only
-- what the tables' guards enforce. An event_id that is in the log is passed over, so that an import may be repeated.
-- p_account_ids: every account that the events touch.
-- Returns how many were new.
-- Locks: as post_transactions.
create function payments.import_events(p_book_id integer, p_account_ids uuid[], p_events payments.new_event[])
returns integer
language plpgsql as $$
declare
  v_new payments.new_event[] := p_events;
begin
  perform payments.lock_accounts(p_book_id, p_account_ids);
  if exists (
    select from payments.events e
    where e.book_id = p_book_id and e.event_id = any (array(select n.event_id from unnest(p_events) as n))
  ) then
    select array_agg(row(n.type, n.event_id, n.effective_at, n.idempotency_scope, n.idempotency_key, n.request_hash, n.payload)::payments.new_event
             order by n.ordinality)
    into v_new
    from unnest(p_events) with ordinality as n
    where not exists (select from payments.events e where e.book_id = p_book_id and e.event_id = n.event_id);
  end if;
  return coalesce(cardinality(payments.append_events(p_book_id, v_new)), 0);
end $$;

-- Posts one transaction; see post_transactions for its shape. Raises where that would answer "rejected".
create function payments.post_transaction(p_book_id integer, p_transaction jsonb)
returns payments.posting_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_outcome payments.posting_outcome;
begin
  select * into v_outcome from payments.post_transactions(p_book_id, jsonb_build_array(p_transaction));
  if v_outcome.status = 'rejected' then
    perform payments.raise_code(v_outcome.code, v_outcome.message);
  end if;
  return v_outcome;
end $$;

-- Grants come first: nobody but the owner writes the tables; Supabase's server role posts through the functions.
revoke all on schema payments from public;
revoke all on all tables in schema payments from public;
revoke all on all functions in schema payments from public;
do $$
declare
  v_role text;
begin
  for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on all tables in schema payments from %I', v_role);
    execute format('revoke all on all functions in schema payments from %I', v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema payments, ref to service_role;
    grant select on ref.currencies, payments.books, payments.account_types, payments.accounts, payments.entries,
      payments.events, payments.balances, payments.account_balances to service_role;
    grant execute on function payments.open_accounts(integer, jsonb), payments.post_transactions(integer, jsonb),
      payments.post_transaction(integer, jsonb) to service_role;
  end if;
end $$;
