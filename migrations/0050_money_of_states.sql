-- Money that follows state. An edge may have a booking, which is posted in the transaction of the change; a posting that the ledger
-- refuses takes the change with it. A machine may keep an account for each row (an order's escrow), which
--
--   has what the row's state implies, no more and no less     take_effects, check_kept_row
--   is opened, posted to and changed by transitions alone     check_kept_accounts, check_kept_entries, check_kept_changes
--   is frozen, and its holds with it, in some states          take_effects, check_kept_holds

create table states.accounts (
  machine text not null constraint accounts_machine_fkey references states.machines,
  name text not null,
  request text not null,
  constraint accounts_pkey primary key (machine, name)
);

comment on table states.accounts is 'The accounts that bookings name.';
comment on column states.accounts.request is 'SQL of what payments.open_accounts takes, as jsonb; the row is $1.';

create table states.bookings (
  machine text not null constraint bookings_machine_fkey references states.machines,
  event text not null,
  reverses text,
  reference_type text not null,
  reference_id text not null,
  constraint bookings_pkey primary key (machine, event)
);

comment on column states.bookings.event is 'The event that is booked.';
comment on column states.bookings.reference_id is 'SQL of what the postings refer to; the row is $1.';
comment on column states.bookings.reverses is 'The event whose booking it takes back; null where it has lines of its own.';

create table states.lines (
  machine text not null,
  event text not null,
  number integer not null,
  account text not null,
  side text not null constraint lines_side_values check (side in ('debit', 'credit')),
  amount_cents text,
  constraint lines_pkey primary key (machine, event, number),
  constraint lines_booking_fkey foreign key (machine, event) references states.bookings,
  constraint lines_account_fkey foreign key (machine, account) references states.accounts
);

comment on column states.lines.amount_cents is 'SQL of the amount, in minor units, the row is $1. null: what the other lines come to. Zero is not booked.';

create table states.kept_accounts (
  machine text not null constraint kept_accounts_machine_fkey references states.machines,
  account text not null,
  amount_cents text not null,
  in_states text[] not null,
  frozen_states text[] not null,
  filled_by text not null,
  fixed_columns text[] not null,
  constraint kept_accounts_pkey primary key (machine),
  constraint kept_accounts_account_fkey foreign key (machine, account) references states.accounts,
  constraint kept_accounts_booking_fkey foreign key (machine, filled_by) references states.bookings
);

comment on table states.kept_accounts is 'The account that a machine keeps for each of its rows.';
comment on column states.kept_accounts.amount_cents is 'SQL of what it has in these states, and nothing in others; the row is $1.';
comment on column states.kept_accounts.frozen_states is 'Where it is frozen, and its holds with it.';
comment on column states.kept_accounts.filled_by is 'The event whose booking fills it: booked for a row of before the machine, too.';
comment on column states.kept_accounts.fixed_columns is 'What cannot change while it has something.';

create table states.ledger_events (
  event_id uuid not null,
  machine text not null,
  subject_id uuid not null,
  history_id bigint not null,
  event text not null,
  constraint ledger_events_pkey primary key (event_id)
);
create index ledger_events_subject_idx on states.ledger_events (subject_id, history_id);

comment on table states.ledger_events is 'Which events of the ledger''s log a transition made: transactions, accounts opened and changed, holds voided. Never changed.';
comment on column states.ledger_events.event is 'The event of the transition, whose booking a transaction is.';

create function states.refuse_ledger_events_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_HISTORY_APPEND_ONLY', format('%s of states.ledger_events refused: the ledger''s log is never changed either.', tg_op));
  return null;
end $$;

create trigger ledger_events_append_only before update or delete or truncate on states.ledger_events
  for each statement execute function states.refuse_ledger_events_change();
alter table states.ledger_events enable always trigger ledger_events_append_only;

-- -------------------------------------------------------------------------------------------------------------- posting

-- What a transition does, for its functions: it has no table.
create type states.step as (machine text, id uuid, history_id bigint, event text);

-- Notes that an event of the ledger's log is a transition's. Returns its id.
create function states.note_ledger_event(p_step states.step, p_event_id uuid) returns uuid
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Two that open one account at the same time: the second waits, and finds it.
  insert into states.ledger_events (event_id, machine, subject_id, history_id, event)
  values (p_event_id, p_step.machine, p_step.id, p_step.history_id, p_step.event)
  on conflict (event_id) do nothing;
  return p_event_id;
end $$;

-- The account of a row by its request, whether it is there or not.
create function states.account_id(p_request jsonb) returns uuid
language sql immutable parallel safe
return payments.account_id(1, p_request ->> 'type', p_request ->> 'currency', p_request ->> 'name', p_request ->> 'user_id',
  p_request ->> 'organization_id');

-- What an account of a machine is for a row, as payments.open_accounts takes it; null where the machine has none of this name.
create function states.request_of(p_machine text, p_account text, p_row anyelement) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_request jsonb;
begin
  execute format('select jsonb_strip_nulls(%s)', (select a.request from states.accounts a where a.machine = p_machine and a.name = p_account))
  into v_request using p_row;
  return v_request;
end $$;

-- The account of a request, opened where it is not there. Not by payments.open_accounts, which asks the caller for the right to post.
create function states.open_account(p_step states.step, p_request jsonb) returns uuid
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_id constant uuid := states.account_id(p_request);
  v_position bigint;
begin
  if exists (select from payments.accounts a where a.id = v_id and a.book_id = 1) then
    return v_id;
  end if;
  if not exists (select from ref.currencies c where c.code = p_request ->> 'currency') then
    perform payments.raise_code('LEDGER_CURRENCY_UNKNOWN', format('%s of %s %s is in %s, which is not in ref.currencies.',
      p_step.event, p_step.machine, p_step.id, coalesce(p_request ->> 'currency', 'no currency')));
  end if;
  perform states.note_ledger_event(p_step, v_id);
  if payments.import_events(1, '{}', array[row('account.opened', v_id, null, null, null, null, p_request)::payments.new_event]) = 1 then
    select e.position into v_position from payments.events e where e.event_id = v_id and e.book_id = 1;
    perform payments.project_account_changes(1, v_position, v_position, pg_current_xact_id());
  end if;
  return v_id;
end $$;

-- Posts a transaction that a transition makes. Raises what the ledger refuses.
create function states.post(p_step states.step, p_transaction jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_outcome payments.posting_outcome;
begin
  v_outcome := payments.post_one(1, 1, p_transaction || jsonb_build_object('transaction_id', states.note_ledger_event(p_step, gen_random_uuid())),
    payments.open_since(1));
  if v_outcome.status = 'rejected' then
    perform payments.raise_code(v_outcome.code, format('%s of %s %s is not booked, so it does not happen: %s',
      p_step.event, p_step.machine, p_step.id, v_outcome.message));
  end if;
end $$;

-- The entries of a booking, as posting takes them. Opens the accounts that are not there.
create function states.entries_of(p_step states.step, p_event text, p_row anyelement) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_line states.lines;
  v_request jsonb;
  v_cents bigint;
  -- By side, debit positive.
  v_signed bigint;
  v_total bigint := 0;
  v_entries jsonb := '[]';
begin
  -- The line that has the rest is the last.
  for v_line in select l.* from states.lines l where l.machine = p_step.machine and l.event = p_event order by l.amount_cents is null, l.number loop
    if v_line.amount_cents is null then
      v_signed := -v_total;
    else
      execute format('select (%s)::bigint', v_line.amount_cents) into v_cents using p_row;
      if v_cents is null then
        perform states.refuse('STATE_GUARD_REFUSED', format('%s of %s %s needs an amount for the account %s, and there is none.',
          p_step.event, p_step.machine, p_step.id, v_line.account));
      end if;
      v_signed := case v_line.side when 'debit' then v_cents else -v_cents end;
    end if;
    v_total := v_total + v_signed;
    if v_signed <> 0 then
      v_request := states.request_of(p_step.machine, v_line.account, p_row);
      v_entries := v_entries || jsonb_build_object('account_id', states.open_account(p_step, v_request), 'currency', v_request ->> 'currency',
        'amount_cents', v_signed);
    end if;
  end loop;
  return v_entries;
end $$;

-- Posts the booking of an event, where it has one that comes to something.
create function states.book(p_step states.step, p_event text, p_row anyelement) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_booking states.bookings;
  v_entries jsonb;
  v_reversed uuid;
  v_reference_id text;
  v_reference jsonb;
begin
  select b.* into v_booking from states.bookings b where b.machine = p_step.machine and b.event = p_event;
  if not found then
    return;
  end if;
  execute format('select (%s)::text', v_booking.reference_id) into v_reference_id using p_row;
  v_reference := jsonb_build_object('reference_type', v_booking.reference_type, 'reference_id', v_reference_id,
    'metadata', jsonb_build_object('machine', p_step.machine, 'event', p_step.event, 'history_id', p_step.history_id));
  if v_booking.reverses is null then
    v_entries := states.entries_of(p_step, p_event, p_row);
    if jsonb_array_length(v_entries) > 0 then
      perform states.post(p_step, v_reference || jsonb_build_object('entries', v_entries));
    end if;
    return;
  end if;
  -- The last that was booked under it. A row of before the machine was booked when it was adopted.
  select l.event_id into v_reversed
  from states.ledger_events l
  join payments.events e on e.event_id = l.event_id and e.book_id = 1 and e.type = 'transaction.posted'
  where l.subject_id = p_step.id and l.machine = p_step.machine and l.event in (v_booking.reverses, 'adopted')
  order by l.history_id desc
  limit 1;
  if v_reversed is not null then
    perform states.post(p_step, v_reference || jsonb_build_object('reverses', v_reversed));
  end if;
end $$;

-- ------------------------------------------------------------------------------------------------------- what is kept

-- Opens or freezes an account that a machine keeps. Locks: its balance row.
create function states.set_account_status(p_step states.step, p_account_id uuid, p_status text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_last record;
  v_position bigint;
begin
  perform payments.lock_accounts(1, array[p_account_id]);
  select c.status, c.floor_cents, c.ceiling_cents into v_last
  from payments.account_changes c
  where c.account_id = p_account_id and c.book_id = 1
  order by c.change_seq desc
  limit 1;
  if coalesce(v_last.status, 'open') = p_status then
    return;
  end if;
  v_position := (payments.append_event(1, row('account.changed', states.note_ledger_event(p_step, gen_random_uuid()), null, null, null, null,
    jsonb_build_object('account_id', p_account_id, 'status', p_status, 'floor_cents', v_last.floor_cents, 'ceiling_cents', v_last.ceiling_cents,
      'reason', format('%s of %s %s', p_step.event, p_step.machine, p_step.id)))::payments.new_event)).event_position;
  perform payments.project_account_changes(1, v_position, v_position, pg_current_xact_id());
end $$;

-- Voids what is on hold on an account that is emptied: it was held for what comes to nothing. Locks: its balance row.
create function states.void_holds(p_step states.step, p_account_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_hold payments.holds;
  v_position bigint;
begin
  perform payments.lock_accounts(1, array[p_account_id]);
  perform payments.expire_account_holds(1, p_account_id);
  for v_hold in select h.* from payments.holds h where h.account_id = p_account_id and h.book_id = 1 and h.state = 'active' order by h.hold_id loop
    v_position := (payments.append_event(1, row('hold.voided', states.note_ledger_event(p_step, gen_random_uuid()), null, null, null, null,
      jsonb_build_object('reason', format('%s of %s %s', p_step.event, p_step.machine, p_step.id),
        'hold_step', payments.hold_step(v_hold, 'voided', 0, 0)))::payments.new_event)).event_position;
    perform payments.project_hold_steps(1, v_position, v_position, pg_current_xact_id());
  end loop;
end $$;

-- What an account of the main book has, positive on its normal side; zero where it is not there.
create function states.balance_of(p_account_id uuid) returns bigint
language sql stable
return coalesce((select b.balance_cents from payments.account_balances b where b.account_id = p_account_id and b.book_id = 1), 0);

-- What a change of state does beside the change. Raises what the ledger refuses, STATE_MONEY_KEPT.
-- Locks: the balance rows of the accounts that it books on.
create or replace function states.take_effects(p_machine text, p_id uuid, p_event text, p_to text, p_history_id bigint, p_row anyelement) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_step constant states.step := row(p_machine, p_id, p_history_id, p_event)::states.step;
  v_kept states.kept_accounts;
  v_account_id uuid;
begin
  select k.* into v_kept from states.kept_accounts k where k.machine = p_machine;
  if not found then
    perform states.book(v_step, p_event, p_row);
    return;
  end if;
  v_account_id := states.account_id(states.request_of(p_machine, v_kept.account, p_row));
  if p_event = 'deleted' then
    if states.balance_of(v_account_id) <> 0 then
      perform states.refuse('STATE_MONEY_KEPT', format('%s %s cannot be deleted: its account %s has %s cents. Release or refund them first.',
        p_machine, p_id, v_account_id, states.balance_of(v_account_id)), jsonb_build_object('machine', p_machine, 'id', p_id));
    end if;
    return;
  end if;
  if p_to <> all (v_kept.frozen_states) and exists (select from payments.accounts a where a.id = v_account_id and a.book_id = 1) then
    perform states.set_account_status(v_step, v_account_id, 'open');
    if p_to <> all (v_kept.in_states) then
      perform states.void_holds(v_step, v_account_id);
    end if;
  end if;
  if p_event <> 'adopted' then
    perform states.book(v_step, p_event, p_row);
  elsif p_to = any (v_kept.in_states) and states.balance_of(v_account_id) = 0 then
    perform states.book(v_step, v_kept.filled_by, p_row);
  elsif p_to <> all (v_kept.in_states) and states.balance_of(v_account_id) <> 0 then
    -- Old code took it there while the machine was off: what it did then is booked now.
    perform states.book(v_step, (
      select min(e.event) from states.edges e
      where e.machine = p_machine and e.to_state = p_to and e.from_state = any (v_kept.in_states)), p_row);
  end if;
  if p_to = any (v_kept.frozen_states) then
    perform states.set_account_status(v_step, v_account_id, 'frozen');
  end if;
  perform states.check_kept_row(v_step, v_kept, v_account_id, p_to, p_row);
end $$;

-- Refuses a change that would leave an account with anything but what the row's state implies.
create function states.check_kept_row(p_step states.step, p_kept states.kept_accounts, p_account_id uuid, p_to text, p_row anyelement) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_implied bigint := 0;
begin
  if p_to = any (p_kept.in_states) then
    execute format('select (%s)::bigint', p_kept.amount_cents) into v_implied using p_row;
  end if;
  if states.balance_of(p_account_id) is distinct from v_implied then
    perform states.refuse('STATE_MONEY_KEPT', case p_step.event
      when 'adopted' then format('%s %s cannot be taken in: its account %s has %s cents, and %s implies %s. Put its label or its amount right first.',
        p_step.machine, p_step.id, p_account_id, states.balance_of(p_account_id), p_to, coalesce(v_implied::text, 'nothing known'))
      else format('%s of %s %s would leave %s cents in its account %s, where %s implies %s.',
        p_step.event, p_step.machine, p_step.id, states.balance_of(p_account_id), p_account_id, p_to, coalesce(v_implied::text, 'nothing known'))
      end, jsonb_build_object('machine', p_step.machine, 'id', p_step.id, 'event', p_step.event));
  end if;
end $$;

-- After an update that changes what an account was filled by: not while it has something. Of a row that is not taken in yet, what it will have counts.
create function states.check_fixed_columns() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_kept constant states.kept_accounts := (select k from states.kept_accounts k where k.machine = tg_argv[0]);
  v_state constant text := coalesce(old.state::text, states.adopted_state(tg_argv[0], old.id, old));
begin
  if v_state = any (v_kept.in_states) then
    perform states.refuse('STATE_MONEY_KEPT', format('%s %s keeps money while it is %s: %s cannot change.', tg_argv[0], old.id, v_state,
      array_to_string(v_kept.fixed_columns, ', ')), jsonb_build_object('machine', tg_argv[0], 'id', old.id));
  end if;
  return null;
end $$;

-- ---------------------------------------------------------------------- who may touch what is kept: installed with a machine
-- Their argument is the type of the accounts that are kept (escrow), which in the main book nobody else touches from then on.

create function states.refuse_kept_account(p_type text, p_account_id uuid, p_what text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_ACCOUNT_KEPT', format(
    '%s of account %s refused: accounts of type %s follow the state of what they are kept for. Take its transition: liventix states list.',
    p_what, p_account_id, p_type), jsonb_build_object('account_id', p_account_id));
end $$;

-- After each account that is opened: what is kept is opened by a transition, with the limits that it is to have.
create function states.check_kept_accounts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.type = tg_argv[0] and new.book_id = 1 and not exists (select from states.ledger_events l where l.event_id = new.id) then
    perform states.refuse_kept_account(tg_argv[0], new.id, 'The opening');
  end if;
  return null;
end $$;

-- After each INSERT of entries: those on kept accounts are of a transaction that a transition made.
create function states.check_kept_entries() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_fault record;
begin
  select n.account_id into v_fault
  from (select distinct e.account_id, e.transaction_id, e.book_id from new_entries e where e.book_id = 1) n
  where (select a.type from payments.accounts a where a.id = n.account_id and a.book_id = n.book_id) = tg_argv[0]
    and (select l.machine from states.ledger_events l where l.event_id = n.transaction_id) is null
  limit 1;
  if found then
    perform states.refuse_kept_account(tg_argv[0], v_fault.account_id, 'A posting');
  end if;
  return null;
end $$;

-- After each change of an account: one that is kept is opened and frozen by transitions.
create function states.check_kept_changes() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.book_id = 1 and (select a.type from payments.accounts a where a.id = new.account_id and a.book_id = 1) = tg_argv[0] and exists (
    select from payments.events e
    where e.position = new.event_position and e.book_id = new.book_id and e.type = 'account.changed'
      and not exists (select from states.ledger_events l where l.event_id = e.event_id))
  then
    perform states.refuse_kept_account(tg_argv[0], new.account_id, 'A change');
  end if;
  return null;
end $$;

-- After each step of a hold: while a kept account is frozen, what is on hold there stays. That a hold has expired is only written down.
create function states.check_kept_holds() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.book_id = 1 and (select a.type from payments.accounts a where a.id = new.account_id and a.book_id = 1) = tg_argv[0]
    and (select b.status from payments.balances b where b.account_id = new.account_id and b.book_id = new.book_id) = 'frozen'
  then
    perform states.refuse_kept_account(tg_argv[0], new.account_id, format('A hold (%s)', new.kind));
  end if;
  return null;
end $$;

select states.keep_from_guests();
