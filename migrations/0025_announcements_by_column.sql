-- Which book announced a message is told by a column, not by what its payload says.
-- The table is locked until the announcements that are there have their book: as long as reading it and the log once takes.

-- Which book announced a message; null in one of the application's own, whatever its payload says.
alter table public.outbox add column ledger_book_id integer;
comment on column public.outbox.ledger_book_id is 'The book of the ledger whose posting announced it; null for a message of the application''s own.';
update public.outbox o set ledger_book_id = e.book_id
from payments.events e
where e.event_id = payments.try_uuid(o.payload ->> 'transaction_id') and o.payload ->> 'book_id' = e.book_id::text
  and o.topic = e.payload ->> 'announce';

-- As in 0017, with the book.
create or replace function payments.announce_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  insert into public.outbox (ledger_book_id, topic, payload)
  select e.book_id, e.payload ->> 'announce', jsonb_build_object(
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

-- A column that no application fills, whatever it may insert: what it says is the ledger's word.
drop policy announced_by_whoever_may_insert on public.outbox;
create policy messages_of_the_application on public.outbox for insert with check (ledger_book_id is null);
drop policy books_granted on public.outbox;
create policy books_granted on public.outbox for select using (
  ledger_book_id is null or ledger_book_id = any ((select payments.books_of(current_user))::integer[]));
-- Whoever is granted to read the outbox, now or later, asks for his books there. By name nobody gets at it without the schema.
grant execute on function payments.books_of(name) to public;

-- Lets a role read a book, and post in it where p_may_post; called again, it changes that. For the owner.
-- Beside the row in payments.book_grants it gives the role the privileges that service_role has, but for those on public.outbox,
-- where the application's messages are too. Raises LEDGER_INVALID where there is no such role, LEDGER_BOOK_UNKNOWN.
create or replace function payments.grant_book(p_role name, p_book_id integer, p_may_post boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_function regprocedure;
  -- A test compares both lists with what service_role has.
  v_relations constant text[] := array['payments.account_balances', 'payments.account_changes', 'payments.account_slots',
    'payments.account_types', 'payments.accounts', 'payments.balances', 'payments.books', 'payments.entries', 'payments.events',
    'payments.hold_entries', 'payments.holds', 'payments.periods', 'payments.reversals', 'payments.seal_tiles', 'payments.seals',
    'ref.currencies'];
  v_functions constant name[] := array['account_of', 'account_statement_bounds', 'account_statement_lines', 'add_slots',
    'balance_after_seq', 'books_of', 'certificate_hash', 'certificate_text', 'certificates_of', 'change_account', 'check_book',
    'check_certificate', 'check_order', 'close_period', 'effective_balance', 'effective_page', 'effective_sum', 'expire_holds', 'instant_before',
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

-- As in 0022; a role that does not exist and has no book is a slip, which must not look like done. Raises LEDGER_INVALID.
create or replace function payments.revoke_book(p_role name, p_book_id integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from payments.book_grants g where g.grantee = p_role and g.book_id = p_book_id;
  if not found and (p_role is null or to_regrole(quote_ident(nullif(p_role, ''))) is null) then
    perform payments.raise_code('LEDGER_INVALID', format(
      'There is no role %s, and none of that name has book %s.', payments.shown(p_role), coalesce(p_book_id::text, 'null')));
  end if;
end $$;

-- As in 0014, but kept as text, in which verification finds what somebody changed.
create or replace function payments.is_member(p_role name, p_of name) returns boolean
language sql stable as $$
  select case when to_regrole(quote_ident(nullif(p_role, ''))) is null or to_regrole(quote_ident(nullif(p_of, ''))) is null then false
    else pg_has_role(p_role, p_of, 'member') end
$$;

-- What grant_book of 0022 gave: an application's own messages are for whoever is granted the outbox by name.
do $$
declare
  v_role text;
begin
  for v_role in select quote_ident(g.grantee) from payments.book_grants g where g.grantee <> 'service_role' loop
    execute format('revoke select on public.outbox from %s', v_role);
  end loop;
end $$;
