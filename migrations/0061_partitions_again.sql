-- Tables by month, what a second look found: a copy knows of what it was begun, a conversion that was broken off refuses nobody's rows, rows that came from a
-- table of copies and were changed since stay, names of what stands aside are not given a second time, and a default partition that was dropped is made again.

-- What the table and the source were when the copy was begun. Null in copies of before: they are begun anew.
-- lint: allow lock-without-timeout because nobody but a conversion reads or writes it
alter table partitions.copies add column shape text;
-- What the row said when it was taken. Null of rows that were taken before: they stay.
-- lint: allow more-than-one-hot-table-a-transaction because nobody but a conversion and the upkeep read or write them
alter table partitions.reconciled add column hash bigint;
-- Which partitions the table had when it was analyzed as a whole.
alter table partitions.tables add column analyzed text;

comment on column partitions.filled.pair is 'The columns of its key, and the instant that it was given: one that was changed since stays.';

-- ------------------------------------------------------------------------------------------------------ copying

-- What rows are copied into has to be like the table, and what they are copied from the same file as before, in one digest: columns with their numbers, checks,
-- keys, indexes, and the source's file, which a rewrite changes. Parameters: the table's id; the source. Locks nothing. Raises LV101.
create function partitions.shape_of(p_table integer, p_source regclass) returns text
language sql stable set search_path = '' as $$
  with relation as (
    select to_regclass(partitions.name_of(p_table)) as oid
  )
  select md5(coalesce(string_agg(s.said, chr(10) order by s.said), ''))
  from (
    select concat_ws(' ', 'column', a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attcollation, pg_get_expr(d.adbin, d.adrelid)) as said
    from relation r
    join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    union all
    select concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid))
    from relation r join pg_catalog.pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u') and k.conparentid = 0
    union all
    select pg_get_indexdef(i.indexrelid) from relation r join pg_catalog.pg_index i on i.indrelid = r.oid
    union all
    select concat_ws(' ', 'source', c.oid, c.relfilenode) from pg_catalog.pg_class c where c.oid = p_source
  ) s
$$;

-- The relations whose changes are captured for a table, whatever they are called by now. Parameters: the table's id. Locks nothing.
create function partitions.captured_relations(p_table integer) returns setof regclass
language sql stable set search_path = '' as $$
  select t.tgrelid::regclass
  from pg_catalog.pg_trigger t
  where t.tgfoid = 'partitions.capture_change()'::regprocedure and t.tgparentid = 0 and split_part(encode(t.tgargs, 'escape'), '\000', 1) = p_table::text
$$;

-- Lets a relation into a schema of ours: its indexes and types go along, and what has a name that is taken there gets its number for one.
-- Parameters: the relation; the schema. Returns nothing. Locks the relation against everything where it is renamed.
-- lint: allow rename-without-view because it is out of the table, by whose name its rows were asked for
create function partitions.make_room(p_relation regclass, p_schema name) returns void
language plpgsql set search_path = '' as $$
declare
  v_index record;
begin
  for v_index in
    select i.indexrelid::regclass as name, i.indexrelid::oid as number
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    where i.indrelid = p_relation and exists (
      select from pg_catalog.pg_class x where x.relnamespace = p_schema::regnamespace and x.relname = c.relname)
  loop
    execute format('alter index %s rename to %I', v_index.name, 'index_' || v_index.number);
  end loop;
  -- Renamed, it gets another name for its array type too.
  if exists (
    select from pg_catalog.pg_type mine join pg_catalog.pg_type taken on taken.typname = mine.typname and taken.typnamespace = p_schema::regnamespace
    where mine.oid in (select unnest(array[t.oid, t.typarray]) from pg_catalog.pg_type t where t.typrelid = p_relation)
  ) then
    execute format('alter table %s rename to %I', p_relation, 'relation_' || p_relation::oid);
  end if;
end
$$;

-- Puts a relation that is out of the table where nobody looks for it. Parameters: the relation. Returns its name by then, qualified and quoted. Locks it against
-- everything.
-- lint: allow set-schema-without-view because it is out of the table, by whose name its rows were asked for
create function partitions.put_aside(p_relation regclass) returns text
language plpgsql set search_path = '' as $$
begin
  perform partitions.make_room(p_relation, 'partitions_aside');
  execute format('alter table %s set schema partitions_aside', p_relation);
  return (select format('partitions_aside.%I', c.relname) from pg_catalog.pg_class c where c.oid = p_relation);
end
$$;

-- Compares some blocks of a table of copies with the table, row by row of one key, and takes rows that are only there, if told so. What differs is written
-- down, and of what is taken, what it said; the table's row stays. Parameters: the table's id; the copies' table, as it is called, and one of its partitions, or itself; the columns of the key;
-- the blocks; whether to take. Returns how many were alike, taken or left, and different. Done again, it finds those alike that it took.
create or replace function partitions.reconcile_blocks(
  p_table integer, p_copy text, p_leaf regclass, p_key name[], p_from bigint, p_until bigint, p_take boolean
) returns table (alike bigint, missing bigint, different bigint)
language plpgsql set search_path = '' as $$
declare
  v_parent constant regclass := partitions.name_of(p_table)::regclass;
  v_names constant name[] := array(
    select a.attname from pg_catalog.pg_attribute a
    where a.attrelid = v_parent and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      and exists (select from pg_catalog.pg_attribute c where c.attrelid = p_leaf and c.attname = a.attname and not c.attisdropped)
    order by a.attnum);
  v_columns constant text := (select string_agg(quote_ident(n), ', ') from unnest(v_names) n);
  v_of_copy constant text := (select string_agg('c.' || quote_ident(n), ', ') from unnest(v_names) n);
  v_of_table constant text := (select string_agg('t.' || quote_ident(n), ', ') from unnest(v_names) n);
  v_same constant text := (select string_agg(format('t.%1$I = c.%1$I', k), ' and ') from unnest(p_key) k);
  v_pair constant text := (select string_agg(format('%L, c.%I', k, k), ', ') from unnest(p_key) k);
  v_of_taken constant text := (select string_agg(format('%L, t.%I', k, k), ', ') from unnest(p_key) k);
begin
  return query execute format(
    'with compared as materialized (
       select c.*, jsonb_build_object(%1$s) as liventix_pair, t.tableoid is not null as liventix_has, (%2$s) is not distinct from (%3$s) as liventix_same
       from (select * from only %4$s where ctid >= %5$L::tid and ctid < %6$L::tid) c left join %7$s t on %8$s
     ),
     taken as (
       insert into %7$s as t (%9$s) select %2$s from compared c where not c.liventix_has and $1
       returning jsonb_build_object(%13$s) as pair, hashtextextended(t::text, 0) as hash
     ),
     noted as (
       insert into partitions.reconciled (table_id, copy, pair, finding, hash)
       select $2, $3, c.liventix_pair, case when c.liventix_has then %10$L when $1 then %11$L else %12$L end, k.hash
       from compared c left join taken k on k.pair = c.liventix_pair
       where not (c.liventix_has and c.liventix_same) on conflict (table_id, copy, pair) do nothing
     )
     select count(*) filter (where liventix_has and liventix_same), count(*) filter (where not liventix_has), count(*) filter (where liventix_has and not liventix_same)
     from compared',
    v_pair, v_of_copy, v_of_table, p_leaf, format('(%s,0)', p_from), format('(%s,0)', p_until), v_parent, v_same, v_columns, 'differs', 'taken', 'left', v_of_taken)
    using p_take, p_table, p_copy;
end
$$;

-- The SQL condition that nothing refers to a row, as foreign keys have it. Parameters: the relation; what the row is called. Locks nothing.
create function partitions.unreferenced_sql(p_relation regclass, p_row text) returns text
language sql stable set search_path = '' as $$
  select coalesce(string_agg(format('not exists (select from %s r where %s)', c.conrelid::regclass, (
    select string_agg(format('r.%I = %s.%I', a.attname, p_row, b.attname), ' and ')
    from unnest(c.conkey, c.confkey) u (mine, its)
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = u.mine join pg_catalog.pg_attribute b on b.attrelid = c.confrelid and b.attnum = u.its
  )), ' and '), 'true')
  from pg_catalog.pg_constraint c where c.confrelid = p_relation and c.contype = 'f' and c.conparentid = 0
$$;

-- Takes rows away that came from a table of copies, where they say what they said when they were taken, are there still, and nothing refers to them.
-- Parameters: the table's id; the copies' table, as it was called, and itself, null where it is gone: then they stay. Returns how many went.
create function partitions.give_rows_back(p_table integer, p_copy text, p_relation regclass) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_parent constant regclass := partitions.name_of(p_table)::regclass;
  v_key constant name[] := array(
    select k from jsonb_object_keys((
      select r.pair from partitions.reconciled r where r.table_id = p_table and r.copy = p_copy and r.finding = 'taken' limit 1)) k);
  v_noted constant text := (select string_agg(format('to_jsonb(t.%I) = r.pair -> %L', k, k), ' and ') from unnest(v_key) k);
  v_there constant text := (select string_agg(format('c.%1$I = t.%1$I', k), ' and ') from unnest(v_key) k);
  v_taken bigint := (select count(*) from partitions.reconciled r where r.table_id = p_table and r.copy = p_copy and r.finding = 'taken');
  v_rows bigint := 0;
begin
  if p_relation is not null and v_taken > 0 then
    execute format(
      'delete from %s t using partitions.reconciled r
       where r.table_id = $1 and r.copy = $2 and r.finding = %L and %s and hashtextextended(t::text, 0) = r.hash and exists (select from %s c where %s) and %s',
      v_parent, 'taken', v_noted, p_relation, v_there, partitions.unreferenced_sql(v_parent, 't')) using p_table, p_copy;
    get diagnostics v_rows = row_count;
  end if;
  if v_rows < v_taken then
    perform partitions.note(p_table, 'kept', null, format('%s rows that came from %s: changed since, gone by themselves, or referred to', v_taken - v_rows, p_copy));
  end if;
  return v_rows;
end
$$;

-- ------------------------------------------------------------------------------------------------------ upkeep

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

-- The name of a check that a conversion adds for as long as it prepares. Parameters: the table's id; what it ends in.
create function partitions.own_check(p_table integer, p_suffix text) returns name
language sql stable set search_path = '' as $$
  select (left(t.table_name, letters) || p_suffix)::name
  from partitions.tables t cross join generate_series(length(t.table_name), 1, -1) letters
  where t.id = p_table and octet_length(left(t.table_name, letters) || p_suffix) <= 63
  order by letters desc limit 1
$$;

-- The checks of a conversion that was broken off, and that would refuse rows before somebody goes on with it: that there is an instant; that it is of the past, from
-- two days before that ends. None while somebody is at it. Parameters: the table's id; the instant. Locks nothing.
create function partitions.refusing_checks(p_table integer, p_now timestamptz) returns setof name
language sql stable set search_path = '' as $$
  select k.conname
  from partitions.tables t
  join pg_catalog.pg_constraint k on k.conrelid = to_regclass(partitions.name_of(t.id)) and k.contype = 'c'
  where t.id = p_table and t.state = 'preparing'
    and (k.conname = partitions.own_check(t.id, '_key_not_null')
      or k.conname = partitions.own_check(t.id, '_in_the_past') and t.closes_at <= (p_now at time zone t.zone) + interval '2 days')
    -- As src/db/session-lock.ts takes it.
    and not exists (
      select from pg_catalog.pg_locks l
      where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.objid = 0 and l.classid::bigint = hashtext('liventix.partitions')::bigint & 4294967295
        and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
$$;

-- Drops those. The conversion decides anew when it is run again. Parameters: the table's id; the instant. Returns nothing. Locks the table against everything.
create function partitions.open_past(p_table integer, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_check name;
begin
  for v_check in select c from partitions.refusing_checks(p_table, p_now) c loop
    execute format('alter table %s drop constraint %I', partitions.name_of(p_table), v_check);
    perform partitions.note(p_table, 'opened', null, format('%s would have refused rows, and nobody goes on with the conversion: liventix partitions apply', v_check));
    if v_check = partitions.own_check(p_table, '_in_the_past') then
      update partitions.tables t set closes_at = null where t.id = p_table;
    end if;
  end loop;
end
$$;

-- Which partitions a table has, in one digest. Parameters: the table's id. Locks nothing.
create function partitions.partitions_digest(p_table integer) returns text
language sql stable set search_path = '' as $$
  select md5(string_agg(m.partition::oid::text, ' ' order by m.partition::oid)) from partitions.months_of(p_table) m
$$;

-- Has the statistics of a table as a whole made again: autovacuum sees to its months alone, and what is grouped or joined is planned by the whole's.
-- Parameters: the table's id. Returns nothing. Keeps nobody waiting who reads or writes.
create function partitions.analyze_table(p_table integer) returns void
language plpgsql set search_path = '' as $$
begin
  execute format('analyze %s', partitions.name_of(p_table));
  update partitions.tables t set analyzed = partitions.partitions_digest(p_table) where t.id = p_table;
end
$$;

-- Tries one step of the upkeep. Parameters: the table's id; what; the month, or the partition; the instant. Returns null when it is done, 'busy' where a lock
-- was not free in time, which may be tried again, 'failed' for anything else, which is written down.
create or replace function partitions.try_step(p_table integer, p_action text, p_month date, p_partition regclass, p_now timestamptz) returns text
language plpgsql set search_path = '' as $$
begin
  case p_action
    when 'open' then perform partitions.open_past(p_table, p_now);
    when 'make' then
      perform partitions.note(p_table, 'made', (case when p_month is null then partitions.make_default(p_table, partitions.name_of(p_table)::regclass)
        else partitions.make_month(p_table, partitions.name_of(p_table)::regclass, p_month) end)::text);
    when 'analyze' then perform partitions.analyze_table(p_table);
    when 'expire' then
      if (select t.expired from partitions.tables t where t.id = p_table) = 'archive' then
        perform partitions.make_room(p_partition, 'partitions_archive');
      end if;
      perform partitions.expire_month(p_table, p_partition);
    when 'refill' then perform partitions.empty_default(p_table, p_now);
  end case;
  return null;
exception
  when lock_not_available or deadlock_detected then
    return 'busy';
  when others then
    perform partitions.note(p_table, 'left', coalesce(p_partition::text, to_char(p_month, 'YYYY-MM'), p_action), format('%s (%s)', sqlerrm, sqlstate));
    return 'failed';
end
$$;

-- What the upkeep of a table has to do, in order. Parameters: the table's id; the instant; whether months may go. Locks nothing but what reading takes.
create or replace function partitions.due(p_table integer, p_now timestamptz, p_may_expire boolean)
returns table (action text, month date, partition regclass, what text)
language sql set search_path = '' as $$
  with kept as (
    select t.state, t.analyzed, exists (select from partitions.copies c where c.table_id = t.id) as is_copying,
      -- What lies in no month is being sorted: what months it gets is decided.
      t.state = 'partitioned' and exists (select from partitions.copies c where c.table_id = t.id and c.way = 'apply') as is_sorting
    from partitions.tables t where t.id = p_table
  )
  select d.action, d.month, d.partition, coalesce(d.partition::text, to_char(d.month, 'YYYY-MM'), d.action)
  from (
    select 0 as nth, 'open' as action, null::date as month, null::regclass as partition
    from kept k where k.state = 'preparing' and exists (select from partitions.refusing_checks(p_table, p_now))
    union all
    -- Rows that lie in no month first: a month that they would lie in cannot be made beside them. Neither they nor what is old while rows are copied.
    select 1, 'refill', null, m.partition
    from kept k cross join partitions.months_of(p_table) m
    where k.state <> 'preparing' and not k.is_copying and m.is_default and cardinality(partitions.months_in(p_table, m.partition, p_now)) > 0
    union all
    -- Somebody dropped the partition of what lies in no month, and no other takes everything.
    select 2, 'make', null, null
    from kept k where k.state <> 'preparing' and not k.is_sorting
      and not exists (select from partitions.months_of(p_table) m where m.is_default or m.end_day is null)
    union all
    select 3, 'make', m.month, null from kept k cross join partitions.missing_months(p_table, p_now) m (month)
    where k.state <> 'preparing' and not k.is_sorting and not exists (
      select from partitions.months_of(p_table) d where d.is_default and m.month = any (partitions.months_in(p_table, d.partition, p_now)))
    union all
    select 4, 'expire', null, e.partition from kept k cross join partitions.expired_months(p_table, p_now) e (partition)
    where p_may_expire and k.state <> 'preparing' and not k.is_copying
    union all
    select 5, 'analyze', null, null from kept k
    where k.state <> 'preparing' and not k.is_copying and k.analyzed is distinct from partitions.partitions_digest(p_table)
  ) d
  order by d.nth, d.month
$$;

-- The next of what is due, but for what was left since an instant. A fault of one table is noted, and keeps no other from its months. Parameters: the table's id; the
-- instant; whether months may go; since when. Returns null, all of it, where nothing is left to do, and the action 'fault' where that cannot be found out. Locks nothing but what reading takes.
create function partitions.next_due(
  p_table integer, p_now timestamptz, p_may_expire boolean, p_began timestamptz,
  out action text, out month date, out partition regclass, out what text
) language plpgsql set search_path = '' as $$
begin
  select d.action, d.month, d.partition, d.what into action, month, partition, what
  from partitions.due(p_table, p_now, p_may_expire) d
  where not exists (
    select from partitions.log l join partitions.tables t on t.id = p_table and l.table_name = format('%s.%s', t.schema_name, t.table_name)
    where l.action = 'left' and l.at >= p_began and l.partition = d.what)
  limit 1;
exception
  when others then
    perform partitions.note(p_table, 'left', null, format('%s (%s)', sqlerrm, sqlstate));
    action := 'fault';
end
$$;

-- Sees to the months of all tables: makes those ahead, gives months to rows that lie in none, takes out what is older than is kept. Each step in a transaction
-- of its own, which gives way to whoever uses the table after 50 ms and is tried again. Two at once do each step once.
-- Opens the past of a table whose conversion was broken off, makes a default partition that somebody dropped, and analyzes a table whose months are others.
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
  v_is_broken boolean;
begin
  if p_runner <> 'command' and p_runner <> (select s.runner from partitions.settings s) then
    return;
  end if;
  v_tables := array(select t.id from partitions.tables t order by t.id);
  foreach v_table in array v_tables loop
    v_may_expire := (
      select p_is_confirmed or p_now < coalesce(t.maintained_at, t.begun_at) + interval '45 days' from partitions.tables t where t.id = v_table);
    v_is_broken := false;
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
        select * into v_step from partitions.next_due(v_table, p_now, v_may_expire, v_began);
        v_is_broken := coalesce(v_step.action = 'fault', false);
        if v_step.action is null or v_is_broken then
          commit;
          exit steps;
        end if;
        v_result := partitions.try_step(v_table, v_step.action, v_step.month, v_step.partition, p_now);
        commit;
        exit when v_result is distinct from 'busy';
        perform pg_catalog.pg_sleep(0.05 + pg_catalog.random() * 0.25);
      end loop;
      if v_result = 'busy' then
        perform partitions.note(v_table, 'left', v_step.what, 'it was in use each time');
        commit;
        -- Who holds it holds it for the next step too.
        exit steps;
      end if;
    end loop;
    continue when v_is_broken or (select t.state = 'preparing' from partitions.tables t where t.id = v_table);
    loop
      v_has_more := partitions.forget_keys(v_table, 10000) > 0;
      commit;
      exit when not v_has_more;
    end loop;
    if v_may_expire then
      update partitions.tables set maintained_at = p_now where id = v_table;
    -- Where nothing is old there is nothing to be asked about; the clock is doubted still.
    elsif exists (select from partitions.expired_months(v_table, p_now)) then
      perform partitions.note(v_table, 'held back', null,
        'more than 45 days since the last time: no month is taken out until somebody runs liventix partitions maintain --confirm');
    end if;
    commit;
  end loop;
end
$$;

revoke all on all functions in schema partitions from public;
