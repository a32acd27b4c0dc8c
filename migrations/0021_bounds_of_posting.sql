-- What a posting may cost, and what it may be called: requests that come to far more than they seem to, entries in several currencies,
-- accounts that were opened between two statements, balances at the very end of 64 bits, ids that the ledger makes itself.

-- Whether a JSON value has a number of more than 40 digits: jsonb keeps 1e131000 in a few bytes, and its text has as many digits.
-- Small values are not looked through, since what their numbers come to as text is bounded.
create function payments.has_long_numbers(p_value jsonb) returns boolean
language sql stable parallel safe
return pg_column_size(p_value) > 500
  and p_value @? '$.** ? (@.type() == "number" && (@ > 1e40 || @ < -1e40 || @ != 0 && @ < 1e-40 && @ > -1e-40))';
revoke all on function payments.has_long_numbers(jsonb) from public;

-- Whether a UUID is of version 8, as the ledger makes them from names (named_uuid): an account's, a legacy row's, a period's. Anybody can
-- tell such an id beforehand, and whoever took it for a transaction would keep what it belongs to out of the log.
create function payments.is_named_uuid(p_text text) returns boolean
language sql immutable parallel safe
return p_text like '______________8%';
revoke all on function payments.is_named_uuid(text) from public;

-- As in 0008; no id that the ledger makes itself, and nothing whose text, or what is kept of it, would blow up.
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
        * case when p_transaction ? 'entries' then jsonb_array_length(payments.entries_of(p_transaction)) else 1000 end > 16777216
      then jsonb_build_object('code', 'LEDGER_INVALID', 'message',
        'metadata, description and reference are kept with each entry, and would come to more than 16777216 bytes (16 MiB): give them less, or to fewer entries.')
    when v_fault is not null then jsonb_build_object('code', 'LEDGER_INVALID', 'message', v_fault ||
      ' a transaction is an object of 2 to 1000 entries (none: reverse all), transaction_id (UUID), effective_at (an instant with its offset), idempotency_key, idempotency_scope, reference_type, reference_id, description, metadata (an object), announce (a topic), linked (to the next), reverses (a transaction), capture (a hold), and nothing else.')
  end;
end $$;

-- As in 0014, in step with request_fault. Null where the text is.
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
  -- Whatever its entries are, what is kept with each comes to at most 16 MiB.
  and octet_length(p_text) <= 16384;

-- As in 0009, likewise.
create or replace function payments.hold_fault(p_hold jsonb) returns text
language sql stable parallel safe
return coalesce(case
  when not payments.has_only_keys(p_hold, array['account_id', 'amount_cents', 'currency', 'expires_at', 'hold_id', 'idempotency_key',
      'idempotency_scope', 'reference_type', 'reference_id', 'description', 'metadata'])
    then 'It is no object, or has a key that is not among these:'
  when payments.has_long_numbers(p_hold) then 'It has a number of more than 40 digits:'
  when octet_length(p_hold::text) > 1048576 then 'It has more than 1048576 bytes (1 MiB):'
  when p_hold ->> 'hold_id' is not null and payments.try_uuid(p_hold ->> 'hold_id') is null then 'hold_id is no UUID:'
  when payments.is_named_uuid(p_hold ->> 'hold_id')
    then 'hold_id is a UUID of version 8, which the ledger makes itself (take one of version 4 or 7, or leave it out):'
  when p_hold ->> 'expires_at' is not null and coalesce(payments.try_instant(p_hold ->> 'expires_at')
      not between '1900-01-01 00:00+00' and '2199-12-31 23:59+00', true)
    then 'expires_at is no instant with its offset, from 1900 to 2199:'
end, payments.labels_fault(p_hold));

-- As in 0009; an id that something else took is no repetition.
create or replace function payments.import_events(p_book_id integer, p_account_ids uuid[], p_events payments.new_event[])
returns integer
language plpgsql as $$
declare
  v_new payments.new_event[];
  v_taken uuid;
begin
  perform payments.open_since(p_book_id);
  perform payments.lock_accounts(p_book_id, p_account_ids);
  begin
    return coalesce(cardinality(payments.append_events(p_book_id, p_events)), 0);
  exception when unique_violation then
    -- Passed over is what was imported before, and nothing else that has its id.
    select n.event_id into v_taken
    from unnest(p_events) as n
    cross join lateral (
      select e.type, e.request_hash from payments.events e where e.event_id = n.event_id and e.book_id = p_book_id limit 1
    ) e
    where e.type <> n.type or e.request_hash is distinct from n.request_hash
    limit 1;
    if v_taken is not null then
      perform payments.raise_code('LEDGER_IDEMPOTENCY_CONFLICT', format(
        'The log has another event under the id %s, so that what is imported under it would be lost: find out who took it.', v_taken));
    end if;
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

-- As in 0017; entries are looked at closely once, not once a leg, and an account that was opened while the locks of others were waited
-- for is locked too.
create or replace function payments.post_one(p_book_id integer, p_ordinal integer, p_transaction jsonb, p_open_since timestamptz)
returns payments.posting_outcome
language plpgsql as $$
declare
  v_text constant text := case when not payments.has_long_numbers(p_transaction) then p_transaction::text end;
  v_body jsonb := p_transaction;
  v_entries jsonb;
  v_event payments.new_event;
  v_outcome payments.posting_outcome;
  v_fault jsonb;
  v_plan jsonb;
  v_logged record;
  v_row record;
  v_nth integer;
  -- Whether nothing is wrong with the entries, which then have one currency; what else they are, entries_fault looks at.
  v_is_sound boolean := true;
  -- Whether they were looked at closely, and whether one of their accounts was opened after the locks were taken.
  v_is_judged boolean := false;
  v_is_unlocked boolean;
  v_total numeric := 0;
  -- Per entry.
  v_accounts uuid[];
  v_cents bigint[];
  v_seqs bigint[];
  v_afters bigint[];
  -- Per account, in id order: where its row is, and what it comes to.
  v_ids uuid[];
  v_rows tid[];
  v_lasts bigint[];
  v_balances bigint[];
  v_currencies text[];
  v_ruled payments.ruled_account[];
begin
  if payments.is_plain_request(p_transaction, v_text) is not true then
    v_fault := payments.request_fault(p_transaction);
    if v_fault is not null then
      return payments.rejected(p_ordinal, v_fault);
    end if;
  end if;
  v_event := row('transaction.posted', coalesce(payments.try_uuid(p_transaction ->> 'transaction_id'), gen_random_uuid()),
    payments.try_instant(p_transaction ->> 'effective_at'),
    case when p_transaction ->> 'idempotency_key' is not null then coalesce(p_transaction ->> 'idempotency_scope', 'default') end,
    p_transaction ->> 'idempotency_key', sha256(convert_to(v_text, 'UTF8')), null);

  if p_transaction ? 'reverses' then
    perform payments.lock_accounts(p_book_id, array(
      select n.account_id from payments.entries n
      where n.transaction_id = payments.try_uuid(p_transaction ->> 'reverses') and n.book_id = p_book_id));
    v_outcome := payments.find_duplicate(p_book_id, p_ordinal, v_event);
    if v_outcome.status is not null then
      return v_outcome;
    end if;
    v_plan := payments.plan_reversal(p_book_id, payments.place_reversal_in_slots(p_book_id, p_transaction));
    if v_plan ? 'code' then
      return payments.rejected(p_ordinal, v_plan);
    end if;
    v_body := v_body || jsonb_build_object('entries', v_plan -> 'entries', 'reversal_step', v_plan -> 'step');
  end if;

  v_entries := v_body -> 'entries';
  for i in 1 .. jsonb_array_length(v_entries) loop
    v_accounts[i] := payments.try_uuid(v_entries -> i - 1 ->> 'account_id');
    v_cents[i] := payments.try_amount(v_entries -> i - 1 ->> 'amount_cents');
    v_total := v_total + v_cents[i];
    if not coalesce(payments.is_entry(v_entries -> i - 1) and v_cents[i] <> 0, false) then
      v_is_sound := false;
    end if;
  end loop;
  v_is_sound := coalesce(v_is_sound and v_total = 0, false);
  -- What a reversal takes back, it takes from where it is.
  if not v_body ? 'reversal_step'
    and exists (select from payments.account_slots s where s.account_id = any (v_accounts) and s.book_id = p_book_id)
  then
    v_accounts := payments.place_in_slots(p_book_id, v_accounts);
    v_entries := payments.entries_on(v_entries, v_accounts);
    v_body := v_body || jsonb_build_object('entries', v_entries);
  end if;

  -- In id order: two transactions that share accounts would otherwise deadlock.
  if cardinality(v_accounts) = 2 and v_accounts[1] <> v_accounts[2] then
    v_ids := array[least(v_accounts[1], v_accounts[2]), greatest(v_accounts[1], v_accounts[2])];
  else
    v_ids := array(select distinct u.id from unnest(v_accounts) as u (id) where u.id is not null order by u.id);
  end if;

  loop
    v_ruled := null;
    v_is_unlocked := false;
    for k in 1 .. cardinality(v_ids) loop
      select b.ctid as tid, b.balance_cents, b.last_seq, b.currency,
             b.status <> 'open' or b.min_cents is not null or b.max_cents is not null as is_ruled, b as state
      into v_row
      from payments.balances b
      where b.account_id = v_ids[k] and b.book_id = p_book_id
      for no key update;
      v_rows[k] := v_row.tid;
      v_balances[k] := v_row.balance_cents;
      v_lasts[k] := v_row.last_seq;
      v_currencies[k] := v_row.currency;
      if v_row.is_ruled then
        v_ruled := v_ruled || row(v_row.state, k)::payments.ruled_account;
      end if;
    end loop;

    for i in 1 .. cardinality(v_accounts) loop
      v_nth := array_position(v_ids, v_accounts[i]);
      if not v_is_judged and (not v_is_sound or v_nth is null or v_entries -> i - 1 ->> 'currency' is distinct from v_currencies[v_nth]
        or v_currencies[v_nth] <> v_currencies[1])
      then
        -- Several currencies may each sum to zero, which only the closer look tells: under the names that the request gives.
        v_fault := payments.entries_fault(p_book_id, coalesce(p_transaction -> 'entries', v_entries));
        v_is_sound := v_fault is null;
        exit when not v_is_sound;
        v_is_unlocked := array_position(v_rows, null) is not null;
        exit when v_is_unlocked;
        v_is_judged := true;
      end if;
      if abs(v_balances[v_nth]::numeric + v_cents[i]) > 144115188075855871
        and (abs(v_balances[v_nth]::numeric + v_cents[i]) > 9223372036854775807 or payments.is_slotted(p_book_id, v_ids[v_nth]))
      then
        v_fault := jsonb_build_object('code', 'LEDGER_AMOUNT_OVERFLOW', 'message', format(
          'Account %s has %s and would pass what 64 bits hold with %s more: post a smaller amount.', v_ids[v_nth], v_balances[v_nth], v_cents[i]));
        exit;
      end if;
      v_balances[v_nth] := v_balances[v_nth] + v_cents[i];
      v_lasts[v_nth] := v_lasts[v_nth] + 1;
      v_afters[i] := v_balances[v_nth];
      v_seqs[i] := v_lasts[v_nth];
    end loop;

    continue when v_is_unlocked;
    if v_is_sound and (v_fault is not null or v_ruled is not null or v_event.effective_at < p_open_since or v_body ? 'capture') then
      -- What is known already is answered as it was, whatever has become of its accounts, its hold and its period.
      v_outcome := payments.find_duplicate(p_book_id, p_ordinal, v_event);
      if v_outcome.status is not null then
        return v_outcome;
      end if;
      v_fault := coalesce(
        case when v_event.effective_at < p_open_since then payments.period_fault(v_event.effective_at, p_open_since) end,
        payments.status_fault(p_book_id, case when v_ruled is not null then v_ids end), v_fault);
      if v_fault is null and v_body ? 'capture' then
        v_plan := payments.plan_capture(p_book_id, v_body -> 'capture', v_accounts, v_cents);
        v_fault := case when v_plan ? 'code' then v_plan end;
        v_body := v_body || jsonb_build_object('hold_step', v_plan -> 'step');
      end if;
      v_fault := coalesce(v_fault, payments.limit_fault(v_ruled, v_balances, v_body -> 'hold_step'));
    end if;
    -- Where a floor is passed, what has expired is released, and it is judged once more.
    exit when coalesce(v_fault ->> 'code', '') <> 'LEDGER_FLOOR_PASSED';
    exit when payments.expire_account_holds(p_book_id, (v_fault ->> 'account_id')::uuid) = 0;
    v_fault := null;
  end loop;
  if v_fault is not null then
    return payments.rejected(p_ordinal, v_fault);
  end if;

  v_event.payload := v_body - array['transaction_id', 'idempotency_key', 'idempotency_scope', 'effective_at', 'linked'];
  v_logged := payments.append_event(p_book_id, v_event);
  if v_logged.event_position is null then
    return payments.find_duplicate(p_book_id, p_ordinal, v_event);
  end if;
  if v_body ? 'hold_step' then
    perform payments.project_hold_steps(p_book_id, v_logged.event_position, v_logged.event_position, pg_current_xact_id());
    -- One of the rows was written just now, and is elsewhere since.
    v_rows := array(
      select b.ctid from unnest(v_ids) with ordinality as i (account_id, nth)
      cross join lateral (select b.ctid from payments.balances b where b.account_id = i.account_id and b.book_id = p_book_id limit 1) b
      order by i.nth);
  end if;
  if v_body ? 'reversal_step' then
    perform payments.project_reversals(p_book_id, v_logged.event_position, v_logged.event_position, pg_current_xact_id());
  end if;
  with moved as (
    -- By where the locked rows are and by nothing else, whatever size the planner believes the table has.
    update payments.balances b
    set balance_cents = v_balances[array_position(v_rows, b.ctid)], last_seq = v_lasts[array_position(v_rows, b.ctid)]
    where b.ctid = any (v_rows)
  )
  insert into payments.entries (
    book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency, balance_after_cents,
    effective_at, created_at, created_by, reference_type, reference_id, description, metadata)
  select p_book_id, v_logged.event_position * 1024 + l.ordinality, v_logged.event_position, v_event.event_id, l.account_id, l.account_seq, l.cents,
         l.body ->> 'currency', l.balance_after_cents, coalesce(v_event.effective_at, v_logged.logged_at), v_logged.logged_at, v_logged.actor,
         v_body ->> 'reference_type', v_body ->> 'reference_id', coalesce(l.body ->> 'description', v_body ->> 'description'),
         coalesce(l.body -> 'metadata', v_body -> 'metadata', '{}'::jsonb)
  from rows from (unnest(v_accounts, v_seqs, v_cents, v_afters), jsonb_array_elements(v_entries)) with ordinality
    as l (account_id, account_seq, cents, balance_after_cents, body);
  if v_body ? 'announce' then
    perform payments.announce_events(p_book_id, v_logged.event_position, v_logged.event_position, pg_current_xact_id());
  end if;

  return row(p_ordinal, 'posted', v_event.event_id, v_logged.event_position, null, null, v_seqs, v_afters)::payments.posting_outcome;
end $$;

-- As in 0017; the accounts of what is reversed are locked with the others, or two calls could wait for each other.
create or replace function payments.post_in_order(p_book_id integer, p_transactions jsonb, p_open_since timestamptz)
returns setof payments.posting_outcome
language plpgsql as $$
declare
  v_last constant integer := jsonb_array_length(p_transactions) - 1;
  v_from integer := 0;
  v_to integer;
begin
  if v_last > 0 then
    -- What is reversed is where it was posted, in whichever slot that is.
    perform payments.lock_accounts(p_book_id, payments.place_in_slots(p_book_id, array(
      select payments.try_uuid(l.value ->> 'account_id')
      from jsonb_array_elements(p_transactions) as t
      cross join lateral jsonb_array_elements(payments.entries_of(t.value)) as l
    )) || array(
      select n.account_id
      from jsonb_array_elements(p_transactions) as t
      cross join lateral (
        select n.account_id from payments.entries n
        where n.transaction_id = payments.try_uuid(t.value ->> 'reverses') and n.book_id = p_book_id offset 0
      ) n));
  end if;
  while v_from <= v_last loop
    v_to := v_from;
    while v_to < v_last and p_transactions -> v_to -> 'linked' = 'true' loop
      v_to := v_to + 1;
    end loop;
    if v_to = v_from and p_transactions -> v_to -> 'linked' is distinct from 'true' then
      return next payments.post_one(p_book_id, v_to + 1, p_transactions -> v_to, p_open_since);
    else
      return query select * from payments.post_chain(p_book_id, p_transactions, v_from, v_to, p_open_since);
    end if;
    v_from := v_to + 1;
  end loop;
end $$;

-- As in 0017; text is made of nothing that blows up.
create or replace function payments.post_in_bulk(p_book_id integer, p_transactions jsonb, p_open_since timestamptz)
returns setof payments.posting_outcome
language plpgsql as $$
declare
  v_actor constant text := payments.acting_user();
  v_requests payments.posting_request[];
  v_outcomes payments.posting_outcome[];
  v_first bigint;
  v_last bigint;
  -- The accounts as they stand, in id order, and those of them that are not open.
  v_ids uuid[];
  v_rows tid[];
  v_balances bigint[];
  v_lasts bigint[];
  v_unusable uuid[];
  -- Those that do not exist, or hold another currency than an entry says.
  v_wrong uuid[];
begin
  -- One row per transaction, never joined to itself: PostgreSQL cannot tell how many there are.
  select array_agg(row(r.ordinal, r.body, sha256(convert_to(r.text, 'UTF8')), r.given_id, r.effective_at,
           case when r.key is not null then coalesce(r.body ->> 'idempotency_scope', 'default') end, r.key,
           coalesce(case when payments.is_plain_request(r.body, r.text) is not true then payments.request_fault(r.body) end,
             case when not coalesce(l.is_sound, false) then payments.entries_fault(p_book_id, payments.entries_of(r.body)) end),
           l.accounts, l.cents, l.currencies, l.has_own_texts)::payments.posting_request)
  into v_requests
  from (
    select t.ordinality::integer as ordinal, t.value as body,
           case when not payments.has_long_numbers(t.value) then t.value::text end as text, payments.try_uuid(t.value ->> 'transaction_id') as given_id,
           payments.try_instant(t.value ->> 'effective_at') as effective_at, t.value ->> 'idempotency_key' as key
    from jsonb_array_elements(p_transactions) with ordinality as t
    offset 0
  ) r
  cross join lateral (
    -- Sound: nothing wrong with any entry, as far as can be told without its account, and one currency. Everything else
    -- entries_fault looks at in detail.
    select array_agg(x.account_id) as accounts, array_agg(x.cents) as cents, array_agg(x.currency) as currencies,
           bool_or(x.value ?| array['description', 'metadata']) as has_own_texts,
           bool_and(x.cents <> 0 and x.account_id is not null and payments.is_entry(x.value))
             and sum(x.cents) = 0 and min(x.currency) = max(x.currency) and count(*) = count(x.currency) as is_sound
    from (
      select j.value, payments.try_uuid(j.value ->> 'account_id') as account_id, payments.try_amount(j.value ->> 'amount_cents') as cents,
             j.value ->> 'currency' as currency
      from jsonb_array_elements(payments.entries_of(r.body)) as j
      offset 0
    ) x
  ) l;
  if exists (select from unnest(v_requests) r where r.idempotency_key is not null group by r.idempotency_scope, r.idempotency_key having count(*) > 1)
    or exists (select from unnest(v_requests) r where r.given_id is not null group by r.given_id having count(*) > 1)
  then
    raise exception using errcode = 'LV000', message = 'a key or an id is in the call twice';
  end if;
  if exists (select from payments.account_slots) then
    v_requests := payments.place_requests_in_slots(p_book_id, v_requests);
  end if;

  select array_agg(s.id), array_agg(s.tid), array_agg(s.balance_cents), array_agg(s.last_seq),
         array_agg(s.id) filter (where s.status <> 'open'),
         array_agg(s.id) filter (where (s.first_currency = s.currency and s.last_currency = s.currency) is not true)
  into v_ids, v_rows, v_balances, v_lasts, v_unusable, v_wrong
  from (
    select i.*, b.*
    -- In id order: two transactions that share accounts would otherwise deadlock.
    from (
      select u.id, min(u.currency) as first_currency, max(u.currency) as last_currency
      from unnest(v_requests) as r
      cross join lateral unnest(r.accounts, r.currencies) as u (id, currency)
      where r.fault is null
      group by u.id
      order by u.id
    ) i
    left join lateral (
      select b.ctid as tid, b.balance_cents, b.last_seq, b.status, b.currency
      from payments.balances b where b.account_id = i.id and b.book_id = p_book_id for no key update
    ) b on true
  ) s;
  if v_wrong is not null then
    for i in 1 .. cardinality(v_requests) loop
      if v_requests[i].fault is null and v_requests[i].accounts && v_wrong then
        v_requests[i].fault := payments.entries_fault(p_book_id, p_transactions -> v_requests[i].ordinal - 1 -> 'entries');
        if v_requests[i].fault is null then
          raise exception using errcode = 'LV000', message = 'an account was opened meanwhile, and is not locked';
        end if;
      end if;
    end loop;
  end if;

  with judged as materialized (
    select r.*, known.position as known_position, known.event_id as known_id,
           case
             when r.fault is not null then r.fault
             -- What is known already is answered as it was, whatever has become of its accounts and its period. An imported event
             -- has no request to compare with: its key and id are taken.
             when known.request_hash = r.request_hash then null
             when known.position is not null then payments.key_conflict(coalesce(r.idempotency_key, r.given_id::text))
             when r.effective_at < p_open_since then payments.period_fault(r.effective_at, p_open_since)
             when r.accounts && v_unusable then payments.status_fault(p_book_id, r.accounts)
           end as final_fault
    from unnest(v_requests) as r
    left join lateral (
      select e.position, e.event_id, e.request_hash from payments.events e
      where e.book_id = p_book_id and e.event_id = r.given_id
      union all
      select e.position, e.event_id, e.request_hash from payments.events e
      where e.book_id = p_book_id and e.idempotency_scope = r.idempotency_scope and e.idempotency_key = r.idempotency_key
      limit 1
    ) known on true
  ), posted as materialized (
    select j.*, coalesce(j.effective_at, j.recorded_at) as effective,
           -- What becomes a column of the event leaves the payload.
           j.body - array['transaction_id', 'idempotency_key', 'idempotency_scope', 'effective_at', 'linked'] as payload
    from (
      select j.ordinal, j.body, j.request_hash, coalesce(j.given_id, gen_random_uuid()) as transaction_id, j.effective_at, j.idempotency_scope,
             j.idempotency_key, j.accounts, j.cents, j.currencies, j.has_own_texts, nextval('payments.events_position_seq') as position, clock_timestamp() as recorded_at
      from (select * from judged j where j.final_fault is null and j.known_position is null order by j.ordinal offset 0) j
      offset 0
    ) j
  ), logged as (
    insert into payments.events (
      book_id, position, event_id, type, effective_at, recorded_at, created_by, idempotency_scope, idempotency_key,
      request_hash, payload, leaf_hash)
    select p_book_id, p.position, p.transaction_id, 'transaction.posted', p.effective, p.recorded_at, v_actor, p.idempotency_scope,
           p.idempotency_key, p.request_hash, p.payload,
           payments.event_leaf_hash(p_book_id, p.position, p.transaction_id, p.effective, p.recorded_at, 'transaction.posted', v_actor,
             p.idempotency_scope, p.idempotency_key, p.request_hash, p.payload)
    from posted p
  ), step as (
    select l.account_id, p.position * 1024 + l.number as id, p.position, l.cents, 1::bigint as steps, null::tid as tid, p.transaction_id, p.effective,
           p.recorded_at, l.currency, p.body ->> 'reference_type' as reference_type, p.body ->> 'reference_id' as reference_id,
           coalesce(case when p.has_own_texts then p.body -> 'entries' -> (l.number - 1)::integer ->> 'description' end, p.body ->> 'description') as description,
           coalesce(case when p.has_own_texts then p.body -> 'entries' -> (l.number - 1)::integer -> 'metadata' end, p.body -> 'metadata') as metadata
    from posted p
    cross join lateral unnest(p.accounts, p.cents, p.currencies) with ordinality as l (account_id, cents, currency, number)
    union all
    -- Where each account stands before: first in its history, and no entry.
    select a.account_id, null, null, a.balance_cents, a.last_seq, a.tid, null, null, null, null, null, null, null, null
    from unnest(v_ids, v_rows, v_balances, v_lasts) as a (account_id, tid, balance_cents, last_seq)
  ), running as materialized (
    select s.*, sum(s.steps) over history as seq, sum(s.cents) over history as after_cents, max(s.tid) over history as row_tid,
           lead(s.id) over history is null as is_last
    from step s
    window history as (partition by s.account_id order by s.id nulls first rows unbounded preceding)
  ), moved as (
    update payments.balances b
    set balance_cents = r.after_cents, last_seq = r.seq
    -- By where the locked rows are and by nothing else, whatever size the planner believes the table has.
    from running r
    where b.ctid = r.row_tid and r.is_last and r.id is not null
  ), written as (
    insert into payments.entries (
      book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency, balance_after_cents,
      effective_at, created_at, created_by, reference_type, reference_id, description, metadata)
    select p_book_id, r.id, r.position, r.transaction_id, r.account_id, r.seq, r.cents, r.currency, r.after_cents,
           r.effective, r.recorded_at, v_actor, r.reference_type, r.reference_id, r.description, coalesce(r.metadata, '{}'::jsonb)
    from running r
    where r.id is not null
    -- As they will be read, and where indexes are written fastest.
    order by r.id
  ), outcome as (
    select p.ordinal, 'posted' as status, p.transaction_id, p.position, null as code, null as message
    from posted p
    union all
    select j.ordinal, case when j.final_fault is null then 'duplicate' else 'rejected' end, case when j.final_fault is null then j.known_id end,
           case when j.final_fault is null then j.known_position end, j.final_fault ->> 'code', j.final_fault ->> 'message'
    from judged j
    where j.final_fault is not null or j.known_position is not null
  )
  select array_agg(row(o.ordinal, o.status, o.transaction_id, o.position, o.code, o.message, null, null)::payments.posting_outcome order by o.ordinal),
         min(o.position) filter (where o.status = 'posted'), max(o.position) filter (where o.status = 'posted')
  into v_outcomes, v_first, v_last
  from outcome o;

  perform payments.announce_events(p_book_id, v_first, v_last, pg_current_xact_id());
  return query
  select o.ordinal, o.status, o.transaction_id, o.event_position, o.code, o.message, e.account_seqs, e.balances_after_cents
  from unnest(v_outcomes) as o
  cross join lateral (
    select array_agg(n.account_seq order by n.id) as account_seqs, array_agg(n.balance_after_cents order by n.id) as balances_after_cents
    from payments.entries n
    where n.id between o.event_position * 1024 + 1 and o.event_position * 1024 + 1023 and n.book_id = p_book_id
  ) e;
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', 'A balance would pass what 64 bits hold.');
end $$;

-- As in 0017; a balance whose opposite passes 64 bits is none that could be shown on both sides.
create or replace function payments.check_changed_balances() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select c.account_id, c.balance_cents, c.last_seq, l.entries = 1 and l.balance_after_cents = c.balance_cents as is_too_much into v_fault
  from changed c
  cross join lateral (
    select count(*) as entries, min(n.account_seq) as account_seq, min(n.balance_after_cents) as balance_after_cents
    from payments.entries n
    where n.book_id = c.book_id and n.account_id = c.account_id and n.account_seq >= c.last_seq
  ) l
  where (c.balance_cents, c.last_seq, l.entries) is distinct from
    (coalesce(l.balance_after_cents, 0), coalesce(l.account_seq, 0), case when c.last_seq = 0 then 0 else 1 end)
    or c.balance_cents not between -144115188075855871 and 144115188075855871
      and (c.balance_cents = -9223372036854775808 or payments.is_slotted(c.book_id, c.account_id))
  limit 1;
  if found and v_fault.is_too_much then
    perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', case
      when v_fault.balance_cents = -9223372036854775808 then format(
        'Account %s would come to %s, which has no opposite in 64 bits. Post a smaller amount.', v_fault.account_id, v_fault.balance_cents)
      else format('Slot %s would come to %s: with the others its account would pass what 64 bits hold. Post a smaller amount.',
        v_fault.account_id, v_fault.balance_cents) end);
  elsif found then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'A balance of %s after %s entries refused for account %s: its last entry says otherwise. Post a transaction instead.',
      v_fault.balance_cents, v_fault.last_seq, v_fault.account_id));
  end if;
  -- Afterwards it stays: balances_state_as_logged looks after that.
  if tg_op = 'INSERT' then
    perform payments.raise_code('LEDGER_CURRENCY_MISMATCH', format(
      'A balance in %s on account %s, which holds %s.', c.currency, c.account_id, coalesce(a.currency, 'nothing: it does not exist')))
    from changed c
    left join payments.accounts a on a.id = c.account_id and a.book_id = c.book_id
    where c.currency is distinct from a.currency
    limit 1;
  end if;
  return null;
end $$;

-- As in 0017; of a balance and holds that together pass 64 bits the whole book could not be read.
create or replace view payments.account_balances with (security_invoker = true) as
select a.book_id, a.id as account_id, a.type, a.currency, a.name, a.user_id, a.organization_id,
       s.side * (b.balance_cents + coalesce(slots.cents, 0)::bigint) as balance_cents,
       b.last_seq + coalesce(slots.entries, 0)::bigint as entries,
       -- What is available may pass 64 bits where much is on hold: it is then shown as the most, or the least, that there is.
       least(greatest(s.side * (b.balance_cents::numeric + coalesce(slots.cents, 0) + b.held_cents) + coalesce(expired.cents, 0),
         -9223372036854775807), 9223372036854775807)::bigint as available_cents,
       case s.side when 1 then b.min_cents else -b.max_cents end as floor_cents,
       case s.side when 1 then b.max_cents else -b.min_cents end as ceiling_cents,
       b.status
from payments.accounts a
join payments.account_types t using (type)
cross join lateral (select case t.normal_side when 'debit' then 1 else -1 end as side) s
join payments.balances b on (b.book_id, b.account_id) = (a.book_id, a.id)
left join lateral (
  select sum(h.remaining_cents) as cents from payments.holds h
  where b.held_cents <> 0 and h.book_id = a.book_id and h.account_id = a.id and h.state = 'active' and h.expires_at <= clock_timestamp()
) expired on true
left join lateral (
  select sum(x.balance_cents) as cents, sum(x.last_seq) as entries
  from payments.account_slots k
  cross join lateral (
    select x.balance_cents, x.last_seq from payments.balances x where x.account_id = k.slot_account_id and x.book_id = k.book_id limit 1
  ) x
  where k.account_id = a.id and k.book_id = a.book_id
) slots on true
-- A slot is no account of its own here: what it has is in its account.
where (select k.account_id from payments.account_slots k where k.slot_account_id = a.id and k.book_id = a.book_id) is null;
