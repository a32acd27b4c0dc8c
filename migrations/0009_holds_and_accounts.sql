-- Holds, and what is changed about an account: placing, voiding, expiring; floors, ceilings, freezing, closing. Who may do what.

create type payments.hold_outcome as (
  status text, hold_id uuid, event_position bigint, state text, remaining_cents bigint, available_cents bigint
);

-- How a hold, and what its account has available, stand. p_status: what became of the request.
create function payments.describe_hold(p_book_id integer, p_hold_id uuid, p_status text) returns payments.hold_outcome
language sql stable
return (
  select row(p_status, h.hold_id, h.event_position, case when h.state = 'active' and h.expires_at <= clock_timestamp() then 'expired' else h.state end,
           h.remaining_cents, b.available_cents)::payments.hold_outcome
  from payments.holds h
  join payments.account_balances b on b.account_id = h.account_id and b.book_id = h.book_id
  where h.hold_id = p_hold_id and h.book_id = p_book_id
);

-- What is wrong with the shape of a hold; null where nothing is.
create function payments.hold_fault(p_hold jsonb) returns text
language sql stable parallel safe
return coalesce(case
  when not payments.has_only_keys(p_hold, array['account_id', 'amount_cents', 'currency', 'expires_at', 'hold_id', 'idempotency_key',
      'idempotency_scope', 'reference_type', 'reference_id', 'description', 'metadata'])
    then 'It is no object, or has a key that is not among these:'
  when octet_length(p_hold::text) > 1048576 then 'It has more than 1048576 bytes (1 MiB):'
  when p_hold ->> 'hold_id' is not null and payments.try_uuid(p_hold ->> 'hold_id') is null then 'hold_id is no UUID:'
  when p_hold ->> 'expires_at' is not null and coalesce(payments.try_instant(p_hold ->> 'expires_at')
      not between '1900-01-01 00:00+00' and '2199-12-31 23:59+00', true)
    then 'expires_at is no instant with its offset, from 1900 to 2199:'
end, payments.labels_fault(p_hold));

-- Places a hold: reserves an amount of an account until it is captured (by a transaction's capture), voided, or expires.
-- p_hold: {account_id, amount_cents (positive), currency, expires_at?, hold_id?, idempotency_key?, idempotency_scope?,
--   reference_type?, reference_id?, description?, metadata?}.
-- Returns placed, or duplicate where the same request placed it before. Raises where it is refused: a floor that what is
-- available would pass, an account that is not open, an expiry that has passed …
-- Locks: the account's balance row.
create function payments.place_hold(p_book_id integer, p_hold jsonb) returns payments.hold_outcome
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
      coalesce(p_hold ->> 'account_id', 'null'), p_book_id));
  elsif v_currency is distinct from p_hold ->> 'currency' then
    perform payments.raise_code('LEDGER_CURRENCY_MISMATCH', format('A hold in %s on account %s, which holds %s.',
      coalesce(p_hold ->> 'currency', 'null'), v_hold.account_id, v_currency));
  elsif coalesce(v_hold.amount_cents, 0) <= 0 then
    perform payments.raise_code('LEDGER_AMOUNT_INVALID', format('A hold''s amount_cents is a whole number above 0, not %s.',
      coalesce(p_hold ->> 'amount_cents', 'null')));
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

-- Why a hold may not be placed, as {code, message}; null where it may. p_held_after: what the account would have held.
create function payments.hold_limit(p_account payments.balances, p_held_after bigint) returns jsonb
language plpgsql stable as $$
declare
  v_after payments.balances := p_account;
  v_direction constant numeric := sign(p_held_after);
begin
  if p_account.status <> 'open' then
    return jsonb_build_object('code', payments.status_code(p_account.status), 'message',
      format('Account %s is %s.', p_account.account_id, p_account.status));
  end if;
  v_after.held_cents := p_held_after;
  return case when payments.limit_passed(v_after, p_account.balance_cents, v_direction) is not null then jsonb_build_object(
    'code', payments.limit_passed(v_after, p_account.balance_cents, v_direction),
    'message', payments.limit_message(v_after, p_account.balance_cents, v_direction)) end;
end $$;

-- Voids what is left of a hold. Voiding it again is answered with duplicate; one that was captured or expired raises.
-- p_reason: kept in the log.
-- Locks: the balance row of the hold's account.
create function payments.void_hold(p_book_id integer, p_hold_id uuid, p_reason text default null) returns payments.hold_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_hold payments.holds;
  v_position bigint;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  select h.* into v_hold from payments.holds h where h.hold_id = p_hold_id and h.book_id = p_book_id;
  perform payments.lock_accounts(p_book_id, array[v_hold.account_id]);
  perform payments.expire_account_holds(p_book_id, v_hold.account_id);
  select h.* into v_hold from payments.holds h where h.hold_id = p_hold_id and h.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_HOLD_UNKNOWN', format('Hold %s does not exist in book %s.', coalesce(p_hold_id::text, 'null'), p_book_id));
  elsif v_hold.state = 'voided' then
    return payments.describe_hold(p_book_id, p_hold_id, 'duplicate');
  elsif v_hold.state <> 'active' then
    perform payments.raise_code('LEDGER_HOLD_RESOLVED', format('Hold %s is %s: nothing of it is left to void.', p_hold_id, v_hold.state));
  elsif octet_length(p_reason) > 1000 then
    perform payments.raise_code('LEDGER_INVALID', 'The reason has more than 1000 bytes.');
  end if;
  v_position := (payments.append_event(p_book_id, row('hold.voided', gen_random_uuid(), null, null, null, null,
    jsonb_strip_nulls(jsonb_build_object('reason', p_reason)) || jsonb_build_object(
      'hold_step', payments.hold_step(v_hold, 'voided', 0, 0)))::payments.new_event)).event_position;
  perform payments.project_hold_steps(p_book_id, v_position, v_position, pg_current_xact_id());
  return payments.describe_hold(p_book_id, p_hold_id, 'voided');
end $$;

-- Writes down which holds of a book have expired, at most p_limit of them; returns how many. They reserve nothing since they
-- expired, whether this has run or not.
-- Locks: the balance rows of their accounts, in id order.
create function payments.expire_holds(p_book_id integer, p_limit integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_accounts uuid[];
  v_expired integer := 0;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  v_accounts := array(
    select distinct d.account_id
    from (
      select h.account_id from payments.holds h
      where h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
      order by h.expires_at limit greatest(p_limit, 0)
    ) d);
  perform payments.lock_accounts(p_book_id, v_accounts);
  for i in 1 .. cardinality(v_accounts) loop
    v_expired := v_expired + payments.expire_account_holds(p_book_id, v_accounts[i]);
  end loop;
  return v_expired;
end $$;

-- Changes an account's limits or state. What is not named stays as it is; a limit of null is lifted.
-- p_change: {account_id, status?: open, frozen or closed, floor_cents?, ceiling_cents?, reason?, idempotency_key?, idempotency_scope?}.
--   Limits read as the account's holder reads the balance: positive on its normal side.
-- Returns changed, or duplicate where the same request was carried out before. Raises where it is refused; an account is closed
-- only when its balance is zero and nothing is on hold.
-- Locks: the account's balance row.
create function payments.change_account(p_book_id integer, p_change jsonb, out status text, out event_position bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_fault text;
  v_account payments.balances;
  v_last record;
  v_event payments.new_event;
  v_duplicate payments.posting_outcome;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  v_fault := coalesce(case
    when not payments.has_only_keys(p_change, array['account_id', 'status', 'floor_cents', 'ceiling_cents', 'reason', 'idempotency_key', 'idempotency_scope'])
      then 'It is no object, or has a key that is not among these:'
    when not p_change ?| array['status', 'floor_cents', 'ceiling_cents'] then 'It changes nothing:'
    when coalesce(p_change ->> 'status' not in ('open', 'frozen', 'closed'), p_change ? 'status') then 'status is none of open, frozen, closed:'
    when not payments.is_limit(p_change -> 'floor_cents') then 'floor_cents is neither null nor a whole number of at most 18 digits:'
    when not payments.is_limit(p_change -> 'ceiling_cents') then 'ceiling_cents is neither null nor a whole number of at most 18 digits:'
    when octet_length(p_change ->> 'reason') > 1000 then 'reason has more than 1000 bytes:'
  end, payments.labels_fault(p_change));
  if v_fault is not null or p_change is null then
    perform payments.raise_code('LEDGER_INVALID', coalesce(v_fault, 'It is null:') ||
      ' a change is an object of account_id, status (open, frozen, closed), floor_cents, ceiling_cents, reason, idempotency_key, idempotency_scope, and nothing else.');
  end if;

  v_event := row('account.changed', gen_random_uuid(), null,
    case when p_change ->> 'idempotency_key' is not null then coalesce(p_change ->> 'idempotency_scope', 'default') end,
    p_change ->> 'idempotency_key', sha256(convert_to(p_change::text, 'UTF8')), null);
  perform payments.lock_accounts(p_book_id, array[payments.try_uuid(p_change ->> 'account_id')]);
  select b.* into v_account from payments.balances b
  where b.account_id = payments.try_uuid(p_change ->> 'account_id') and b.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist in book %s: open it first.',
      coalesce(p_change ->> 'account_id', 'null'), p_book_id));
  end if;
  v_duplicate := payments.find_duplicate(p_book_id, 1, v_event);
  if v_duplicate.status = 'duplicate' then
    status := 'duplicate';
    event_position := v_duplicate.event_position;
    return;
  elsif v_duplicate.status = 'rejected' then
    perform payments.raise_code(v_duplicate.code, v_duplicate.message);
  end if;

  select c.status, c.floor_cents, c.ceiling_cents into v_last
  from payments.account_changes c
  where c.account_id = v_account.account_id and c.book_id = p_book_id
  order by c.change_seq desc limit 1;
  -- What it comes to, whole: a replay needs no other event to know it.
  v_event.payload := jsonb_build_object('account_id', v_account.account_id, 'status', coalesce(p_change ->> 'status', v_account.status),
    'floor_cents', case when p_change ? 'floor_cents' then payments.try_amount(p_change ->> 'floor_cents') else v_last.floor_cents end,
    'ceiling_cents', case when p_change ? 'ceiling_cents' then payments.try_amount(p_change ->> 'ceiling_cents') else v_last.ceiling_cents end)
    || jsonb_strip_nulls(jsonb_build_object('reason', p_change -> 'reason'));
  if (v_event.payload ->> 'floor_cents')::bigint > (v_event.payload ->> 'ceiling_cents')::bigint then
    perform payments.raise_code('LEDGER_INVALID', format('A floor of %s is above the ceiling of %s.',
      v_event.payload ->> 'floor_cents', v_event.payload ->> 'ceiling_cents'));
  elsif v_event.payload ->> 'status' = 'closed' then
    perform payments.expire_account_holds(p_book_id, v_account.account_id);
    select b.* into v_account from payments.balances b where b.account_id = v_account.account_id and b.book_id = p_book_id;
    if v_account.balance_cents <> 0 or v_account.held_cents <> 0 then
      perform payments.raise_code('LEDGER_ACCOUNT_IN_USE', format(
        'Account %s has a balance of %s and %s on hold (debit positive): bring both to zero before closing it.',
        v_account.account_id, v_account.balance_cents, v_account.held_cents));
    end if;
  end if;

  event_position := (payments.append_event(p_book_id, v_event)).event_position;
  perform payments.project_account_changes(p_book_id, event_position, event_position, pg_current_xact_id());
  status := 'changed';
end $$;

-- Whether a JSON value may be a limit: absent, null, or a whole number of at most 18 digits, so that sums with it fit 64 bits.
create function payments.is_limit(p_value jsonb) returns boolean
language sql immutable parallel safe
return case when coalesce(jsonb_typeof(p_value), 'null') = 'null' then true
  else coalesce(payments.try_amount(p_value #>> '{}') between -999999999999999999 and 999999999999999999, false) end;

-- As in 0006, beside a close of the book's period.
create or replace function payments.import_events(p_book_id integer, p_account_ids uuid[], p_events payments.new_event[])
returns integer
language plpgsql as $$
declare
  v_new payments.new_event[];
begin
  perform payments.open_since(p_book_id);
  perform payments.lock_accounts(p_book_id, p_account_ids);
  begin
    return coalesce(cardinality(payments.append_events(p_book_id, p_events)), 0);
  exception when unique_violation then
    select array_agg(row(n.type, n.event_id, n.effective_at, n.idempotency_scope, n.idempotency_key, n.request_hash, n.payload)::payments.new_event
             order by n.ordinality)
    into v_new
    from unnest(p_events) with ordinality as n
    where not exists (select from payments.events e where e.book_id = p_book_id and e.event_id = n.event_id);
    -- Not asked which constraint it was: an event that the log has is refused for its id or for its key, whichever index
    -- is looked at first, and that changes when one is built anew.
    if cardinality(v_new) = cardinality(p_events) then
      raise;
    end if;
  end;
  return coalesce(cardinality(payments.append_events(p_book_id, v_new)), 0);
end $$;

-- As in 0003, with limits from the start, and no misspelt key dropped in silence.
-- p_accounts: array of {type, currency, name, user_id?, organization_id?, floor_cents?, ceiling_cents?}. One that exists already is
-- answered as it is: its limits are changed by change_account alone.
-- Returns for each, in order: its id, and whether this call opened it. All or none: a malformed one raises.
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
        when coalesce(a.value ->> 'name', '') !~ '^[a-z0-9][a-z0-9_.:-]{0,99}$'
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

-- Splits an amount by weights, whole cents, none lost: each part is its exact share rounded down, and the cents that are left
-- go one by one to the parts with the largest remainders, the first of equals (largest remainder method, Hamilton's).
-- p_weights: not negative, not all zero. A negative amount is split as its positive, negated.
create function payments.split_amount(p_amount_cents bigint, p_weights bigint[]) returns bigint[]
language plpgsql immutable strict parallel safe as $$
declare
  v_total constant numeric := (select sum(w) from unnest(p_weights) as w);
  v_parts bigint[];
begin
  if coalesce(v_total, 0) = 0 or exists (select from unnest(p_weights) as w where w < 0 or w is null) then
    perform payments.raise_code('LEDGER_INVALID', format('Weights %s cannot split an amount: none may be negative or null, and one must be above 0.', p_weights));
  end if;
  select array_agg(sign(p_amount_cents)::bigint * (s.part + case when s.rank <= s.short then 1 else 0 end)::bigint order by s.nth)
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

-- The books that a role reads, as policies ask: once a statement, not once a row.
create function payments.books_of(p_role name) returns integer[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(distinct g.book_id), '{}') from payments.book_grants g where pg_has_role(p_role, g.grantee, 'member')
$$;

do $$
declare
  v_table text;
begin
  foreach v_table in array array['books', 'events', 'accounts', 'entries', 'balances', 'account_changes', 'holds', 'hold_entries', 'reversals'] loop
    execute format('alter table payments.%I enable row level security', v_table);
    execute format('create policy books_granted on payments.%I for select using (book_id = any ((select payments.books_of(current_user))::integer[]))', v_table);
  end loop;
end $$;

-- Grants come first: nobody but the owner writes the tables; Supabase's server role posts through the functions.
revoke all on all tables in schema payments from public;
revoke all on all functions in schema payments from public;
do $$
declare
  v_role text;
begin
  for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on payments.book_grants, payments.account_changes, payments.holds, payments.hold_entries, payments.reversals from %I', v_role);
    execute format('revoke all on all functions in schema payments from %I', v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    insert into payments.book_grants (book_id, grantee, may_post) values (1, 'service_role', true);
    grant select on payments.account_changes, payments.holds, payments.hold_entries, payments.reversals to service_role;
    grant execute on function payments.open_accounts(integer, jsonb), payments.post_transactions(integer, jsonb),
      payments.post_transaction(integer, jsonb), payments.place_hold(integer, jsonb), payments.void_hold(integer, uuid, text),
      payments.expire_holds(integer, integer), payments.change_account(integer, jsonb), payments.split_amount(bigint, bigint[]),
      payments.books_of(name) to service_role;
  end if;
end $$;
