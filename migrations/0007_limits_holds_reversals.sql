-- Floors, ceilings and the state of accounts; holds; reversals; who may use which book. Tables, guards and projections;
-- the functions that post are in 0008.
--
-- As entries are to balances, so is each history here to the row that says how things stand: append-only, numbered without
-- gaps, every row with its event in the log; and the present row says what the last one of its history says.

-- Not validated: what is there satisfied a narrower one, and a log of millions need not be read for that.
alter table payments.events drop constraint events_type_values;
alter table payments.events add constraint events_type_values check (type in (
  'account.opened', 'account.changed', 'transaction.posted', 'hold.placed', 'hold.voided', 'hold.expired', 'book.opened',
  'period.closed', 'note.recorded')) not valid;

alter table payments.books add column closed_until timestamptz;
comment on column payments.books.closed_until is 'Effective dates before this instant are refused: their period is closed.';

-- Which roles may use which book, beside the owner. Policies and functions ask it; the owner alone writes it.
create table payments.book_grants (
  book_id integer not null constraint book_grants_book_id_fkey references payments.books,
  grantee name not null,
  may_post boolean not null default false,
  constraint book_grants_pkey primary key (grantee, book_id)
);
comment on table payments.book_grants is 'A role, and with it its members, reads the books it is granted; posts where may_post.';

-- Posting locks and reads these rows, so what it must obey is there.
alter table payments.balances
  add column held_cents bigint not null default 0,
  add column min_cents bigint,
  add column max_cents bigint,
  add column status text not null default 'open' constraint balances_status_values check (status in ('open', 'frozen', 'closed'));
comment on column payments.balances.held_cents is 'What active holds would add to balance_cents if all were captured, signed like entries.';
comment on column payments.balances.min_cents is 'Signed like entries: the floor of an account whose normal side is debit, the negated ceiling of one whose is credit.';
comment on column payments.balances.max_cents is 'Signed like entries: the ceiling of an account whose normal side is debit, the negated floor of one whose is credit.';

create table payments.account_changes (
  event_position bigint not null,
  change_seq bigint not null,
  floor_cents bigint,
  ceiling_cents bigint,
  changed_at timestamptz not null,
  account_id uuid not null,
  book_id integer not null,
  status text not null constraint account_changes_status_values check (status in ('open', 'frozen', 'closed')),
  changed_by text not null,
  reason text,
  constraint account_changes_pkey primary key (event_position, book_id),
  constraint account_changes_seq_key unique (account_id, change_seq, book_id),
  constraint account_changes_floor_below_ceiling check (floor_cents <= ceiling_cents)
);
comment on table payments.account_changes is 'Every change of an account''s limits and state. Limits read as its holder reads the balance: positive on the normal side.';

create table payments.holds (
  amount_cents bigint not null constraint holds_amount_positive check (amount_cents > 0),
  remaining_cents bigint not null constraint holds_remaining_range check (remaining_cents between 0 and amount_cents),
  last_seq bigint not null,
  event_position bigint not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  hold_id uuid not null,
  account_id uuid not null,
  book_id integer not null,
  state text not null constraint holds_state_values check (state in ('active', 'captured', 'voided', 'expired')),
  currency text not null,
  created_by text not null,
  reference_type text,
  reference_id text,
  description text,
  metadata jsonb not null,
  constraint holds_pkey primary key (hold_id, book_id),
  constraint holds_active_while_something_remains check ((state = 'active') = (remaining_cents > 0))
) with (fillfactor = 70);
create index holds_active on payments.holds (account_id, expires_at, book_id) where state = 'active';
create index holds_due on payments.holds (expires_at, book_id) where state = 'active' and expires_at is not null;

comment on table payments.holds is 'What is reserved on an account: positive, in the direction in which the account is spent. How each stands after its last hold entry.';
comment on column payments.holds.expires_at is 'From this instant on it reserves nothing, also before the event that says so is in the log.';

create table payments.hold_entries (
  event_position bigint not null,
  hold_seq bigint not null,
  account_hold_seq bigint not null,
  held_cents bigint not null,
  held_after_cents bigint not null,
  captured_cents bigint not null,
  remaining_cents bigint not null constraint hold_entries_remaining_not_negative check (remaining_cents >= 0),
  created_at timestamptz not null,
  hold_id uuid not null,
  account_id uuid not null,
  transaction_id uuid,
  book_id integer not null,
  kind text not null constraint hold_entries_kind_values check (kind in ('placed', 'captured', 'voided', 'expired')),
  constraint hold_entries_pkey primary key (event_position, book_id),
  constraint hold_entries_hold_seq_key unique (hold_id, hold_seq, book_id),
  constraint hold_entries_account_seq_key unique (account_id, account_hold_seq, book_id),
  constraint hold_entries_captured_by_transaction check ((kind = 'captured') = (transaction_id is not null))
);
-- Whatever races: one capture, void or expiry ends a hold, and no second.
create unique index hold_entries_one_resolution on payments.hold_entries (hold_id, book_id) where remaining_cents = 0;

comment on column payments.hold_entries.held_cents is 'What it adds to the account''s held_cents, signed like entries.';
comment on column payments.hold_entries.captured_cents is 'What the transaction took of the hold; what it released beside that is the rest of the difference.';

create table payments.reversals (
  event_position bigint not null,
  reversal_seq bigint not null,
  transaction_id uuid not null,
  reverses uuid not null,
  book_id integer not null,
  is_complete boolean not null,
  constraint reversals_pkey primary key (transaction_id, book_id),
  constraint reversals_seq_key unique (reverses, reversal_seq, book_id)
);
create unique index reversals_one_completes on payments.reversals (reverses, book_id) where is_complete;

comment on table payments.reversals is 'Which transaction reverses which, whole or in part; is_complete where nothing of it is left afterwards.';

create or replace view payments.account_balances with (security_invoker = true) as
select a.book_id, a.id as account_id, a.type, a.currency, a.name, a.user_id, a.organization_id,
       s.side * b.balance_cents as balance_cents, b.last_seq as entries,
       s.side * (b.balance_cents + b.held_cents) + coalesce(expired.cents, 0)::bigint as available_cents,
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
) expired on true;

comment on view payments.account_balances is 'balance_cents and available_cents (less what active holds reserve) are positive on the account type''s normal side.';

-- As in 0002, with the codes that came since.
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
    end;
end $$;

-- Guards. As those of 0002 they hold for every writer, the tables' owner included, and in replica mode.

create function payments.status_code(p_status text) returns text
language sql immutable parallel safe
return case p_status when 'frozen' then 'LEDGER_ACCOUNT_FROZEN' else 'LEDGER_ACCOUNT_CLOSED' end;

-- Whether an account's movement passed one of its limits, and which: null where it passed none. Only a movement towards a limit
-- passes it, so that an account which is beyond one already can come back. What holds reserve is as good as spent.
-- p_after: the balance after it. p_moved: by how much it changed; both signed like entries.
create function payments.limit_passed(p_account payments.balances, p_after bigint, p_moved numeric) returns text
language plpgsql stable as $$
begin
  if p_moved > 0 and p_after + greatest(p_account.held_cents, 0)::numeric > p_account.max_cents
    or p_moved < 0 and p_after + least(p_account.held_cents, 0)::numeric < p_account.min_cents
  then
    return (
      select case when (t.normal_side = 'debit') = (p_moved > 0) then 'LEDGER_CEILING_PASSED' else 'LEDGER_FLOOR_PASSED' end
      from payments.accounts a
      join payments.account_types t using (type)
      where a.id = p_account.account_id and a.book_id = p_account.book_id);
  end if;
  return null;
end $$;

-- The same in words, with both values as the account's holder reads them.
create function payments.limit_message(p_account payments.balances, p_after bigint, p_moved numeric) returns text
language sql stable
return (
  select case when (t.normal_side = 'debit') = (p_moved > 0)
      then format('Account %s would come to %s %s, above its ceiling of %s.', a.id, s.side * p_after, a.currency,
        s.side * case s.side when 1 then p_account.max_cents else p_account.min_cents end)
      else format('Account %s would have %s %s available, below its floor of %s.', a.id, s.side * (p_after + p_account.held_cents::numeric),
        a.currency, s.side * case s.side when 1 then p_account.min_cents else p_account.max_cents end) end
  from payments.accounts a
  join payments.account_types t using (type)
  cross join lateral (select case t.normal_side when 'debit' then 1 else -1 end::numeric as side) s
  where a.id = p_account.account_id and a.book_id = p_account.book_id
);

-- Every INSERT into entries carries whole transactions: each sums to zero per currency, belongs to an event of the log, is in
-- its accounts' currencies and in an open period, on accounts that are open, and leaves them within their limits.
-- One look at all new rows. Nearly every transaction has one currency, and its sum says all; those with several are summed
-- where an index finds their entries: the ids see to it that these are the new ones and no others.
create or replace function payments.check_new_entries() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select t.book_id, t.event_position, t.transaction_id, t.effective_at, t.is_balanced, t.is_whole, t.is_late, t.account_fault into v_fault
  from (
    select g.*,
           case when g.first_currency = g.last_currency then g.cents = 0
                else not exists (
                  select from payments.entries n
                  where n.book_id = g.book_id and n.transaction_id = g.transaction_id and n.event_position = g.event_position
                  group by n.currency
                  having sum(n.amount_cents) <> 0) end as is_balanced,
           -- Leg 1 and all up to the last: each id is there once, so nothing can be slipped in beside them later.
           coalesce((select b.closed_until from payments.books b where b.book_id = g.book_id) > g.effective_at, false) as is_late,
           g.first_id = g.event_position * 1024 + 1 and g.last_id = g.event_position * 1024 + g.legs
             and g.transaction_id is not distinct from (
               select v.event_id from payments.events v
               where v.book_id = g.book_id and v.position = g.event_position and v.type = 'transaction.posted') as is_whole
    from (
      select e.book_id, e.event_position, e.transaction_id, sum(e.amount_cents) as cents,
             min(e.currency) as first_currency, max(e.currency) as last_currency,
             min(e.id) as first_id, max(e.id) as last_id, count(*) as legs,
             min(e.effective_at) as effective_at, min(e.account_fault) as account_fault
      from (
        select e.*,
               case when (select a.currency from payments.accounts a where a.book_id = e.book_id and a.id = e.account_id)
                      is distinct from e.currency then '1 currency'
                 else (
                   select case when b.status <> 'open' then '2 status'
                     -- Only where they may be passed is looked more closely.
                     when e.balance_after_cents + greatest(b.held_cents, 0)::numeric > b.max_cents
                       or e.balance_after_cents + least(b.held_cents, 0)::numeric < b.min_cents then '3 limit' end
                   from payments.balances b where b.book_id = e.book_id and b.account_id = e.account_id) end as account_fault
        from new_entries e
        offset 0
      ) e
      group by e.book_id, e.event_position, e.transaction_id
    ) g
  ) t
  where not t.is_balanced or not t.is_whole or t.is_late or t.account_fault is not null
  order by t.account_fault in ('1 currency', '2 status') desc nulls last, t.is_balanced, t.is_whole, t.is_late desc
  limit 1;
  if not found then
    return null;
  end if;

  if v_fault.account_fault in ('1 currency', '2 status') then
    perform payments.raise_code(f.code, f.message)
    from new_entries e
    left join payments.accounts a on a.book_id = e.book_id and a.id = e.account_id
    left join payments.balances b on b.book_id = e.book_id and b.account_id = e.account_id
    cross join lateral (values
      (1, 'LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist: open it first.', e.account_id), a.id is null),
      (2, 'LEDGER_CURRENCY_MISMATCH', format('An entry in %s on account %s, which holds %s.', e.currency, e.account_id, a.currency),
        a.currency <> e.currency),
      (3, payments.status_code(b.status), format('Account %s is %s.', e.account_id, b.status), b.status <> 'open')
    ) as f (rank, code, message, applies)
    where e.book_id = v_fault.book_id and e.event_position = v_fault.event_position and f.applies
    order by f.rank
    limit 1;
  elsif not v_fault.is_balanced then
    perform payments.raise_code('LEDGER_UNBALANCED', (
      select format('Transaction %s sums to %s; every transaction must sum to zero per currency, in one INSERT.',
               v_fault.transaction_id, string_agg(format('%s %s', c.cents, c.currency), ', ' order by c.currency))
      from (
        select e.currency, sum(e.amount_cents) as cents from new_entries e
        where e.book_id = v_fault.book_id and e.transaction_id = v_fault.transaction_id
          and e.event_position = v_fault.event_position
        group by e.currency
      ) c
      where c.cents <> 0));
  elsif not v_fault.is_whole then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Transaction %s has no event in the log that says so: post it with payments.post_transaction.', v_fault.transaction_id));
  elsif v_fault.is_late then
    perform payments.raise_code('LEDGER_PERIOD_CLOSED', format(
      'Transaction %s is effective %s, in a period that is closed. Correct it in the open period.',
      v_fault.transaction_id, v_fault.effective_at));
  end if;

  -- What is left may pass a limit: what an account comes to at the end of its transaction decides.
  perform payments.raise_code(payments.limit_passed(b, m.balance_after_cents, m.moved_cents),
    payments.limit_message(b, m.balance_after_cents, m.moved_cents))
  from (
    select e.book_id, e.account_id, e.event_position, sum(e.amount_cents) as moved_cents,
           (array_agg(e.balance_after_cents order by e.account_seq desc))[1] as balance_after_cents
    from new_entries e
    group by e.book_id, e.account_id, e.event_position
  ) m
  join payments.balances b on b.book_id = m.book_id and b.account_id = m.account_id
  where payments.limit_passed(b, m.balance_after_cents, m.moved_cents) is not null
  order by m.event_position
  limit 1;
  return null;
end $$;

-- As in 0002, with one look into the index instead of two: from the number that the balance names on there is its last entry
-- and no other.
create or replace function payments.check_changed_balances() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select c.account_id, c.balance_cents, c.last_seq into v_fault
  from changed c
  cross join lateral (
    select count(*) as entries, min(n.account_seq) as account_seq, min(n.balance_after_cents) as balance_after_cents
    from payments.entries n
    where n.book_id = c.book_id and n.account_id = c.account_id and n.account_seq >= c.last_seq
  ) l
  where (c.balance_cents, c.last_seq, l.entries) is distinct from
    (coalesce(l.balance_after_cents, 0), coalesce(l.account_seq, 0), case when c.last_seq = 0 then 0 else 1 end)
  limit 1;
  if found then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'A balance of %s after %s entries refused for account %s: its last entry says otherwise. Post a transaction instead.',
      v_fault.balance_cents, v_fault.last_seq, v_fault.account_id));
  end if;
  return null;
end $$;

-- An account's limits, state and held amount are what the last rows of their histories say, and the defaults before the first.
-- By row and by column, because posting changes none of these columns and shall not pay for them.
create function payments.check_account_state() returns trigger
language plpgsql as $$
declare
  v_said record;
begin
  select coalesce(c.status, 'open') as status,
         case t.normal_side when 'debit' then c.floor_cents else -c.ceiling_cents end as min_cents,
         case t.normal_side when 'debit' then c.ceiling_cents else -c.floor_cents end as max_cents,
         coalesce((
           select h.held_after_cents from payments.hold_entries h
           where h.account_id = new.account_id and h.book_id = new.book_id
           order by h.account_hold_seq desc limit 1), 0) as held_cents
  into v_said
  from payments.accounts a
  join payments.account_types t using (type)
  left join lateral (
    select x.status, x.floor_cents, x.ceiling_cents from payments.account_changes x
    where x.account_id = new.account_id and x.book_id = new.book_id
    order by x.change_seq desc limit 1) c on true
  where a.id = new.account_id and a.book_id = new.book_id;
  if (new.status, new.min_cents, new.max_cents, new.held_cents)
     is distinct from (v_said.status, v_said.min_cents, v_said.max_cents, v_said.held_cents) then
    perform payments.raise_code('LEDGER_APPEND_ONLY', format(
      'State %s, limits %s to %s and %s held refused for account %s: the log says otherwise. Use payments.change_account, or a hold.',
      new.status, coalesce(new.min_cents::text, 'none'), coalesce(new.max_cents::text, 'none'), new.held_cents, new.account_id));
  end if;
  return null;
end $$;

-- A hold is what its last hold entry says, and was placed with what it has.
create function payments.check_changed_holds() returns trigger
language plpgsql as $$
begin
  perform payments.raise_code('LEDGER_APPEND_ONLY', format(
    'Hold %s as %s with %s of %s remaining refused: the log says otherwise. Capture it or void it instead.',
    c.hold_id, c.state, c.remaining_cents, c.amount_cents))
  from changed c
  where not exists (
      select from payments.hold_entries h
      where h.hold_id = c.hold_id and h.book_id = c.book_id and h.hold_seq = c.last_seq and h.account_id = c.account_id
        and h.remaining_cents = c.remaining_cents and c.state = case when h.remaining_cents > 0 then 'active' else h.kind end)
    or exists (
      select from payments.hold_entries h
      where h.hold_id = c.hold_id and h.book_id = c.book_id and h.hold_seq = c.last_seq + 1)
    or not exists (
      select from payments.events e
      where e.event_id = c.hold_id and e.book_id = c.book_id and e.position = c.event_position and e.type = 'hold.placed'
        and (e.payload ->> 'amount_cents')::numeric = c.amount_cents and e.recorded_at = c.created_at
        and payments.try_instant(e.payload ->> 'expires_at') is not distinct from c.expires_at)
  limit 1;
  return null;
end $$;

-- Each row of a history is brought about by one event of the log, of the kind that brings such about.
create function payments.check_new_history() returns trigger
language plpgsql as $$
begin
  perform payments.raise_code('LEDGER_INVALID', format(
    'A row of payments.%s at position %s has no event in the log that says so: use the functions of the ledger.',
    tg_table_name, n.event_position))
  from new_history n
  where coalesce((
      select e.type from payments.events e where e.position = n.event_position and e.book_id = n.book_id
    ), '') not in (select unnest(case tg_table_name
      when 'account_changes' then array['account.opened', 'account.changed']
      when 'hold_entries' then array['hold.placed', 'hold.voided', 'hold.expired', 'transaction.posted']
      when 'reversals' then array['transaction.posted'] end))
  limit 1;
  return null;
end $$;

create trigger account_changes_append_only before update or delete or truncate on payments.account_changes
  for each statement execute function payments.refuse_change();
create trigger hold_entries_append_only before update or delete or truncate on payments.hold_entries
  for each statement execute function payments.refuse_change();
create trigger reversals_append_only before update or delete or truncate on payments.reversals
  for each statement execute function payments.refuse_change();
create trigger holds_not_removed before delete or truncate on payments.holds
  for each statement execute function payments.refuse_change();
create trigger account_changes_follow_log after insert on payments.account_changes
  referencing new table as new_history for each statement execute function payments.check_new_history();
create trigger hold_entries_follow_log after insert on payments.hold_entries
  referencing new table as new_history for each statement execute function payments.check_new_history();
create trigger reversals_follow_log after insert on payments.reversals
  referencing new table as new_history for each statement execute function payments.check_new_history();
create trigger holds_start_at_entries after insert on payments.holds
  referencing new table as changed for each statement execute function payments.check_changed_holds();
create trigger holds_follow_entries after update on payments.holds
  referencing new table as changed for each statement execute function payments.check_changed_holds();
create trigger balances_start_as_logged after insert on payments.balances
  for each row when (new.status <> 'open' or new.held_cents <> 0 or new.min_cents is not null or new.max_cents is not null)
  execute function payments.check_account_state();
create trigger balances_state_as_logged after update of status, held_cents, min_cents, max_cents on payments.balances
  for each row execute function payments.check_account_state();

alter table payments.account_changes enable always trigger account_changes_append_only;
alter table payments.hold_entries enable always trigger hold_entries_append_only;
alter table payments.reversals enable always trigger reversals_append_only;
alter table payments.holds enable always trigger holds_not_removed;
alter table payments.account_changes enable always trigger account_changes_follow_log;
alter table payments.hold_entries enable always trigger hold_entries_follow_log;
alter table payments.reversals enable always trigger reversals_follow_log;
alter table payments.holds enable always trigger holds_start_at_entries;
alter table payments.holds enable always trigger holds_follow_entries;
alter table payments.balances enable always trigger balances_start_as_logged;
alter table payments.balances enable always trigger balances_state_as_logged;
