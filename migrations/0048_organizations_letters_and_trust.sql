-- Endpoints of an organization are found by it: SUBSCRIBED in fan-out.ts.
create index endpoints_organization_idx on outbox.endpoints (organization_id) where deleted_at is null and organization_id is not null;

-- ------------------------------------------------------------------------------------------------------------- days

-- Numbers of deliveries that a server which crashed gave and forgot are given again: an old row would be a new delivery's.
delete from outbox.legacy_letters
where not exists (select from outbox.deliveries where deliveries.id = delivery_id and deliveries.day = legacy_letters.day);
create index legacy_letters_day_idx on outbox.legacy_letters (day);

-- Drops messages, deliveries and attempts of an old day, whole, and which rows of the old platform stood for its dead letters, where nothing of it is to be kept.
-- old_day, keep_dead_from: days of UTC. Returns what became of it, as judge_day.
-- Locks: an advisory lock, so that two take turns; where it is dropped, what lock_day does, and the three tables against everything, for
-- as long as unlinking partitions takes.
create or replace function outbox.drop_day(old_day date, keep_dead_from date) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  fate text;
  kind text;
  own_partition text;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.outbox.days'), 0);
  -- Nobody waits for the sake of a day that is kept.
  fate := outbox.judge_day(old_day, keep_dead_from);
  if fate = 'drop' then
    perform outbox.lock_day(old_day);
    -- Once more, by a statement that began when it was locked: who was waited for may have opened a delivery again.
    fate := outbox.judge_day(old_day, keep_dead_from);
  end if;
  if fate <> 'drop' then
    return fate;
  end if;
  -- Each table by itself: a day of before 0046 may have a partition in one of them and rows in the default partition of another.
  foreach kind in array array['messages', 'deliveries', 'attempts'] loop
    own_partition := format('outbox.%s_%s', kind, to_char(old_day, 'YYYYMMDD'));
    if to_regclass(own_partition) is not null then
      execute format('drop table %s', own_partition);
    else
      execute format('delete from outbox.%s_of_other_days where day = $1', kind) using old_day;
    end if;
  end loop;
  delete from outbox.legacy_letters where day = old_day;
  return fate;
end
$$;

-- ----------------------------------------------------------------------------------------------------- dead letters

-- The role whose table public.dead_letter_webhooks is, where anybody could have made it: it would be shown the payloads of all
-- organizations, and a trigger of it would run as the owner of the outbox. Null where the table is to be trusted, and where there is none.
create function outbox.letters_stranger() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select owner.rolname::text
  from pg_class as letters
  join pg_roles as owner on owner.oid = letters.relowner
  where letters.oid = to_regclass('public.dead_letter_webhooks')
    and has_schema_privilege('public', 'public', 'create')
    and not owner.rolsuper
    and owner.oid not in (
      select relowner from pg_class where oid = 'outbox.deliveries'::regclass
      union all
      select nspowner from pg_namespace where nspname = 'public'
      union all
      select datdba from pg_database where datname = current_database())
$$;

-- As in 0043, but tells nobody who is not to be trusted.
create or replace function outbox.tell_dead_letter() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if outbox.letters_stranger() is null then
    perform outbox.mirror_dead_letter(new.id, new.day, new.message_id, new.endpoint_id, new.state, new.last_error);
  end if;
  return null;
end
$$;

select outbox.keep_from_guests();
