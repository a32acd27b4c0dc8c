-- Rollups: what dashboards ask of big tables, kept by group and day beside whoever writes, and materialized views that are refreshed.
--
-- An INSERT costs no trigger: the source has a column recorded_xid with the default pg_current_xact_id(), and an index on it. A run reads what
-- was recorded below the snapshot horizon since the last run, and adds it to the rollup. An UPDATE or DELETE leaves, by a trigger, what the old
-- row came to in a table of changes. Progress and sums are one transaction: a run that is killed counted nothing.
--
-- The rule. A version of a row was recorded by transaction i (an INSERT, or the UPDATE that made it; null: before the rollup was there, which is
-- less than any) and maybe taken back by transaction d (an UPDATE or DELETE). At a horizon H, below which no transaction is under way any more, it
-- counts where i < H and not d < H. So much a run adds that goes from L to H, whatever snapshot it reads in, as long as its xmin is not below H:
--
--   in the table, L <= i < H                                  +1  it is read by its recorded_xid
--   in changes,   d < H,  i < L                               -1  it was counted; the record goes
--   in changes,   d < H,  i >= L                               0  it was never counted and never is; the record goes
--   in changes,   d >= H, L <= i < H                          +1  it is not in the table any more, but d counts later only: what that will
--                                                                 take away has to be there
--   in changes,   d >= H, otherwise                            0  later
--
-- Whoever rolls back, in a savepoint too, leaves neither row nor record. A row that is made and taken back by one transaction has i = d.
-- Rows of before are built month by month, each in one transaction with its own snapshot, which drops the changes of such rows that it sees: those
-- rows it does not see any more. Runs begin when all is built.
--
-- A partition that is detached or dropped is no DELETE: its days stay, once its rows are counted (rollups.may_lose). TRUNCATE is told by a statement trigger, and the rollup is to be rebuilt.

create schema rollups;

create table rollups.rollups (
  name text not null constraint rollups_pkey primary key,
  declaration jsonb not null,
  -- Where the source may be, in the order in which it is looked for; a table that is moved or becomes partitioned is found again.
  sources text[] not null,
  state text not null constraint rollups_state_known check (state in ('installing', 'building', 'ready')),
  -- Everything that was recorded below is counted; null, which is less than any, is below 1.
  counted_below xid8 not null default '1',
  -- Of the server whose transactions those are: another's mean nothing here.
  counted_on bigint not null default (pg_control_system()).system_identifier,
  -- Whether what is being built has no regard for days whose partitions are gone.
  everything boolean not null default true,
  -- The statements that liventix rollups apply made of the declaration. {source} stands for the source.
  read_sql text not null,
  build_sql text not null,
  settle_sql text not null,
  clear_sql text not null,
  forget_sql text not null,
  wipe_sql text not null,
  last_counted_at timestamptz
);

comment on table rollups.rollups is 'Rollups that are kept. Nobody but the owner reads or writes it.';

-- What is built of the rows of before, month by month of the rollup's days: a month, or null, infinity or -infinity for rows of that time.
create table rollups.chunks (
  rollup text not null constraint chunks_rollup references rollups.rollups on delete cascade,
  number integer not null,
  month timestamp,
  built_at timestamptz,
  constraint chunks_pkey primary key (rollup, number)
);

-- Why a rollup is to be rebuilt. A table of its own: whoever truncates waits for no run.
create table rollups.marks (
  id bigint generated always as identity constraint marks_pkey primary key,
  rollup text not null,
  why text not null,
  marked_at timestamptz not null default clock_timestamp()
);

create table rollups.views (
  name text not null constraint views_pkey primary key,
  declaration jsonb not null,
  every interval not null
);

create table rollups.refreshes (
  id bigint generated always as identity constraint refreshes_pkey primary key,
  view text not null,
  started_at timestamptz not null default clock_timestamp(),
  -- Null while it is under way, and for ever where it was ended from outside.
  finished_at timestamptz,
  beside_readers boolean not null,
  rows bigint,
  error text
);

create index refreshes_view_started on rollups.refreshes (view, started_at desc);

comment on table rollups.refreshes is 'When materialized views were refreshed, for how long, how many rows they have, and what failed.';

-- Raises an error of ours. Parameters: its code, its message.
create function rollups.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'ROLLUP_UNKNOWN' then 'LV110'
      when 'ROLLUP_HORIZON_BEHIND' then 'LV111'
      when 'ROLLUP_SOURCE_MISSING' then 'LV112'
      when 'ROLLUP_SOURCE_EMPTY' then 'LV113'
    end;
end
$$;

-- The bucket of a value, for medians: bucket n of those above zero ends at 1.02^n, so that the middle of a bucket is within 1 % of all that is in
-- it. Zero has one of its own, negative values mirror those above zero; buckets are in the order of their values. Null for null.
create function rollups.bucket(p_value double precision) returns integer
language sql immutable strict parallel safe as $$
  select case
    when p_value = 'NaN' then 300000
    when p_value = 'Infinity' then 200000
    when p_value = '-Infinity' then -200000
    when p_value > 0 then 100000 + ceil(ln(p_value) / ln(1.02::double precision))::integer
    when p_value < 0 then -100000 - ceil(ln(-p_value) / ln(1.02::double precision))::integer
    else 0
  end
$$;

-- The value that stands for a bucket: 2 / (1 + 1/1.02) of what it begins with.
create function rollups.bucket_value(p_bucket integer) returns double precision
language sql immutable strict parallel safe as $$
  select case
    when p_bucket = 300000 then 'NaN'
    when p_bucket = 200000 then 'Infinity'
    when p_bucket = -200000 then '-Infinity'
    when p_bucket > 0 then 2 * power(1.02::double precision, p_bucket - 100000) / 2.02
    when p_bucket < 0 then -2 * power(1.02::double precision, -p_bucket - 100000) / 2.02
    else 0
  end
$$;

-- Who a row is of, as an index can hold it: what is longer goes by its digest.
create function rollups.viewer(p_viewer text) returns text
language sql immutable strict parallel safe as $$
  select case when octet_length(p_viewer) > 1000 then 'md5:' || md5(p_viewer) else p_viewer end
$$;

-- A number as medians count it. Of numerics some are beyond what it can hold: they are infinite, or zero.
create function rollups.weight(p_value numeric) returns double precision
language sql immutable strict parallel safe as $$
  select case
    when p_value = 'NaN' then 'NaN'
    when p_value > 1e308 then 'Infinity'
    when p_value < -1e308 then '-Infinity'
    when abs(p_value) < 1e-300 then 0
    else p_value::double precision
  end
$$;

create function rollups.weight(p_value double precision) returns double precision
language sql immutable strict parallel safe as $$
  select p_value
$$;

-- A sum can give back neither of them.
create function rollups.finite(p_value numeric) returns numeric
language sql immutable strict parallel safe as $$
  select case when p_value in ('NaN', 'Infinity', '-Infinity') then null else p_value end
$$;

-- Where a rollup's source is at present. Parameters: where it may be. Returns the first that is a table and records, quoted. Locks nothing.
-- Raises LV112.
create function rollups.source_of(p_sources text[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_found text;
begin
  select s.name into v_found
  from unnest(p_sources) with ordinality s (name, number)
  join pg_class c on c.oid = to_regclass(s.name) and c.relkind in ('r', 'p')
  join pg_attribute a on a.attrelid = c.oid and a.attname = 'recorded_xid' and not a.attisdropped
  order by s.number limit 1;
  if v_found is null then
    perform rollups.refuse('ROLLUP_SOURCE_MISSING', format(
      'None of %s is a table with the column recorded_xid. Put it back, or take the rollup away: liventix rollups remove',
      array_to_string(p_sources, ', ')));
  end if;
  return v_found;
end
$$;

-- The rollup of a name. Raises LV110.
create function rollups.get(p_rollup text) returns rollups.rollups
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
begin
  select * into v_rollup from rollups.rollups r where r.name = p_rollup;
  if not found then
    perform rollups.refuse('ROLLUP_UNKNOWN', format('There is no rollup %s. Those that are kept: liventix rollups status', p_rollup));
  end if;
  return v_rollup;
end
$$;

-- Keeps others away from a rollup, or from a view, until the transaction ends. Returns whether nobody else is at it.
create function rollups.is_mine(p_what text) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
  select pg_try_advisory_xact_lock(hashtext('liventix.rollups'), hashtext(p_what))
$$;

-- Adds to a rollup what a statement reads. Parameters: the rollup; the statement, with its source in it; where it reads from and to. Returns how
-- many changes it read. Locks the rows that it writes; whoever calls keeps others away. Raises 23514 where more would be taken away than was counted.
create function rollups.merge(p_rollup rollups.rollups, p_read text, p_low xid8, p_high xid8) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_merged record;
begin
  execute p_read into v_merged using p_low, p_high;
  if v_merged.changes = 0 then
    return 0;
  end if;
  -- No constraint of the table could say so: it would judge what is added before it is.
  if v_merged.fewest < 0 then
    raise exception using errcode = 'check_violation', message = format('A group and day of %s would have fewer than no rows.', p_rollup.name);
  end if;
  -- What it changed itself, a statement does not see: the rest follows from what it says it changed.
  execute p_rollup.settle_sql using v_merged.cells, v_merged.seen_cells, v_merged.seen;
  if v_merged.emptied_cells is not null or v_merged.gone_viewers is not null or v_merged.gone_buckets is not null then
    execute p_rollup.clear_sql
      using v_merged.emptied_cells, v_merged.gone_viewer_cells, v_merged.gone_viewers, v_merged.gone_bucket_cells, v_merged.gone_buckets;
  end if;
  return v_merged.changes;
end
$$;

-- Whether a rollup counted on another server, from which this one was restored. Parameters: the rollup; the horizon.
create function rollups.is_elsewhere(p_rollup rollups.rollups, p_horizon xid8) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p_horizon < p_rollup.counted_below or p_rollup.counted_on <> (pg_control_system()).system_identifier
$$;

-- Up to where a run reads: the horizon or, where that is more, about so many rows and changes. Those of a transaction are counted together, however many.
create function rollups.reach(p_rollup rollups.rollups, p_source text, p_horizon xid8, p_most integer) returns xid8
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_reach xid8;
begin
  execute format(
    'select least($2, min(greatest(e.edge, ((e.first::text::numeric + 1)::text)::xid8)))
     from (
       select (select s.recorded_xid from %1$s s where s.recorded_xid >= $1 and s.recorded_xid < $2 order by s.recorded_xid limit 1),
         (select s.recorded_xid from %1$s s where s.recorded_xid >= $1 and s.recorded_xid < $2 order by s.recorded_xid offset $3 limit 1)
       union all
       select (select q.changed_xid from rollups.%2$I q where q.changed_xid < $2 order by q.changed_xid limit 1),
         (select q.changed_xid from rollups.%2$I q where q.changed_xid < $2 order by q.changed_xid offset $3 limit 1)
       union all
       select (select q.recorded_xid from rollups.%2$I q where q.recorded_xid >= $1 and q.recorded_xid < $2 order by q.recorded_xid limit 1),
         (select q.recorded_xid from rollups.%2$I q where q.recorded_xid >= $1 and q.recorded_xid < $2 order by q.recorded_xid offset $3 limit 1)
     ) e (first, edge) where e.edge is not null', p_source, p_rollup.name || '_changes')
    into v_reach using p_rollup.counted_below, p_horizon, p_most;
  return greatest(v_reach, p_rollup.counted_below);
end
$$;

-- Counts what came since the last run, up to the horizon or, where that is more, about so many rows of it. In one transaction, which waits for nobody
-- but who locks the source itself, as TRUNCATE does. Parameters: the rollup; how many rows. Returns what became of it (counted, nothing, under way,
-- building, to be rebuilt), how many changes it read, and whether there is more. Raises LV110, LV111, LV112.
create function rollups.run(p_rollup text, p_most integer default 50000, out status text, out changes bigint, out is_behind boolean)
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
    update rollups.rollups set counted_below = v_high, last_counted_at = clock_timestamp() where name = p_rollup;
    status := 'counted';
  else
    status := 'nothing';
  end if;
end
$$;

-- Of which days rows may have gone with their partition: an SQL condition on {day}. Not all of such a day lies in partitions that there are; the default
-- is none, as what comes late for a month that is gone lies there. Of a table without partitions it is none, and no day that is null or infinite is.
-- Parameters: the source; its time; the zone of the days.
create function rollups.gone_days(p_source regclass, p_time text, p_zone text) returns text
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
  join pg_inherits h on h.inhparent = p.partrelid
  join pg_class c on c.oid = h.inhrelid and pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
  where p.partrelid = p_source and p.partnatts = 1;
  return format(
    'case when isfinite({day}) and {day} < ''290000-01-01'' then not (
       select bool_and(%1$s)
       from unnest(array[{day}::timestamp at time zone %2$L, ({day} + 1)::timestamp at time zone %2$L - interval ''1 microsecond'']) i (%3$I)) else false end',
    coalesce(v_there, 'false'), p_zone, p_time);
end
$$;

-- Counts of a rollup that is about to be rebuilt what came up to the horizon, as a run would: days that are kept are not counted again.
create function rollups.catch_up(p_rollup rollups.rollups, p_source text, p_horizon xid8) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform rollups.merge(p_rollup, replace(p_rollup.read_sql, '{source}', p_source), p_rollup.counted_below, p_horizon);
  execute p_rollup.forget_sql using p_horizon;
exception when check_violation then
  -- It may be for that that it is rebuilt. What was never counted must not be taken away.
  execute format('delete from rollups.%I where recorded_xid >= $1 and recorded_xid < $2', p_rollup.name || '_changes')
    using p_rollup.counted_below, p_horizon;
end
$$;

-- The months that there are in a source, in its rollup, or in what was taken back, in order. Parameters: the rollup; the source.
create function rollups.months_of(p_rollup rollups.rollups, p_source text) returns timestamp[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_month constant text := 'select case when isfinite(%1$s) then least(date_trunc(''month'', %1$s), ''290000-01-01'') else %1$s end from %2$s';
  v_zone constant text := p_rollup.declaration ->> 'zone';
  v_months timestamp[];
begin
  execute format('select array_agg(m.month order by m.month nulls first) from (%s union %s union %s) m (month)',
    format(c_month, format('(s.%I at time zone %L)', p_rollup.declaration ->> 'time', v_zone), p_source || ' s'),
    format(c_month, 't.day::timestamp', format('%I.%I t', p_rollup.declaration ->> 'schema', p_rollup.name)),
    format(c_month, format('(q.happened_at at time zone %L)', v_zone), format('rollups.%I q', p_rollup.name || '_changes')))
    into v_months;
  return v_months;
end
$$;

-- Begins to build a rollup from its source, or to rebuild it: which months there are, and what is counted by runs from then on. Months whose partitions are
-- gone are kept unless told otherwise; of a source without partitions there are none. In one transaction, which reads the whole source before it
-- writes anything. Parameters: the rollup; whether nothing is kept. Returns how many months. Raises LV110, LV112, LV113.
create function rollups.begin_build(p_rollup text, p_everything boolean) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_source text;
  v_horizon xid8;
  v_months timestamp[];
  v_has_rows boolean;
  v_everything boolean;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.rollups'), hashtext(p_rollup));
  v_rollup := rollups.get(p_rollup);
  v_source := rollups.source_of(v_rollup.sources);
  execute format('select exists (select from %s)', v_source) into v_has_rows;
  if not v_has_rows and not p_everything then
    perform rollups.refuse('ROLLUP_SOURCE_EMPTY', format(
      '%s has no rows, so a rebuild of %s would keep every day or none. To empty it: liventix rollups rebuild %s --everything', v_source, p_rollup, p_rollup));
  end if;
  -- Everything below it is in the table, or in changes, for whoever looks later.
  v_horizon := greatest(pg_snapshot_xmin(pg_current_snapshot()), '1');
  v_months := rollups.months_of(v_rollup, v_source);
  v_everything := p_everything or (v_rollup.everything and v_rollup.state <> 'ready')
    or not exists (select from pg_partitioned_table p where p.partrelid = v_source::regclass);
  if not v_everything and not rollups.is_elsewhere(v_rollup, v_horizon) then
    perform rollups.catch_up(v_rollup, v_source, v_horizon);
  end if;
  -- Of another server, from which this one was restored, where numbers of transactions are higher: theirs mean nothing here.
  execute format('delete from rollups.%I where changed_xid >= pg_snapshot_xmax(pg_current_snapshot())', p_rollup || '_changes');
  execute format('update %s set recorded_xid = null where recorded_xid >= pg_snapshot_xmax(pg_current_snapshot())', v_source);
  delete from rollups.chunks where rollup = p_rollup;
  -- Of rows too that were taken back: those changes are dropped by the build of their month.
  insert into rollups.chunks (rollup, number, month) select p_rollup, m.number, m.month from unnest(v_months) with ordinality m (month, number);
  delete from rollups.marks where rollup = p_rollup;
  update rollups.rollups
  set state = 'building', counted_below = v_horizon, counted_on = (pg_control_system()).system_identifier, everything = v_everything
  where name = p_rollup;
  return coalesce(cardinality(v_months), 0);
end
$$;

-- What is of a month: SQL conditions on {time} and on t.day. Parameters: the month of a chunk; the zone.
create function rollups.month_ranges(p_month timestamp, p_zone text, out range text, out days text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_to timestamp;
begin
  if p_month is null then
    range := '{time} is null';
    days := 't.day is null';
  elsif not isfinite(p_month) then
    range := format('{time} = %L', p_month);
    days := format('t.day = %L', p_month);
  else
    v_to := case when p_month < '290000-01-01' then p_month + interval '1 month' else 'infinity' end;
    -- As rows are grouped, since a clock may show its midnight twice; and about that by the time itself, for an index.
    range := format(
      '({time} at time zone %1$L) >= %2$L and ({time} at time zone %1$L) < %3$L
         and {time} >= %2$L::timestamp at time zone %1$L - interval ''1 day'' and {time} < %3$L::timestamp at time zone %1$L + interval ''1 day''',
      p_zone, p_month, v_to);
    days := format('t.day >= %L and t.day < %L', p_month, v_to);
  end if;
end
$$;

-- Whether a rollup counts more of a month than there is of it, and a partition of it is gone: nothing could count it anew. Parameters: the rollup; its
-- source; the month; what is of it.
create function rollups.is_kept(p_rollup rollups.rollups, p_source text, p_month timestamp, p_range text, p_days text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_time constant text := p_rollup.declaration ->> 'time';
  v_gone constant text := rollups.gone_days(p_source::regclass, v_time, p_rollup.declaration ->> 'zone');
  v_kept boolean;
begin
  if p_month is null or not isfinite(p_month) or p_month >= '290000-01-01' then
    return false;
  end if;
  execute format('select bool_or(%s) from generate_series($1, $1 + interval ''1 month'' - interval ''1 day'', ''1 day'') d (day)',
    replace(v_gone, '{day}', 'd.day::date')) into v_kept using p_month;
  if not v_kept then
    return false;
  end if;
  execute format(
    'select (select coalesce(sum(t.%I), 0) from %I.%I t where %s)
       > (select count(*) from %s s where (s.recorded_xid is null or s.recorded_xid < $1) and %s)
         + (select count(*) from rollups.%I q where (q.recorded_xid is null or q.recorded_xid < $1) and %s)',
    p_rollup.declaration ->> 'count', p_rollup.declaration ->> 'schema', p_rollup.name, p_days,
    p_source, replace(p_range, '{time}', format('s.%I', v_time)), p_rollup.name || '_changes', replace(p_range, '{time}', 'q.happened_at'))
    into v_kept using p_rollup.counted_below;
  return v_kept;
end
$$;

-- Builds the next month of a rollup, in one transaction. Parameters: the rollup. Returns what became of it (built, kept, under way, ready), how many
-- rows it counted, and how many months are left. Raises LV110, LV112.
create function rollups.build(p_rollup text, out status text, out changes bigint, out months_left bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_chunk rollups.chunks;
  v_source text;
  v_of record;
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
  -- So that no partition goes between a look and the next.
  execute format('lock table only %s in access share mode', v_source);
  if not v_rollup.everything and rollups.is_kept(v_rollup, v_source, v_chunk.month, v_of.range, v_of.days) then
    status := 'kept';
  else
    execute replace(v_rollup.wipe_sql, '{days}', v_of.days);
    changes := rollups.merge(
      v_rollup,
      replace(replace(replace(v_rollup.build_sql,
        '{source}', v_source),
        '{rows}', replace(v_of.range, '{time}', format('s.%I', v_rollup.declaration ->> 'time'))),
        '{changes}', replace(v_of.range, '{time}', 'q.happened_at')),
      null, v_rollup.counted_below);
    status := 'built';
  end if;
  update rollups.chunks set built_at = clock_timestamp() where rollup = p_rollup and number = v_chunk.number;
  months_left := (select count(*) from rollups.chunks c where c.rollup = p_rollup and c.built_at is null);
end
$$;

-- Whether a partition may go without a rollup losing what it has not counted yet: all of the table are built, and have counted every row of it.
-- Whoever asks holds the table locked against writers, lest one comes after. Parameters: the table's name, with its schema; the partition.
create function rollups.may_lose(p_source text, p_partition regclass) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_waits boolean;
begin
  for v_rollup in
    select r.* from rollups.rollups r
    where exists (select from unnest(r.sources) s where to_regclass(s) = to_regclass(p_source))
  loop
    if v_rollup.state <> 'ready' or exists (select from rollups.marks m where m.rollup = v_rollup.name) then
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

-- Runs every rollup until it is up to date, for pg_cron: select cron.schedule('10 seconds', 'call rollups.run_all()'). Each step is a transaction;
-- what fails of one is a warning, and the others go on.
create procedure rollups.run_all(p_most integer default 50000)
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

-- Refreshes a materialized view beside its readers; the first time, when there is nothing to read, not beside them. Where somebody else is at it
-- does nothing. Two transactions: that it began is there even where it is killed. Parameters: the view, as in rollups.views. Raises LV110.
create procedure rollups.refresh(p_view text)
language plpgsql as $$
declare
  v_view record;
  v_id bigint;
  v_rows bigint;
begin
  if not rollups.is_mine(p_view) then
    return;
  end if;
  select v.name, coalesce(c.relispopulated, false) as is_populated into v_view
  from rollups.views v left join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(v.name) where v.name = p_view;
  if not found then
    perform rollups.refuse('ROLLUP_UNKNOWN', pg_catalog.format('There is no view %s. Those that are refreshed: liventix rollups status', p_view));
  end if;
  insert into rollups.refreshes (view, beside_readers) values (p_view, v_view.is_populated) returning id into v_id;
  commit;
  if not rollups.is_mine(p_view) then
    delete from rollups.refreshes where id = v_id;
    return;
  end if;
  begin
    execute pg_catalog.format('refresh materialized view %s %s', case when v_view.is_populated then 'concurrently' end, p_view);
    execute pg_catalog.format('select count(*) from %s', p_view) into v_rows;
    update rollups.refreshes set finished_at = pg_catalog.clock_timestamp(), rows = v_rows where id = v_id;
  exception when others then
    update rollups.refreshes set finished_at = pg_catalog.clock_timestamp(), error = sqlerrm where id = v_id;
    raise warning 'view %: %', p_view, sqlerrm;
  end;
  delete from rollups.refreshes r where r.view = p_view and r.started_at < pg_catalog.clock_timestamp() - interval '30 days';
end
$$;

-- Which views are to be refreshed: not within their interval, and not tried in the last minute. What the clock has yet to reach was written before it was
-- set back, and counts for nothing. Locks nothing.
create function rollups.due_views() returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select v.name from rollups.views v
  where not exists (
      select from rollups.refreshes r
      where r.view = v.name and r.finished_at is not null and r.error is null and r.started_at between clock_timestamp() - v.every and clock_timestamp())
    and not exists (
      select from rollups.refreshes r where r.view = v.name and r.started_at between clock_timestamp() - interval '1 minute' and clock_timestamp())
  order by v.name
$$;

-- Refreshes what is due, for pg_cron.
create procedure rollups.refresh_due()
language plpgsql as $$
declare
  v_name text;
begin
  for v_name in select d.view from rollups.due_views() d (view) loop
    call rollups.refresh(v_name);
    commit;
  end loop;
end
$$;

-- Trigger, before an UPDATE of a source: the row is recorded anew.
create function rollups.record_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.recorded_xid := pg_current_xact_id();
  return new;
end
$$;

-- Trigger, after a TRUNCATE of a source: what the rollup counted is gone. Its argument is the rollup.
create function rollups.note_truncate() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into rollups.marks (rollup, why) values (tg_argv[0], format('%I.%I was truncated', tg_table_schema, tg_table_name));
  return null;
end
$$;

revoke all on all functions in schema rollups from public;
revoke all on all procedures in schema rollups from public;
