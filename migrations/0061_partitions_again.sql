-- Tables by month, what a second look found: a copy knows of what it was begun, a conversion that was broken off refuses nobody's rows, rows that came from a
-- table of copies and were changed since stay, and names of what stands aside are not given a second time.

-- What the table was when the copy was begun. Null in copies of before: they are begun anew.
-- lint: allow lock-without-timeout because nobody but a conversion reads or writes it
alter table partitions.copies add column shape text;

comment on column partitions.filled.pair is 'The columns of its key, and the instant that it was given: one that was changed since stays.';

-- What rows are copied into has to be like the table: columns, checks, keys and indexes, in one digest. Parameters: the table's id. Locks nothing. Raises LV101.
create function partitions.shape_of(p_table integer) returns text
language sql stable set search_path = '' as $$
  with relation as (
    select to_regclass(partitions.name_of(p_table)) as oid
  )
  select md5(coalesce(string_agg(s.said, chr(10) order by s.said), ''))
  from (
    select concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attcollation, pg_get_expr(d.adbin, d.adrelid)) as said
    from relation r
    join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    union all
    select concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid))
    from relation r join pg_catalog.pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u') and k.conparentid = 0
    union all
    select pg_get_indexdef(i.indexrelid) from relation r join pg_catalog.pg_index i on i.indrelid = r.oid
  ) s
$$;

-- Takes rows away that came from a table of copies, and say there what they say here. Parameters: the table's id; the copies' table, as it was called, and
-- itself, null where it is gone: then they stay. Returns how many went.
create function partitions.give_rows_back(p_table integer, p_copy text, p_relation regclass) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_parent constant regclass := partitions.name_of(p_table)::regclass;
  v_same text;
  v_noted text;
  v_rows bigint := 0;
begin
  select string_agg(format('c.%1$I is not distinct from t.%1$I', a.attname), ' and ') into v_same
  from pg_catalog.pg_attribute a
  where a.attrelid = v_parent and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    and exists (select from pg_catalog.pg_attribute c where c.attrelid = p_relation and c.attname = a.attname and not c.attisdropped);
  select string_agg(format('to_jsonb(t.%I) = r.pair -> %L and c.%1$I = t.%1$I', k, k), ' and ') into v_noted
  from jsonb_object_keys((
    select r.pair from partitions.reconciled r where r.table_id = p_table and r.copy = p_copy and r.finding = 'taken' limit 1)) k;
  if v_same is not null and v_noted is not null then
    execute format('delete from %s t using partitions.reconciled r, %s c where r.table_id = $1 and r.copy = $2 and r.finding = %L and %s and %s',
      v_parent, p_relation, 'taken', v_noted, v_same) using p_table, p_copy;
    get diagnostics v_rows = row_count;
  end if;
  return v_rows;
end
$$;

-- Drops the check that closes the past of a table whose conversion was broken off: it would refuse what comes when that month has. The conversion decides anew
-- when it is run again. Parameters: the table's id. Returns whether it is gone: false where somebody holds the table. Locks the table against everything.
create function partitions.open_past(p_table integer) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_table constant regclass := to_regclass(partitions.name_of(p_table));
  v_check name;
begin
  for v_check in
    select k.conname from pg_catalog.pg_constraint k where k.conrelid = v_table and k.contype = 'c' and right(k.conname, 12) = '_in_the_past'
  loop
    execute format('alter table %s drop constraint %I', v_table, v_check);
    perform partitions.note(p_table, 'opened', null, 'its conversion was broken off, and its check would have refused rows: liventix partitions apply goes on');
  end loop;
  update partitions.tables t set closes_at = null where t.id = p_table;
  return true;
exception
  when lock_not_available or deadlock_detected then
    return false;
end
$$;

-- A name for a partition that nothing bears yet, nor bore that is set aside or archived: <table>_202601, or with a number behind it. Parameters: the table's
-- id; what follows.
create or replace function partitions.free_name(p_table integer, p_suffix text) returns text
language sql stable set search_path = '' as $$
  select format('%I.%I', t.schema_name, n.name)
  from partitions.tables t
  cross join generate_series(1, 100) nth
  cross join lateral (
    -- So many letters of the table's name as there is room for, which is counted in bytes.
    select left(t.table_name, letters) || s.suffix as name
    from (select '_' || p_suffix || case nth when 1 then '' else '_' || nth end as suffix) s
    cross join generate_series(length(t.table_name), 1, -1) letters
    where octet_length(left(t.table_name, letters) || s.suffix) <= 63
    order by letters desc limit 1
  ) n
  where t.id = p_table and not exists (
    select from unnest(array[t.schema_name, 'partitions_aside', 'partitions_archive']) s (schema_name) where to_regclass(format('%I.%I', s.schema_name, n.name)) is not null)
  order by nth limit 1
$$;

-- Moves rows that lie in no month into months that they belong to, which are made for it: those from the oldest that is kept to the last ahead. Others
-- stay. In the caller's transaction, and only where they are few: the table is locked while they are copied. No trigger fires: the partition is replaced,
-- nothing is deleted. Parameters: the table's id; the instant. Returns for how many months rows were found. Locks the table against everything.
create or replace function partitions.empty_default(p_table integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  c_most constant integer := 5000;
  v_parent constant regclass := partitions.name_of(p_table)::regclass;
  v_default constant regclass := (select m.partition from partitions.months_of(p_table) m where m.is_default);
  v_columns constant text := partitions.columns_of(v_parent);
  v_target constant text := format('partitions.refilled_%s', p_table);
  v_months date[];
  v_month date;
  v_count bigint;
begin
  if v_default is null then
    return 0;
  end if;
  execute format('select count(*) from (select from %s limit %s) r', v_default, c_most + 1) into v_count;
  v_months := partitions.months_in(p_table, v_default, p_now);
  if v_count > c_most then
    raise exception using message = format('more than %s rows of it lie in no month: liventix partitions apply sorts them', c_most), errcode = 'program_limit_exceeded';
  end if;
  if cardinality(v_months) = 0 then
    return 0;
  end if;
  execute format('alter table %s detach partition %s', v_parent, v_default);
  execute format('create table %s (like %s) partition by range (%I)', v_target, v_parent,
    (select t.key_column from partitions.tables t where t.id = p_table));
  foreach v_month in array v_months loop
    perform partitions.make_leaf(p_table, v_target, to_char(v_month, 'YYYYMM'), v_month, (v_month + interval '1 month')::date);
    perform partitions.note(p_table, 'made', to_char(v_month, 'YYYY-MM'), 'for rows that lay in no month');
  end loop;
  execute format('alter table %s rename to %I', v_default, 'emptied_' || v_default::oid);
  perform partitions.make_leaf(p_table, v_target, 'other', null, null);
  execute format('insert into %s (%s) overriding system value select %s from %s', v_target, v_columns, v_columns, v_default);
  perform partitions.take_leaves(p_table, v_parent, v_target::regclass);
  execute format('drop table %s, %s', v_target, v_default);
  return cardinality(v_months);
end
$$;

-- Has the statistics of a table as a whole made again: autovacuum sees to its months alone, and what is grouped or joined is planned by the whole's. Left out where
-- somebody holds the table for a second. Parameters: the table's id. Returns nothing. Keeps nobody waiting who reads or writes.
create function partitions.analyze_table(p_table integer) returns void
language plpgsql set search_path = '' set lock_timeout = '1s' as $$
begin
  execute format('analyze %s', partitions.name_of(p_table));
exception
  when lock_not_available then
    null;
end
$$;

-- Sees to the months of all tables: makes those ahead, gives months to rows that lie in none, takes out what is older than is kept. Each step in a transaction
-- of its own, which gives way to whoever uses the table after 50 ms and is tried again. Two at once do each step once.
-- First the past of a table is opened again whose conversion was broken off, and whose check would refuse rows within two days.
-- Parameters: who runs it, 'pg_cron', 'worker' or 'command': of the first two only who is meant to (partitions.settings); the instant; whether a person has
-- looked at it: more than 45 days after the last time nothing is taken out, as the clock may be wrong.
create or replace procedure partitions.maintain(p_runner text default 'command', p_now timestamptz default now(), p_is_confirmed boolean default false)
language plpgsql as $$
declare
  c_tries constant integer := 40;
  v_table integer;
  v_tables integer[];
  v_may_expire boolean;
  v_step record;
  v_began constant timestamptz := pg_catalog.clock_timestamp();
  v_result text;
  v_has_more boolean;
  v_is_changed boolean;
begin
  if p_runner <> 'command' and p_runner <> (select s.runner from partitions.settings s) then
    return;
  end if;
  v_tables := array(select t.id from partitions.tables t where t.state = 'preparing' and t.closes_at <= (p_now at time zone t.zone) + interval '2 days' order by t.id);
  foreach v_table in array v_tables loop
    for v_try in 1..c_tries loop
      perform pg_catalog.set_config('lock_timeout', '50ms', true);
      v_has_more := not partitions.open_past(v_table);
      commit;
      exit when not v_has_more;
      perform pg_catalog.pg_sleep(0.05 + pg_catalog.random() * 0.25);
    end loop;
  end loop;
  v_tables := array(select t.id from partitions.tables t where t.state <> 'preparing' order by t.id);
  foreach v_table in array v_tables loop
    v_may_expire := (
      select p_is_confirmed or p_now < coalesce(t.maintained_at, t.begun_at) + interval '45 days' from partitions.tables t where t.id = v_table);
    v_is_changed := false;
    <<steps>>
    for nth in 1..1000 loop
      v_result := 'busy';
      for v_try in 1..c_tries loop
        -- The next of what is due, found anew each time: another run may have done it.
        perform pg_catalog.set_config('lock_timeout', '50ms', true);
        if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('liventix.partitions.upkeep'), v_table) then
          commit;
          exit steps;
        end if;
        select * into v_step from partitions.due(v_table, p_now, v_may_expire) d
        where not exists (
          select from partitions.log l join partitions.tables t on t.id = v_table and l.table_name = pg_catalog.format('%s.%s', t.schema_name, t.table_name)
          where l.action = 'left' and l.at >= v_began and l.partition = d.what)
        limit 1;
        if v_step.action is null then
          commit;
          exit steps;
        end if;
        v_result := partitions.try_step(v_table, v_step.action, v_step.month, v_step.partition, p_now);
        commit;
        exit when v_result is distinct from 'busy';
        perform pg_catalog.pg_sleep(0.05 + pg_catalog.random() * 0.25);
      end loop;
      v_is_changed := v_is_changed or v_result is null;
      if v_result = 'busy' then
        perform partitions.note(v_table, 'left', v_step.what, 'it was in use each time');
        commit;
        -- Who holds it holds it for the next step too.
        exit steps;
      end if;
    end loop;
    if v_is_changed then
      perform partitions.analyze_table(v_table);
      commit;
    end if;
    loop
      v_has_more := partitions.forget_keys(v_table, 10000) > 0;
      commit;
      exit when not v_has_more;
    end loop;
    if v_may_expire then
      update partitions.tables set maintained_at = p_now where id = v_table;
    else
      perform partitions.note(v_table, 'held back', null,
        'more than 45 days since the last time: no month is taken out until somebody runs liventix partitions maintain --confirm');
    end if;
    commit;
  end loop;
end
$$;

revoke all on all functions in schema partitions from public;
