-- What a reading of the outbox found in its functions: days that began without partitions, a day judged before it was locked, a table
-- that kept a hundred dead letters waiting, a key that was none, an instant that no clock reaches.

-- ------------------------------------------------------------------------------------------------------------- days

-- Gives each day of a range its partitions: of all three tables, or of none. A day that some table's default partition holds rows of
-- stays there, and is no error.
-- first_day, last_day: days of UTC. Returns how many days were made whole.
-- Locks: an advisory lock, so that two take turns; the default partitions against everything while each of a day's tables is attached, and scans them: they are all but empty.
create or replace function outbox.open_days(first_day date, last_day date) returns integer
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
    -- One block for the three: where one cannot be attached, none of them is.
    begin
      for kind in select * from (values
        -- Room for the versions of a row that follow it within moments, so that they need no entry in any index.
        ('public.outbox', 'messages', 80), ('outbox.deliveries', 'deliveries', 60), ('outbox.attempts', 'attempts', 100)
      ) as kinds (parent, prefix, fill) loop
        partition_name := format('outbox.%I', kind.prefix || to_char(new_day, '_YYYYMMDD'));
        continue when to_regclass(partition_name) is not null;
        execute format('create table %s (like %s including defaults including constraints including storage) with (fillfactor = %s)',
          partition_name, kind.parent, kind.fill);
        execute format('alter table %s attach partition %s for values from (%L) to (%L)',
          kind.parent, partition_name, new_day, new_day + 1);
        was_missing := true;
      end loop;
    exception when check_violation then
      was_missing := false;
      raise notice '% stays in the default partitions: that of % holds rows of it', new_day, kind.parent;
    end;
    opened := opened + was_missing::integer;
  end loop;
  return opened;
end
$$;

-- What retention finds of a day that is older than it keeps.
-- Returns: drop; or why not: waiting (something of it is still to be delivered, and is never dropped), dead (its dead letters are kept
-- for longer). Locks nothing. By partial indexes alone: everybody may be waiting for the answer.
create or replace function outbox.judge_day(old_day date, keep_dead_from date) returns text
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
return case
  when exists (select from public.outbox where day = old_day and processed_at is null)
    or exists (select from outbox.deliveries where day = old_day and state = 'pending')
    or exists (select from outbox.deliveries where day = old_day and state = 'queued') then 'waiting'
  when old_day >= keep_dead_from and exists (select from outbox.deliveries where day = old_day and state = 'dead') then 'dead'
  else 'drop'
end;

-- The days before keep_from that there is something of, be it of one table, and what is to become of each: judge_day. Locks nothing.
create or replace function outbox.old_days(keep_from date, keep_dead_from date) returns table (day date, fate text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select days.day, outbox.judge_day(days.day, keep_dead_from)
  from (
    select to_date(right(child.relname, 8), 'YYYYMMDD') as day
    from pg_inherits join pg_class as child on child.oid = inhrelid
    where inhparent in ('public.outbox'::regclass, 'outbox.deliveries'::regclass, 'outbox.attempts'::regclass)
      and child.relname ~ '^(messages|deliveries|attempts)_\d{8}$'
    -- Those that never had partitions of their own: whatever was announced while nobody made any.
    union
    select other.day from outbox.messages_of_other_days as other
    union
    select other.day from outbox.deliveries_of_other_days as other
    union
    select other.day from outbox.attempts_of_other_days as other
  ) as days
  where days.day < keep_from
  order by days.day
$$;

-- Takes what is judged of a day away from everybody else until the transaction ends, and waits for who has changed it.
-- old_day: a day of UTC. Returns nothing.
-- Locks: messages and deliveries against everything, the whole table before the day's partition as everybody else does; of a day that
-- has none its rows alone, because others are in the same partition.
create function outbox.lock_day(old_day date) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  kind record;
  own_partition text;
begin
  for kind in select * from (values ('public.outbox', 'messages'), ('outbox.deliveries', 'deliveries')) as kinds (parent, prefix) loop
    own_partition := format('outbox.%s_%s', kind.prefix, to_char(old_day, 'YYYYMMDD'));
    if to_regclass(own_partition) is not null then
      execute format('lock table only %s, only %s in access exclusive mode', kind.parent, own_partition);
    else
      execute format('select from outbox.%s_of_other_days where day = $1 for update', kind.prefix) using old_day;
    end if;
  end loop;
end
$$;

-- Drops messages, deliveries and attempts of an old day, whole, where nothing of it is to be kept.
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
  return fate;
end
$$;

-- ----------------------------------------------------------------------------------------------------- dead letters

-- Says in public.dead_letter_webhooks, where that table is, how a delivery stands that is or was dead. What is wrong with that table,
-- or with who holds it or a row of it, stops no delivery: it is a warning in the server's log. Who waited in vain once does not wait
-- again in that transaction: it has many deliveries, and locks them for as long as it takes.
-- p_state: dead: the row is pending, or failed when it is not the first time; pending: retrying; delivered: succeeded.
-- Returns nothing. Locks: the row; waits for it no longer than 200 ms, in a whole transaction.
create or replace function outbox.mirror_dead_letter(
  p_delivery_id bigint, p_day date, p_message_id uuid, p_endpoint_id uuid, p_state text, p_error text
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
  v_letter_id uuid;
begin
  if to_regclass('public.dead_letter_webhooks') is null or current_setting('liventix.letters_untold', true) = 'on' then
    return;
  end if;
  if p_state = 'dead' then
    insert into outbox.legacy_letters (delivery_id, day) values (p_delivery_id, p_day) on conflict (delivery_id) do nothing;
  end if;
  select letter_id into v_letter_id from outbox.legacy_letters where delivery_id = p_delivery_id;
  if v_letter_id is null then
    return;
  end if;
  case p_state
    when 'dead' then
      insert into public.dead_letter_webhooks as letter (
        id, correlation_id, webhook_type, payload, original_timestamp, failure_reason)
      select v_letter_id, v_letter_id, message.topic, message.payload, message.created_at,
        format('endpoint %s: %s', p_endpoint_id, coalesce(p_error, 'no attempt was made'))
      from public.outbox as message
      where message.id = p_message_id and message.day = p_day
      on conflict (id) do update set status = 'failed', failure_reason = excluded.failure_reason;
    when 'pending' then
      update public.dead_letter_webhooks
      set status = 'retrying', retry_count = coalesce(retry_count, 0) + 1, last_retry_at = clock_timestamp()
      where id = v_letter_id;
    when 'delivered' then
      update public.dead_letter_webhooks set status = 'succeeded' where id = v_letter_id and status <> 'succeeded';
  end case;
exception
  when lock_not_available then
    perform set_config('liventix.letters_untold', 'on', true);
    raise warning 'delivery %, % now, and those that follow in its transaction are not told to public.dead_letter_webhooks, which somebody holds',
      p_delivery_id, p_state;
  when others then
    raise warning 'delivery %, % now, is not told to public.dead_letter_webhooks: % (%)', p_delivery_id, p_state, sqlerrm, sqlstate;
end
$$;

-- ----------------------------------------------------------------------------------------------------------- health

-- An endpoint that is enabled again begins healthy, whoever enabled it: what is known of it was found before somebody mended it.
-- Returns null. Locks the row of its health.
create function outbox.forget_health() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from outbox.endpoint_health where endpoint_id = new.id;
  return null;
end
$$;

create trigger endpoints_forget_health after update on outbox.endpoints
for each row when (new.enabled and not old.enabled) execute function outbox.forget_health();

-- ------------------------------------------------------------------------------------------------------ attachments

-- An ordering key as a message takes it: its hash, where it is longer than an index takes; none, where it is empty.
create or replace function outbox.bounded_key(p_key text) returns text
language sql immutable parallel safe
return case when octet_length(p_key) <= 200 then nullif(p_key, '') else 'sha256:' || encode(sha256(convert_to(p_key, 'UTF8')), 'hex') end;

select outbox.keep_from_guests();

-- --------------------------------------------------------------------------------------------------------- messages

-- Last, because whoever announces waits from here until this is committed; and as our commands do it, 50 ms at a time, because he waits
-- for as long as this does.
do $$
begin
  for try in 1..100 loop
    begin
      perform set_config('lock_timeout', '50ms', true);
      lock table public.outbox in access exclusive mode;
      return;
    exception when lock_not_available then
      perform pg_sleep(0.05 + random() * 0.1);
    end;
  end loop;
  raise exception 'public.outbox was in use at each of 100 tries, for 50 ms. Migrate again when no long transaction holds it.'
    using errcode = 'lock_not_available';
end
$$;

-- Refused at once, and not found out by the relay. Of messages that it has to turn into deliveries: those of before keep what they have,
-- and are not read for it (not valid); an update that takes one, or counts an attempt, must not fail for what the application wrote then.
alter table public.outbox
  add constraint outbox_deliver_after_reachable
    check (processed_at is not null or isfinite(deliver_after) and deliver_after < '10000-01-01 00:00+00') not valid,
  add constraint outbox_created_at_reachable
    check (processed_at is not null or isfinite(created_at) and created_at < '10000-01-01 00:00+00') not valid;
