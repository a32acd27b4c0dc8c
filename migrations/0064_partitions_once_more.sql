-- Tables by month, read once more: a key beside the table is one whoever writes at the same time, rows are hashed as a whole whatever their columns are called, what
-- was taken once is not taken again, and the upkeep waits for nobody.

-- ------------------------------------------------------------------------------------------------------ tables that are lost

-- The table that bears the name, from when it is partitioned until it is a plain one again. By its oid it stays known when somebody renames it and gives its name to
-- another; pg_dump writes it by name, so that it is the same in what is restored. Null of those that were lost before.
-- lint: allow lock-without-timeout because nobody but a conversion and the upkeep read or write it
alter table partitions.tables add column relation regclass;
-- lint: allow rows-changed-under-lock because it has a row for each table that is kept by month
update partitions.tables t set relation = c.oid
from pg_catalog.pg_class c
where t.state <> 'preparing' and c.oid = to_regclass(partitions.name_of(t.id)) and c.relkind = 'p';

-- Whether nothing bears a table's name any more, or what does is another: somebody dropped or renamed it, and may have made one of its name. One that is being
-- prepared has no relation yet, and is whatever bears its name. Parameters: the table's id. Locks nothing.
create function partitions.is_lost(p_table integer) returns boolean
language sql stable set search_path = '' as $$
  select not exists (
    select from partitions.tables t join pg_catalog.pg_class c on c.oid = to_regclass(partitions.name_of(t.id))
    where t.id = p_table and (t.state = 'preparing' or c.oid = t.relation))
$$;

-- The partitions of a table with their bounds as the days, in the table's zone, on which they begin and end; none of one that is lost, be it that another of its
-- name has some. Parameters: the table's id.
-- Returns null for what has no bound; both null for the default partition too. Locks nothing but what naming them takes.
create or replace function partitions.months_of(p_table integer)
returns table (partition regclass, first_day date, end_day date, is_default boolean)
language plpgsql stable set search_path = '' set timezone = 'UTC' set datestyle = 'ISO' as $$
begin
  return query
    select p.oid::regclass, day.first, day.last, p.bound = 'DEFAULT'
    from partitions.tables t
    join pg_catalog.pg_inherits h on h.inhparent = t.relation and not partitions.is_lost(t.id)
    join lateral (
      select c.oid, pg_get_expr(c.relpartbound, c.oid) as bound from pg_catalog.pg_class c where c.oid = h.inhrelid
    ) p on true
    join pg_catalog.pg_attribute a on a.attrelid = h.inhparent and a.attname = t.key_column
    cross join lateral (
      select (regexp_match(p.bound, $re$FROM \('([^']+)'\)$re$))[1] as lower, (regexp_match(p.bound, $re$TO \('([^']+)'\)$re$))[1] as upper
    ) b
    cross join lateral (
      select case when a.atttypid = 'timestamptz'::regtype then (b.lower::timestamptz at time zone t.zone)::date else b.lower::timestamp::date end as first,
        case when a.atttypid = 'timestamptz'::regtype then (b.upper::timestamptz at time zone t.zone)::date else b.upper::timestamp::date end as last
    ) day
    where t.id = p_table
    order by day.first nulls first;
end
$$;

-- ------------------------------------------------------------------------------------------------------ side tables of keys

-- Trigger of a table that is kept by month, for each row: keeps a unique key that cannot hold the instant in a table of its own, where it is one
-- over all months and where foreign keys find it. Rows of which a column of the key is null have none. A row that moves to another month goes here
-- and comes there: its key stays, so that nothing that refers to it follows it away. Arguments: the side table, quoted; the instant's column; the columns of
-- the key. Raises 23505 where another row has the key; where that is not committed yet, it waits until it is or is not.
create or replace function partitions.keep_key() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_table constant text := coalesce((select h.inhparent from pg_inherits h where h.inhrelid = tg_relid and (select c.relispartition from pg_class c where c.oid = tg_relid)), tg_relid)::regclass;
  v_columns constant text := (select string_agg(format('%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_values constant text := (select string_agg(format('($1).%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_key constant text := (select string_agg(format('($1).%I', c), ', ') from unnest(tg_argv[2:]) c);
  v_key_now constant text := (select string_agg(format('($2).%I', c), ', ') from unnest(tg_argv[2:]) c);
  v_keys constant text := (select string_agg(format('%I', c), ', ') from unnest(tg_argv[2:]) c);
  v_same constant text := (select string_agg(format('k.%1$I = ($1).%1$I', c), ' and ') from unnest(tg_argv[2:]) c);
  v_sets constant text := (select string_agg(format('%1$I = ($2).%1$I', c), ', ') from unnest(tg_argv[1:]) c);
  v_insert constant text := format('insert into %s (%s) values (%s)', tg_argv[0], v_columns, v_values);
  v_written constant text := format('select true from %s k where %s and k.%I = ($1).%3$I', tg_argv[0], v_same, tg_argv[1]);
  v_had boolean := false;
  v_has boolean := false;
  v_is_same boolean;
  v_is_there boolean;
  v_rows bigint;
begin
  if tg_op <> 'INSERT' then
    execute format('select (%s) is not null', v_key) into v_had using old;
  end if;
  if tg_op <> 'DELETE' then
    execute format('select (%s) is not null', v_key) into v_has using new;
  end if;
  case
    when tg_op = 'UPDATE' and v_had and v_has then
      execute format('update %s k set %s where %s', tg_argv[0], v_sets, v_same) using old, new;
      get diagnostics v_rows = row_count;
      -- Not there yet, while the side table is filled: who fills it may be about to write the key down, with the instant that the row had.
      if v_rows = 0 then
        execute format('select (%s) = (%s)', v_key, v_key_now) into v_is_same using old, new;
        execute v_insert || case when v_is_same then format(' on conflict (%s) do update set %I = excluded.%2$I', v_keys, tg_argv[1]) else '' end using new;
      end if;
    when tg_op = 'INSERT' and v_has then
      -- There already, with its instant, where the row comes from another month, or comes back; held, so that nobody forgets it meanwhile.
      execute v_written || ' for key share' into v_is_there using new;
      if v_is_there then
        -- In one snapshot: else a row that comes or goes meanwhile would be counted here and not there.
        execute format('select (select count(*) from %s k where %s) = 1 and exists (%s)', v_table, v_same, v_written) into v_is_there using new;
      end if;
      -- The index knows of keys that are not committed too.
      if v_is_there is not true then
        execute v_insert using new;
      end if;
    when tg_op = 'UPDATE' and v_has then
      execute v_insert using new;
    when v_had then
      -- Gone to another month, it has its key still, of another instant.
      execute format('update %s k set %I = (select k.%2$I from %s k where %s limit 1) where %4$s and exists (select from %3$s k where %4$s)',
        tg_argv[0], tg_argv[1], v_table, v_same) using old;
      get diagnostics v_rows = row_count;
      if v_rows = 0 then
        execute format('delete from %s k where %s', tg_argv[0], v_same) using old;
      end if;
    else
      null;
  end case;
  return null;
end
$$;

-- Trigger of a table that is kept by month, after a TRUNCATE: its keys go too. What another table refers to the server does not truncate: where nothing does refer any
-- more, as that was truncated in the same statement or before, keys are deleted. Argument: the side table, quoted. Raises 0A000 where something does, as a
-- TRUNCATE of the table itself did.
create or replace function partitions.empty_keys() returns trigger
-- A policy that holds for the owner too would hide rows that refer to it.
language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = off as $$
declare
  v_referring record;
  v_refers boolean;
  v_is_referred boolean := false;
begin
  for v_referring in
    select c.conrelid::regclass as name, (select string_agg(format('r.%I is not null', a.attname), ' and ')
      from unnest(c.conkey) k join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k) as has_key
    from pg_constraint c where c.contype = 'f' and c.confrelid = tg_argv[0]::regclass and c.conparentid = 0
  loop
    v_is_referred := true;
    -- Whoever is about to refer to it is waited for: nothing of his goes by a cascade.
    execute format('lock table %s in share mode', v_referring.name);
    execute format('select exists (select from %s r where %s)', v_referring.name, v_referring.has_key) into v_refers;
    if v_refers then
      raise exception using errcode = 'feature_not_supported',
        message = format('Rows of %s refer to %I.%I, which is truncated', v_referring.name, tg_table_schema, tg_table_name),
        hint = format('Truncate %s in the same statement, by its name: TRUNCATE … CASCADE does not find it.', v_referring.name);
    end if;
  end loop;
  execute format(case when v_is_referred then 'delete from %s' else 'truncate %s' end, tg_argv[0]);
  return null;
end
$$;

-- The triggers that keep a table's keys, as far as they are not as they are to be: one on the table and each of its partitions that is enabled always, and on the table
-- alone one that empties the side table with it. Of a table whose own is not, partitions are left out. Parameters: the table's id. Returns the columns of the key, on what
-- the trigger is to be, whether it is the one that empties, what it is called, null where there is none, and all of it in words; nothing of a table that is not partitioned. Locks nothing.
create function partitions.unkept_keys(p_table integer) returns table (columns name[], relation regclass, empties boolean, trigger_name name, fault text)
language sql stable set search_path = '' as $$
  with kept as (
    select k.columns, c.oid::regclass as root,
      -- As its triggers name it.
      convert_to(format('"%s"."%s"', replace(t.schema_name, '"', '""'), replace(k.side_table, '"', '""')), getdatabaseencoding()) || '\x00'::bytea as argument
    from partitions.keys k join partitions.tables t on t.id = k.table_id
    join pg_catalog.pg_class c on c.oid = to_regclass(partitions.name_of(t.id)) and c.relkind = 'p' where t.id = p_table
  ),
  wanted as (
    select k.columns, k.root, k.argument, p.relid::regclass as relation, false as empties, array['A'] as enabled, 'partitions.keep_key()'::regprocedure as function
    from kept k cross join pg_partition_tree(k.root) p
    union all
    select k.columns, k.root, k.argument, k.root, true, array['A', 'O'], 'partitions.empty_keys()'::regprocedure from kept k
  ),
  unkept as (
    select w.columns, w.root, w.relation, w.empties, g.tgname as trigger_name
    from wanted w
    left join pg_catalog.pg_trigger g on g.tgrelid = w.relation and g.tgfoid = w.function and position(w.argument in g.tgargs) = 1
    -- Those of before the TRUNCATE were made so by a former release: what refers to the table has its rows still then.
    where g.oid is null or g.tgenabled <> all (w.enabled::"char"[]) or w.empties and g.tgtype & 2 <> 0
  )
  select u.columns, u.relation, u.empties, u.trigger_name,
    case when u.trigger_name is null then format('%s has no trigger that %s its keys (%s)', u.relation, what.does, array_to_string(u.columns, ', '))
      else format('the trigger %I of %s, which %s its keys (%s), %s', u.trigger_name, u.relation, what.does, array_to_string(u.columns, ', '),
        case when u.empties then 'is not enabled, or fires before the TRUNCATE' else 'is not enabled always' end) end
  from unkept u cross join lateral (select case when u.empties then 'empties' else 'keeps' end as does) what
  where u.relation = u.root or not exists (select from unkept o where o.relation = o.root and o.columns = u.columns and not o.empties)
  order by u.columns, u.empties, u.relation::text
$$;

-- The SQL condition that a row of a table, called r, has a key that the side table lacks, or has with another instant. Parameters: the table's id; the key's columns. Locks
-- nothing.
create function partitions.lacking_sql(p_table integer, p_columns name[]) returns text
language sql stable set search_path = '' as $$
  select format('(%s) is not null and not exists (select from %I.%I s where %s)', (select string_agg(format('r.%I', c), ', ') from unnest(p_columns) c),
    t.schema_name, k.side_table, (select string_agg(format('s.%1$I = r.%1$I', c), ' and ') from unnest(p_columns || t.key_column) c))
  from partitions.tables t join partitions.keys k on k.table_id = t.id and k.columns = p_columns where t.id = p_table
$$;

-- The SQL condition that a key of a side table, called k, is left over: no row has it, and nothing refers to it. Parameters: the table's id; the key's columns. Locks nothing.
create function partitions.left_over_sql(p_table integer, p_columns name[]) returns text
language sql stable set search_path = '' as $$
  select format('not exists (select from %s r where %s) and %s', partitions.name_of(t.id), (select string_agg(format('r.%1$I = k.%1$I', c), ' and ') from unnest(p_columns) c),
    partitions.unreferenced_sql(format('%I.%I', t.schema_name, k.side_table)::regclass, 'k'))
  from partitions.tables t join partitions.keys k on k.table_id = t.id and k.columns = p_columns where t.id = p_table
$$;

-- Takes some keys away that nothing needs. Parameters: the side table; the SQL condition that nothing needs a key, called k; how many at most. Returns how many went. Locks
-- those against who would refer to them or write them again; what somebody else holds it leaves.
create function partitions.take_keys_away(p_side regclass, p_condition text, p_most integer) returns bigint
language plpgsql set search_path = '' set row_security = off as $$
declare
  v_held tid[];
  v_rows bigint;
begin
  execute format('select array(select k.ctid from %s k where %s limit %s for update of k skip locked)', p_side, p_condition, p_most) into v_held;
  -- Asked again, now that nobody begins to need them: whoever did since is seen, and nothing of his goes by a cascade.
  execute format('delete from %s k where k.ctid = any ($1) and %s', p_side, p_condition) using v_held;
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- What shows a table's months, or its tables of keys, to others than the owner by their own names, in words. Parameters: the table's id. Returns each such relation. Locks nothing.
create function partitions.open_to_others(p_table integer) returns table (relation regclass, why text)
language sql stable set search_path = '' as $$
  select c.oid::regclass, w.why
  from (
    select m.partition as relation from partitions.months_of(p_table) m
    union all
    select to_regclass(format('%I.%I', t.schema_name, k.side_table)) from partitions.keys k join partitions.tables t on t.id = k.table_id where t.id = p_table
  ) r
  join pg_catalog.pg_class c on c.oid = r.relation
  cross join lateral (
    select concat_ws(' and ',
      case when not c.relrowsecurity then 'has no row security' end,
      case when exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid) then 'has policies' end,
      'gives rights to ' || (
        select string_agg(distinct restructure.role_in_words(g.grantee), ', ')
        from (
          select e.grantee from aclexplode(c.relacl) e
          union all
          select e.grantee from pg_catalog.pg_attribute a cross join aclexplode(a.attacl) e where a.attrelid = c.oid and a.attacl is not null
        ) g where g.grantee <> c.relowner)) as why
  ) w
  where w.why <> ''
  order by 1
$$;

-- ------------------------------------------------------------------------------------------------------ rows as a whole

-- The SQL that sums up a relation's rows but for those that wait to be drained: how many, and the sum of the hashes of what they say. Parameters: the
-- table's id; the relation. Locks nothing.
create or replace function partitions.sum_sql(p_table integer, p_relation text) returns text
language sql stable set search_path = '' as $$
  -- `t.*` is the row; `t` alone is a column, where one is called so.
  select format(
    'select count(*) as rows, coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0)::text as hash from %1$s t where not exists (
       select from partitions.captured c cross join jsonb_to_record(c.pair) r (%2$s) where c.table_id = %3$s and (%4$s) = (%5$s))',
    p_relation, partitions.pair_types(p_table), p_table, partitions.pair_list(p_table, 't'), partitions.pair_list(p_table, 'r'))
$$;

-- Takes rows away that came from a table of copies, where they say what they said when they were taken, are there still, and nothing refers to them.
-- Parameters: the table's id; the copies' table, as it was called, and itself, null where it is gone: then they stay. Returns how many went.
create or replace function partitions.give_rows_back(p_table integer, p_copy text, p_relation regclass) returns bigint
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
       where r.table_id = $1 and r.copy = $2 and r.finding = %L and %s and hashtextextended((t.*)::text, 0) = r.hash and exists (select from %s c where %s) and %s',
      v_parent, 'taken', v_noted, p_relation, v_there, partitions.unreferenced_sql(v_parent, 't')) using p_table, p_copy;
    get diagnostics v_rows = row_count;
  end if;
  if v_rows < v_taken then
    perform partitions.note(p_table, 'kept', null, format('%s rows that came from %s: changed since, gone by themselves, or referred to', v_taken - v_rows, p_copy));
  end if;
  return v_rows;
end
$$;

-- ------------------------------------------------------------------------------------------------------ copies of rows

-- The month before which a table keeps none, counted from where the newest row lies where that is earlier than the clock: a clock that is ahead drops nothing.
-- Parameters: the table's id; the instant. Returns null where all are kept, and where no month has a row: nobody knows what is old then. Locks nothing but what
-- reading takes.
create function partitions.oldest_kept(p_table integer, p_now timestamptz) returns date
language plpgsql set search_path = '' as $$
declare
  v_keep integer := (select t.keep_months from partitions.tables t where t.id = p_table);
  v_newest date;
  v_partition record;
  v_has boolean;
begin
  if v_keep is null then
    return null;
  end if;
  for v_partition in select m.partition, m.first_day from partitions.months_of(p_table) m where m.first_day is not null order by m.first_day desc loop
    execute format('select exists (select from %s)', v_partition.partition) into v_has;
    if v_has then
      v_newest := v_partition.first_day;
      exit;
    end if;
  end loop;
  -- Null where there is no newest, which `least` would leave out.
  return case when v_newest is not null then least(v_newest, partitions.month_at(p_table, p_now)) - make_interval(months => v_keep) end;
end
$$;

-- The partitions that are older than a table keeps, and may go. Parameters: the table's id; the instant. Locks nothing but what reading takes.
create or replace function partitions.expired_months(p_table integer, p_now timestamptz) returns setof regclass
language plpgsql set search_path = '' as $$
declare
  v_oldest constant date := partitions.oldest_kept(p_table, p_now);
begin
  return query
    select m.partition from partitions.months_of(p_table) m
    where m.end_day <= v_oldest and partitions.may_go(p_table, m.partition)
    order by m.end_day;
end
$$;

-- It says more of what it found.
drop function partitions.reconcile_blocks(integer, text, regclass, name[], bigint, bigint, boolean);

-- Compares some blocks of a table of copies with the table, row by row of one key, and takes rows that are only there, if told so: but for those that the table had when
-- it was compared before, which somebody deleted or the upkeep took out since, and those that are older than is kept. What differs is written
-- down, and of what is taken, what it said; the table's row stays. Parameters: the table's id; the copies' table, as it is called, and one of its partitions, or itself; the
-- columns of the key; the blocks; whether to take; the instant. Returns how many were alike, taken or left, gone since, too old, and different. Done again, it finds those
-- alike that it took.
create function partitions.reconcile_blocks(
  p_table integer, p_copy text, p_leaf regclass, p_key name[], p_from bigint, p_until bigint, p_take boolean, p_now timestamptz
) returns table (alike bigint, missing bigint, gone bigint, older bigint, different bigint)
language plpgsql set search_path = '' as $$
declare
  v_parent constant regclass := partitions.name_of(p_table)::regclass;
  v_kept constant partitions.tables := (select t from partitions.tables t where t.id = p_table);
  v_oldest constant date := partitions.oldest_kept(p_table, p_now);
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
  v_is_older constant text := case when v_oldest is not null and v_kept.key_column = any (v_names)
    then format('c.%I < %s', v_kept.key_column, partitions.month_bound(v_oldest, v_kept.zone, partitions.key_type(p_table))) else 'false' end;
begin
  return query execute format(
    'with compared as materialized (
       select c.*, jsonb_build_object(%1$s) as liventix_pair, case
           when t.tableoid is not null and (%2$s) is not distinct from (%3$s) then %10$L
           when t.tableoid is not null then %11$L
           when exists (
             select from partitions.reconciled n where n.table_id = $2 and n.copy = $3 and n.pair = jsonb_build_object(%1$s) and n.finding <> %12$L) then %13$L
           when %14$s then %15$L
           else %16$L end as liventix_found
       from (select * from only %4$s where ctid >= %5$L::tid and ctid < %6$L::tid) c left join %7$s t on %8$s
     ),
     taken as (
       insert into %7$s as t (%9$s) select %2$s from compared c where c.liventix_found = %16$L and $1
       returning jsonb_build_object(%17$s) as pair, hashtextextended((t.*)::text, 0) as hash
     ),
     noted as (
       insert into partitions.reconciled as n (table_id, copy, pair, finding, hash)
       -- Nobody says that a table of copies has a row once.
       select distinct on (c.liventix_pair) $2, $3, c.liventix_pair,
         case when c.liventix_found = %11$L then %11$L when c.liventix_found = %16$L and $1 then %18$L else %12$L end, k.hash
       from compared c left join taken k on k.pair = c.liventix_pair
       where c.liventix_found in (%11$L, %15$L, %16$L)
       on conflict (table_id, copy, pair) do update set finding = excluded.finding, hash = excluded.hash where n.finding = %12$L and excluded.finding <> %12$L
     )
     select count(*) filter (where liventix_found = %10$L), count(*) filter (where liventix_found = %16$L), count(*) filter (where liventix_found = %13$L),
       count(*) filter (where liventix_found = %15$L), count(*) filter (where liventix_found = %11$L)
     from compared',
    v_pair, v_of_copy, v_of_table, p_leaf, format('(%s,0)', p_from), format('(%s,0)', p_until), v_parent, v_same, v_columns,
    'alike', 'differs', 'left', 'gone', v_is_older, 'older', 'missing', v_of_taken, 'taken')
    using p_take, p_table, p_copy;
end
$$;

-- ------------------------------------------------------------------------------------------------------ upkeep

-- The SQL condition that a key of a side table, called k, is of a row that went with its month, and is needed by nothing: nothing refers to it, and no row has it that
-- lies in no month. Parameters: the table's id; the key's columns. Returns null where no partition has a beginning. Locks nothing.
create function partitions.is_old_sql(p_table integer, p_columns name[]) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_kept constant partitions.tables := (select t from partitions.tables t where t.id = p_table);
  v_side constant regclass := (
    select format('%I.%I', v_kept.schema_name, k.side_table) from partitions.keys k where k.table_id = p_table and k.columns = p_columns);
  v_oldest constant date := (
    select m.first_day from partitions.months_of(p_table) m where not m.is_default order by m.first_day nulls first limit 1);
  v_default constant regclass := (select m.partition from partitions.months_of(p_table) m where m.is_default);
begin
  if v_oldest is null then
    return null;
  end if;
  return format('k.%I < %s and %s', v_kept.key_column, partitions.month_bound(v_oldest, v_kept.zone, partitions.key_type(p_table)), partitions.unreferenced_sql(v_side, 'k'))
    || case when v_default is null then '' else format(' and not exists (select from %s r where %s)', v_default,
      (select string_agg(format('r.%1$I = k.%1$I', c), ' and ') from unnest(p_columns || v_kept.key_column) c)) end;
end
$$;

-- Whether a table has keys to be forgotten. Parameters: the table's id. Locks nothing but what reading takes.
create function partitions.has_old_keys(p_table integer) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_key record;
  v_has boolean;
begin
  for v_key in
    select format('%I.%I', t.schema_name, k.side_table) as side, partitions.is_old_sql(t.id, k.columns) as is_old
    from partitions.keys k join partitions.tables t on t.id = k.table_id where t.id = p_table
  loop
    execute format('select exists (select from %s k where %s)', v_key.side, coalesce(v_key.is_old, 'false')) into v_has;
    if v_has then
      return true;
    end if;
  end loop;
  return false;
end
$$;

-- Forgets some keys of rows that went with their month, but for those that something refers to, or is about to. Parameters: the table's id; how many at most.
-- Returns how many went. Locks those against who would refer to them; what somebody else holds it leaves.
create or replace function partitions.forget_keys(p_table integer, p_most integer) returns bigint
language plpgsql set search_path = '' set row_security = off as $$
declare
  v_key record;
  v_gone bigint := 0;
begin
  for v_key in
    select format('%I.%I', t.schema_name, k.side_table)::regclass as side, partitions.is_old_sql(t.id, k.columns) as is_old
    from partitions.keys k join partitions.tables t on t.id = k.table_id where t.id = p_table
  loop
    continue when v_key.is_old is null;
    v_gone := v_gone + partitions.take_keys_away(v_key.side, v_key.is_old, p_most);
  end loop;
  return v_gone;
end
$$;

-- Whether a step was left since an instant. Parameters: the table's id; what, as partitions.due says it; since when. Locks nothing.
create function partitions.was_left(p_table integer, p_what text, p_began timestamptz) returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select from partitions.log l join partitions.tables t on t.id = p_table and l.table_name = format('%s.%s', t.schema_name, t.table_name)
    where l.action = 'left' and l.at >= p_began and l.partition = p_what)
$$;

-- What the upkeep of a table has to do, in order: nothing where it is lost. Parameters: the table's id; the instant; whether months may go. Locks nothing but what reading takes.
create or replace function partitions.due(p_table integer, p_now timestamptz, p_may_expire boolean)
returns table (action text, month date, partition regclass, what text)
language sql set search_path = '' as $$
  with kept as (
    select t.state, t.analyzed, exists (select from partitions.copies c where c.table_id = t.id) as is_copying,
      -- What lies in no month is being sorted: what months it gets is decided.
      t.state = 'partitioned' and exists (select from partitions.copies c where c.table_id = t.id and c.way = 'apply') as is_sorting
    from partitions.tables t where t.id = p_table and not partitions.is_lost(t.id)
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
-- instant; whether months may go; since when. Returns null, all of it, where nothing is left to do, and the action 'busy' where somebody holds what has to be
-- read, 'fault' where it cannot be found out. Locks nothing but what reading takes.
create or replace function partitions.next_due(
  p_table integer, p_now timestamptz, p_may_expire boolean, p_began timestamptz,
  out action text, out month date, out partition regclass, out what text
) language plpgsql set search_path = '' as $$
begin
  select d.action, d.month, d.partition, d.what into action, month, partition, what
  from partitions.due(p_table, p_now, p_may_expire) d
  where not partitions.was_left(p_table, d.what, p_began)
  limit 1;
  -- Last, and asked for when all else is done: it reads the keys of before the months.
  if action is null and not partitions.was_left(p_table, 'forget', p_began) and partitions.has_old_keys(p_table) then
    action := 'forget';
    what := 'forget';
  end if;
exception
  when lock_not_available or deadlock_detected then
    action := 'busy';
  when others then
    perform partitions.note(p_table, 'left', null, format('%s (%s)', sqlerrm, sqlstate));
    action := 'fault';
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
    when 'forget' then
      if partitions.forget_keys(p_table, 10000) = 0 then
        perform partitions.note(p_table, 'left', p_action, 'keys of rows that went with their month are held by somebody');
        return 'failed';
      end if;
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

-- Writes down that the months of a table were seen to, or what is held back. Parameters: the table's id; the instant; whether months could go. Returns nothing. Where
-- it cannot, it notes why.
create function partitions.end_upkeep(p_table integer, p_now timestamptz, p_may_expire boolean) returns void
language plpgsql set search_path = '' as $$
begin
  if p_may_expire then
    update partitions.tables t set maintained_at = p_now where t.id = p_table;
  -- Where nothing is old there is nothing to be asked about; the clock is doubted still.
  elsif exists (select from partitions.expired_months(p_table, p_now)) then
    perform partitions.note(p_table, 'held back', null,
      'more than 45 days since the last time: no month is taken out until somebody runs liventix partitions maintain --confirm');
  end if;
exception
  when others then
    perform partitions.note(p_table, 'left', null, format('%s (%s)', sqlerrm, sqlstate));
end
$$;

-- Sees to the months of all tables: makes those ahead, gives months to rows that lie in none, takes out what is older than is kept, and forgets the keys of what went. Each
-- step in a transaction of its own, which gives way to whoever uses the table after 50 ms and is tried again. Two at once do each step once.
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
  v_is_broken boolean;
begin
  if p_runner <> 'command' and p_runner <> (select s.runner from partitions.settings s) then
    return;
  end if;
  v_tables := array(select t.id from partitions.tables t where not partitions.is_lost(t.id) order by t.id);
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
        if v_step.action <> 'busy' then
          v_result := partitions.try_step(v_table, v_step.action, v_step.month, v_step.partition, p_now);
        end if;
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
    -- Longer than a step: nobody waits behind it meanwhile.
    perform pg_catalog.set_config('lock_timeout', '1s', true);
    perform partitions.end_upkeep(v_table, p_now, v_may_expire);
    commit;
  end loop;
end
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
  execute format('create table %s (like %s including generated) partition by range (%I)', v_target, v_parent,
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

-- Has the statistics of a table as a whole made again: autovacuum sees to its months alone, and what is grouped or joined is planned by the whole's.
-- In a function the server makes all of them in one transaction, which from the first that it writes on holds the horizon for the others: the months are left out
-- where the server can (18). A conversion says `analyze` by itself. Parameters: the table's id. Returns nothing. Keeps nobody waiting who reads or writes.
create or replace function partitions.analyze_table(p_table integer) returns void
language plpgsql set search_path = '' as $$
begin
  execute format('analyze %s%s', case when current_setting('server_version_num')::integer >= 180000 then 'only ' else '' end, partitions.name_of(p_table));
  update partitions.tables t set analyzed = partitions.partitions_digest(p_table) where t.id = p_table;
end
$$;

revoke all on all functions in schema partitions from public;
