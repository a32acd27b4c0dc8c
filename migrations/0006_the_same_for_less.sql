-- The same guarantees of the ledger as before for less work, and chunks of a backfill that overlap.
-- As in 0003, tables are looked into row by row (limit 1, scalar subqueries): a plain join may be planned as a hash of all.

-- What was asked for, as against imported: empty beside the import of any number of events.
create index events_requested on payments.events (position, book_id) where request_hash is not null;

-- As in 0002, in one grouping instead of two: nearly every transaction has one currency, and its sum says all. Those with
-- several are summed where an index finds their entries; the ids see to it that these are the new ones and no others.
create or replace function payments.check_new_entries() returns trigger
language plpgsql as $$
declare
  v_fault record;
begin
  select s.account_id, s.currency, s.account_currency into v_fault
  from (
    select d.account_id, d.currency,
           (select a.currency from payments.accounts a where a.book_id = d.book_id and a.id = d.account_id) as account_currency
    from (select distinct e.book_id, e.account_id, e.currency from new_entries e) d
    offset 0
  ) s
  where s.account_currency is distinct from s.currency
  limit 1;
  if found and v_fault.account_currency is null then
    perform payments.raise_code('LEDGER_ACCOUNT_UNKNOWN', format('Account %s does not exist: open it first.', v_fault.account_id));
  elsif found then
    perform payments.raise_code('LEDGER_CURRENCY_MISMATCH', format(
      'An entry in %s on account %s, which holds %s.', v_fault.currency, v_fault.account_id, v_fault.account_currency));
  end if;

  select s.book_id, s.event_position, s.transaction_id, s.is_balanced into v_fault
  from (
    select t.*,
           case when t.first_currency = t.last_currency then t.cents = 0
                else not exists (
                  select from payments.entries n
                  where n.book_id = t.book_id and n.transaction_id = t.transaction_id and n.event_position = t.event_position
                  group by n.currency
                  having sum(n.amount_cents) <> 0) end as is_balanced
    from (
      select e.book_id, e.event_position, e.transaction_id, sum(e.amount_cents) as cents,
             min(e.currency) as first_currency, max(e.currency) as last_currency,
             min(e.id) as first_id, max(e.id) as last_id, count(*) as legs
      from new_entries e
      group by e.book_id, e.event_position, e.transaction_id
    ) t
  ) s
  where not s.is_balanced
    -- Leg 1 and all up to the last: each id is there once, so nothing can be slipped in beside them later.
    or s.first_id <> s.event_position * 1024 + 1
    or s.last_id <> s.event_position * 1024 + s.legs
    or s.transaction_id is distinct from (
      select v.event_id from payments.events v
      where v.book_id = s.book_id and v.position = s.event_position and v.type = 'transaction.posted')
  order by s.is_balanced
  limit 1;
  if found and not v_fault.is_balanced then
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
  elsif found then
    perform payments.raise_code('LEDGER_INVALID', format(
      'Transaction %s has no event in the log that says so: post it with payments.post_transaction.', v_fault.transaction_id));
  end if;
  return null;
end $$;

-- As in 0003, but the log is asked which events it has only where it refuses one: looking all of them up beforehand cost
-- every import what only a repeated one needs, and was planned as a scan of the whole log while that was small.
create or replace function payments.import_events(p_book_id integer, p_account_ids uuid[], p_events payments.new_event[])
returns integer
language plpgsql as $$
declare
  v_new payments.new_event[];
begin
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

-- As in 0003, but an account's history goes on from a row of its own that says where it stood, instead of a second pass
-- over all entries that brought it to each of them.
create or replace function payments.project_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8)
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
    select (l.value ->> 'account_id')::uuid as account_id, e.position, l.ordinality as number,
           (l.value ->> 'amount_cents')::bigint as amount_cents, l.value ->> 'currency' as currency,
           e.event_id, e.effective_at, e.recorded_at, e.created_by, e.reference_type, e.reference_id,
           coalesce(l.value ->> 'description', e.description) as description, coalesce(l.value -> 'metadata', e.metadata) as metadata
    from event e
    cross join lateral jsonb_array_elements(e.entries) with ordinality as l
  -- Computed once: balances and histories both begin with it.
  ), touched as materialized (
    select account_id, sum(amount_cents)::bigint as moved_cents, count(*) as legs from leg group by account_id
  ), moved as (
    insert into payments.balances as b (book_id, account_id, balance_cents, last_seq)
    select p_book_id, account_id, moved_cents, legs from touched
    -- It is there since the account was opened.
    on conflict (account_id, book_id) do update
    set balance_cents = b.balance_cents + excluded.balance_cents, last_seq = b.last_seq + excluded.last_seq
  ), step as (
    select l.account_id, l.position, l.number, l.amount_cents, 1::bigint as steps, l.currency, l.event_id, l.effective_at,
           l.recorded_at, l.created_by, l.reference_type, l.reference_id, l.description, l.metadata
    from leg l
    union all
    -- Where each account stood before, which this statement still sees: first in its history, and no entry.
    select t.account_id, null, null, b.balance_cents, b.last_seq, null, null, null, null, null, null, null, null, null
    from touched t
    cross join lateral (
      select b.balance_cents, b.last_seq from payments.balances b
      where b.book_id = p_book_id and b.account_id = t.account_id
      limit 1
    ) b
  ), running as (
    select step.*, sum(steps) over history as account_seq, sum(amount_cents) over history as balance_after_cents
    from step
    window history as (partition by account_id order by position nulls first, number rows unbounded preceding)
  )
  insert into payments.entries (
    book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency, balance_after_cents,
    effective_at, created_at, created_by, reference_type, reference_id, description, metadata
  )
  select p_book_id, r.position * 1024 + r.number, r.position, r.event_id, r.account_id, r.account_seq, r.amount_cents, r.currency,
         r.balance_after_cents, r.effective_at, r.recorded_at, r.created_by, r.reference_type, r.reference_id, r.description, r.metadata
  from running r
  where r.position is not null;
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW',
    'A balance would pass what 64 bits hold. Nothing was written: post a smaller amount.');
end $$;

-- Begins a chunk of a backfill, numbered from 1 on: until this transaction ends, the next one waits for it in take_turn.
create function replay.begin_chunk(p_book_id integer, p_number integer) returns void
language plpgsql set lock_timeout = '10min' as $$
begin
  perform pg_advisory_xact_lock(hashtext('liventix.backfill.chunk:' || p_book_id), p_number);
end $$;

-- Takes the checkpoint of a source for the chunk that begins after the given key (null: the first) and was judged in the
-- given survey, and tells whether it is that one's turn. Waits for the transaction of the chunk before: chunks are mapped
-- side by side and written in order, also where a later one is mapped sooner. The role's lock_timeout, which is meant for
-- requests, does not bound that wait.
create function replay.take_turn(
  p_book_id integer, p_number integer, p_source text, p_after_created_at timestamptz, p_after_id uuid, p_survey pg_snapshot
) returns boolean
language plpgsql set lock_timeout = '10min' as $$
declare
  v_is_next boolean;
begin
  perform pg_advisory_xact_lock_shared(hashtext('liventix.backfill.chunk:' || p_book_id), p_number - 1);
  select (p.last_created_at, p.last_id, p.survey::text) is not distinct from (p_after_created_at, p_after_id, p_survey::text)
  into v_is_next
  from replay.progress p
  where p.book_id = p_book_id and p.source = p_source
  for update;
  return v_is_next;
end $$;
revoke all on function replay.begin_chunk(integer, integer) from public;
revoke all on function replay.take_turn(integer, integer, text, timestamptz, uuid, pg_snapshot) from public;
