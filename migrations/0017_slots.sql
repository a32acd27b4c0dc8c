-- Slots of hot accounts. An account that everybody posts to makes all who post one by one wait for the lock of its one balance row;
-- with slots its entries are spread over several rows, and its balance is their sum.
--
-- A slot is an account, with entries, numbers and a balance of its own: whatever holds for accounts holds for it. The account
-- itself is slot 0, and goes on with the history that it has. Which slot an entry goes to is decided when it is posted, and
-- its event says so: a replay chooses nothing. What depends on the balance as a whole, a limit or a hold, such an account
-- cannot have.
--
-- As in 0008, tables are looked into row by row on the way of a posting. What replaces a function of before is that function with
-- the lines that slots need.

create table payments.account_slots (
  event_position bigint not null,
  account_id uuid not null,
  slot_account_id uuid not null,
  slot_number integer not null constraint account_slots_number_range check (slot_number between 1 and 63),
  book_id integer not null,
  constraint account_slots_pkey primary key (account_id, slot_number, book_id),
  constraint account_slots_slot_account_key unique (slot_account_id, book_id)
);
comment on table payments.account_slots is 'The accounts that an account''s entries are spread over, beside itself. A projection of the events account.opened that name slot_of.';

-- As in 0007, with the code that came since.
create or replace function payments.raise_code(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'LEDGER_INVALID' then 'LV001'
      when 'LEDGER_UNBALANCED' then 'LV002'
      when 'LEDGER_CURRENCY_UNKNOWN' then 'LV003'
      when 'LEDGER_CURRENCY_MISMATCH' then 'LV004'
      when 'LEDGER_ACCOUNT_UNKNOWN' then 'LV005'
      when 'LEDGER_AMOUNT_INVALID' then 'LV006'
      when 'LEDGER_AMOUNT_OVERFLOW' then 'LV007'
      when 'LEDGER_IDEMPOTENCY_CONFLICT' then 'LV008'
      when 'LEDGER_APPEND_ONLY' then 'LV009'
      when 'LEDGER_BOOK_UNKNOWN' then 'LV010'
      when 'LEDGER_ACCOUNT_TYPE_UNKNOWN' then 'LV011'
      when 'LEDGER_ACCOUNT_FROZEN' then 'LV012'
      when 'LEDGER_ACCOUNT_CLOSED' then 'LV013'
      when 'LEDGER_FLOOR_PASSED' then 'LV014'
      when 'LEDGER_CEILING_PASSED' then 'LV015'
      when 'LEDGER_HOLD_UNKNOWN' then 'LV016'
      when 'LEDGER_HOLD_RESOLVED' then 'LV017'
      when 'LEDGER_HOLD_EXPIRED' then 'LV018'
      when 'LEDGER_HOLD_EXCEEDED' then 'LV019'
      when 'LEDGER_PERIOD_CLOSED' then 'LV020'
      when 'LEDGER_TRANSACTION_UNKNOWN' then 'LV023'
      when 'LEDGER_REVERSAL_EXCEEDED' then 'LV024'
      when 'LEDGER_LINK_FAILED' then 'LV025'
      when 'LEDGER_BOOK_FORBIDDEN' then 'LV026'
      when 'LEDGER_ACCOUNT_IN_USE' then 'LV027'
      when 'LEDGER_SLOTS_REFUSED' then 'LV028'
    end;
end $$;

-- An account and its slots, in the order of their numbers: the account alone where it has none. Locks nothing.
create function payments.slots_of(p_book_id integer, p_account_id uuid) returns uuid[]
language plpgsql stable as $$
begin
  return p_account_id || array(
    select s.slot_account_id from payments.account_slots s
    where s.account_id = p_account_id and s.book_id = p_book_id
    order by s.slot_number);
end $$;

-- The account that an account is a slot of; itself where it is none. Locks nothing.
create function payments.account_of(p_book_id integer, p_account_id uuid) returns uuid
language sql stable
return coalesce((
  select s.account_id from payments.account_slots s where s.slot_account_id = p_account_id and s.book_id = p_book_id
), p_account_id);

-- Whether an account has slots, or is one. The balance of such a one comes to at most 144115188075855871 cents (2^57 - 1) on either
-- side of zero, so that the sum of 64 of them fits 64 bits. Locks nothing.
create function payments.is_slotted(p_book_id integer, p_account_id uuid) returns boolean
language plpgsql stable as $$
begin
  return exists (select from payments.account_slots s where s.account_id = p_account_id and s.book_id = p_book_id)
    or exists (select from payments.account_slots s where s.slot_account_id = p_account_id and s.book_id = p_book_id);
end $$;

-- Each of these accounts, or the slot of it that entries go to now. The process of the server decides, so that a database
-- transaction stays with one slot, and those that are open side by side are spread.
-- Returns them in the order given. Locks nothing.
create function payments.place_in_slots(p_book_id integer, p_accounts uuid[]) returns uuid[]
language plpgsql stable as $$
begin
  if not exists (select from payments.account_slots s where s.account_id = any (p_accounts) and s.book_id = p_book_id) then
    return p_accounts;
  end if;
  return array(
    select coalesce((
             select s.slot_account_id from payments.account_slots s
             where s.account_id = a.id and s.book_id = p_book_id
               -- They are numbered from 1 without gaps; number 0, which is not among them, is the account itself.
               and s.slot_number = pg_backend_pid() % (1 + (
                 select l.slot_number from payments.account_slots l
                 where l.account_id = a.id and l.book_id = p_book_id
                 order by l.slot_number desc limit 1))), a.id)
    from unnest(p_accounts) with ordinality as a (id, nth)
    order by a.nth);
end $$;

-- Entries with these accounts in place of those that they name, one an entry; null leaves what is there.
create function payments.entries_on(p_entries jsonb, p_accounts uuid[]) returns jsonb
language sql stable parallel safe
return (
  select jsonb_agg(case when payments.try_uuid(e.value ->> 'account_id') <> e.account_id
           then e.value || jsonb_build_object('account_id', e.account_id) else e.value end order by e.nth)
  from rows from (jsonb_array_elements(p_entries), unnest(p_accounts)) with ordinality as e (value, account_id, nth)
);

-- A reversal whose entries name accounts with slots, with those slots in their place that the reversed transaction is on: of
-- several of one account, the one on which most is left of it. What names none comes back as it is.
-- The caller holds the locks of all accounts of the transaction that is reversed.
create function payments.place_reversal_in_slots(p_book_id integer, p_transaction jsonb) returns jsonb
language plpgsql stable as $$
declare
  v_reverses constant uuid := payments.try_uuid(p_transaction ->> 'reverses');
  v_accounts uuid[];
  v_account_id uuid;
begin
  v_accounts := array(
    select payments.try_uuid(e.value ->> 'account_id')
    from jsonb_array_elements(payments.entries_of(p_transaction)) with ordinality as e
    order by e.ordinality);
  if not exists (select from payments.account_slots s where s.account_id = any (v_accounts) and s.book_id = p_book_id) then
    return p_transaction;
  end if;
  foreach v_account_id in array array(select distinct u.id from unnest(v_accounts) as u (id) where u.id is not null) loop
    v_accounts := array_replace(v_accounts, v_account_id, coalesce((
      select n.account_id
      from (
        select v_reverses as transaction_id
        union all
        select r.transaction_id from payments.reversals r where r.reverses = v_reverses and r.book_id = p_book_id
      ) t
      cross join lateral (
        select n.account_id, n.amount_cents from payments.entries n
        where n.transaction_id = t.transaction_id and n.book_id = p_book_id offset 0
      ) n
      where n.account_id = any (payments.slots_of(p_book_id, v_account_id))
      group by n.account_id
      order by abs(sum(n.amount_cents)) desc, n.account_id
      limit 1), v_account_id));
  end loop;
  return p_transaction || jsonb_build_object('entries', payments.entries_on(p_transaction -> 'entries', v_accounts));
end $$;

-- The requests of a call with what they post to accounts with slots placed in one slot of each; see place_in_slots. Those
-- that are refused already stay as they are.
create function payments.place_requests_in_slots(p_book_id integer, p_requests payments.posting_request[])
returns payments.posting_request[]
language plpgsql stable as $$
declare
  v_accounts constant uuid[] := array(select u.id from unnest(p_requests) as r cross join lateral unnest(r.accounts) as u (id));
  v_hot constant uuid[] := array(
    select s.account_id from payments.account_slots s
    where s.account_id = any (v_accounts) and s.slot_number = 1 and s.book_id = p_book_id);
  v_placed constant uuid[] := payments.place_in_slots(p_book_id, v_hot);
  v_requests payments.posting_request[];
begin
  if cardinality(v_hot) = 0 then
    return p_requests;
  end if;
  select array_agg(row(r.ordinal, case when r.accounts is distinct from p.accounts
             then r.body || jsonb_build_object('entries', payments.entries_on(r.body -> 'entries', p.accounts)) else r.body end,
           r.request_hash, r.given_id, r.effective_at, r.idempotency_scope, r.idempotency_key, r.fault, p.accounts, r.cents,
           r.currencies, r.has_own_texts)::payments.posting_request)
  into v_requests
  from unnest(p_requests) as r
  cross join lateral (
    select case when r.fault is null and r.accounts && v_hot then array(
             select coalesce(v_placed[array_position(v_hot, u.id)], u.id)
             from unnest(r.accounts) with ordinality as u (id, nth) order by u.nth)
           else r.accounts end as accounts
    offset 0
  ) p;
  return v_requests;
end $$;

-- Guards.

-- As in 0007, of a new balance also its currency; where an account has slots or is one, its balance leaves room for the sum of all.
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
    or c.balance_cents not between -144115188075855871 and 144115188075855871 and payments.is_slotted(c.book_id, c.account_id)
  limit 1;
  if found and v_fault.is_too_much then
    perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW', format(
      'Slot %s would come to %s: with the others its account would pass what 64 bits hold. Post a smaller amount.',
      v_fault.account_id, v_fault.balance_cents));
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

-- Every new slot is what an event of the log says.
create function payments.check_new_slots() returns trigger
language plpgsql as $$
begin
  perform payments.raise_code('LEDGER_INVALID', format(
    'Account %s as slot %s of account %s has no event in the log that says so: use payments.add_slots.',
    n.slot_account_id, n.slot_number, n.account_id))
  from new_slots n
  where not exists (
    select from payments.events e
    where e.position = n.event_position and e.book_id = n.book_id and e.type = 'account.opened' and e.event_id = n.slot_account_id
      and e.payload ->> 'slot_of' = n.account_id::text and e.payload ->> 'slot_number' = n.slot_number::text)
  limit 1;
  return null;
end $$;

create trigger account_slots_append_only before update or delete or truncate on payments.account_slots
  for each statement execute function payments.refuse_change();
create trigger account_slots_follow_log after insert on payments.account_slots
  referencing new table as new_slots for each statement execute function payments.check_new_slots();
alter table payments.account_slots enable always trigger account_slots_append_only;
alter table payments.account_slots enable always trigger account_slots_follow_log;

-- Giving slots, and what an account with slots refuses.

-- Applies account.opened where it opened a slot. Parameters and locks as of project_events.
create function payments.project_account_slots(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into payments.account_slots (book_id, event_position, account_id, slot_number, slot_account_id)
  select p_book_id, e.position, (e.payload ->> 'slot_of')::uuid, (e.payload ->> 'slot_number')::integer, e.event_id
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last and (p_xid is null or e.xid = p_xid)
    and e.type = 'account.opened' and e.payload ? 'slot_of'
  order by e.position;
end $$;

-- Why an account cannot be given slots; null where it can. The caller holds its lock.
create function payments.slots_fault(p_book_id integer, p_account payments.balances) returns text
language plpgsql stable as $$
begin
  return case
    when payments.account_of(p_book_id, p_account.account_id) <> p_account.account_id
      then format('it is a slot of account %s: name that one', payments.account_of(p_book_id, p_account.account_id))
    when p_account.status <> 'open' then format('it is %s', p_account.status)
    when p_account.min_cents is not null or p_account.max_cents is not null
      then 'it has a floor or a ceiling, which nobody could judge without waiting for all slots: lift it with payments.change_account'
    when p_account.held_cents <> 0 then 'it has active holds: capture or void them'
    when abs(p_account.balance_cents::numeric) > 144115188075855871
      then format('its balance of %s leaves no room for the sum of 64 slots', p_account.balance_cents)
  end;
end $$;

-- Gives an account slots, so that those who post to it one by one wait for each other less; slots are never taken away.
-- p_slots: how many in all, 2 to 64, the account itself counted. Where there are as many already, nothing is done.
-- Returns the accounts that its entries are spread over from now on, itself first.
-- Raises LEDGER_SLOTS_REFUSED where it is not open, has a floor, a ceiling or holds, or is itself a slot.
-- Locks: the account's balance row.
create function payments.add_slots(p_book_id integer, p_account_id uuid, p_slots integer) returns uuid[]
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
  select b.* into v_account from payments.balances b where b.account_id = p_account_id and b.book_id = p_book_id;
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

  -- Changes nothing but the row: a transaction of a higher isolation level, whose snapshot does not show these slots, shall not
  -- set a limit or place a hold beside them. It meets a row that was updated since, and has to run again.
  update payments.balances b set last_seq = b.last_seq where b.account_id = p_account_id and b.book_id = p_book_id;
  v_positions := payments.append_events(p_book_id, v_events);
  perform payments.project_account_slots(p_book_id, v_positions[1], v_positions[cardinality(v_positions)], pg_current_xact_id());
  return payments.slots_of(p_book_id, p_account_id);
end $$;

-- Changes an account's limits or state. What is not named stays as it is; a limit of null is lifted.
-- p_change: {account_id, status?: open, frozen or closed, floor_cents?, ceiling_cents?, reason?, idempotency_key?, idempotency_scope?}.
--   Limits read as the account's holder reads the balance: positive on its normal side.
--   A state is that of the account and of all its slots, one event each; limits an account with slots cannot have.
-- Returns changed, or duplicate where the same request was carried out before. Raises where it is refused; an account is closed
-- only when its balance is zero and nothing is on hold.
-- Locks: the balance rows of the account and its slots.
-- As in 0009; the reason is text, and what was given is shown, in one line.
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
  -- Whoever adds slots holds the account's lock: it has no more by now than these.
  v_accounts := payments.slots_of(p_book_id, payments.try_uuid(p_change ->> 'account_id'));
  perform payments.lock_accounts(p_book_id, v_accounts);
  select b.* into v_account from payments.balances b
  where b.account_id = payments.try_uuid(p_change ->> 'account_id') and b.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist in book %s: open it first.',
      payments.shown(p_change ->> 'account_id'), p_book_id));
  end if;
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
  perform payments.project_account_changes(p_book_id, event_position, event_position, pg_current_xact_id());
  -- Posting looks at the row that it locks: each slot has the state of its account.
  for i in 2 .. case when p_change ? 'status' then cardinality(v_accounts) else 1 end loop
    v_position := (payments.append_event(p_book_id, row('account.changed', gen_random_uuid(), null, null, null, null,
      v_event.payload || jsonb_build_object('account_id', v_accounts[i]))::payments.new_event)).event_position;
    perform payments.project_account_changes(p_book_id, v_position, v_position, pg_current_xact_id());
  end loop;
  status := 'changed';
end $$;

-- As in 0009; and what an account with slots has available, no hold can rely on.
create or replace function payments.hold_limit(p_account payments.balances, p_held_after bigint) returns jsonb
language plpgsql stable as $$
declare
  v_after payments.balances := p_account;
  v_direction constant numeric := sign(p_held_after);
begin
  if p_account.status <> 'open' then
    return jsonb_build_object('code', payments.status_code(p_account.status), 'message',
      format('Account %s is %s.', p_account.account_id, p_account.status));
  end if;
  if payments.is_slotted(p_account.book_id, p_account.account_id) then
    return jsonb_build_object('code', 'LEDGER_SLOTS_REFUSED', 'message', format(
      'Account %s is kept in slots: what it has available, no hold can rely on. Hold on an account without slots.', p_account.account_id));
  end if;
  v_after.held_cents := p_held_after;
  return case when payments.limit_passed(v_after, p_account.balance_cents, v_direction) is not null then jsonb_build_object(
    'code', payments.limit_passed(v_after, p_account.balance_cents, v_direction),
    'message', payments.limit_message(v_after, p_account.balance_cents, v_direction)) end;
end $$;

-- Posting.

-- As in 0008; a topic of null announces nothing, and what was posted to a slot is announced of its account, which others know.
create or replace function payments.announce_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into public.outbox (topic, payload)
  select e.payload ->> 'announce', jsonb_build_object(
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

-- Judges and posts one transaction, straight on: the definition of what posting is. Step by step and with as few statements as
-- can be, because for a single transaction each costs as much as what it does.
-- p_transaction: see post_transactions. p_open_since: what open_since said.
-- Returns its outcome; a refusal writes nothing.
-- Locks: the balance rows of its accounts, in id order.
create or replace function payments.post_one(p_book_id integer, p_ordinal integer, p_transaction jsonb, p_open_since timestamptz)
returns payments.posting_outcome
language plpgsql as $$
declare
  v_text constant text := p_transaction::text;
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
  if not payments.is_plain_request(p_transaction, v_text) then
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
      if not v_is_sound or v_nth is null or v_entries -> i - 1 ->> 'currency' is distinct from v_currencies[v_nth]
        or v_currencies[v_nth] <> v_currencies[1]
      then
        -- Several currencies may each sum to zero, which only the closer look tells: under the names that the request gives.
        v_fault := payments.entries_fault(p_book_id, coalesce(p_transaction -> 'entries', v_entries));
        v_is_sound := v_fault is null;
        exit when not v_is_sound;
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

-- As in 0008, with the account in place of its slot.
create or replace function payments.status_fault(p_book_id integer, p_accounts uuid[]) returns jsonb
language sql stable
return (
  select jsonb_build_object('code', payments.status_code(b.status), 'message',
           format('Account %s is %s.', payments.account_of(p_book_id, b.account_id), b.status))
  from unnest(p_accounts) as i (id)
  cross join lateral (
    select b.account_id, b.status from payments.balances b where b.account_id = i.id and b.book_id = p_book_id limit 1
  ) b
  where b.status <> 'open'
  order by b.account_id
  limit 1
);

-- Posts transactions one after the other, each as post_one; a chain of linked ones stands or falls as one.
create or replace function payments.post_in_order(p_book_id integer, p_transactions jsonb, p_open_since timestamptz)
returns setof payments.posting_outcome
language plpgsql as $$
declare
  v_last constant integer := jsonb_array_length(p_transactions) - 1;
  v_from integer := 0;
  v_to integer;
begin
  if v_last > 0 then
    perform payments.lock_accounts(p_book_id, payments.place_in_slots(p_book_id, array(
      select payments.try_uuid(l.value ->> 'account_id')
      from jsonb_array_elements(p_transactions) as t
      cross join lateral jsonb_array_elements(payments.entries_of(t.value)) as l
      union all
      select n.account_id
      from jsonb_array_elements(p_transactions) as t
      cross join lateral (
        select n.account_id from payments.entries n
        where n.transaction_id = payments.try_uuid(t.value ->> 'reverses') and n.book_id = p_book_id offset 0
      ) n)));
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

-- Posts many transactions whose order does not matter, in three statements: what is asked for, the locks, the writing.
-- Raises where the order does matter, and post_in_order must decide: LV007, LV014, LV015 where a balance overflows or a limit is
-- met, LV000 where a key or an id is in the call twice.
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
           coalesce(case when not payments.is_plain_request(r.body, r.text) then payments.request_fault(r.body) end,
             case when not coalesce(l.is_sound, false) then payments.entries_fault(p_book_id, payments.entries_of(r.body)) end),
           l.accounts, l.cents, l.currencies, l.has_own_texts)::payments.posting_request)
  into v_requests
  from (
    select t.ordinality::integer as ordinal, t.value as body, t.value::text as text, payments.try_uuid(t.value ->> 'transaction_id') as given_id,
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

-- Reading.

create or replace view payments.account_balances with (security_invoker = true) as
select a.book_id, a.id as account_id, a.type, a.currency, a.name, a.user_id, a.organization_id,
       s.side * (b.balance_cents + coalesce(slots.cents, 0)::bigint) as balance_cents,
       b.last_seq + coalesce(slots.entries, 0)::bigint as entries,
       s.side * (b.balance_cents + coalesce(slots.cents, 0)::bigint + b.held_cents) + coalesce(expired.cents, 0)::bigint as available_cents,
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

-- The balance of an account as it was recorded at an instant, at a position of the log, or now (both null): with its slots.
-- Returns balance_cents in the sign of the account's normal side, signed_cents (debit positive), and how many entries they
-- are the sum of. Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN. Locks nothing.
create or replace function payments.recorded_balance(
  p_book_id integer, p_account_id uuid, p_at timestamptz default null, p_position bigint default null,
  out balance_cents bigint, out signed_cents bigint, out entries bigint
)
language plpgsql stable as $$
declare
  v_sign constant integer := payments.normal_sign(p_book_id, p_account_id);
begin
  select sum(payments.balance_after_seq(p_book_id, s.id, s.entries)), sum(s.entries) into signed_cents, entries
  from (
    select u.id, payments.recorded_seq(p_book_id, u.id, p_at, p_position) as entries
    from unnest(payments.slots_of(p_book_id, p_account_id)) as u (id)
    offset 0
  ) s;
  balance_cents := v_sign * signed_cents;
end $$;

-- The balance of an account, with its slots, by what was effective in the world at or before an instant, as far as is known now.
-- Returns as recorded_balance, in numeric. Raises LEDGER_BOOK_UNKNOWN, LEDGER_ACCOUNT_UNKNOWN, LEDGER_INVALID without an
-- instant. Locks nothing.
create or replace function payments.effective_balance(
  p_book_id integer, p_account_id uuid, p_at timestamptz, out balance_cents numeric, out signed_cents numeric, out entries bigint
)
language plpgsql stable as $$
declare
  v_sign constant integer := payments.normal_sign(p_book_id, p_account_id);
begin
  if p_at is null then
    perform payments.raise_code('LEDGER_INVALID', 'An effective balance is that of an instant: give one.');
  end if;
  select sum(s.signed_cents), sum(s.entries) into signed_cents, entries
  from unnest(payments.slots_of(p_book_id, p_account_id)) as u (id)
  cross join lateral payments.effective_sum(p_book_id, u.id, p_at) s;
  balance_cents := v_sign * signed_cents;
end $$;

-- What a statement of an account and its slots begins and ends with. Parameters as of statement_bounds.
-- Returns the signed balances before its first line and after its last, and known_seqs: of the account and of each of its slots,
-- in the order of slots_of, the entries known now.
-- Raises as statement_bounds. Locks nothing.
create function payments.account_statement_bounds(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz,
  out known_seqs bigint[], out opening_cents numeric, out closing_cents numeric
)
language plpgsql stable as $$
begin
  select array_agg(b.known_seq order by s.nth), sum(b.opening_cents), sum(b.closing_cents) into known_seqs, opening_cents, closing_cents
  from unnest(payments.slots_of(p_book_id, p_account_id)) with ordinality as s (id, nth)
  cross join lateral payments.statement_bounds(p_book_id, s.id, p_by, p_from, p_to) b;
end $$;

-- How many entries of an account come no later in the log than an entry, of whatever account. Locks nothing.
create function payments.seq_at_entry(p_book_id integer, p_account_id uuid, p_entry_id bigint) returns bigint
language plpgsql stable as $$
begin
  return payments.recorded_seq(p_book_id, p_account_id, null, p_entry_id / 1024) - (
    select count(*) from payments.entries e
    where e.id > p_entry_id and e.id <= p_entry_id / 1024 * 1024 + 1023 and e.book_id = p_book_id and e.account_id = p_account_id);
end $$;

-- One page of the lines of a statement of an account and its slots, merged: by recorded order as the log has them, by effective
-- date those of one date as the log has them. Parameters as of statement_lines, and
-- p_known_seqs: what account_statement_bounds said; a slot that was added since is not in it.
-- p_after_seq, p_after_id: of the last line of the page before, its number in its own slot and its entry.
-- Returns each line's entry with the signed balance of the whole account after it. account_seq counts the entries of its slot.
-- Every slot gives a whole page, of which the first lines are taken. Raises LEDGER_INVALID. Locks nothing.
create function payments.account_statement_lines(
  p_book_id integer, p_account_id uuid, p_by text, p_from timestamptz, p_to timestamptz, p_known_seqs bigint[],
  p_balance_cents numeric, p_after_at timestamptz, p_after_seq bigint, p_after_id bigint, p_limit integer
) returns table (
  account_seq bigint, entry_id bigint, event_position bigint, transaction_id uuid, effective_at timestamptz, recorded_at timestamptz,
  amount_cents bigint, balance_cents numeric, reference_type text, reference_id text, description text, metadata jsonb
)
language plpgsql stable as $$
begin
  if cardinality(p_known_seqs) = 1 then
    return query select * from payments.statement_lines(p_book_id, p_account_id, p_by, p_from, p_to, p_known_seqs[1],
      p_balance_cents, p_after_at, p_after_seq, p_limit);
    return;
  end if;
  return query
  select l.account_seq, l.entry_id, l.event_position, l.transaction_id, l.effective_at, l.recorded_at, l.amount_cents,
         p_balance_cents + sum(l.amount_cents) over (order by l.nth), l.reference_type, l.reference_id, l.description, l.metadata
  from (
    select l.*, row_number() over (order by case p_by when 'effective' then l.effective_at end, l.entry_id) as nth
    from unnest(payments.slots_of(p_book_id, p_account_id), p_known_seqs) as s (id, known_seq)
    cross join lateral (
      select case when p_after_id is not null then greatest(
               payments.seq_at_entry(p_book_id, s.id, p_after_id),
               -- What was recorded before the statement begins may come later in the log, in another slot.
               case when p_by = 'recorded' and p_from is not null
                 then payments.recorded_seq(p_book_id, s.id, payments.instant_before(p_from), null) end) end as seq
      offset 0
    ) a
    cross join lateral payments.statement_lines(
      p_book_id, s.id, p_by, p_from, p_to, s.known_seq, 0, p_after_at, a.seq, p_limit) l
    where s.known_seq is not null
  ) l
  where l.nth <= p_limit
  order by l.nth;
end $$;

alter table payments.account_slots enable row level security;
create policy books_granted on payments.account_slots for select using (book_id = any ((select payments.books_of(current_user))::integer[]));

-- Nobody but the owner writes. Whoever reads balances and their history with rights of his own reads the slots as well, or the
-- view and the functions would fail him; Supabase's server role adds slots through the function.
revoke all on payments.account_slots from public;
do $$
declare
  v_function regprocedure;
  v_role text;
  v_is_read constant text[] := array['slots_of', 'account_of', 'is_slotted', 'account_statement_bounds', 'seq_at_entry', 'account_statement_lines'];
begin
  for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
    execute format('revoke all on payments.account_slots from %I', v_role);
  end loop;
  for v_role in
    select distinct g.grantee::regrole::text
    from pg_class c cross join lateral aclexplode(c.relacl) g
    where c.oid = 'payments.balances'::regclass and g.privilege_type = 'SELECT' and g.grantee not in (0, c.relowner)
  loop
    execute format('grant select on payments.account_slots to %s', v_role);
  end loop;
  for v_function in
    select p.oid from pg_proc p
    where p.pronamespace = 'payments'::regnamespace
      and p.proname = any (v_is_read || array['place_in_slots', 'entries_on', 'place_reversal_in_slots',
        'place_requests_in_slots', 'check_new_slots', 'project_account_slots', 'slots_fault', 'add_slots'])
  loop
    execute format('revoke all on function %s from public', v_function);
    for v_role in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
      execute format('revoke all on function %s from %I', v_function, v_role);
    end loop;
  end loop;
  for v_function, v_role in
    select p.oid, r.role
    from pg_proc p
    cross join (
      select distinct g.grantee::regrole::text as role
      from pg_proc f cross join lateral aclexplode(f.proacl) g
      where f.pronamespace = 'payments'::regnamespace and f.proname = 'statement_lines' and g.grantee not in (0, f.proowner)
    ) r
    where p.pronamespace = 'payments'::regnamespace and p.proname = any (v_is_read)
  loop
    execute format('grant execute on function %s to %s', v_function, v_role);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant execute on function payments.add_slots(integer, uuid, integer) to service_role;
  end if;
end $$;
