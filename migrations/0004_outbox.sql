-- The outbox: whoever may insert into public.outbox announces, in his own transaction, what that transaction did. The
-- worker turns each committed row into one delivery per subscribed endpoint, and each delivery into signed HTTP requests
-- until one is answered 2xx or the retry schedule is used up.
--
--   delivery: pending ──admitted──▶ queued ──claimed──▶ delivering ──2xx──▶ delivered
--                ▲                     │                    │
--                └──── lease lost ─────┴─── failed or lost ─┴─ schedule used up, or 410 ──▶ dead
--
-- Nothing here reads a position: messages are consumed by identity, so a transaction that commits late is not missed.

create schema outbox;

comment on schema outbox is 'Endpoints, deliveries and attempts of public.outbox. For the owner only: it holds the endpoints'' secrets.';

create table public.outbox (
  id uuid not null default gen_random_uuid(),
  seq bigint not null generated always as identity,
  topic text not null,
  payload jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  processed_at timestamptz,
  attempt_count integer not null default 0,
  last_error text,
  constraint outbox_pkey primary key (id),
  constraint outbox_topic_format check (topic ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' and length(topic) <= 128),
  constraint outbox_payload_is_object check (jsonb_typeof(payload) = 'object')
);

comment on table public.outbox is 'insert into public.outbox (topic, payload) values (…) announces what the same transaction did; a rollback takes it back.';
comment on column public.outbox.seq is 'The order of insertion, not of commit.';
comment on column public.outbox.processed_at is 'When the relay turned the message into deliveries.';
comment on column public.outbox.attempt_count is 'Over all of its deliveries.';
comment on column public.outbox.last_error is 'The last failure that any of its deliveries met, kept when a later attempt succeeds.';

create index outbox_unprocessed_idx on public.outbox (seq) where processed_at is null;

-- Whether every element is a topic, `*`, or a topic followed by `.*`.
-- topic_patterns: what an endpoint subscribes to. Returns true or false. Locks nothing.
create function outbox.are_topic_patterns(topic_patterns text[]) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog
return (
  select coalesce(bool_and(coalesce(length(pattern) <= 130 and pattern ~ '^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$', false)), false)
  from unnest(topic_patterns) as pattern
);

create table outbox.endpoints (
  id uuid not null default gen_random_uuid(),
  url text not null,
  topics text[] not null,
  secret text not null,
  timeout_ms integer not null default 15000,
  max_in_flight integer not null default 10,
  enabled boolean not null default true,
  disabled_at timestamptz,
  disabled_reason text,
  created_at timestamptz not null default clock_timestamp(),
  constraint endpoints_pkey primary key (id),
  constraint endpoints_url_format check (url ~ '^https?://' and length(url) <= 2048),
  constraint endpoints_topics_format check (cardinality(topics) between 1 and 100 and outbox.are_topic_patterns(topics)),
  constraint endpoints_secret_format check (secret ~ '^whsec_'),
  constraint endpoints_timeout_ms_range check (timeout_ms between 100 and 60000),
  constraint endpoints_max_in_flight_range check (max_in_flight between 1 and 1000),
  constraint endpoints_disabled_has_time check (enabled = (disabled_at is null))
);

comment on column outbox.endpoints.max_in_flight is 'How many of its deliveries may be queued or on their way at once: what keeps a slow endpoint from taking the workers from the others.';

create table outbox.deliveries (
  id bigint not null generated always as identity,
  message_id uuid not null,
  endpoint_id uuid not null,
  state text not null default 'pending',
  attempt integer not null default 1,
  next_attempt_at timestamptz not null default clock_timestamp(),
  lease_until timestamptz,
  finished_at timestamptz,
  last_error text,
  created_at timestamptz not null default clock_timestamp(),
  constraint deliveries_pkey primary key (id),
  constraint deliveries_message_endpoint_key unique (message_id, endpoint_id),
  constraint deliveries_message_id_fkey foreign key (message_id) references public.outbox (id),
  constraint deliveries_endpoint_id_fkey foreign key (endpoint_id) references outbox.endpoints (id),
  constraint deliveries_state_known check (state in ('pending', 'queued', 'delivering', 'delivered', 'dead')),
  constraint deliveries_attempt_positive check (attempt >= 1),
  constraint deliveries_lease_while_in_flight check ((state in ('queued', 'delivering')) = (lease_until is not null)),
  constraint deliveries_finished_has_time check ((state in ('delivered', 'dead')) = (finished_at is not null))
);

comment on column outbox.deliveries.attempt is 'The number of the attempt that is next or under way; a claim and its outcome name it, so a job that comes late or twice changes nothing.';
comment on column outbox.deliveries.lease_until is 'Until when the queue or the worker is believed to have it; afterwards the sweep takes it back.';

create index deliveries_due_idx on outbox.deliveries (endpoint_id, next_attempt_at, id) where state = 'pending';
create index deliveries_in_flight_idx on outbox.deliveries (endpoint_id) where state in ('queued', 'delivering');
create index deliveries_lease_idx on outbox.deliveries (lease_until) where state in ('queued', 'delivering');

create table outbox.attempts (
  delivery_id bigint not null,
  attempt integer not null,
  started_at timestamptz not null,
  duration_ms integer not null,
  status_code integer,
  error_class text,
  error text,
  response text,
  address text,
  constraint attempts_pkey primary key (delivery_id, attempt),
  constraint attempts_delivery_id_fkey foreign key (delivery_id) references outbox.deliveries (id),
  constraint attempts_duration_ms_not_negative check (duration_ms >= 0)
);

comment on table outbox.attempts is 'One row per HTTP request, and per request that a lost worker may have made.';
comment on column outbox.attempts.error_class is 'null when it was answered 2xx.';
comment on column outbox.attempts.response is 'The first 8 kB of the response''s body.';

-- Small pages of its own: the one row is updated whenever the relay falls asleep or wakes up.
create table outbox.relay (
  is_only_row boolean not null default true,
  installation_id uuid not null default gen_random_uuid(),
  sleeping boolean not null default false,
  constraint relay_pkey primary key (is_only_row),
  constraint relay_has_one_row check (is_only_row)
) with (fillfactor = 10);

comment on column outbox.relay.installation_id is 'Names the queue, so that installations which share a Redis never see each other''s jobs.';
comment on column outbox.relay.sleeping is 'Whether some relay waits for a NOTIFY.';

insert into outbox.relay default values;

-- Whether an endpoint's subscription covers a topic: the same topic, `*`, or `a.b.*` for everything below a.b.
-- pattern, topic: both well-formed. Returns true or false. Locks nothing.
create function outbox.topic_matches(pattern text, topic text) returns boolean
language sql immutable parallel safe
return pattern = '*' or pattern = topic or (right(pattern, 2) = '.*' and starts_with(topic, left(pattern, -1)));

-- Wakes the relay after an INSERT statement on public.outbox, but only while some relay says that it sleeps: a commit
-- that notifies takes a lock that all notifying commits of the cluster share. Empty payload, so one transaction's
-- notifications collapse into one. Runs as the owner, because who may announce may not look into schema outbox.
-- Returns null. Locks nothing; the commit that notifies takes the notification queue's lock.
create function outbox.wake_relay() returns trigger
language plpgsql security definer
set search_path = pg_catalog
as $$
begin
  if exists (select from outbox.relay where sleeping) then
    perform pg_notify('liventix_outbox', '');
  end if;
  return null;
end
$$;

create trigger outbox_wake_relay after insert on public.outbox
for each statement execute function outbox.wake_relay();

-- Admits due deliveries to the queue: at each enabled endpoint as many as it has room for, and everybody's first before
-- anybody's second, so no endpoint's backlog delays another.
-- batch_size: the most to admit. queue_lease: after how long a delivery that no worker started is taken back.
-- Returns the admitted deliveries with the number of the attempt that is next.
-- Locks: an advisory lock for the length of the transaction, because two relays that count an endpoint's deliveries at
-- the same time would both fill it; then the rows it admits.
create function outbox.admit(batch_size integer, queue_lease interval)
returns table (delivery_id bigint, attempt integer)
language plpgsql
set search_path = pg_catalog
as $$
declare
  -- 'outb' in ASCII; the second key is ours to number.
  admission_lock constant integer := 1869968482;
  present timestamptz;
begin
  perform pg_advisory_xact_lock(admission_lock, 1);
  -- After the lock, and in statements of their own: what the last holder admitted has to be seen.
  present := clock_timestamp();
  return query
  with room as (
    select endpoints.id as endpoint_id, endpoints.max_in_flight - in_flight.count as free
    from outbox.endpoints
    cross join lateral (
      select count(*) from outbox.deliveries
      where deliveries.endpoint_id = endpoints.id and deliveries.state in ('queued', 'delivering')
    ) as in_flight
    where endpoints.enabled
  ), due as (
    select waiting.id, row_number() over (partition by room.endpoint_id order by waiting.next_attempt_at, waiting.id) as turn
    from room
    cross join lateral (
      select deliveries.id, deliveries.next_attempt_at from outbox.deliveries
      where deliveries.endpoint_id = room.endpoint_id and deliveries.state = 'pending'
        and deliveries.next_attempt_at <= present
      order by deliveries.next_attempt_at, deliveries.id
      limit least(room.free, batch_size)
    ) as waiting
    where room.free > 0
  ), admitted as (
    select due.id from due order by due.turn, due.id limit batch_size
  )
  update outbox.deliveries
  set state = 'queued', lease_until = present + queue_lease
  from admitted
  where deliveries.id = admitted.id and deliveries.state = 'pending'
  returning deliveries.id, deliveries.attempt;
end
$$;

-- Privileges. Functions are open to everybody unless taken back, and Supabase's default privileges hand out every table
-- and sequence in schema public.
revoke all on public.outbox from public;
revoke all on sequence public.outbox_seq_seq from public;
revoke all on schema outbox from public;
revoke all on all functions in schema outbox from public;

do $$
declare
  guest text;
begin
  foreach guest in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_roles where rolname = guest) then
      execute format('revoke all on public.outbox from %I', guest);
      execute format('revoke all on sequence public.outbox_seq_seq from %I', guest);
      execute format('revoke all on schema outbox from %I', guest);
      execute format('revoke all on all tables in schema outbox from %I', guest);
      execute format('revoke all on all functions in schema outbox from %I', guest);
    end if;
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    -- Only what an announcement consists of: the rest of the row is the relay's to write.
    grant insert (id, topic, payload), select on public.outbox to service_role;
  end if;
end
$$;
