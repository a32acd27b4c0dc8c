-- Input of every kind is refused with a code of ours, in one line, or is kept as it is. Functions as they were but for that.

-- What a message shows of a value that somebody gave: of one line, and not all of it where it is long.
create function payments.shown(p_text text) returns text
language sql immutable parallel safe
return case when p_text is null then 'null' when p_text = '' then '""' else
  regexp_replace(left(p_text, 100), '[[:cntrl:]]+', ' ', 'g') || case when length(p_text) > 100 then '…' else '' end end;

-- The last instant before one; instants are whole microseconds. Before the first that there is, -infinity.
create function payments.instant_before(p_at timestamptz) returns timestamptz
language sql stable parallel safe
return case when p_at <= '4714-11-24 00:00:00+00 BC' then '-infinity' else p_at - interval '1 microsecond' end;

-- Posting.

-- As in 0008; scope and reference too are text, and nothing that reads as text.
create or replace function payments.labels_fault(p_request jsonb) returns text
language sql stable parallel safe
return case
  when coalesce(jsonb_typeof(p_request -> 'metadata'), 'object') <> 'object' then 'metadata is no object:'
  when coalesce(jsonb_typeof(p_request -> 'idempotency_key'), 'null') not in ('string', 'null')
    or p_request ->> 'idempotency_key' = '' then 'idempotency_key is no text, or an empty one:'
  when coalesce(jsonb_typeof(p_request -> 'description'), 'null') not in ('string', 'null') then 'description is no text:'
  when coalesce(jsonb_typeof(p_request -> 'idempotency_scope'), 'null') not in ('string', 'null') then 'idempotency_scope is no text:'
  when coalesce(jsonb_typeof(p_request -> 'reference_type'), 'null') not in ('string', 'null') then 'reference_type is no text:'
  when coalesce(jsonb_typeof(p_request -> 'reference_id'), 'null') not in ('string', 'null') then 'reference_id is no text:'
  -- What an index carries is bounded, or the index refuses it after everything else is done.
  when octet_length(concat(p_request ->> 'idempotency_scope', p_request ->> 'idempotency_key')) > 1000
    then 'idempotency_scope and idempotency_key have more than 1000 bytes:'
  when octet_length(concat(p_request ->> 'reference_type', p_request ->> 'reference_id')) > 1000
    then 'reference_type and reference_id have more than 1000 bytes:'
end;

-- As in 0008; a topic is text.
create or replace function payments.transaction_fault(p_transaction jsonb) returns text
language sql stable parallel safe
return coalesce(case
  when not payments.has_only_keys(p_transaction, array['entries', 'transaction_id', 'idempotency_key', 'idempotency_scope',
      'effective_at', 'reference_type', 'reference_id', 'description', 'metadata', 'announce', 'linked', 'reverses', 'capture'])
    then 'It is no object, or has a key that is not among these:'
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

-- As in 0008, in step with labels_fault.
create or replace function payments.is_plain_request(p_transaction jsonb, p_text text) returns boolean
-- Stable, not immutable, because concat is: otherwise PostgreSQL would not inline it, at twice the cost.
language sql stable parallel safe
return payments.has_only_keys(p_transaction, array['entries', 'idempotency_key', 'idempotency_scope', 'reference_type', 'reference_id', 'description', 'metadata'])
  and p_transaction @@ '$.entries.type() == "array" && $.entries.size() >= 2 && $.entries.size() <= 1000
    && (!exists($.idempotency_key) || $.idempotency_key.type() == "string" && $.idempotency_key != "")
    && (!exists($.metadata) || $.metadata.type() == "object") && (!exists($.description) || $.description.type() == "string")
    && (!exists($.idempotency_scope) || $.idempotency_scope.type() == "string")
    && (!exists($.reference_type) || $.reference_type.type() == "string") && (!exists($.reference_id) || $.reference_id.type() == "string")'
  and octet_length(concat(p_transaction ->> 'idempotency_scope', p_transaction ->> 'idempotency_key')) <= 1000
  and octet_length(concat(p_transaction ->> 'reference_type', p_transaction ->> 'reference_id')) <= 1000
  and octet_length(p_text) <= 1048576;

-- As in 0003; what was given is shown, in one line.
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
      (1, 'LEDGER_INVALID', 'it is an object of account_id, amount_cents, currency, and at most description and metadata (an object).',
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

-- As in 0008, likewise.
create or replace function payments.key_conflict(p_key text) returns jsonb
language sql immutable
return jsonb_build_object('code', 'LEDGER_IDEMPOTENCY_CONFLICT', 'message', format(
  'The key or id %s was used with another body; send the first body again, or a new key.', payments.shown(p_key)));

-- Whether a role is another one or a member of it; false where there is no such role.
create function payments.is_member(p_role name, p_of name) returns boolean
language sql stable
return case when to_regrole(quote_ident(nullif(p_role, ''))) is null or to_regrole(quote_ident(nullif(p_of, ''))) is null then false
  else pg_has_role(p_role, p_of, 'member') end;

-- As in 0008; a grant to a role that was dropped is none, and no error.
create or replace function payments.check_call(p_book_id integer, p_items jsonb default '[]') returns void
language plpgsql stable as $$
declare
  v_caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
  -- Condition by condition: those that need no query are decided without a plan.
  if v_caller <> current_user then
    if not pg_has_role(v_caller, current_user, 'member') then
      if not exists (
        select from payments.book_grants g where g.book_id = p_book_id and g.may_post and payments.is_member(v_caller, g.grantee)
      ) then
        perform payments.raise_code('LEDGER_BOOK_FORBIDDEN', format(
          'Role %s may not post in book %s: the owner grants it in payments.book_grants.', v_caller, p_book_id));
      end if;
    end if;
  end if;
  if p_items is null or jsonb_typeof(p_items) <> 'array' then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Accounts and transactions are given as a JSON array of objects, not as %s.', coalesce(jsonb_typeof(p_items), 'null')));
  elsif jsonb_array_length(p_items) > 10000 then
    perform payments.raise_code('LEDGER_INVALID', format(
      'At most 10000 accounts or transactions a call, not %s: send them in several calls.', jsonb_array_length(p_items)));
  end if;
end $$;

-- As in 0009, likewise.
create or replace function payments.books_of(p_role name) returns integer[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(distinct g.book_id), '{}') from payments.book_grants g where payments.is_member(p_role, g.grantee)
$$;

-- Holds and accounts.

-- As in 0009; what was given is shown, in one line, and an amount beyond 64 bits is called what posting calls it.
create or replace function payments.place_hold(p_book_id integer, p_hold jsonb) returns payments.hold_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_fault text;
  v_event payments.new_event;
  v_duplicate payments.posting_outcome;
  v_account payments.balances;
  v_currency text;
  v_hold payments.holds;
  v_limit jsonb;
  v_position bigint;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  v_fault := payments.hold_fault(p_hold);
  if v_fault is not null or p_hold is null then
    perform payments.raise_code('LEDGER_INVALID', coalesce(v_fault, 'It is null:') ||
      ' a hold is an object of account_id (UUID), amount_cents (positive), currency, expires_at (an instant with its offset), hold_id (UUID), idempotency_key, idempotency_scope, reference_type, reference_id, description, metadata (an object), and nothing else.');
  end if;
  v_hold.book_id := p_book_id;
  v_hold.hold_id := coalesce(payments.try_uuid(p_hold ->> 'hold_id'), gen_random_uuid());
  v_hold.account_id := payments.try_uuid(p_hold ->> 'account_id');
  v_hold.amount_cents := payments.try_amount(p_hold ->> 'amount_cents');
  v_hold.remaining_cents := 0;
  v_hold.last_seq := 0;
  v_event := row('hold.placed', v_hold.hold_id, null,
    case when p_hold ->> 'idempotency_key' is not null then coalesce(p_hold ->> 'idempotency_scope', 'default') end,
    p_hold ->> 'idempotency_key', sha256(convert_to(p_hold::text, 'UTF8')), null);

  perform payments.lock_accounts(p_book_id, array[v_hold.account_id]);
  v_duplicate := payments.find_duplicate(p_book_id, 1, v_event);
  if v_duplicate.status = 'duplicate' then
    return payments.describe_hold(p_book_id, v_duplicate.transaction_id, 'duplicate');
  elsif v_duplicate.status = 'rejected' then
    perform payments.raise_code(v_duplicate.code, v_duplicate.message);
  end if;

  select a.currency into v_currency from payments.accounts a where a.id = v_hold.account_id and a.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist in book %s: open it first.',
      payments.shown(p_hold ->> 'account_id'), p_book_id));
  elsif v_currency is distinct from p_hold ->> 'currency' then
    perform payments.raise_code('LEDGER_CURRENCY_MISMATCH', format('A hold in %s on account %s, which holds %s.',
      payments.shown(p_hold ->> 'currency'), v_hold.account_id, v_currency));
  elsif v_hold.amount_cents is null and p_hold ->> 'amount_cents' ~ '^\d{1,30}$' then
    perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', format('amount_cents %s passes what 64 bits hold.', p_hold ->> 'amount_cents'));
  elsif coalesce(v_hold.amount_cents, 0) <= 0 then
    perform payments.raise_code('LEDGER_AMOUNT_INVALID', format('A hold''s amount_cents is a whole number above 0, not %s.',
      payments.shown(p_hold ->> 'amount_cents')));
  elsif payments.try_instant(p_hold ->> 'expires_at') <= clock_timestamp() then
    perform payments.raise_code('LEDGER_INVALID', format('expires_at %s has passed already.', p_hold ->> 'expires_at'));
  end if;

  loop
    select b.* into v_account from payments.balances b where b.account_id = v_hold.account_id and b.book_id = p_book_id;
    v_event.payload := p_hold - array['hold_id', 'idempotency_key', 'idempotency_scope']
      || jsonb_build_object('account_id', v_hold.account_id, 'amount_cents', v_hold.amount_cents,
           'hold_step', payments.hold_step(v_hold, 'placed', 0, v_hold.amount_cents));
    v_limit := payments.hold_limit(v_account, (v_event.payload -> 'hold_step' ->> 'held_after_cents')::bigint);
    exit when v_limit is null;
    -- What has expired reserves nothing: written down, and judged once more.
    if payments.expire_account_holds(p_book_id, v_hold.account_id) = 0 then
      perform payments.raise_code(v_limit ->> 'code', v_limit ->> 'message');
    end if;
  end loop;

  v_position := (payments.append_event(p_book_id, v_event)).event_position;
  perform payments.project_hold_steps(p_book_id, v_position, v_position, pg_current_xact_id());
  return payments.describe_hold(p_book_id, v_hold.hold_id, 'placed');
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', format(
    'What account %s has on hold would pass what 64 bits hold. Nothing was written: hold less.', p_hold ->> 'account_id'));
end $$;

-- As in 0009; of a hold that has expired nothing remains, whether the log says so already or not.
create or replace function payments.describe_hold(p_book_id integer, p_hold_id uuid, p_status text) returns payments.hold_outcome
language sql stable
return (
  select row(p_status, h.hold_id, h.event_position, case when x.has_expired then 'expired' else h.state end,
           case when x.has_expired then 0 else h.remaining_cents end, b.available_cents)::payments.hold_outcome
  from payments.holds h
  cross join lateral (select coalesce(h.state = 'active' and h.expires_at <= clock_timestamp(), false) as has_expired) x
  join payments.account_balances b on b.account_id = h.account_id and b.book_id = h.book_id
  where h.hold_id = p_hold_id and h.book_id = p_book_id
);

-- As in 0009; a limit that is none is refused.
-- p_limit: 1 to 100000.
create or replace function payments.expire_holds(p_book_id integer, p_limit integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_accounts uuid[];
  v_expired integer := 0;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  if p_limit is null or p_limit not between 1 and 100000 then
    perform payments.raise_code('LEDGER_INVALID', format('p_limit is %s: give 1 to 100000.', coalesce(p_limit::text, 'null')));
  end if;
  v_accounts := array(
    select distinct d.account_id
    from (
      select h.account_id from payments.holds h
      where h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
      order by h.expires_at limit p_limit
    ) d);
  perform payments.lock_accounts(p_book_id, v_accounts);
  for i in 1 .. cardinality(v_accounts) loop
    v_expired := v_expired + payments.expire_account_holds(p_book_id, v_accounts[i]);
  end loop;
  return v_expired;
end $$;

-- As in 0009; a name is text.
create or replace function payments.open_accounts(p_book_id integer, p_accounts jsonb)
returns table (ordinal integer, account_id uuid, opened boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_events payments.new_event[];
  v_opened uuid[];
  v_positions bigint[];
  v_fault record;
begin
  perform payments.check_call(p_book_id, p_accounts);
  perform payments.open_since(p_book_id);

  select f.ordinality, f.value, f.code into v_fault
  from (
    select a.ordinality, a.value, case
        when not payments.has_only_keys(a.value, array['type', 'currency', 'name', 'user_id', 'organization_id', 'floor_cents', 'ceiling_cents'])
          then 'LEDGER_INVALID'
        when not exists (select from payments.account_types t where t.type = a.value ->> 'type') then 'LEDGER_ACCOUNT_TYPE_UNKNOWN'
        when not exists (select from ref.currencies c where c.code = a.value ->> 'currency') then 'LEDGER_CURRENCY_UNKNOWN'
        when jsonb_typeof(a.value -> 'name') is distinct from 'string' or a.value ->> 'name' !~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'
          or (a.value ->> 'user_id' is not null and a.value ->> 'organization_id' is not null)
          or (a.value ->> 'user_id' is not null and payments.try_uuid(a.value ->> 'user_id') is null)
          or (a.value ->> 'organization_id' is not null and payments.try_uuid(a.value ->> 'organization_id') is null)
          or not payments.is_limit(a.value -> 'floor_cents') or not payments.is_limit(a.value -> 'ceiling_cents')
          or payments.try_amount(a.value ->> 'floor_cents') > payments.try_amount(a.value ->> 'ceiling_cents')
          then 'LEDGER_INVALID'
      end as code
    from jsonb_array_elements(p_accounts) with ordinality as a
  ) f
  where f.code is not null
  order by f.ordinality
  limit 1;
  if found then
    perform payments.raise_code(v_fault.code, format(
      'Account %s of the list cannot be opened: %s. It needs a known type, a known currency, a name of a-z 0-9 _ . : -, and has at most one owner (user_id or organization_id), a floor_cents and a ceiling_cents not below it, and nothing else.',
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
             'user_id', lower(i.value ->> 'user_id'), 'organization_id', lower(i.value ->> 'organization_id'),
             'floor_cents', payments.try_amount(i.value ->> 'floor_cents'),
             'ceiling_cents', payments.try_amount(i.value ->> 'ceiling_cents'))) as payload
    from rows from (unnest(v_ids), jsonb_array_elements(p_accounts)) with ordinality as i (id, value, ordinality)
    where not exists (select from payments.accounts x where x.book_id = p_book_id and x.id = i.id)
    order by i.id, i.ordinality
  ) m;
  v_positions := payments.append_events(p_book_id, v_events);
  if v_positions is not null then
    perform payments.project_account_changes(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
  end if;

  return query
  select i.ordinality::integer, i.id, coalesce(i.id = any (v_opened), false)
  from unnest(v_ids) with ordinality as i (id, ordinality)
  order by i.ordinality;
end $$;

-- As in 0009, of every amount that 64 bits hold; without one, or without weights, there is nothing to split.
create or replace function payments.split_amount(p_amount_cents bigint, p_weights bigint[]) returns bigint[]
language plpgsql immutable parallel safe as $$
declare
  v_total constant numeric := (select sum(w) from unnest(p_weights) as w);
  v_parts bigint[];
begin
  if p_amount_cents is null or coalesce(v_total, 0) = 0 or exists (select from unnest(p_weights) as w where w < 0 or w is null) then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Weights %s cannot split %s: no weight may be negative or null, and one must be above 0.',
      payments.shown(p_weights::text), coalesce(p_amount_cents::text, 'an amount of null')));
  end if;
  select array_agg((sign(p_amount_cents::numeric) * (s.part + case when s.rank <= s.short then 1 else 0 end))::bigint order by s.nth)
  into v_parts
  from (
    select x.nth, x.part, row_number() over (order by x.remainder desc, x.nth) as rank,
           abs(p_amount_cents::numeric) - sum(x.part) over () as short
    from (
      select w.nth, div(abs(p_amount_cents::numeric) * w.weight, v_total) as part,
             mod(abs(p_amount_cents::numeric) * w.weight, v_total) as remainder
      from unnest(p_weights) with ordinality as w (weight, nth)
    ) x
  ) s;
  return v_parts;
end $$;

-- History and periods.

-- As in 0010; what was given is shown, in one line.
create or replace function payments.check_order(p_by text) returns void
language plpgsql stable as $$
begin
  if p_by is null or p_by not in ('recorded', 'effective') then
    perform payments.raise_code('LEDGER_INVALID', format(
      'History goes by ''recorded'' or ''effective'', not by %s.', payments.shown(p_by)));
  end if;
end $$;

-- As in 0010, for every instant that there is.
create or replace function payments.statement_bounds(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz,
  out known_seq bigint, out opening_cents numeric, out closing_cents numeric
)
language plpgsql stable as $$
declare
  v_before_from constant timestamptz := payments.instant_before(p_from);
  v_before_to constant timestamptz := payments.instant_before(p_to);
begin
  perform payments.check_order(p_by);
  perform payments.normal_sign(p_book_id, p_account_id);
  if p_from > p_to then
    perform payments.raise_code('LEDGER_INVALID', format(
      'A statement cannot go from %s to %s: it would end before it begins.', payments.instant_text(p_from), payments.instant_text(p_to)));
  end if;
  known_seq := payments.recorded_seq(p_book_id, p_account_id, null, null);
  opening_cents := case
    when p_from is null then 0
    when p_by = 'effective' then (payments.effective_sum(p_book_id, p_account_id, v_before_from)).signed_cents
    else payments.balance_after_seq(p_book_id, p_account_id, payments.recorded_seq(p_book_id, p_account_id, v_before_from, null)) end;
  closing_cents := case
    when p_by = 'effective' and p_to is not null
      then (payments.effective_sum(p_book_id, p_account_id, v_before_to)).signed_cents
    else payments.balance_after_seq(p_book_id, p_account_id, payments.recorded_seq(p_book_id, p_account_id, v_before_to, null)) end;
end $$;

-- As in 0010, for every instant that there is.
create or replace function payments.effective_page(
  p_book_id integer, p_account_id uuid, p_to timestamptz, p_known_seq bigint, p_after_at timestamptz, p_after_seq bigint, p_limit integer
) returns bigint[]
language plpgsql stable as $$
declare
  v_exceptions bigint[];
  v_last_at timestamptz;
  v_first_seq bigint;
  v_last_seq bigint;
begin
  if p_limit is null or p_limit not between 1 and 10001 then
    perform payments.raise_code('LEDGER_INVALID', format('A page has 1 to 10001 lines, not %s.', coalesce(p_limit::text, 'null')));
  end if;
  select array_agg(x.account_seq), case when count(*) = p_limit then max(x.effective_at) end into v_exceptions, v_last_at
  from (
    select e.account_seq, e.effective_at
    from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.effective_at <> e.created_at
      and e.effective_at >= p_after_at and (e.effective_at, e.account_seq) > (p_after_at, p_after_seq)
      and e.effective_at < p_to and e.account_seq + 0 <= p_known_seq
    order by e.effective_at, e.account_seq
    limit p_limit
  ) x;
  v_first_seq := 1 + payments.recorded_seq(p_book_id, p_account_id, payments.instant_before(p_after_at), null);
  v_last_seq := least(p_known_seq,
    payments.recorded_seq(p_book_id, p_account_id, least(payments.instant_before(p_to), v_last_at), null));
  return array(
    select e.account_seq
    from (
      (select e.account_seq, e.effective_at
       from payments.entries e
       where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq between v_first_seq and v_last_seq
         and e.effective_at = e.created_at and (e.effective_at, e.account_seq) > (p_after_at, p_after_seq)
       order by e.account_seq
       limit p_limit)
      union all
      select x.account_seq, (
        select e.effective_at from payments.entries e
        where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = x.account_seq)
      from unnest(v_exceptions) as x (account_seq)
    ) e
    order by e.effective_at, e.account_seq
    limit p_limit);
end $$;

-- As in 0010, for every instant that there is; of a book and an account that there are, with the figures that it goes on from.
-- Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN, LEDGER_INVALID.
create or replace function payments.statement_lines(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz, p_known_seq bigint,
  p_balance_cents numeric, p_after_at timestamptz, p_after_seq bigint, p_limit integer
) returns table (
  account_seq bigint, entry_id bigint, event_position bigint, transaction_id uuid, effective_at timestamptz, recorded_at timestamptz,
  amount_cents bigint, balance_cents numeric, reference_type text, reference_id text, description text, metadata jsonb
)
language plpgsql stable as $$
declare
  v_page bigint[];
  v_first_seq bigint;
  v_last_seq bigint;
begin
  perform payments.check_order(p_by);
  perform payments.normal_sign(p_book_id, p_account_id);
  if p_limit is null or p_limit not between 1 and 10001 then
    perform payments.raise_code('LEDGER_INVALID', format(
      'A page has 1 to 10001 lines, not %s.', coalesce(p_limit::text, 'null')));
  end if;
  if p_known_seq is null or p_balance_cents is null then
    perform payments.raise_code('LEDGER_INVALID', 'A page goes on from figures of the statement: give p_known_seq and p_balance_cents.');
  end if;
  if p_by = 'effective' then
    v_page := payments.effective_page(p_book_id, p_account_id, coalesce(p_to, 'infinity'), p_known_seq,
      coalesce(p_after_at, p_from, '-infinity'), coalesce(p_after_seq, 0), p_limit);
  else
    -- The number after the last one that there can be is none.
    v_first_seq := 1 + coalesce(case when p_after_seq is not null then least(p_after_seq, 9223372036854765806) end, case when p_from is null then 0 else
      payments.recorded_seq(p_book_id, p_account_id, payments.instant_before(p_from), null) end);
    v_last_seq := least(p_known_seq, payments.recorded_seq(p_book_id, p_account_id, payments.instant_before(p_to), null));
    v_page := array(select n from generate_series(v_first_seq, least(v_last_seq, v_first_seq + p_limit - 1)) as n);
  end if;
  return query
  select e.account_seq, e.id, e.event_position, e.transaction_id, e.effective_at, e.created_at, e.amount_cents,
         p_balance_cents + sum(e.amount_cents) over (order by p.ordinality), e.reference_type, e.reference_id, e.description, e.metadata
  from unnest(v_page) with ordinality as p (account_seq, ordinality)
  cross join lateral (
    select * from payments.entries e
    where e.book_id = p_book_id and e.account_id = p_account_id and e.account_seq = p.account_seq
    limit 1
  ) e
  order by p.ordinality;
end $$;

-- As in 0010; positions outside the log are bounds as well.
create or replace function payments.period_movements(p_book_id integer, p_untils timestamptz[], p_after bigint, p_up_to bigint)
returns payments.period_movement[]
language sql stable as $$
  select coalesce(array_agg(m::payments.period_movement), '{}')
  from (
    select e.account_id, width_bucket(e.effective_at, p_untils) + 1, sum(e.amount_cents), count(*),
           -- Every transaction has a leg 1, and one.
           count(*) filter (where e.id % 1024 = 1), max(e.event_position)
    from payments.entries e
    where e.book_id = p_book_id and e.effective_at < p_untils[cardinality(p_untils)]
      and e.id > greatest(least(coalesce(p_after, -1), 9007199254740990), -1) * 1024 + 1023 and e.id <= greatest(least(coalesce(p_up_to, 9007199254740990), 9007199254740990), -1) * 1024 + 1023
    group by 1, 2
  ) m
$$;

-- As in 0010; LEDGER_PERIOD_INVALID too for an instant before the year 1, which cannot be written as ours are.
create or replace function payments.next_period(p_book_id integer, p_until timestamptz) returns timestamptz[]
language plpgsql stable as $$
declare
  v_closed_until timestamptz;
begin
  perform payments.check_book(p_book_id);
  if p_until is null or not isfinite(p_until) or p_until < '0001-01-01 00:00+00' or p_until > clock_timestamp() then
    perform payments.raise_period_code('LEDGER_PERIOD_INVALID', format(
      'Book %s cannot be closed until %s: it is %s. Give an instant that has passed, of the year 1 or later.',
      p_book_id, coalesce(payments.instant_text(p_until), 'null'), payments.instant_text(clock_timestamp())));
  end if;
  select b.closed_until into v_closed_until from payments.books b where b.book_id = p_book_id;
  if p_until <= v_closed_until then
    perform payments.raise_code('LEDGER_PERIOD_CLOSED', format(
      'Book %s is closed until %s, so it cannot be closed until %s. No period is reopened: post a correction with an effective date in the open period.',
      p_book_id, payments.instant_text(v_closed_until), payments.instant_text(p_until)));
  end if;
  return array_remove(array[v_closed_until, p_until], null);
end $$;

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on function payments.shown(text), payments.instant_before(timestamptz), payments.is_member(name, name) from %s', v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    -- History reads with its caller's rights.
    grant execute on function payments.shown(text), payments.instant_before(timestamptz) to service_role;
  end if;
end $$;
