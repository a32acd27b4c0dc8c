-- What announcing costs whoever commits: 16 sessions that sell a seat, write a ticket and announce it committed 0.89 of what they do without
-- a trigger, because of the one that kept the statement's rows and ran after it; one that runs before it and keeps none: 0.96 to 1.00.

-- As in 0025, and inserts nothing where nothing is announced: a statement that inserts no row fires the trigger as well, and most postings,
-- each backfill's chunk and old code's writes would wake a relay that sleeps.
create or replace function payments.announce_events(p_book_id integer, p_first bigint, p_last bigint, p_xid xid8) returns void
language plpgsql as $$
begin
  if not exists (
    select from payments.events e
    where e.book_id = p_book_id and e.position between p_first and p_last and e.xid = p_xid and e.payload ->> 'announce' is not null
  ) then
    return;
  end if;
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

-- As in 0040, but before the statement, and as whoever runs it: every name is qualified, and both functions are everybody's.
-- Returns null. Locks: shares the advisory lock under which a relay sleeps, until the transaction ends; never waits for it.
create or replace function outbox.wake_relay() returns trigger
language plpgsql as $$
begin
  if not pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.hashtext('liventix.relay.sleeps'), 0) then
    perform pg_catalog.pg_notify('liventix_outbox', '');
  end if;
  return null;
end
$$;

select outbox.keep_from_guests();

-- Last, and 50 ms at a time, as in 0046: whoever announces waits from here until this is committed.
do $$
begin
  for try in 1..100 loop
    begin
      perform set_config('lock_timeout', '50ms', true);
      lock table public.outbox in share row exclusive mode;
      return;
    exception when lock_not_available then
      perform pg_sleep(0.05 + random() * 0.1);
    end;
  end loop;
  raise exception 'public.outbox was in use at each of 100 tries, for 50 ms. Migrate again when no long transaction holds it.'
    using errcode = 'lock_not_available';
end
$$;

create or replace trigger outbox_wake_relay before insert on public.outbox
for each statement execute function outbox.wake_relay();
