-- Posting at full strength: one transaction straight on, many in one set; holds, reversals and account changes.
--
-- Two ways to write, one contract. payments.post_one takes one transaction: it is the definition, and what depends on the
-- order within a call (linked transactions, captures, reversals, limits that are met) goes through it, one after the other.
-- payments.post_in_bulk takes many at once and may only answer where the order does not matter.
-- As in 0003, tables are looked into row by row: a plain join may be planned as a hash of all of a table.

alter type payments.posting_outcome add attribute account_seqs bigint[];
alter type payments.posting_outcome add attribute balances_after_cents bigint[];

-- As in 0003, at a quarter of the cost: translate looks at every character for its length.
create or replace function payments.try_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text like '________-____-____-____-____________' and p_text ~ '^[0-9a-fA-F-]*$' and length(replace(p_text, '-', '')) = 32
  then p_text::uuid end;

-- Whether the shape is right; what the fields say is judged later.
create or replace function payments.is_entry(p_entry jsonb) returns boolean
language sql immutable parallel safe
return payments.has_only_keys(p_entry, array['account_id', 'amount_cents', 'currency', 'description', 'metadata'])
  and coalesce(jsonb_typeof(p_entry -> 'metadata'), 'object') = 'object'
  and coalesce(jsonb_typeof(p_entry -> 'description'), 'null') in ('string', 'null');

-- What is wrong with the key, the reference and the texts that a request may carry, whatever it asks for; null where nothing is.
create function payments.labels_fault(p_request jsonb) returns text
language sql stable parallel safe
return case
  when coalesce(jsonb_typeof(p_request -> 'metadata'), 'object') <> 'object' then 'metadata is no object:'
  when coalesce(jsonb_typeof(p_request -> 'idempotency_key'), 'null') not in ('string', 'null')
    or p_request ->> 'idempotency_key' = '' then 'idempotency_key is no text, or an empty one:'
  when coalesce(jsonb_typeof(p_request -> 'description'), 'null') not in ('string', 'null') then 'description is no text:'
  -- What an index carries is bounded, or the index refuses it after everything else is done.
  when octet_length(concat(p_request ->> 'idempotency_scope', p_request ->> 'idempotency_key')) > 1000
    then 'idempotency_scope and idempotency_key have more than 1000 bytes:'
  when octet_length(concat(p_request ->> 'reference_type', p_request ->> 'reference_id')) > 1000
    then 'reference_type and reference_id have more than 1000 bytes:'
end;

-- What is wrong with the shape of a transaction; null where nothing is. Its entries are judged by themselves.
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
  when length(p_transaction ->> 'announce') > 128 or p_transaction ->> 'announce' !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$'
    then 'announce is no topic:'
  when coalesce(jsonb_typeof(p_transaction -> 'linked'), 'boolean') <> 'boolean' then 'linked is neither true nor false:'
  when p_transaction ? 'reverses' and payments.try_uuid(p_transaction ->> 'reverses') is null then 'reverses is no UUID:'
  when p_transaction ? 'capture' and not (payments.has_only_keys(p_transaction -> 'capture', array['hold_id', 'final'])
      and payments.try_uuid(p_transaction -> 'capture' ->> 'hold_id') is not null
      and coalesce(jsonb_typeof(p_transaction -> 'capture' -> 'final'), 'boolean') = 'boolean')
    then 'capture is no object of hold_id (UUID) and at most final (true or false):'
  when p_transaction ? 'capture' and p_transaction ? 'reverses' then 'capture and reverses exclude each other:'
end);

-- The same as {code, message}, and what is too large to be kept for ever.
create function payments.request_fault(p_transaction jsonb) returns jsonb
language plpgsql stable parallel safe as $$
declare
  v_bytes constant integer := octet_length(p_transaction::text);
  v_fault constant text := payments.transaction_fault(p_transaction);
begin
  return case
    when v_bytes > 1048576 then jsonb_build_object('code', 'LEDGER_INVALID', 'message', format(
      'The transaction has %s bytes, more than 1048576 (1 MiB): keep documents elsewhere and refer to them.', v_bytes))
    when v_fault is not null then jsonb_build_object('code', 'LEDGER_INVALID', 'message', v_fault ||
      ' a transaction is an object of 2 to 1000 entries (none: reverse all), transaction_id (UUID), effective_at (an instant with its offset), idempotency_key, idempotency_scope, reference_type, reference_id, description, metadata (an object), announce (a topic), linked (to the next), reverses (a transaction), capture (a hold), and nothing else.')
  end;
end $$;

-- Whether a transaction is of the most common shape, in which nothing can be wrong with any field but its entries. Asked first,
-- because it costs a tenth of looking for what is wrong; what it does not know, request_fault judges.
create function payments.is_plain_request(p_transaction jsonb, p_text text) returns boolean
-- Stable, not immutable, because concat is: otherwise PostgreSQL would not inline it, at twice the cost.
language sql stable parallel safe
return payments.has_only_keys(p_transaction, array['entries', 'idempotency_key', 'idempotency_scope', 'reference_type', 'reference_id', 'description', 'metadata'])
  and p_transaction @@ '$.entries.type() == "array" && $.entries.size() >= 2 && $.entries.size() <= 1000
    && (!exists($.idempotency_key) || $.idempotency_key.type() == "string" && $.idempotency_key != "")
    && (!exists($.metadata) || $.metadata.type() == "object") && (!exists($.description) || $.description.type() == "string")'
  and octet_length(concat(p_transaction ->> 'idempotency_scope', p_transaction ->> 'idempotency_key')) <= 1000
  and octet_length(concat(p_transaction ->> 'reference_type', p_transaction ->> 'reference_id')) <= 1000
  and octet_length(p_text) <= 1048576;

-- Takes the locks of posting: the balance rows of these accounts, in id order, because two transactions that share
-- accounts would otherwise deadlock. Call it in a statement of its own: one that waits for a lock keeps its old
-- snapshot, the next one sees what it waited for.
create or replace function payments.lock_accounts(p_book_id integer, p_account_ids uuid[]) returns void
language plpgsql as $$
begin
  perform from (select distinct u.id from unnest(p_account_ids) as u (id) order by u.id) i
  cross join lateral (
    -- no key update: the weakest lock that excludes other posters.
    select from payments.balances b where b.account_id = i.id and b.book_id = p_book_id for no key update
  ) b;
end $$;

-- Raises where the calling role may not post in the book, or a call gives its items as anything but an array; open_since raises
-- where there is no such book. p_items: left out where the call has none.
-- Inside a SECURITY DEFINER function current_user is the owner; who called it is what SET ROLE said, or else who logged in.
create or replace function payments.check_call(p_book_id integer, p_items jsonb default '[]') returns void
language plpgsql stable as $$
declare
  v_caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
  -- Condition by condition: those that need no query are decided without a plan.
  if v_caller <> current_user then
    if not pg_has_role(v_caller, current_user, 'member') then
      if not exists (
        select from payments.book_grants g where g.book_id = p_book_id and g.may_post and pg_has_role(v_caller, g.grantee, 'member')
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

-- As in 0003; where no request carries claims, which is most, nothing has to be caught.
create or replace function payments.acting_user() returns text
language plpgsql stable as $$
declare
  v_claims constant text := nullif(current_setting('request.jwt.claims', true), '');
begin
  if v_claims is null then
    return session_user;
  end if;
  begin
    return coalesce(nullif(v_claims::jsonb ->> 'sub', ''), session_user);
  exception when data_exception then
    -- Claims that are no JSON name nobody.
    return session_user;
  end;
end $$;

-- As in 0003; nothing has to be caught where there is nothing to read.
create or replace function payments.try_instant(p_text text) returns timestamptz
language plpgsql stable strict parallel safe as $$
declare
  v_instant timestamptz;
begin
  -- With its offset written out: an instant must not depend on the session's time zone.
  if p_text !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$' then
    return null;
  end if;
  begin
    v_instant := p_text::timestamptz;
    return v_instant;
  exception when data_exception then
    return null;
  end;
end $$;

-- Waits for a close of the book's period that is under way, keeps the next one waiting until this transaction ends, and
-- returns from when on effective dates are open. Read in a statement after the lock, as everything is; where the
-- transaction's snapshot is older than that, a row lock finds out.
-- Raises where there is no such book.
create function payments.open_since(p_book_id integer) returns timestamptz
language plpgsql as $$
declare
  -- An assignment, because it is done without a plan.
  v_lock constant text := pg_advisory_xact_lock_shared(hashtext('liventix.period'), p_book_id);
  v_open_since timestamptz;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from payments.books b where b.book_id = p_book_id for share;
  end if;
  select coalesce(b.closed_until, '-infinity') into v_open_since from payments.books b where b.book_id = p_book_id;
  if not found then
    perform payments.raise_code('LEDGER_BOOK_UNKNOWN', format('Book %s does not exist.', coalesce(p_book_id::text, 'null')));
  end if;
  return v_open_since;
end $$;

-- Writes one event to the log; its projection is the caller's. The straight-line sibling of append_events.
-- p_event: effective_at null means now.
-- Returns its position, when it was recorded and by whom; nulls where the log has its id or its key already.
-- Raises unique_violation as append_events does.
-- Locks: as append_events, the caller's.
create function payments.append_event(
  p_book_id integer, p_event payments.new_event, out event_position bigint, out logged_at timestamptz, out actor text
)
language plpgsql as $$
begin
  actor := payments.acting_user();
  insert into payments.events (
    book_id, position, event_id, type, effective_at, recorded_at, created_by, idempotency_scope, idempotency_key,
    request_hash, payload, leaf_hash)
  select p_book_id, n.position, p_event.event_id, p_event.type, n.effective_at, n.recorded_at, actor,
         p_event.idempotency_scope, p_event.idempotency_key, p_event.request_hash, p_event.payload,
         payments.event_leaf_hash(p_book_id, n.position, p_event.event_id, n.effective_at, n.recorded_at, p_event.type, actor,
           p_event.idempotency_scope, p_event.idempotency_key, p_event.request_hash, p_event.payload)
  from (
    select n.position, n.recorded_at, coalesce(p_event.effective_at, n.recorded_at) as effective_at
    from (select nextval('payments.events_position_seq') as position, clock_timestamp() as recorded_at offset 0) n
    offset 0
  ) n
  where (select e.position from payments.events e where e.event_id = p_event.event_id and e.book_id = p_book_id) is null
    and (
      select e.position from payments.events e
      where e.idempotency_key = p_event.idempotency_key and e.idempotency_scope = p_event.idempotency_scope and e.book_id = p_book_id
    ) is null
  returning position, recorded_at into event_position, logged_at;
end $$;

-- Applies account.changed, and account.opened where it set limits: the history, and how the account stands after it.
-- Parameters and locks of these projections: as of project_events.
create function payments.project_account_changes(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
declare
  v_accounts uuid[];
begin
  with change as (
    select e.position, e.recorded_at, e.created_by, e.payload,
           case e.type when 'account.opened' then e.event_id else (e.payload ->> 'account_id')::uuid end as account_id
    from payments.events e
    where e.book_id = p_book_id and e.position between p_first and p_last and (p_xid is null or e.xid = p_xid)
      and (e.type = 'account.changed' or e.type = 'account.opened' and e.payload ?| array['floor_cents', 'ceiling_cents'])
    offset 0
  ), changed as (
    insert into payments.account_changes (
      book_id, event_position, account_id, change_seq, status, floor_cents, ceiling_cents, changed_at, changed_by, reason)
    select p_book_id, c.position, c.account_id,
           row_number() over (partition by c.account_id order by c.position) + coalesce((
             select x.change_seq from payments.account_changes x
             where x.account_id = c.account_id and x.book_id = p_book_id
             order by x.change_seq desc limit 1), 0),
           coalesce(c.payload ->> 'status', 'open'), (c.payload ->> 'floor_cents')::bigint, (c.payload ->> 'ceiling_cents')::bigint,
           c.recorded_at, c.created_by, c.payload ->> 'reason'
    from change c
    returning account_id
  )
  select array_agg(distinct account_id) into v_accounts from changed;

  for i in 1 .. coalesce(cardinality(v_accounts), 0) loop
    update payments.balances b
    set (status, min_cents, max_cents) = (
      select c.status, case t.normal_side when 'debit' then c.floor_cents else -c.ceiling_cents end,
             case t.normal_side when 'debit' then c.ceiling_cents else -c.floor_cents end
      from payments.account_changes c
      cross join lateral (select a.type from payments.accounts a where a.id = c.account_id and a.book_id = c.book_id limit 1) a
      join payments.account_types t using (type)
      where c.account_id = b.account_id and c.book_id = b.book_id
      order by c.change_seq desc
      limit 1)
    where b.account_id = v_accounts[i] and b.book_id = p_book_id;
  end loop;
end $$;

-- Applies what a step of a hold says (placed, captured, voided, expired): the hold's history, the hold, what its account has held.
create function payments.project_hold_steps(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
declare
  v_holds uuid[];
  v_accounts uuid[];
begin
  with step as (
    select e.position, e.recorded_at, e.type, e.event_id, e.payload -> 'hold_step' as said
    from payments.events e
    where e.book_id = p_book_id and e.position between p_first and p_last and (p_xid is null or e.xid = p_xid)
      and e.payload ? 'hold_step'
    offset 0
  ), written as (
    insert into payments.hold_entries (
      book_id, event_position, hold_id, hold_seq, account_id, account_hold_seq, kind, held_cents, held_after_cents,
      captured_cents, remaining_cents, transaction_id, created_at)
    select p_book_id, s.position, (s.said ->> 'hold_id')::uuid, (s.said ->> 'hold_seq')::bigint, (s.said ->> 'account_id')::uuid,
           (s.said ->> 'account_hold_seq')::bigint, s.said ->> 'kind', (s.said ->> 'held_cents')::bigint,
           (s.said ->> 'held_after_cents')::bigint, (s.said ->> 'captured_cents')::bigint, (s.said ->> 'remaining_cents')::bigint,
           case s.type when 'transaction.posted' then s.event_id end, s.recorded_at
    from step s
    order by s.position
    returning hold_id, account_id
  )
  select array_agg(distinct hold_id), array_agg(distinct account_id) into v_holds, v_accounts from written;

  insert into payments.holds (
    book_id, hold_id, account_id, amount_cents, remaining_cents, last_seq, state, currency, event_position, created_at,
    created_by, expires_at, reference_type, reference_id, description, metadata)
  select p_book_id, e.event_id, (e.payload ->> 'account_id')::uuid, (e.payload ->> 'amount_cents')::bigint, l.remaining_cents,
         l.hold_seq, l.state, e.payload ->> 'currency', e.position, e.recorded_at, e.created_by,
         payments.try_instant(e.payload ->> 'expires_at'), e.payload ->> 'reference_type', e.payload ->> 'reference_id',
         e.payload ->> 'description', coalesce(e.payload -> 'metadata', '{}'::jsonb)
  from payments.events e
  cross join lateral payments.last_hold_step(p_book_id, e.event_id) l
  where e.book_id = p_book_id and e.position between p_first and p_last and (p_xid is null or e.xid = p_xid)
    and e.type = 'hold.placed';

  for i in 1 .. coalesce(cardinality(v_holds), 0) loop
    update payments.holds h
    set (remaining_cents, last_seq, state) = (select l.remaining_cents, l.hold_seq, l.state from payments.last_hold_step(p_book_id, h.hold_id) l)
    where h.hold_id = v_holds[i] and h.book_id = p_book_id and h.last_seq <> (select l.hold_seq from payments.last_hold_step(p_book_id, h.hold_id) l);
  end loop;

  for i in 1 .. coalesce(cardinality(v_accounts), 0) loop
    update payments.balances b
    set held_cents = (
      select h.held_after_cents from payments.hold_entries h
      where h.account_id = b.account_id and h.book_id = b.book_id
      order by h.account_hold_seq desc limit 1)
    where b.account_id = v_accounts[i] and b.book_id = p_book_id;
  end loop;
end $$;

-- Where a hold stands after the last step of its history.
create function payments.last_hold_step(p_book_id integer, p_hold_id uuid)
returns table (remaining_cents bigint, hold_seq bigint, state text)
language sql stable
begin atomic
  select h.remaining_cents, h.hold_seq, case when h.remaining_cents > 0 then 'active' else h.kind end
  from payments.hold_entries h
  where h.hold_id = p_hold_id and h.book_id = p_book_id
  order by h.hold_seq desc
  limit 1;
end;

-- Applies what a transaction says that it reverses.
create function payments.project_reversals(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into payments.reversals (book_id, event_position, transaction_id, reverses, reversal_seq, is_complete)
  select p_book_id, e.position, e.event_id, (e.payload ->> 'reverses')::uuid,
         (e.payload -> 'reversal_step' ->> 'reversal_seq')::bigint, (e.payload -> 'reversal_step' ->> 'is_complete')::boolean
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last and (p_xid is null or e.xid = p_xid)
    and e.payload ? 'reversal_step'
  order by e.position;
end $$;

-- As in 0003; entries may have come with their amounts as text, and go out as numbers.
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
             select jsonb_agg(l.value || jsonb_build_object('account_id', (l.value ->> 'account_id')::uuid,
                      'amount_cents', (l.value ->> 'amount_cents')::bigint) order by l.ordinality)
             from jsonb_array_elements(e.payload -> 'entries') with ordinality as l))
  from payments.events e
  where e.book_id = p_book_id and e.position between p_first and p_last and e.xid = p_xid and e.payload ? 'announce'
  order by e.position;
end $$;

-- As in 0006, but an account's history is counted back from where it stands afterwards, which the change of its balance
-- returns: nothing is looked up twice.
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
    select (l.value ->> 'account_id')::uuid as account_id, e.position * 1024 + l.ordinality as id, e.position,
           (l.value ->> 'amount_cents')::bigint as amount_cents, l.value ->> 'currency' as currency,
           e.event_id, e.effective_at, e.recorded_at, e.created_by, e.reference_type, e.reference_id,
           coalesce(l.value ->> 'description', e.description) as description, coalesce(l.value -> 'metadata', e.metadata) as metadata
    from event e
    cross join lateral jsonb_array_elements(e.entries) with ordinality as l
  ), moved as (
    insert into payments.balances as b (book_id, account_id, balance_cents, last_seq)
    select p_book_id, account_id, sum(amount_cents)::bigint, count(*) from leg group by account_id
    -- It is there since the account was opened.
    on conflict (account_id, book_id) do update
    set balance_cents = b.balance_cents + excluded.balance_cents, last_seq = b.last_seq + excluded.last_seq
    returning account_id, balance_cents, last_seq
  ), step as (
    select l.account_id, l.id, l.position, l.amount_cents, -l.amount_cents as back_cents, -1::bigint as back, l.currency, l.event_id,
           l.effective_at, l.recorded_at, l.created_by, l.reference_type, l.reference_id, l.description, l.metadata
    from leg l
    union all
    -- Where each account stands afterwards: where counting back begins, and no entry.
    select m.account_id, null, null, null, m.balance_cents, m.last_seq, null, null, null, null, null, null, null, null, null
    from moved m
  ), running as (
    select step.*, sum(back) over history + 1 as account_seq, sum(back_cents) over history + amount_cents as balance_after_cents
    from step
    window history as (partition by account_id order by id desc nulls first rows unbounded preceding)
  )
  insert into payments.entries (
    book_id, id, event_position, transaction_id, account_id, account_seq, amount_cents, currency, balance_after_cents,
    effective_at, created_at, created_by, reference_type, reference_id, description, metadata
  )
  select p_book_id, r.id, r.position, r.event_id, r.account_id, r.account_seq, r.amount_cents, r.currency,
         r.balance_after_cents, r.effective_at, r.recorded_at, r.created_by, r.reference_type, r.reference_id, r.description, r.metadata
  from running r
  where r.id is not null
  -- As they will be read, and where indexes are written fastest.
  order by r.id;
exception when numeric_value_out_of_range then
  perform payments.raise_code('LEDGER_AMOUNT_OVERFLOW',
    'A balance would pass what 64 bits hold. Nothing was written: post a smaller amount.');
end $$;

-- The direction in which an account is spent: 1 (debit) where its normal side is credit, -1 (credit) where it is debit.
create function payments.spending_side(p_book_id integer, p_account_id uuid) returns integer
language sql stable
return (
  select case t.normal_side when 'credit' then 1 else -1 end
  from payments.accounts a join payments.account_types t using (type)
  where a.id = p_account_id and a.book_id = p_book_id
);

-- The next step of a hold, as the log says it: how the hold and what its account has held stand after it.
-- p_hold: as it stands, last_seq 0 and nothing remaining where it is being placed. The caller holds its account's lock.
create function payments.hold_step(p_hold payments.holds, p_kind text, p_captured_cents bigint, p_remaining_cents bigint)
returns jsonb
language sql stable
return (
  select jsonb_build_object(
    'hold_id', p_hold.hold_id, 'account_id', p_hold.account_id, 'kind', p_kind, 'hold_seq', p_hold.last_seq + 1,
    'account_hold_seq', 1 + coalesce((
      select h.account_hold_seq from payments.hold_entries h
      where h.account_id = p_hold.account_id and h.book_id = p_hold.book_id
      order by h.account_hold_seq desc limit 1), 0),
    'held_cents', d.cents, 'held_after_cents', b.held_cents + d.cents,
    'captured_cents', p_captured_cents, 'remaining_cents', p_remaining_cents)
  from payments.balances b
  cross join lateral (
    select payments.spending_side(p_hold.book_id, p_hold.account_id) * (p_remaining_cents - p_hold.remaining_cents) as cents
  ) d
  where b.account_id = p_hold.account_id and b.book_id = p_hold.book_id
);

-- Ends the holds of an account that have expired; returns how many. The caller holds the account's lock.
create function payments.expire_account_holds(p_book_id integer, p_account_id uuid) returns integer
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
  loop
    v_position := (payments.append_event(p_book_id, row('hold.expired', gen_random_uuid(), null, null, null, null, jsonb_build_object(
      'hold_step', payments.hold_step(v_hold, 'expired', 0, 0)))::payments.new_event)).event_position;
    perform payments.project_hold_steps(p_book_id, v_position, v_position, pg_current_xact_id());
    v_expired := v_expired + 1;
  end loop;
  return v_expired;
end $$;

-- What a reversal posts: {entries, step}, or {code, message} where it may not.
-- p_transaction: names the transaction in reverses; its own entries where it takes back a part.
-- The caller holds the locks of all accounts of the transaction that is reversed.
create function payments.plan_reversal(p_book_id integer, p_transaction jsonb) returns jsonb
language plpgsql stable as $$
declare
  v_reverses constant uuid := payments.try_uuid(p_transaction ->> 'reverses');
  v_seq bigint;
  v_left jsonb;
  v_entries jsonb := p_transaction -> 'entries';
  v_fault text;
  v_is_complete boolean;
begin
  if not exists (select from payments.entries n where n.transaction_id = v_reverses and n.book_id = p_book_id) then
    return jsonb_build_object('code', 'LEDGER_TRANSACTION_UNKNOWN', 'message',
      format('Transaction %s, which is to be reversed, does not exist in book %s.', v_reverses, p_book_id));
  end if;
  select coalesce(max(r.reversal_seq), 0) into v_seq
  from payments.reversals r where r.reverses = v_reverses and r.book_id = p_book_id;

  if v_seq = 0 and v_entries is null then
    -- Leg by leg, as it was posted.
    select jsonb_agg(jsonb_build_object('account_id', n.account_id, 'amount_cents', -n.amount_cents, 'currency', n.currency) order by n.id)
    into v_entries
    from payments.entries n where n.transaction_id = v_reverses and n.book_id = p_book_id;
    return jsonb_build_object('entries', v_entries, 'step', jsonb_build_object('reversal_seq', 1, 'is_complete', true));
  end if;

  -- What is left of it per account: its own entries, and those of its reversals.
  select jsonb_object_agg(l.account_id, l.cents) filter (where l.cents <> 0),
         jsonb_agg(jsonb_build_object('account_id', l.account_id, 'amount_cents', -l.cents, 'currency', l.currency) order by l.account_id)
           filter (where l.cents <> 0)
  into v_left, v_entries
  from (
    select n.account_id, n.currency, sum(n.amount_cents) as cents
    from (
      select v_reverses as transaction_id
      union all
      select r.transaction_id from payments.reversals r where r.reverses = v_reverses and r.book_id = p_book_id
    ) t
    cross join lateral (
      select n.account_id, n.currency, n.amount_cents from payments.entries n
      where n.transaction_id = t.transaction_id and n.book_id = p_book_id offset 0
    ) n
    group by n.account_id, n.currency
  ) l;
  if v_left is null then
    return jsonb_build_object('code', 'LEDGER_REVERSAL_EXCEEDED', 'message',
      format('Transaction %s is reversed already, and nothing of it is left.', v_reverses));
  end if;
  if not p_transaction ? 'entries' then
    return jsonb_build_object('entries', v_entries, 'step', jsonb_build_object('reversal_seq', v_seq + 1, 'is_complete', true));
  end if;

  select min(format('account %s has %s left of it to reverse, not %s', t.account_id, -coalesce((v_left ->> t.account_id)::numeric, 0), t.cents))
           filter (where abs(t.cents) > abs(coalesce((v_left ->> t.account_id)::numeric, 0))
             or sign(t.cents) = sign(coalesce((v_left ->> t.account_id)::numeric, 0)) and t.cents <> 0),
         bool_and(coalesce(-t.cents = (v_left ->> t.account_id)::numeric, false))
           and count(*) = (select count(*) from jsonb_object_keys(v_left))
  into v_fault, v_is_complete
  from (
    select payments.try_uuid(l.value ->> 'account_id')::text as account_id, sum(payments.try_amount(l.value ->> 'amount_cents')) as cents
    from jsonb_array_elements(payments.entries_of(p_transaction)) as l
    group by 1
  ) t;
  if v_fault is not null then
    return jsonb_build_object('code', 'LEDGER_REVERSAL_EXCEEDED', 'message', format('Of transaction %s, %s.', v_reverses, v_fault));
  end if;
  return jsonb_build_object('entries', payments.entries_of(p_transaction),
    'step', jsonb_build_object('reversal_seq', v_seq + 1, 'is_complete', coalesce(v_is_complete, false)));
end $$;

-- What a transaction captures of a hold: {step}, or {code, message} where it may not.
-- p_accounts, p_cents: its entries. The caller holds the locks of their accounts.
create function payments.plan_capture(p_book_id integer, p_capture jsonb, p_accounts uuid[], p_cents bigint[]) returns jsonb
language plpgsql stable as $$
declare
  v_hold payments.holds;
  v_captured numeric;
begin
  select h.* into v_hold from payments.holds h
  where h.hold_id = payments.try_uuid(p_capture ->> 'hold_id') and h.book_id = p_book_id;
  if not found then
    return jsonb_build_object('code', 'LEDGER_HOLD_UNKNOWN', 'message',
      format('Hold %s does not exist in book %s.', p_capture ->> 'hold_id', p_book_id));
  end if;
  v_captured := payments.spending_side(p_book_id, v_hold.account_id) * coalesce((
    select sum(l.cents) from unnest(p_accounts, p_cents) as l (account_id, cents) where l.account_id = v_hold.account_id), 0);
  return case
    -- Whether the log says so already or not.
    when v_hold.state = 'expired' or v_hold.state = 'active' and v_hold.expires_at <= clock_timestamp() then jsonb_build_object(
      'code', 'LEDGER_HOLD_EXPIRED', 'message', format('Hold %s expired at %s.', v_hold.hold_id, v_hold.expires_at))
    when v_hold.state <> 'active' then jsonb_build_object('code', 'LEDGER_HOLD_RESOLVED', 'message',
      format('Hold %s is %s: nothing of it is left to capture.', v_hold.hold_id, v_hold.state))
    when v_captured <= 0 then jsonb_build_object('code', 'LEDGER_INVALID', 'message',
      format('The entries do not spend from account %s, which hold %s is on.', v_hold.account_id, v_hold.hold_id))
    when v_captured > v_hold.remaining_cents then jsonb_build_object('code', 'LEDGER_HOLD_EXCEEDED', 'message',
      format('Hold %s has %s left, less than the %s to be captured.', v_hold.hold_id, v_hold.remaining_cents, v_captured))
    else jsonb_build_object('step', payments.hold_step(v_hold, 'captured', v_captured::bigint,
      case when coalesce((p_capture ->> 'final')::boolean, false) then 0 else v_hold.remaining_cents - v_captured::bigint end))
  end;
end $$;

-- An account that a transaction touches and that has a state or a limit: how it stands before, and which of the accounts it is.
create type payments.ruled_account as (account payments.balances, nth integer);

-- Judges and posts one transaction, straight on: the definition of what posting is. Step by step and with as few statements as
-- can be, because for a single transaction each costs as much as what it does.
-- p_transaction: see post_transactions. p_open_since: what open_since said.
-- Returns its outcome; a refusal writes nothing.
-- Locks: the balance rows of its accounts, in id order.
create function payments.post_one(p_book_id integer, p_ordinal integer, p_transaction jsonb, p_open_since timestamptz)
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
    v_plan := payments.plan_reversal(p_book_id, p_transaction);
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

  -- In id order: two transactions that share accounts would otherwise deadlock.
  if cardinality(v_accounts) = 2 and v_accounts[1] <> v_accounts[2] then
    v_ids := array[least(v_accounts[1], v_accounts[2]), greatest(v_accounts[1], v_accounts[2])];
  else
    v_ids := array(select distinct u.id from unnest(v_accounts) as u (id) where u.id is not null order by u.id);
  end if;

  loop
    v_ruled := null;
    for k in 1 .. cardinality(v_ids) loop
      select b as state, b.ctid as tid, b.balance_cents, b.last_seq,
             b.status <> 'open' or b.min_cents is not null or b.max_cents is not null as is_ruled,
             (select a.currency from payments.accounts a where a.id = v_ids[k] and a.book_id = p_book_id) as currency
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
        -- Several currencies may each sum to zero, which only the closer look tells.
        v_fault := payments.entries_fault(p_book_id, v_entries);
        v_is_sound := v_fault is null;
        exit when not v_is_sound;
      end if;
      if v_balances[v_nth]::numeric + v_cents[i] not between -9223372036854775807 and 9223372036854775807 then
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

create function payments.period_fault(p_effective_at timestamptz, p_open_since timestamptz) returns jsonb
language sql stable
return jsonb_build_object('code', 'LEDGER_PERIOD_CLOSED', 'message', format(
  'effective_at %s is in a period that is closed until %s. Correct it in the open period.', p_effective_at, p_open_since));

create function payments.rejected(p_ordinal integer, p_fault jsonb) returns payments.posting_outcome
language sql immutable
return row(p_ordinal, 'rejected', null, null, p_fault ->> 'code', p_fault ->> 'message', null, null)::payments.posting_outcome;

-- The outcome of a request whose key or id the log has already: a duplicate with the first result, or rejected where the
-- body is another one. Its status is null where the log has neither.
create function payments.find_duplicate(p_book_id integer, p_ordinal integer, p_event payments.new_event)
returns payments.posting_outcome
language plpgsql stable as $$
declare
  v_id uuid;
  v_position bigint;
  v_request_hash bytea;
  v_outcome payments.posting_outcome;
begin
  select e.position, e.event_id, e.request_hash into v_position, v_id, v_request_hash
  from payments.events e where e.event_id = p_event.event_id and e.book_id = p_book_id;
  if v_position is null and p_event.idempotency_key is not null then
    select e.position, e.event_id, e.request_hash into v_position, v_id, v_request_hash
    from payments.events e
    where e.idempotency_key = p_event.idempotency_key and e.idempotency_scope = p_event.idempotency_scope and e.book_id = p_book_id;
  end if;
  if v_position is null then
    return v_outcome;
  end if;
  -- An imported event has no request to compare with: its key and id are taken.
  if v_request_hash is distinct from p_event.request_hash then
    return payments.rejected(p_ordinal, payments.key_conflict(coalesce(p_event.idempotency_key, p_event.event_id::text)));
  end if;
  select p_ordinal, 'duplicate', v_id, v_position, null, null,
         array_agg(n.account_seq order by n.id), array_agg(n.balance_after_cents order by n.id)
  into v_outcome
  from payments.entries n
  where n.id between v_position * 1024 + 1 and v_position * 1024 + 1023 and n.book_id = p_book_id;
  return v_outcome;
end $$;

create function payments.key_conflict(p_key text) returns jsonb
language sql immutable
return jsonb_build_object('code', 'LEDGER_IDEMPOTENCY_CONFLICT', 'message', format(
  'The key or id %s was used with another body; send the first body again, or a new key.', p_key));

-- Which limit a transaction passes on one of its accounts; null where none.
-- p_balances: what all of its accounts come to. p_hold_step: what it captures, which is reserved no longer.
create function payments.limit_fault(p_ruled payments.ruled_account[], p_balances bigint[], p_hold_step jsonb) returns jsonb
language plpgsql stable as $$
declare
  v_ruled payments.ruled_account;
  v_account payments.balances;
  v_after bigint;
  v_code text;
begin
  for i in 1 .. coalesce(cardinality(p_ruled), 0) loop
    v_ruled := p_ruled[i];
    v_account := v_ruled.account;
    v_after := p_balances[v_ruled.nth];
    if (p_hold_step ->> 'account_id')::uuid = v_account.account_id then
      v_account.held_cents := (p_hold_step ->> 'held_after_cents')::bigint;
    end if;
    v_code := payments.limit_passed(v_account, v_after, v_after::numeric - v_account.balance_cents);
    if v_code is not null then
      return jsonb_build_object('code', v_code, 'account_id', v_account.account_id, 'message',
        payments.limit_message(v_account, v_after, v_after::numeric - v_account.balance_cents));
    end if;
  end loop;
  return null;
end $$;

-- Posts transactions one after the other, each as post_one; a chain of linked ones stands or falls as one.
create function payments.post_in_order(p_book_id integer, p_transactions jsonb, p_open_since timestamptz)
returns setof payments.posting_outcome
language plpgsql as $$
declare
  v_last constant integer := jsonb_array_length(p_transactions) - 1;
  v_from integer := 0;
  v_to integer;
begin
  if v_last > 0 then
    perform payments.lock_accounts(p_book_id, array(
      select payments.try_uuid(l.value ->> 'account_id')
      from jsonb_array_elements(p_transactions) as t
      cross join lateral jsonb_array_elements(payments.entries_of(t.value)) as l
      union all
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

-- Posts linked transactions, all or none: where one is refused, the others are LEDGER_LINK_FAILED.
-- p_from, p_to: the first and the last of them in p_transactions, from 0.
create function payments.post_chain(p_book_id integer, p_transactions jsonb, p_from integer, p_to integer, p_open_since timestamptz)
returns setof payments.posting_outcome
language plpgsql as $$
declare
  v_outcome payments.posting_outcome;
  v_outcomes payments.posting_outcome[];
begin
  for i in p_from .. p_to loop
    v_outcome := payments.post_one(p_book_id, i + 1, p_transactions -> i, p_open_since);
    v_outcomes := v_outcomes || v_outcome;
    if i = p_to and v_outcome.status <> 'rejected' and p_transactions -> i -> 'linked' = 'true' then
      v_outcome := payments.rejected(i + 1, jsonb_build_object('code', 'LEDGER_INVALID', 'message',
        'It is linked to the next transaction, and it is the last: leave out linked there.'));
    end if;
    if v_outcome.status = 'rejected' then
      raise exception using errcode = 'LV000', message = 'undoes the chain';
    end if;
  end loop;
  return query select * from unnest(v_outcomes);
exception when sqlstate 'LV000' then
  for i in p_from + 1 .. p_to + 1 loop
    return next case when i = v_outcome.ordinal then v_outcome else payments.rejected(i, jsonb_build_object(
      'code', 'LEDGER_LINK_FAILED', 'message', format('It is linked to transaction %s of the call, which was refused: %s',
        v_outcome.ordinal, v_outcome.code))) end;
  end loop;
end $$;

-- What a call asks for, one transaction, as post_in_bulk reads it.
create type payments.posting_request as (
  ordinal integer, body jsonb, request_hash bytea, given_id uuid, effective_at timestamptz, idempotency_scope text,
  idempotency_key text, fault jsonb, accounts uuid[], cents bigint[], currencies text[], has_own_texts boolean
);

-- Posts many transactions whose order does not matter, in three statements: what is asked for, the locks, the writing.
-- Raises where the order does matter, and post_in_order must decide: LV007, LV014, LV015 where a balance overflows or a limit is
-- met, LV000 where a key or an id is in the call twice.
create function payments.post_in_bulk(p_book_id integer, p_transactions jsonb, p_open_since timestamptz)
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
    -- Sound: nothing wrong with any entry, and one currency. Everything else entries_fault looks at in detail.
    select array_agg(x.account_id) as accounts, array_agg(x.cents) as cents, array_agg(x.currency) as currencies,
           bool_or(x.value ?| array['description', 'metadata']) as has_own_texts,
           bool_and(x.cents <> 0 and payments.is_entry(x.value) and x.currency = (
             select a.currency from payments.accounts a where a.id = x.account_id and a.book_id = p_book_id))
             and sum(x.cents) = 0 and min(x.currency) = max(x.currency) as is_sound
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

  select array_agg(s.id), array_agg(s.tid), array_agg(s.balance_cents), array_agg(s.last_seq), array_agg(s.id) filter (where s.status <> 'open')
  into v_ids, v_rows, v_balances, v_lasts, v_unusable
  from (
    select i.id, b.tid, b.balance_cents, b.last_seq, b.status
    -- In id order: two transactions that share accounts would otherwise deadlock.
    from (select distinct u.id from unnest(v_requests) as r cross join lateral unnest(r.accounts) as u (id) order by u.id) i
    cross join lateral (
      select b.ctid as tid, b.balance_cents, b.last_seq, b.status
      from payments.balances b where b.account_id = i.id and b.book_id = p_book_id for no key update
    ) b
  ) s;

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

-- Which of these accounts is not open, as {code, message}.
create function payments.status_fault(p_book_id integer, p_accounts uuid[]) returns jsonb
language sql stable
return (
  select jsonb_build_object('code', payments.status_code(b.status), 'message', format('Account %s is %s.', b.account_id, b.status))
  from unnest(p_accounts) as i (id)
  cross join lateral (
    select b.account_id, b.status from payments.balances b where b.account_id = i.id and b.book_id = p_book_id limit 1
  ) b
  where b.status <> 'open'
  order by b.account_id
  limit 1
);

-- Posts transactions in one call. Each stands for itself, and a refused one leaves its neighbours alone, unless they are linked.
-- p_transactions: array of at most 10000 {entries: [{account_id, amount_cents, currency, description?, metadata?}], transaction_id?,
--   idempotency_key?, idempotency_scope?, effective_at?, reference_type?, reference_id?, description?, metadata?,
--   announce?: topic, linked?: stands or falls with the next one, capture?: {hold_id, final?: release what is left},
--   reverses?: the transaction it takes back, whole where it has no entries of its own}.
--   amount_cents is signed (debit +, credit -), a whole number or the text of one.
-- Returns one row per transaction, in order: posted, duplicate (the first result again), or rejected with its code; account_seqs
-- and balances_after_cents have one element per entry.
-- Locks: the balance rows of all accounts named, in id order: two calls that share accounts would otherwise deadlock.
--
-- Its settings: a plan is made when a connection first posts and kept for its life. While a table is small, reading all of it
-- looks cheapest, and such a plan reads all of it still when it has grown: here every row is found by an index, always. (JIT,
-- because a plan that reads a table all the same, such as one of a single row, then counts as dear.) One plan for all sizes of a
-- call, since all rows are found the same way: making a new one costs a tenth of a posting.
create or replace function payments.post_transactions(p_book_id integer, p_transactions jsonb)
returns setof payments.posting_outcome
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
  set plan_cache_mode = force_generic_plan as $$
declare
  v_open_since timestamptz;
begin
  perform payments.check_call(p_book_id, p_transactions);
  v_open_since := payments.open_since(p_book_id);
  -- Few are sooner done one by one; those that depend on each other must be.
  if jsonb_array_length(p_transactions) >= 4
    and not exists (select from jsonb_array_elements(p_transactions) as t where t.value ?| array['linked', 'reverses', 'capture'])
  then
    begin
      return query select * from payments.post_in_bulk(p_book_id, p_transactions, v_open_since);
      return;
    exception when sqlstate 'LV000' or sqlstate 'LV007' or sqlstate 'LV014' or sqlstate 'LV015' then
      -- What becomes of one depends on who came before.
      null;
    end;
  end if;
  if jsonb_array_length(p_transactions) = 1 and p_transactions -> 0 -> 'linked' is distinct from 'true' then
    return next payments.post_one(p_book_id, 1, p_transactions -> 0, v_open_since);
  else
    return query select * from payments.post_in_order(p_book_id, p_transactions, v_open_since);
  end if;
end $$;
