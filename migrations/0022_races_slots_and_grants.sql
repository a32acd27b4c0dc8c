-- What a race left undecided is asked again, what was not locked is not judged, a slot is no account for others, and a role is
-- granted a book in one call. Functions as they were but for that.

-- Raises LEDGER_IDEMPOTENCY_CONFLICT where an id that is made from a name was taken by an event of another type: a request
-- could choose it before such ids were refused. p_type: what the ids are made for. Locks nothing.
create function payments.check_named_ids(p_book_id integer, p_type text, p_ids uuid[]) returns void
language plpgsql stable as $$
declare
  v_taken record;
begin
  select e.event_id, e.type, e.position into v_taken
  from unnest(p_ids) with ordinality as i (id, ordinality)
  cross join lateral (
    select e.event_id, e.type, e.position from payments.events e where e.event_id = i.id and e.book_id = p_book_id limit 1
  ) e
  where e.type <> p_type
  order by i.ordinality
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_IDEMPOTENCY_CONFLICT', format(
      'The id %s, which %s would have, was given to event %s (%s) by its request: choose another %s.',
      v_taken.event_id, case p_type when 'period.closed' then 'the closing' else 'the account' end, v_taken.position, v_taken.type,
      case p_type when 'period.closed' then 'instant to close until' else 'name' end));
  end if;
end $$;

-- As in 0014; a key or id that another transaction committed meanwhile is answered by what became of that, and what is judged
-- is what is locked.
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
    -- Locked by itself: where the account was opened since lock_accounts looked, that found nothing to lock.
    select b.* into v_account from payments.balances b
    where b.account_id = v_hold.account_id and b.book_id = p_book_id for no key update;
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
  if v_position is null then
    -- Another transaction committed the key or the id since find_duplicate looked, which finds it now.
    return payments.place_hold(p_book_id, p_hold);
  end if;
  perform payments.project_hold_steps(p_book_id, v_position, v_position, pg_current_xact_id());
  return payments.describe_hold(p_book_id, v_hold.hold_id, 'placed');
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', format(
    'What account %s has on hold would pass what 64 bits hold. Nothing was written: hold less.', p_hold ->> 'account_id'));
end $$;

-- As in 0017, likewise.
create or replace function payments.change_account(p_book_id integer, p_change jsonb, out status text, out event_position bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_fault text;
  v_account payments.balances;
  v_last record;
  v_event payments.new_event;
  v_duplicate payments.posting_outcome;
  -- It, and its slots.
  v_accounts uuid[];
  v_position bigint;
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
    when coalesce(jsonb_typeof(p_change -> 'reason'), 'null') not in ('string', 'null') then 'reason is no text:'
    when octet_length(p_change ->> 'reason') > 1000 then 'reason has more than 1000 bytes:'
  end, payments.labels_fault(p_change));
  if v_fault is not null or p_change is null then
    perform payments.raise_code('LEDGER_INVALID', coalesce(v_fault, 'It is null:') ||
      ' a change is an object of account_id, status (open, frozen, closed), floor_cents, ceiling_cents, reason, idempotency_key, idempotency_scope, and nothing else.');
  end if;

  v_event := row('account.changed', gen_random_uuid(), null,
    case when p_change ->> 'idempotency_key' is not null then coalesce(p_change ->> 'idempotency_scope', 'default') end,
    p_change ->> 'idempotency_key', sha256(convert_to(p_change::text, 'UTF8')), null);
  perform payments.lock_accounts(p_book_id, payments.slots_of(p_book_id, payments.try_uuid(p_change ->> 'account_id')));
  -- Locked by itself: where the account was opened since, nothing was there to lock.
  select b.* into v_account from payments.balances b
  where b.account_id = payments.try_uuid(p_change ->> 'account_id') and b.book_id = p_book_id for no key update;
  if not found then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist in book %s: open it first.',
      payments.shown(p_change ->> 'account_id'), p_book_id));
  end if;
  -- Whoever adds slots holds the account's lock: it has no more by now than these.
  v_accounts := payments.slots_of(p_book_id, v_account.account_id);
  perform payments.lock_accounts(p_book_id, v_accounts);
  v_duplicate := payments.find_duplicate(p_book_id, 1, v_event);
  if v_duplicate.status = 'duplicate' then
    status := 'duplicate';
    event_position := v_duplicate.event_position;
    return;
  elsif v_duplicate.status = 'rejected' then
    perform payments.raise_code(v_duplicate.code, v_duplicate.message);
  end if;
  if payments.account_of(p_book_id, v_account.account_id) <> v_account.account_id then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format('Account %s is a slot of account %s: change that one, and with it its slots.',
      v_account.account_id, payments.account_of(p_book_id, v_account.account_id)));
  elsif cardinality(v_accounts) > 1 and coalesce(p_change ->> 'floor_cents', p_change ->> 'ceiling_cents') is not null then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format(
      'Account %s is kept in slots: a floor or a ceiling, nobody could judge without waiting for all of them. Limit an account without slots.',
      v_account.account_id));
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
    select sum(b.balance_cents), sum(b.held_cents) into v_account.balance_cents, v_account.held_cents
    from payments.balances b where b.account_id = any (v_accounts) and b.book_id = p_book_id;
    if v_account.balance_cents <> 0 or v_account.held_cents <> 0 then
      perform payments.raise_code('LEDGER_ACCOUNT_IN_USE', format(
        'Account %s has a balance of %s and %s on hold (debit positive): bring both to zero before closing it.',
        v_account.account_id, v_account.balance_cents, v_account.held_cents));
    end if;
  end if;

  event_position := (payments.append_event(p_book_id, v_event)).event_position;
  if event_position is null then
    -- As in place_hold.
    select c.status, c.event_position into status, event_position from payments.change_account(p_book_id, p_change) c;
    return;
  end if;
  perform payments.project_account_changes(p_book_id, event_position, event_position, pg_current_xact_id());
  -- Posting looks at the row that it locks: each slot has the state of its account.
  for i in 2 .. case when p_change ? 'status' then cardinality(v_accounts) else 1 end loop
    v_position := (payments.append_event(p_book_id, row('account.changed', gen_random_uuid(), null, null, null, null,
      v_event.payload || jsonb_build_object('account_id', v_accounts[i]))::payments.new_event)).event_position;
    perform payments.project_account_changes(p_book_id, v_position, v_position, pg_current_xact_id());
  end loop;
  status := 'changed';
end $$;

-- As in 0009; what is locked is the account of a hold that was there before.
create or replace function payments.void_hold(p_book_id integer, p_hold_id uuid, p_reason text default null) returns payments.hold_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_hold payments.holds;
  v_position bigint;
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  select h.* into v_hold from payments.holds h where h.hold_id = p_hold_id and h.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_HOLD_UNKNOWN', format('Hold %s does not exist in book %s.', coalesce(p_hold_id::text, 'null'), p_book_id));
  end if;
  perform payments.lock_accounts(p_book_id, array[v_hold.account_id]);
  perform payments.expire_account_holds(p_book_id, v_hold.account_id);
  select h.* into v_hold from payments.holds h where h.hold_id = p_hold_id and h.book_id = p_book_id;
  if v_hold.state = 'voided' then
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

-- As in 0017; what is judged is what is locked, and no id is taken twice.
create or replace function payments.add_slots(p_book_id integer, p_account_id uuid, p_slots integer) returns uuid[]
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_slots uuid[];
  v_account payments.balances;
  v_fault text;
  v_events payments.new_event[];
  v_taken text;
  v_positions bigint[];
begin
  perform payments.check_call(p_book_id);
  perform payments.open_since(p_book_id);
  if p_slots is null or p_slots not between 2 and 64 then
    perform payments.raise_code('LEDGER_INVALID', format(
      'An account has 2 to 64 slots, itself counted, not %s.', coalesce(p_slots::text, 'null')));
  end if;
  perform payments.lock_accounts(p_book_id, array[p_account_id]);
  perform payments.expire_account_holds(p_book_id, p_account_id);
  select b.* into v_account from payments.balances b where b.account_id = p_account_id and b.book_id = p_book_id for no key update;
  if not found then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist in book %s: open it first.',
      coalesce(p_account_id::text, 'null'), p_book_id));
  end if;
  v_slots := payments.slots_of(p_book_id, p_account_id);
  if cardinality(v_slots) >= p_slots then
    return v_slots;
  end if;
  v_fault := payments.slots_fault(p_book_id, v_account);
  if v_fault is not null then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format('Account %s cannot be given slots: %s.', p_account_id, v_fault));
  end if;

  select array_agg(row('account.opened', s.id, null, null, null, null, jsonb_strip_nulls(jsonb_build_object(
             'type', s.type, 'currency', s.currency, 'name', s.name, 'user_id', s.user_id, 'organization_id', s.organization_id,
             'slot_of', p_account_id, 'slot_number', s.number)))::payments.new_event order by s.number),
         min(s.name) filter (where exists (select from payments.accounts x where x.id = s.id and x.book_id = p_book_id))
  into v_events, v_taken
  from (
    select n.*, payments.account_id(p_book_id, n.type, n.currency, n.name, n.user_id::text, n.organization_id::text) as id
    from (
      select a.type, a.currency, a.user_id, a.organization_id, g.number,
             case when length(format('%s:slot-%s', a.name, g.number)) <= 100 then format('%s:slot-%s', a.name, g.number)
               -- Any name leaves room for the account's id.
               else format('slot-%s:%s', g.number, a.id) end as name
      from payments.accounts a
      cross join generate_series(cardinality(v_slots), p_slots - 1) as g (number)
      where a.id = p_account_id and a.book_id = p_book_id
    ) n
  ) s;
  if v_taken is not null then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format(
      'Account %s cannot be given slots: the name %s, which one of them would have, is another account''s.', p_account_id, v_taken));
  end if;

  perform payments.check_named_ids(p_book_id, 'account.opened', array(select e.event_id from unnest(v_events) as e));
  -- Changes nothing but the row: a transaction of a higher isolation level, whose snapshot does not show these slots, shall not
  -- set a limit or place a hold beside them. It meets a row that was updated since, and has to run again.
  update payments.balances b set last_seq = b.last_seq where b.account_id = p_account_id and b.book_id = p_book_id;
  v_positions := payments.append_events(p_book_id, v_events);
  perform payments.project_account_slots(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
  return payments.slots_of(p_book_id, p_account_id);
end $$;

-- As in 0014; a slot is no account to be opened, and no id is taken twice.
-- Raises LEDGER_SLOTS_REFUSED where one is a slot of an account, by its name.
create or replace function payments.open_accounts(p_book_id integer, p_accounts jsonb)
returns table (ordinal integer, account_id uuid, opened boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
  v_events payments.new_event[];
  v_opened uuid[];
  v_positions bigint[];
  v_fault record;
  v_slot record;
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

  select a.value ->> 'name' as name, s.account_id, s.slot_account_id into v_slot
  from unnest(v_ids) with ordinality as i (id, ordinality)
  join payments.account_slots s on s.slot_account_id = i.id and s.book_id = p_book_id
  join jsonb_array_elements(p_accounts) with ordinality as a on a.ordinality = i.ordinality
  order by i.ordinality
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_SLOTS_REFUSED', format(
      'Account %s of the list cannot be opened: %s is a slot of account %s. Name that account, or give this one another name.',
      v_slot.name, v_slot.slot_account_id, v_slot.account_id));
  end if;

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
  perform payments.check_named_ids(p_book_id, 'account.opened', v_opened);
  v_positions := payments.append_events(p_book_id, v_events);
  if v_positions is not null then
    perform payments.project_account_changes(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
  end if;

  return query
  select i.ordinality::integer, i.id, coalesce(i.id = any (v_opened), false)
  from unnest(v_ids) with ordinality as i (id, ordinality)
  order by i.ordinality;
end $$;

-- As in 0010; no id is taken twice.
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

-- As in 0010; an account with slots is one account, with what they come to.
create or replace function payments.certificates_of(p_book_id integer, p_untils timestamptz[], p_movements payments.period_movement[])
returns table (closed_until timestamptz, certificate jsonb)
language sql stable as $$
  with moved as materialized (
    select coalesce(k.account_id, m.account_id) as account_id, m.period, sum(m.cents) as cents, sum(m.entries) as entries,
           sum(m.transactions) as transactions, max(m.last_position) as last_position
    from unnest(p_movements) as m
    left join payments.account_slots k on k.slot_account_id = m.account_id and k.book_id = p_book_id
    group by 1, m.period
  ), stood as (
    select m.account_id, m.period, m.cents, sum(m.cents) over (partition by m.account_id order by m.period) as after_cents
    from moved m
  ), side as materialized (
    -- By how much each period moved the sums of either side: an account may change sides.
    select a.currency, a.type, s.period,
           sum(greatest(s.after_cents, 0) - greatest(s.after_cents - s.cents, 0)) as debit_cents,
           sum(greatest(-s.after_cents, 0) - greatest(s.cents - s.after_cents, 0)) as credit_cents
    from stood s
    join payments.accounts a on a.book_id = p_book_id and a.id = s.account_id
    group by a.currency, a.type, s.period
  ), counted as materialized (
    select m.period, sum(m.entries) as entries, sum(m.transactions) as transactions, max(m.last_position) as last_position
    from moved m
    group by m.period
  )
  select u.closed_until, jsonb_build_object(
           'version', 1, 'book', p_book_id, 'from', payments.instant_text(p_untils[u.period - 1]), 'until', payments.instant_text(u.closed_until),
           'balances', (
             select coalesce(jsonb_agg(jsonb_build_object(
                      'currency', b.currency, 'type', b.type, 'debit_cents', b.debit_cents::text, 'credit_cents', b.credit_cents::text,
                      'balance_cents', (b.debit_cents - b.credit_cents)::text) order by b.currency collate "C", b.type collate "C"), '[]')
             from (
               select s.currency, s.type, sum(s.debit_cents) as debit_cents, sum(s.credit_cents) as credit_cents
               from side s
               where s.period <= u.period
               group by s.currency, s.type
             ) b),
           'transactions', coalesce((select c.transactions from counted c where c.period = u.period), 0),
           'entries', coalesce((select c.entries from counted c where c.period = u.period), 0),
           'events', coalesce((select sum(c.transactions) from counted c where c.period <= u.period), 0),
           'last_position', coalesce((select max(c.last_position) from counted c where c.period <= u.period), 0))
  from unnest(p_untils) with ordinality as u (closed_until, period)
$$;

-- As in 0008, of at most p_limit holds, those that expired first; null ends all that have expired.
drop function payments.expire_account_holds(integer, uuid);
create function payments.expire_account_holds(p_book_id integer, p_account_id uuid, p_limit integer default null) returns integer
language plpgsql as $$
declare
  v_hold payments.holds;
  v_position bigint;
  v_expired integer := 0;
begin
  for v_hold in
    select h.* from payments.holds h
    where h.account_id = p_account_id and h.book_id = p_book_id and h.state = 'active' and h.expires_at <= clock_timestamp()
    order by h.expires_at, h.hold_id
    limit p_limit
  loop
    v_position := (payments.append_event(p_book_id, row('hold.expired', gen_random_uuid(), null, null, null, null, jsonb_build_object(
      'hold_step', payments.hold_step(v_hold, 'expired', 0, 0)))::payments.new_event)).event_position;
    perform payments.project_hold_steps(p_book_id, v_position, v_position, pg_current_xact_id());
    v_expired := v_expired + 1;
  end loop;
  return v_expired;
end $$;

-- As in 0014; p_limit bounds holds, not accounts: of the accounts of those that expired first, no more are written down.
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
    exit when v_expired >= p_limit;
    v_expired := v_expired + payments.expire_account_holds(p_book_id, v_accounts[i], p_limit - v_expired);
  end loop;
  return v_expired;
end $$;

-- Roles.

-- Who reads announcements reads those of his books, and those that are of none. Compared as text, so that no payload makes it fail.
alter table public.outbox enable row level security;
create policy books_granted on public.outbox for select using (
  payload ->> 'book_id' is null or payload ->> 'book_id' = any ((select payments.books_of(current_user))::text[]));
create policy announced_by_whoever_may_insert on public.outbox for insert with check (true);

-- Lets a role read a book, and post in it where p_may_post; called again, it changes that. For the owner.
-- Beside the row in payments.book_grants it gives the role the privileges that service_role has, but for inserting into
-- public.outbox, which is for no book in particular. Raises LEDGER_INVALID where there is no such role, LEDGER_BOOK_UNKNOWN.
create function payments.grant_book(p_role name, p_book_id integer, p_may_post boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_function regprocedure;
  -- A test compares both lists with what service_role has.
  v_relations constant text[] := array['payments.account_balances', 'payments.account_changes', 'payments.account_slots',
    'payments.account_types', 'payments.accounts', 'payments.balances', 'payments.books', 'payments.entries', 'payments.events',
    'payments.hold_entries', 'payments.holds', 'payments.periods', 'payments.reversals', 'payments.seal_tiles', 'payments.seals',
    'ref.currencies', 'public.outbox'];
  v_functions constant name[] := array['account_of', 'account_statement_bounds', 'account_statement_lines', 'add_slots',
    'balance_after_seq', 'books_of', 'certificate_hash', 'certificate_text', 'certificates_of', 'change_account', 'check_book',
    'check_order', 'close_period', 'effective_balance', 'effective_page', 'effective_sum', 'expire_holds', 'instant_before',
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

-- Takes a book from a role: from then on it neither sees nor posts to it. What it may look into and call stays, which without a
-- row in payments.book_grants shows nothing and is refused. Of a role that is gone too. For the owner.
create function payments.revoke_book(p_role name, p_book_id integer) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from payments.book_grants g where g.grantee = p_role and g.book_id = p_book_id;
$$;

do $$
declare
  v_role text;
begin
  for v_role in
    select 'public' union all
    select quote_ident(r.rolname) from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format($revoke$
      revoke all on function payments.check_named_ids(integer, text, uuid[]), payments.expire_account_holds(integer, uuid, integer),
        payments.grant_book(name, integer, boolean), payments.revoke_book(name, integer) from %s$revoke$, v_role);
  end loop;
  -- Whoever was let read the outbox asks for his books there.
  for v_role in
    select distinct g.grantee::regrole::text
    from pg_class c cross join lateral aclexplode(c.relacl) g
    where c.oid = 'public.outbox'::regclass and g.privilege_type = 'SELECT' and g.grantee not in (0, c.relowner)
  loop
    execute format('grant execute on function payments.books_of(name) to %s', v_role);
  end loop;
end $$;
