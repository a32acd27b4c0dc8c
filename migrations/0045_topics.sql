-- Topics whose payloads have a schema: `announce` refuses what does not fit it, and a worker sends nothing of the kind that SQL announced.
-- No constraint on public.outbox: it would fail the transaction of an application that nobody asked.

create table outbox.topics (
  topic text not null,
  schema jsonb not null,
  description text,
  version integer not null default 1,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint topics_pkey primary key (topic),
  constraint topics_topic_format check (topic ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' and length(topic) <= 128),
  constraint topics_schema_is_object check (jsonb_typeof(schema) = 'object'),
  constraint topics_schema_size check (octet_length(schema::text) <= 65536),
  constraint topics_description_size check (length(description) between 1 and 500),
  constraint topics_version_positive check (version >= 1)
);

comment on table outbox.topics is 'What payloads of a topic look like; of a topic that is not here, as they like.';
comment on column outbox.topics.schema is 'JSON Schema, draft 2020-12. One that cannot be read judges nothing, and the worker says so.';
comment on column outbox.topics.version is 'Counts its changes, since it was last registered.';

alter table outbox.relay add column topics_version bigint not null default 0;

comment on column outbox.relay.topics_version is 'Counts the changes of outbox.topics, in their transactions: what a worker claims tells it whether it knows them all.';

-- Counts a change of a topic, and when it was last changed. Returns the row. Locks nothing.
create function outbox.note_topic_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  new.version := old.version + 1;
  new.updated_at := clock_timestamp();
  return new;
end
$$;

create trigger topics_note_change before update on outbox.topics
for each row execute function outbox.note_topic_change();

-- Says that topics are other ones now. A row and not a sequence: who has read the number has read what is behind it.
-- Returns null. Locks the relay's row until the transaction ends, which nobody waits for but another change of topics.
create function outbox.count_topic_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  update outbox.relay set topics_version = topics_version + 1;
  return null;
end
$$;

create trigger topics_count_change after insert or update or delete on outbox.topics
for each row execute function outbox.count_topic_change();
create trigger topics_count_truncation after truncate on outbox.topics
for each statement execute function outbox.count_topic_change();

comment on table outbox.attempts is 'One row per HTTP request, per request that a lost worker may have made, and per one that was not made because nothing could be sent.';

-- Takes back what Supabase's default privileges, and PostgreSQL's for functions, hand out of schema outbox: it is the owner's, but for the
-- schemas of topics, which whoever announces is judged by. Each migration that makes something there ends with it.
-- Locks nothing beyond what REVOKE and GRANT do.
create or replace function outbox.keep_from_guests() returns void
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
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema outbox to service_role;
    grant select (topic, schema) on outbox.topics to service_role;
  end if;
end
$$;

select outbox.keep_from_guests();
