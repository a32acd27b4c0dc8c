-- Messages, deliveries and attempts by day, so that what is old is dropped whole, and what a relay and its workers write for a
-- delivery is little: it is inserted, claimed, finished.
--
--   delivery: pending ──admitted──▶ queued ──claimed──▶ queued, claimed_by ──2xx──▶ delivered
--                ▲  (or inserted so)   │                    │
--                └──── lease lost ─────┴─── failed or lost ─┴─ schedule used up, or 410 ──▶ dead
--
-- A partition holds what its day announced: message, deliveries and attempts of one message have the same `day`, by which every
-- statement names them. Days that are missing have their rows in the default partitions, so no announcement ever fails for want of one.
-- Foreign keys between the three are gone: each insert would lock the row that it names, and each dropped day be searched for what
-- names it. `outbox.deliveries` is written by the statement that takes the messages, and by nobody else.
--
-- Stop the workers before: those of the version before know the old tables. The messages there are are copied, under a lock.

alter table public.outbox rename to outbox_before;
alter table outbox.deliveries rename to deliveries_before;
alter table outbox.attempts rename to attempts_before;

-- The names of what they leave behind are wanted for the new tables.
do $$
declare
  kept record;
begin
  for kept in
    select conrelid::regclass as held_by, conname from pg_constraint
    where conrelid in ('public.outbox_before'::regclass, 'outbox.deliveries_before'::regclass, 'outbox.attempts_before'::regclass)
      and contype in ('p', 'u')
  loop
    execute format('alter table %s rename constraint %I to %I', kept.held_by, kept.conname, kept.conname || '_before');
  end loop;
  for kept in
    select indexrelid::regclass as name, relname from pg_index join pg_class on pg_class.oid = indexrelid
    where indrelid in ('public.outbox_before'::regclass, 'outbox.deliveries_before'::regclass) and relname not like '%\_before'
  loop
    execute format('alter index %s rename to %I', kept.name, kept.relname || '_before');
  end loop;
end
$$;
alter sequence public.outbox_seq_seq rename to outbox_before_seq_seq;
alter sequence outbox.deliveries_id_seq rename to deliveries_before_id_seq;

create table public.outbox (
  id uuid not null default gen_random_uuid(),
  day date not null default (clock_timestamp() at time zone 'UTC')::date,
  seq bigint not null generated always as identity,
  topic text not null,
  payload jsonb not null,
  ordering_key text,
  organization_id uuid,
  headers jsonb,
  deliver_after timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  processed_at timestamptz,
  attempt_count integer not null default 0,
  last_error text,
  ledger_book_id integer,
  constraint outbox_pkey primary key (id, day),
  constraint outbox_topic_format check (topic ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' and length(topic) <= 128),
  constraint outbox_payload_is_object check (jsonb_typeof(payload) = 'object'),
  constraint outbox_payload_size check (octet_length(payload::text) <= 1048576),
  constraint outbox_ordering_key_size check (length(ordering_key) between 1 and 255)
) partition by range (day);

comment on table public.outbox is 'insert into public.outbox (topic, payload) values (…) announces what the same transaction did; a rollback takes it back.';
comment on column public.outbox.day is 'The day of UTC on which it was announced: its partition, and that of its deliveries and attempts.';
comment on column public.outbox.seq is 'The order of insertion, not of commit.';
comment on column public.outbox.ordering_key is 'At an ordered endpoint, messages of one key are delivered one after the other.';
comment on column public.outbox.organization_id is 'Whom it is about: an endpoint of an organization receives its messages alone.';
comment on column public.outbox.headers is 'HTTP headers that are sent with it, as an object of strings.';
comment on column public.outbox.deliver_after is 'Not before then; null: at once.';
comment on column public.outbox.processed_at is 'When the relay turned the message into deliveries.';
comment on column public.outbox.attempt_count is 'Over all of its deliveries.';
comment on column public.outbox.last_error is 'The last failure that any of its deliveries met, kept when a later attempt succeeds.';
comment on column public.outbox.ledger_book_id is 'The book of the ledger whose posting announced it; null for a message of the application''s own.';

create index outbox_unprocessed_idx on public.outbox (seq) where processed_at is null;

create sequence outbox.delivery_ids;

create table outbox.deliveries (
  id bigint not null default nextval('outbox.delivery_ids'),
  day date not null,
  message_id uuid not null,
  endpoint_id uuid not null,
  state text not null,
  attempt integer not null default 1,
  due_at timestamptz default clock_timestamp(),
  lease_until timestamptz,
  claimed_by integer,
  finished_at timestamptz,
  last_error text,
  ordering_key text,
  created_at timestamptz not null default clock_timestamp(),
  constraint deliveries_pkey primary key (id, day),
  constraint deliveries_message_endpoint_key unique (message_id, endpoint_id, day),
  constraint deliveries_state_known check (state in ('pending', 'queued', 'delivered', 'dead')),
  constraint deliveries_attempt_positive check (attempt >= 1),
  constraint deliveries_lease_while_queued check ((state = 'queued') = (lease_until is not null)),
  constraint deliveries_claimed_while_queued check (claimed_by is null or state = 'queued'),
  constraint deliveries_finished_has_time check ((state in ('delivered', 'dead')) = (finished_at is not null))
) partition by range (day);

comment on column outbox.deliveries.day is 'That of its message.';
comment on column outbox.deliveries.attempt is 'The number of the attempt that is next or under way; a claim and its outcome name it, so a job that comes late or twice changes nothing.';
comment on column outbox.deliveries.due_at is 'When its next attempt may be made, or might have been; null while one of its ordering key comes before it.';
comment on column outbox.deliveries.lease_until is 'Until when the queue or the worker is believed to have it; afterwards the relay takes it back.';
comment on column outbox.deliveries.claimed_by is 'The worker that makes the attempt; null while it waits in the queue. No index knows of it, nor of the lease, so that a claim costs one row and nothing beside it.';
comment on column outbox.deliveries.ordering_key is 'That of its message, where the endpoint is ordered.';

create index deliveries_due_idx on outbox.deliveries (endpoint_id, due_at, id) where state = 'pending';
create index deliveries_queued_idx on outbox.deliveries (id) where state = 'queued';

create sequence outbox.attempt_seqs;

create table outbox.attempts (
  delivery_id bigint not null,
  attempt integer not null,
  day date not null,
  seq bigint not null default nextval('outbox.attempt_seqs'),
  endpoint_id uuid not null,
  started_at timestamptz not null,
  duration_ms integer not null,
  status_code integer,
  error_class text,
  error text,
  response text,
  address text,
  retry_at timestamptz,
  constraint attempts_pkey primary key (delivery_id, attempt, day),
  constraint attempts_duration_ms_not_negative check (duration_ms >= 0)
) partition by range (day);

comment on table outbox.attempts is 'One row per HTTP request, and per request that a lost worker may have made.';
comment on column outbox.attempts.day is 'That of the message.';
comment on column outbox.attempts.seq is 'Where the relay reads on: it learns from here which places are free again.';
comment on column outbox.attempts.error_class is 'null when it was answered 2xx.';
comment on column outbox.attempts.response is 'The first 8 kB of the response''s body.';
comment on column outbox.attempts.retry_at is 'When the next one was due; null when there was to be none.';

create index attempts_seq_idx on outbox.attempts (seq);

create table outbox.messages_of_other_days partition of public.outbox default;
create table outbox.deliveries_of_other_days partition of outbox.deliveries default;
create table outbox.attempts_of_other_days partition of outbox.attempts default;

-- Gives each day of a range its partitions. A day that some table's default partition holds rows of stays there, and is no error.
-- first_day, last_day: days of UTC. Returns how many days were made whole.
-- Locks: an advisory lock, so that two take turns; the default partitions against everything while each of a day's tables is attached, and scans them: they are all but empty.
create function outbox.open_days(first_day date, last_day date) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  opened integer := 0;
  was_missing boolean;
  new_day date;
  kind record;
  partition_name text;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.outbox.days'), 0);
  for new_day in select generate_series(first_day, last_day, interval '1 day')::date loop
    was_missing := false;
    for kind in select * from (values
      -- Room for the versions of a row that follow it within moments, so that they need no entry in any index.
      ('public.outbox', 'messages', 80), ('outbox.deliveries', 'deliveries', 60), ('outbox.attempts', 'attempts', 100)
    ) as kinds (parent, prefix, fill) loop
      partition_name := format('outbox.%I', kind.prefix || to_char(new_day, '_YYYYMMDD'));
      continue when to_regclass(partition_name) is not null;
      begin
        execute format('create table %s (like %s including defaults including constraints including storage) with (fillfactor = %s)',
          partition_name, kind.parent, kind.fill);
        execute format('alter table %s attach partition %s for values from (%L) to (%L)',
          kind.parent, partition_name, new_day, new_day + 1);
        was_missing := true;
      exception when check_violation then
        raise notice '% stays in the default partition of %, which holds rows of it', new_day, kind.parent;
      end;
    end loop;
    opened := opened + was_missing::integer;
  end loop;
  return opened;
end
$$;

select outbox.open_days((clock_timestamp() at time zone 'UTC')::date, (clock_timestamp() at time zone 'UTC')::date + 3);

insert into public.outbox (id, day, seq, topic, payload, created_at, processed_at, attempt_count, last_error, ledger_book_id)
overriding system value
select id, (created_at at time zone 'UTC')::date, seq, topic, payload, created_at, processed_at, attempt_count, last_error, ledger_book_id
from public.outbox_before;
select setval('public.outbox_seq_seq', (select last_value from public.outbox_before_seq_seq));

-- What was under way goes back to where it stood: the workers are stopped.
insert into outbox.deliveries (id, day, message_id, endpoint_id, state, attempt, due_at, finished_at, last_error, created_at)
select before.id, (messages.created_at at time zone 'UTC')::date, message_id, endpoint_id,
  case when state in ('queued', 'delivering') then 'pending' else state end, attempt, next_attempt_at, finished_at, before.last_error, before.created_at
from outbox.deliveries_before as before
join public.outbox_before as messages on messages.id = before.message_id;
select setval('outbox.delivery_ids', (select last_value from outbox.deliveries_before_id_seq));

insert into outbox.attempts (delivery_id, attempt, day, endpoint_id, started_at, duration_ms, status_code, error_class, error, response, address)
select delivery_id, before.attempt, deliveries.day, endpoint_id, started_at, duration_ms, status_code, error_class, error, response, address
from outbox.attempts_before as before
join outbox.deliveries on deliveries.id = before.delivery_id
order by started_at;

-- Nobody but who had been granted something, by name or by column: Supabase's default privileges hand out every table and sequence in
-- schema public.
revoke all on public.outbox from public;
revoke all on sequence public.outbox_seq_seq from public;
do $$
declare
  guest text;
  given record;
begin
  foreach guest in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_roles where rolname = guest) then
      execute format('revoke all on public.outbox from %I', guest);
      execute format('revoke all on sequence public.outbox_seq_seq from %I', guest);
    end if;
  end loop;
  for given in
    select acl.grantee, acl.privilege_type, acl.is_grantable, null::name as attname
    from pg_class cross join lateral aclexplode(relacl) as acl
    where pg_class.oid = 'public.outbox_before'::regclass and acl.grantee not in (0, relowner)
    union all
    select acl.grantee, acl.privilege_type, acl.is_grantable, attname
    from pg_attribute join pg_class on pg_class.oid = attrelid cross join lateral aclexplode(attacl) as acl
    where attrelid = 'public.outbox_before'::regclass and acl.grantee not in (0, relowner)
  loop
    execute format('grant %s%s on public.outbox to %s%s', given.privilege_type, coalesce(' (' || quote_ident(given.attname) || ')', ''),
      given.grantee::regrole, case when given.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

drop table outbox.attempts_before;
drop table outbox.deliveries_before;
drop table public.outbox_before;

alter table public.outbox enable row level security;
create policy messages_of_the_application on public.outbox for insert with check (ledger_book_id is null);
create policy books_granted on public.outbox for select using (
  ledger_book_id is null or ledger_book_id = any ((select payments.books_of(current_user))::integer[]));

-- The relay that leads sleeps under an advisory lock of its own, which every transaction that announces tries to share until it ends.
-- So the relay cannot fall asleep while one is open that found it awake: nothing is announced that nobody was told of. A flag in a row
-- would leave that gap, and a version of itself behind each time, which every announcement has to pass while an old snapshot is held.
alter table outbox.relay drop column sleeping;
alter table outbox.relay reset (fillfactor);

-- Wakes the relay after a statement that inserted a message, but only while it sleeps: a commit that notifies takes a lock that all
-- notifying commits of the cluster share. Empty payload, so one transaction's notifications collapse into one.
-- Returns null. Locks: shares the advisory lock under which a relay sleeps, until the transaction ends; never waits for it.
create or replace function outbox.wake_relay() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from new_messages) and not pg_try_advisory_xact_lock_shared(hashtext('liventix.relay.sleeps'), 0) then
    perform pg_notify('liventix_outbox', '');
  end if;
  return null;
end
$$;

create trigger outbox_wake_relay after insert on public.outbox
referencing new table as new_messages
for each statement execute function outbox.wake_relay();

drop function outbox.admit(integer, interval);
drop function outbox.topic_matches(text, text);

-- Every pattern that covers a topic: itself, `*`, and `a.b.*` for all that it is below. Locks nothing.
create function outbox.patterns_of(topic text) returns text[]
language sql immutable parallel safe
return (
  select array['*', topic] || array(
    select array_to_string(words[1:depth], '.') || '.*'
    from string_to_array(topic, '.') as words, generate_series(1, cardinality(words) - 1) as depth)
);

alter table outbox.endpoints
  add column organization_id uuid,
  add column ordered boolean not null default false,
  add column filter jsonb,
  add column version bigint not null default 1,
  add constraint endpoints_filter_is_object check (jsonb_typeof(filter) = 'object');

comment on column outbox.endpoints.organization_id is 'Whose messages alone it receives; null: everybody''s.';
comment on column outbox.endpoints.ordered is 'Whether messages of one ordering key go one after the other.';
comment on column outbox.endpoints.filter is 'What a payload must contain, as jsonb''s @> has it.';
comment on column outbox.endpoints.version is 'Counts its changes, so that a worker knows when what it remembers is old.';

create function outbox.count_version() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.version := old.version + 1;
  return new;
end
$$;

create trigger endpoints_count_version before update on outbox.endpoints
for each row execute function outbox.count_version();

create sequence outbox.worker_numbers as integer cycle;

-- Takes back what Supabase's default privileges, and PostgreSQL's for functions, hand out of schema outbox: it is the owner's. Each
-- migration that makes something there ends with it. Locks nothing beyond what REVOKE does.
create function outbox.keep_from_guests() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  guest text;
begin
  for guest in
    select 'public' union all
    select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on all tables in schema outbox from %s', guest);
    execute format('revoke all on all sequences in schema outbox from %s', guest);
    execute format('revoke all on all functions in schema outbox from %s', guest);
  end loop;
end
$$;

select outbox.keep_from_guests();

do $$
begin
  if exists (select from pg_roles where rolname = 'service_role') then
    -- What an announcement consists of since: the rest of the row is the relay's to write.
    grant insert (ordering_key, organization_id, headers, deliver_after) on public.outbox to service_role;
  end if;
end
$$;
