-- As in 0004, but for a statement that inserted a message: the ledger's announcements are one statement for many postings, mostly of
-- none, and each backfill's chunk, drain and posting of old code woke a relay that slept, under a lock that all notifying commits share.
create or replace function outbox.wake_relay() returns trigger
language plpgsql security definer
set search_path = pg_catalog
as $$
begin
  if exists (select from new_messages) and exists (select from outbox.relay where sleeping) then
    perform pg_notify('liventix_outbox', '');
  end if;
  return null;
end
$$;

create or replace trigger outbox_wake_relay after insert on public.outbox
referencing new table as new_messages
for each statement execute function outbox.wake_relay();
