-- Rollups a third time: what a restore on another server, a detaching that was broken off, and rows that cannot be counted do to them.

-- When a run last worked, to a minute; since when none does, and what failed last.
-- lint: allow lock-without-timeout because nobody but a run writes it, and it is changed in no time
alter table rollups.rollups
  add column last_run_at timestamptz,
  add column failing_since timestamptz,
  add column error text;

-- Whether the source was emptied: while it has no rows nothing but --everything rebuilds. Of marks of before the refusal says so.
-- lint: allow more-than-one-hot-table-a-transaction because a run takes them in this order, and neither is locked for longer than a moment
alter table rollups.marks add column is_emptied boolean not null default false;

-- Of another server, from which this one was restored, the numbers of transactions mean nothing here. At or above
-- pg_snapshot_xmax(pg_current_snapshot()), and not of the transaction that looks, they can be of no other. A rollup that had counted there below C is
-- rebuilt of what the rule at the head of 0059 makes of them, where a row was recorded by i and taken back by d:
--
--   in the table, i < C of every rollup of it              null: a row of before. Nothing else of it is changed, so that no change is left of that
--   in the table, i >= C of one                            recorded anew by the rebuild: the next run adds it
--   in changes,   i < C or null, i or d of there           null, and d = 1: it was counted, so that the next run takes it away where its group and
--                                                          day is kept, and the build of its month drops it elsewhere
--   in changes,   i >= C, d of there                       0  it goes: never counted, and not in the table
--   in changes,   i >= C, d of here                        0  by the rule, as i >= L

-- Trigger, before an UPDATE of a source: the row is recorded anew. But for a number of another server, which a rebuild may take away: none but the table's
-- owner does, who could disable this trigger as well.
create or replace function rollups.record_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if new.recorded_xid is null and old.recorded_xid is not null then
    if old.recorded_xid >= pg_snapshot_xmax(pg_current_snapshot()) and old.recorded_xid <> pg_current_xact_id()
       and pg_has_role((select c.relowner from pg_class c where c.oid = tg_relid), 'usage') then
      return new;
    end if;
  end if;
  new.recorded_xid := pg_current_xact_id();
  return new;
end
$$;

-- Raises a failure of ours. Parameters: its code, as in src/errors.ts; the message.
create or replace function rollups.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'ROLLUP_UNKNOWN' then 'LV110'
      when 'ROLLUP_HORIZON_BEHIND' then 'LV111'
      when 'ROLLUP_SOURCE_MISSING' then 'LV112'
      when 'ROLLUP_SOURCE_EMPTY' then 'LV113'
      when 'ROLLUP_TABLE_MISSING' then 'LV114'
      when 'ROLLUP_WOULD_LOSE' then 'LV115'
    end;
end
$$;

-- A table of a rollup's own that is there no more: the first one, quoted, or null. Parameters: the rollup. Locks nothing.
create function rollups.lost_table(p_rollup rollups.rollups) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select t.name
  from (values
    (1, format('%I.%I', p_rollup.declaration ->> 'schema', p_rollup.name), true),
    (2, format('rollups.%I', p_rollup.name || '_changes'), true),
    (3, format('rollups.%I', p_rollup.name || '_viewers'), p_rollup.declaration ? 'distinct'),
    (4, format('rollups.%I', p_rollup.name || '_buckets'), p_rollup.declaration ? 'median')) t (number, name, is_wanted)
  where t.is_wanted and to_regclass(t.name) is null
  order by t.number limit 1
$$;

-- A rollup, with its tables. Parameters: its name. Locks nothing. Raises LV110, LV114.
create or replace function rollups.get(p_rollup text) returns rollups.rollups
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_lost text;
begin
  select * into v_rollup from rollups.rollups r where r.name = p_rollup;
  if not found then
    perform rollups.refuse('ROLLUP_UNKNOWN', format('There is no rollup %s. Those that are kept: liventix rollups status', p_rollup));
  end if;
  v_lost := rollups.lost_table(v_rollup);
  if v_lost is not null then
    perform rollups.refuse('ROLLUP_TABLE_MISSING', format(
      '%s, of the rollup %s, is gone. To make it anew: liventix rollups remove --name %s, then apply.', v_lost, p_rollup, p_rollup));
  end if;
  return v_rollup;
end
$$;

-- The rollups of a table. Locks nothing.
create function rollups.of_source(p_source regclass) returns setof rollups.rollups
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.* from rollups.rollups r where exists (select from unnest(r.sources) s where to_regclass(s) = p_source)
$$;

-- Whether a partition may go without a rollup losing what it has not counted yet: all of the table are built, and have counted every row of it; none of them
-- counted on another server, whose numbers are none here. Whoever asks holds the table locked against writers, lest one comes after. Parameters: the table's
-- name, with its schema; the partition.
create or replace function rollups.may_lose(p_source text, p_partition regclass) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_waits boolean;
begin
  for v_rollup in select r.* from rollups.of_source(to_regclass(p_source)) r loop
    if v_rollup.state <> 'ready' or rollups.is_elsewhere(v_rollup, pg_snapshot_xmin(pg_current_snapshot()))
       or exists (select from rollups.marks m where m.rollup = v_rollup.name) then
      return false;
    end if;
    execute format('select exists (select from %s s where s.recorded_xid >= $1)', p_partition) into v_waits using v_rollup.counted_below;
    if v_waits then
      return false;
    end if;
  end loop;
  return true;
end
$$;

-- Makes of another server's numbers what the rule says above. Parameters: the rollup that is rebuilt; its source. Locks the rows that have such a number.
create function rollups.take_over(p_rollup rollups.rollups, p_source text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_is_there constant text := '(%1$s >= pg_snapshot_xmax(pg_current_snapshot()) and %1$s <> pg_current_xact_id())';
  c_recorded constant text := format(c_is_there, 'recorded_xid');
  c_changed constant text := format(c_is_there, 'changed_xid');
  v_changes constant text := format('rollups.%I', p_rollup.name || '_changes');
  v_counted constant xid8 := (select min(r.counted_below) from rollups.of_source(p_source::regclass) r where r.state <> 'installing');
  v_rollup text;
begin
  execute format('update %s set recorded_xid = case when recorded_xid < $1 then null else recorded_xid end where %s', p_source, c_recorded)
    using v_counted;
  -- Of rows that have nothing but their number less.
  for v_rollup in select r.name from rollups.of_source(p_source::regclass) r where to_regclass(format('rollups.%I', r.name || '_changes')) is not null loop
    execute format('delete from rollups.%I where changed_xid = pg_current_xact_id() and recorded_xid < $1 and %s', v_rollup || '_changes', c_recorded)
      using v_counted;
  end loop;
  execute format('delete from %s where recorded_xid >= $1 and %s', v_changes, c_changed) using p_rollup.counted_below;
  execute format(
    'update %s set recorded_xid = null, changed_xid = ''1'' where (recorded_xid is null or recorded_xid < $1) and (%s or %s)',
    v_changes, c_recorded, c_changed) using p_rollup.counted_below;
end
$$;

-- The time of a zone's clocks. Near the first and the last instant there is, where a zone's time may be none that there is, that of UTC. As cheap as
-- what it stands for where a query has it written out. Parameters: the instant; the zone.
create function rollups.local_time(p_time timestamptz, p_zone text) returns timestamp
language sql immutable parallel safe as $$
  select p_time at time zone case when p_time >= '4700-01-01 00:00:00+00 BC' and p_time < '290000-01-01 00:00:00+00' then p_zone else 'UTC' end
$$;

-- The months that there are in a source, in its rollup, or in what was taken back, in order. Parameters: the rollup; the source.
create or replace function rollups.months_of(p_rollup rollups.rollups, p_source text) returns timestamp[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- All before the first full month, and all from the last on, go together.
  c_month constant text := 'select case when isfinite(%1$s) is not true then %1$s
    when %1$s < ''4700-01-01 BC'' then ''4714-11-24 BC'' else least(date_trunc(''month'', %1$s), ''290000-01-01'') end from %2$s';
  v_zone constant text := p_rollup.declaration ->> 'zone';
  v_months timestamp[];
begin
  execute format('select array_agg(m.month order by m.month nulls first) from (%s union %s union %s) m (month)',
    format(c_month, format('rollups.local_time(s.%I, %L)', p_rollup.declaration ->> 'time', v_zone), p_source || ' s'),
    format(c_month, 't.day::timestamp', format('%I.%I t', p_rollup.declaration ->> 'schema', p_rollup.name)),
    format(c_month, format('rollups.local_time(q.happened_at, %L)', v_zone), format('rollups.%I q', p_rollup.name || '_changes')))
    into v_months;
  return v_months;
end
$$;

-- What is of a month: SQL conditions on {time} and on t.day. Parameters: the month of a chunk; the zone.
create or replace function rollups.month_ranges(p_month timestamp, p_zone text, out range text, out days text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c_first constant timestamp := '4700-01-01 BC';
  c_last constant timestamp := '290000-01-01';
  v_to constant timestamp := case when p_month < c_first then c_first when p_month < c_last then p_month + interval '1 month' else 'infinity' end;
begin
  if p_month is null then
    range := '{time} is null';
    days := 't.day is null';
  elsif not isfinite(p_month) then
    range := format('{time} = %L', p_month);
    days := format('t.day = %L', p_month);
  else
    -- As rows are grouped, since a clock may show its midnight twice; and about that by the time itself, for an index.
    range := format(
      'rollups.local_time({time}, %1$L) >= %2$L and rollups.local_time({time}, %1$L) < %3$L
         and {time} >= %4$L::timestamp at time zone %1$L - interval ''1 day'' and {time} < %3$L::timestamp at time zone %1$L + interval ''1 day''',
      p_zone, p_month, v_to, case when p_month < c_first then '-infinity' else p_month end);
    days := format('t.day >= %L and t.day < %L', p_month, v_to);
  end if;
end
$$;

-- The same of a row `s` of the source, of one `q` that was taken back, and of one `t` of the rollup.
create or replace function rollups.keys_of(p_rollup rollups.rollups, out of_source text, out of_changes text, out of_rollup text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select
    rollups.key_of(p_rollup, array_agg(format('s.%I', g.name) order by g.number)
      || format('rollups.local_time(s.%I, %L)::date', p_rollup.declaration ->> 'time', p_rollup.declaration ->> 'zone')),
    rollups.key_of(p_rollup, array_agg(format('q.group%s', g.number - 1) order by g.number) || 'q.day'::text),
    rollups.key_of(p_rollup, array_agg(format('t.%I', g.name) order by g.number) || 't.day'::text)
  from jsonb_array_elements_text(p_rollup.declaration -> 'group') with ordinality g (name, number)
$$;

-- Which groups and days of a month a rebuild keeps: a partition of the day is gone, and the rollup counts more than there is. Nothing could count them
-- anew; verify judges by the same. Parameters: the rollup; its source; the month; what is of it. Returns their cells, or null.
create or replace function rollups.kept_cells(p_rollup rollups.rollups, p_source text, p_month timestamp, p_range text, p_days text) returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_time constant text := p_rollup.declaration ->> 'time';
  v_gone constant text := rollups.gone_days(p_source::regclass, v_time, p_rollup.declaration ->> 'zone');
  v_keys record;
  v_is_gone boolean;
  v_kept bigint[];
begin
  if p_month is null or p_month < '4700-01-01 BC' or p_month >= '290000-01-01' then
    return null;
  end if;
  execute format('select bool_or(%s) from generate_series($1, $1 + interval ''1 month'' - interval ''1 day'', ''1 day'') d (day)',
    replace(v_gone, '{day}', 'd.day::date')) into v_is_gone using p_month;
  if not v_is_gone then
    return null;
  end if;
  v_keys := rollups.keys_of(p_rollup);
  execute format(
    'select array_agg(t.cell)
     from %I.%I t
     left join (
       select c.key, count(*) as rows
       from (
         select %s as key from %s s where (s.recorded_xid is null or s.recorded_xid < $1) and %s
         union all
         select %s from rollups.%I q where (q.recorded_xid is null or q.recorded_xid < $1) and %s) c
       group by c.key) e on e.key = %s
     where %s and t.%I > coalesce(e.rows, 0) and %s',
    p_rollup.declaration ->> 'schema', p_rollup.name,
    v_keys.of_source, p_source, replace(p_range, '{time}', format('s.%I', v_time)),
    v_keys.of_changes, p_rollup.name || '_changes', replace(p_range, '{time}', 'q.happened_at'),
    v_keys.of_rollup, p_days, p_rollup.declaration ->> 'count', replace(v_gone, '{day}', 't.day'))
    into v_kept using p_rollup.counted_below;
  return v_kept;
end
$$;

-- Counts of a rollup that is about to be rebuilt what came up to the horizon, as a run would: days that are kept are not counted again. Where more would be
-- taken away of a group and day than it has, nothing is: it may be for that that it is rebuilt, and who knows what of it was ever counted.
create or replace function rollups.catch_up(p_rollup rollups.rollups, p_source text, p_horizon xid8) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_read constant text := replace(p_rollup.read_sql, '{source}', p_source);
  v_changes constant text := p_rollup.name || '_changes';
  v_keys record;
begin
  begin
    perform rollups.merge(p_rollup, v_read, p_rollup.counted_below, p_horizon);
  exception when check_violation then
    v_keys := rollups.keys_of(p_rollup);
    -- What the run would make of each, by the rule.
    execute format(
      'delete from rollups.%1$I q
       using (
         select c.key
         from (
           select %2$s as key, -1 as rows from rollups.%1$I q where q.changed_xid < $2 and (q.recorded_xid is null or q.recorded_xid < $1)
           union all
           select %2$s, 1 from rollups.%1$I q where q.changed_xid >= $2 and q.recorded_xid >= $1 and q.recorded_xid < $2
           union all
           select %3$s, 1 from %4$s s where s.recorded_xid >= $1 and s.recorded_xid < $2
           union all
           select %5$s, t.%6$I from %7$I.%8$I t) c
         group by c.key having sum(c.rows) < 0) n
       where q.changed_xid < $2 and (q.recorded_xid is null or q.recorded_xid < $1) and n.key = %2$s',
      v_changes, v_keys.of_changes, v_keys.of_source, p_source,
      v_keys.of_rollup, p_rollup.declaration ->> 'count', p_rollup.declaration ->> 'schema', p_rollup.name)
      using p_rollup.counted_below, p_horizon;
    perform rollups.merge(p_rollup, v_read, p_rollup.counted_below, p_horizon);
  end;
  execute p_rollup.forget_sql using p_horizon;
end
$$;

-- Of which days rows may have gone with their partition: an SQL condition on {day}. Not all of such a day lies in partitions that there are; the default
-- is none, as what comes late for a month that is gone lies there; nor is one whose detaching was begun, of which no query sees a row any more. Of a table without partitions it is none, and no day that is null or infinite is.
-- Parameters: the source; its time; the zone of the days.
create or replace function rollups.gone_days(p_source regclass, p_time text, p_zone text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_there text;
begin
  if not exists (select from pg_partitioned_table p where p.partrelid = p_source) then
    return 'false';
  end if;
  select string_agg(pg_get_partition_constraintdef(c.oid), ' or ') into v_there
  from pg_partitioned_table p
  join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0] and a.attname = p_time
  join pg_inherits h on h.inhparent = p.partrelid and not h.inhdetachpending
  join pg_class c on c.oid = h.inhrelid and pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
  where p.partrelid = p_source and p.partnatts = 1;
  return format(
    'case when {day} >= ''4700-01-01 BC'' and {day} < ''290000-01-01'' then not (
       select bool_and(%1$s)
       from unnest(array[{day}::timestamp at time zone %2$L, ({day} + 1)::timestamp at time zone %2$L - interval ''1 microsecond'']) i (%3$I)) else false end',
    coalesce(v_there, 'false'), p_zone, p_time);
end
$$;

-- What a rebuild would lose: rows of days of which the rollup counts more than there is, though no partition of theirs is gone, be it that one was made again
-- in its place, or that the table is plain by now. By the day: what is another group's by now is not lost. Parameters: the rollup; its source; whether days
-- whose partitions are gone go too. Returns how many rows, and of which days, in words; null where there are none. Reads the whole source.
create function rollups.losses(p_rollup rollups.rollups, p_source text, p_everything boolean, out rows bigint, out days text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_time constant text := p_rollup.declaration ->> 'time';
  v_zone constant text := p_rollup.declaration ->> 'zone';
begin
  execute format(
    'select sum(d.rows)::bigint, case when count(*) <= 3 then string_agg(coalesce(d.day::text, ''no day''), '', '' order by d.day)
       else format(''%%s days from %%s to %%s'', count(*), min(d.day), max(d.day)) end
     from (
       select c.day, sum(c.rows) as rows
       from (
         select t.day, t.%I as rows from %I.%I t
         union all
         select rollups.local_time(s.%I, %L)::date, -1 from %s s where s.recorded_xid is null or s.recorded_xid < $1
         union all
         select q.day, -1 from rollups.%I q where q.recorded_xid is null or q.recorded_xid < $1) c
       group by c.day having sum(c.rows) > 0) d
     where (%s) is not true',
    p_rollup.declaration ->> 'count', p_rollup.declaration ->> 'schema', p_rollup.name, v_time, v_zone, p_source, p_rollup.name || '_changes',
    case when p_everything then 'false' else replace(rollups.gone_days(p_source::regclass, v_time, v_zone), '{day}', 'd.day') end)
    into rows, days using p_rollup.counted_below;
end
$$;

-- The partitions of a table that queries see. Parameters: the table, quoted. Locks nothing.
create function rollups.partitions_of(p_source text) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(h.inhrelid order by h.inhrelid) from pg_inherits h where h.inhparent = p_source::regclass and not h.inhdetachpending
$$;

-- Builds the next month of a rollup, in one transaction. Parameters: the rollup. Returns what became of it (built, kept where groups and days of it
-- are, under way, ready), how many rows it counted, and how many months are left. Raises LV110, LV112, and
-- 40001 where partitions came or went meanwhile.
create or replace function rollups.build(p_rollup text, out status text, out changes bigint, out months_left bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_chunk rollups.chunks;
  v_source text;
  v_of record;
  v_rows text;
  v_changes text;
  v_kept bigint[];
  v_keys record;
  v_others text;
  v_partitions oid[];
begin
  changes := 0;
  if not rollups.is_mine(p_rollup) then
    status := 'under way';
    return;
  end if;
  v_rollup := rollups.get(p_rollup);
  select * into v_chunk from rollups.chunks c where c.rollup = p_rollup and c.built_at is null order by c.number limit 1;
  if v_rollup.state <> 'building' or not found then
    if v_rollup.state = 'building' then
      update rollups.rollups set state = 'ready', last_counted_at = clock_timestamp() where name = p_rollup;
    end if;
    status := 'ready';
    months_left := 0;
    return;
  end if;
  v_source := rollups.source_of(v_rollup.sources);
  v_of := rollups.month_ranges(v_chunk.month, v_rollup.declaration ->> 'zone');
  v_rows := replace(v_of.range, '{time}', format('s.%I', v_rollup.declaration ->> 'time'));
  v_changes := replace(v_of.range, '{time}', 'q.happened_at');
  status := 'built';
  -- So that no partition goes between a look and the next. One that is detached concurrently waits for nobody before queries see it no more: of that the
  -- end tells. A lock that kept it away would keep away partitions that are attached, and builds of other rollups.
  execute format('lock table only %s in access share mode', v_source);
  v_partitions := rollups.partitions_of(v_source);
  if not v_rollup.everything then
    v_kept := rollups.kept_cells(v_rollup, v_source, v_chunk.month, v_of.range, v_of.days);
  end if;
  if v_kept is not null then
    -- All else of the month is counted anew. What is taken back of what is kept stays, for the next run.
    v_keys := rollups.keys_of(v_rollup);
    v_others := format('not exists (select from (select %s as key from %I.%I t where t.cell = any (%L::bigint[])) k where k.key = ',
      v_keys.of_rollup, v_rollup.declaration ->> 'schema', p_rollup, v_kept);
    v_rows := format('%s and %s %s)', v_rows, v_others, v_keys.of_source);
    v_changes := format('%s and %s %s)', v_changes, v_others, v_keys.of_changes);
    v_of.days := format('%s and t.cell <> all (%L::bigint[])', v_of.days, v_kept);
    status := 'kept';
  end if;
  execute replace(v_rollup.wipe_sql, '{days}', v_of.days);
  changes := rollups.merge(
    v_rollup,
    replace(replace(replace(v_rollup.build_sql, '{source}', v_source), '{rows}', v_rows), '{changes}', v_changes),
    null, v_rollup.counted_below);
  if v_partitions is distinct from rollups.partitions_of(v_source) then
    raise exception using errcode = 'serialization_failure', message = format(
      'A partition of %s came or went while %s was built. Nothing of that month was changed: run it again.', v_source, p_rollup);
  end if;
  update rollups.chunks set built_at = clock_timestamp() where rollup = p_rollup and number = v_chunk.number;
  months_left := (select count(*) from rollups.chunks c where c.rollup = p_rollup and c.built_at is null);
end
$$;

-- Writes down that a rollup cannot be counted, when what failed is undone: the next run that works says otherwise. Parameters: the rollup; what failed.
create function rollups.note_failure(p_rollup text, p_error text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update rollups.rollups set failing_since = coalesce(failing_since, clock_timestamp()), error = p_error
  where name = p_rollup and error is distinct from p_error
$$;

-- Counts what came since the last run, up to the horizon or, where that is more, about so many rows of it. In one transaction, which waits for nobody
-- but who locks the source itself, as TRUNCATE does. Parameters: the rollup; how many rows. Returns what became of it (counted, nothing, under way,
-- building, to be rebuilt), how many changes it read, and whether there is more. Raises LV110, LV111, LV112.
create or replace function rollups.run(p_rollup text, p_most integer default 50000, out status text, out changes bigint, out is_behind boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_source text;
  v_horizon xid8;
  v_high xid8;
  v_forgotten bigint;
begin
  changes := 0;
  is_behind := false;
  if not rollups.is_mine(p_rollup) then
    status := 'under way';
    return;
  end if;
  -- From here on in later statements, whose snapshots see what the last run did.
  v_rollup := rollups.get(p_rollup);
  if v_rollup.state <> 'ready' then
    status := 'building';
    return;
  end if;
  if exists (select from rollups.marks m where m.rollup = p_rollup) then
    status := 'to be rebuilt';
    return;
  end if;
  v_source := rollups.source_of(v_rollup.sources);
  v_horizon := pg_snapshot_xmin(pg_current_snapshot());
  if rollups.is_elsewhere(v_rollup, v_horizon) then
    perform rollups.refuse('ROLLUP_HORIZON_BEHIND', format(
      'The rollup %s has counted up to transaction %s of server %s, and this one is at %s of %s: it was restored from another. Count anew: liventix rollups rebuild %s',
      p_rollup, v_rollup.counted_below, v_rollup.counted_on, v_horizon, (pg_control_system()).system_identifier, p_rollup));
  end if;
  v_high := rollups.reach(v_rollup, v_source, v_horizon, p_most);
  is_behind := v_high < v_horizon;
  begin
    changes := rollups.merge(v_rollup, replace(v_rollup.read_sql, '{source}', v_source), v_rollup.counted_below, v_high);
  exception when check_violation then
    insert into rollups.marks (rollup, why) values (p_rollup, 'rows were taken back that it had never counted');
    is_behind := false;
    status := 'to be rebuilt';
    return;
  end;
  execute v_rollup.forget_sql into v_forgotten using v_high;
  if changes > 0 or v_forgotten > 0 or is_behind then
    update rollups.rollups
    set counted_below = v_high, last_counted_at = clock_timestamp(), last_run_at = clock_timestamp(), failing_since = null, error = null
    where name = p_rollup;
    status := 'counted';
  else
    -- Not each time: a run of nothing writes nothing.
    if v_rollup.error is not null or (v_rollup.last_run_at between clock_timestamp() - interval '1 minute' and clock_timestamp()) is not true then
      update rollups.rollups set last_run_at = clock_timestamp(), failing_since = null, error = null where name = p_rollup;
    end if;
    status := 'nothing';
  end if;
end
$$;

-- Runs every rollup until it is up to date, for pg_cron: select cron.schedule('10 seconds', 'call rollups.run_all()'). Each step is a transaction;
-- what fails of one is a warning, and written down, and the others go on.
create or replace procedure rollups.run_all(p_most integer default 50000)
language plpgsql as $$
declare
  v_behind text[] := array(select r.name from rollups.rollups r where r.state = 'ready' order by r.name);
  v_name text;
  v_is_behind boolean;
begin
  -- One step each in turn: one that is far behind keeps no other waiting.
  while pg_catalog.cardinality(v_behind) > 0 loop
    foreach v_name in array v_behind loop
      begin
        select r.is_behind into v_is_behind from rollups.run(v_name, p_most) r;
      exception when others then
        raise warning 'rollup %: %', v_name, sqlerrm;
        perform rollups.note_failure(v_name, sqlerrm);
        v_is_behind := false;
      end;
      commit;
      if not v_is_behind then
        v_behind := pg_catalog.array_remove(v_behind, v_name);
      end if;
    end loop;
  end loop;
end
$$;

-- Begins to build a rollup from its source, or to rebuild it: which months there are, and what is counted by runs from then on. Months whose partitions are
-- gone are kept unless told otherwise; of a source without partitions there are none. In one transaction, which reads the whole source before it
-- writes anything. Where it would lose what nothing could count anew it is refused, unless told otherwise; what a TRUNCATE emptied is meant to go. Parameters:
-- the rollup; whether nothing is kept; whether what the source has less of goes, though no partition of it is gone. Returns how many months. Raises LV110,
-- LV112, LV113, LV114, LV115.
drop function rollups.begin_build(text, boolean);
create function rollups.begin_build(p_rollup text, p_everything boolean, p_may_lose boolean default false) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_source text;
  v_horizon xid8;
  v_months timestamp[];
  v_has_rows boolean;
  v_everything boolean;
  v_losses record;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.rollups'), hashtext(p_rollup));
  v_rollup := rollups.get(p_rollup);
  v_source := rollups.source_of(v_rollup.sources);
  execute format('select exists (select from %s)', v_source) into v_has_rows;
  if not v_has_rows and not p_everything then
    perform rollups.refuse('ROLLUP_SOURCE_EMPTY', format(
      '%s has no rows, so a rebuild of %s would keep every day or none. To empty it: liventix rollups rebuild %s --everything', v_source, p_rollup, p_rollup));
  end if;
  v_everything := p_everything or (v_rollup.everything and v_rollup.state <> 'ready');
  if not v_everything and not p_may_lose and not exists (select from rollups.marks m where m.rollup = p_rollup and m.is_emptied) then
    v_losses := rollups.losses(v_rollup, v_source, false);
    if v_losses.rows > 0 then
      perform rollups.refuse('ROLLUP_WOULD_LOSE', format(
        'A rebuild of %s would lose %s rows of %s, which it counts and %s has not. Nothing was changed. If they went with their month, leave it so: nothing counts them again. If they are to go: liventix rollups rebuild %s --yes',
        p_rollup, v_losses.rows, v_losses.days, v_source, p_rollup));
    end if;
  end if;
  -- Everything below it is in the table, or in changes, for whoever looks later.
  v_horizon := greatest(pg_snapshot_xmin(pg_current_snapshot()), '1');
  v_months := rollups.months_of(v_rollup, v_source);
  v_everything := v_everything or not exists (select from pg_partitioned_table p where p.partrelid = v_source::regclass);
  if not v_everything and not rollups.is_elsewhere(v_rollup, v_horizon) then
    perform rollups.catch_up(v_rollup, v_source, v_horizon);
  end if;
  perform rollups.take_over(v_rollup, v_source);
  delete from rollups.chunks where rollup = p_rollup;
  -- Of rows too that were taken back: those changes are dropped by the build of their month.
  insert into rollups.chunks (rollup, number, month) select p_rollup, m.number, m.month from unnest(v_months) with ordinality m (month, number);
  delete from rollups.marks where rollup = p_rollup;
  update rollups.rollups
  set state = 'building', counted_below = v_horizon, counted_on = (pg_control_system()).system_identifier, everything = v_everything,
    failing_since = null, error = null
  where name = p_rollup;
  return coalesce(cardinality(v_months), 0);
end
$$;

-- Which views are to be refreshed: not within their interval; what failed after a minute, and after each failure in a row twice as long, up to the interval.
-- At the interval at once where rows were not unique: each try runs the whole query and holds the horizon, and none helps. What the clock has yet to reach
-- was written before it was set back, and counts for nothing. Locks nothing.
create or replace function rollups.due_views() returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select v.name
  from rollups.views v
  cross join lateral (
    select max(r.started_at) as at from rollups.refreshes r
    where r.view = v.name and r.finished_at is not null and r.error is null and r.started_at <= clock_timestamp()) good
  cross join lateral (
    select count(*) as number, max(r.started_at) as at, (array_agg(r.is_not_unique order by r.id desc))[1] as is_not_unique
    from rollups.refreshes r
    where r.view = v.name and r.started_at > coalesce(good.at, '-infinity') and r.started_at <= clock_timestamp()) tries
  where (good.at >= clock_timestamp() - v.every) is not true
    and (tries.number = 0 or tries.at < clock_timestamp() - case when tries.is_not_unique then v.every
      else least(v.every, interval '1 minute' * 2 ^ least(tries.number - 1, 20)) end)
  order by v.name
$$;

-- Trigger, after a TRUNCATE of a source: what the rollup counted is gone. Its argument is the rollup.
create or replace function rollups.note_truncate() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into rollups.marks (rollup, why, is_emptied) values (tg_argv[0], format('%I.%I was truncated', tg_table_schema, tg_table_name), true);
  return null;
end
$$;

revoke all on all functions in schema rollups from public;
