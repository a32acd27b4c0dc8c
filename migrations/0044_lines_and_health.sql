-- Ordered endpoints, and how endpoints do: what the relay decides by, and who looks from outside sees.

-- The line of each key, behind its head.
create index deliveries_line_idx on outbox.deliveries (endpoint_id, ordering_key, id)
  where ordering_key is not null and state in ('pending', 'queued');

-- One row for each endpoint that ever failed; written when something changes, and not at every attempt.
create table outbox.endpoint_health (
  endpoint_id uuid not null,
  breaker text not null default 'closed',
  failures_in_row integer not null default 0,
  failing_since timestamptz,
  opened_at timestamptz,
  probe_at timestamptz,
  changed_at timestamptz not null default clock_timestamp(),
  constraint endpoint_health_pkey primary key (endpoint_id),
  constraint endpoint_health_endpoint_id_fkey foreign key (endpoint_id) references outbox.endpoints (id) on delete cascade,
  constraint endpoint_health_breaker_known check (breaker in ('closed', 'open', 'half_open')),
  constraint endpoint_health_failures_in_row_not_negative check (failures_in_row >= 0),
  constraint endpoint_health_probe_while_open check ((breaker = 'closed') = (opened_at is null) and (breaker = 'closed') = (probe_at is null))
);

comment on table outbox.endpoint_health is 'The relay''s own, which it writes when something changed: how an endpoint''s attempts went of late.';
comment on column outbox.endpoint_health.breaker is 'closed: it is sent to; open: it is not, until probe_at; half_open: one delivery tries whether it is back.';
comment on column outbox.endpoint_health.failing_since is 'Its first failure since it last took a delivery; null when it took the last.';

-- Says in the outbox itself that an endpoint receives nothing any more, whoever or whatever disabled it. Not its URL, which may hold a
-- token. Locks nothing.
create function outbox.announce_disabled() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into public.outbox (topic, payload, organization_id) values (
    'outbox.endpoint_disabled',
    jsonb_build_object('endpoint_id', new.id, 'reason', new.disabled_reason, 'disabled_at', new.disabled_at),
    new.organization_id);
  return null;
end
$$;

create trigger endpoints_announce_disabled after update on outbox.endpoints
for each row when (old.enabled and not new.enabled) execute function outbox.announce_disabled();

-- What retention finds of a day that is older than it keeps.
-- Returns: drop; or why not: waiting (something of it is still to be delivered, and is never dropped), dead (its dead letters are kept
-- for longer). Locks nothing.
create function outbox.judge_day(old_day date, keep_dead_from date) returns text
language sql stable
set search_path = pg_catalog, pg_temp
return case
  when exists (select from public.outbox where day = old_day and processed_at is null)
    or exists (select from outbox.deliveries where day = old_day and state in ('pending', 'queued')) then 'waiting'
  when old_day >= keep_dead_from and exists (select from outbox.deliveries where day = old_day and state = 'dead') then 'dead'
  else 'drop'
end;

-- The days before keep_from that there is something of, and what is to become of each: judge_day. Locks nothing.
create function outbox.old_days(keep_from date, keep_dead_from date) returns table (day date, fate text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select days.day, outbox.judge_day(days.day, keep_dead_from)
  from (
    select to_date(right(child.relname, 8), 'YYYYMMDD') as day
    from pg_inherits join pg_class as child on child.oid = inhrelid
    where inhparent = 'public.outbox'::regclass and child.relname ~ '^messages_\d{8}$'
    union
    -- Those that never had partitions of their own: whatever was announced while nobody made any.
    select other.day from outbox.messages_of_other_days as other
  ) as days
  where days.day < keep_from
  order by days.day
$$;

-- Drops messages, deliveries and attempts of an old day, whole, where nothing of it is to be kept; judges that once more.
-- old_day, keep_dead_from: days of UTC. Returns what became of it, as judge_day.
-- Locks: an advisory lock, so that two take turns; the three tables against everything, for as long as unlinking partitions takes.
create function outbox.drop_day(old_day date, keep_dead_from date) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  suffix constant text := to_char(old_day, 'YYYYMMDD');
  fate text;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.outbox.days'), 0);
  fate := outbox.judge_day(old_day, keep_dead_from);
  if fate <> 'drop' then
    return fate;
  end if;
  if to_regclass('outbox.messages_' || suffix) is not null then
    execute format('drop table outbox.messages_%1$s, outbox.deliveries_%1$s, outbox.attempts_%1$s', suffix);
  else
    delete from outbox.attempts_of_other_days where day = old_day;
    delete from outbox.deliveries_of_other_days where day = old_day;
    delete from outbox.messages_of_other_days where day = old_day;
  end if;
  return fate;
end
$$;

select outbox.keep_from_guests();
