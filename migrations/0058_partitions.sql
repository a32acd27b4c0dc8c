-- Tables by month: what was converted, the copying beside those who write, and the upkeep of months.
--
-- A table that lives becomes the first partition of one that bears its name; its rows are then copied into months while others go on
-- writing, what they change meanwhile is captured, and in one short transaction the months take its place. Nothing is deleted to move it,
-- so nobody who reads misses a row, and no trigger of the table's fires.

create schema partitions;
-- What another has taken the place of, until it may go. A schema of its own: names of indexes are its, and both have the same.
create schema partitions_aside;
-- Months that are older than is kept, where a table says that they are not dropped.
create schema partitions_archive;

-- The tables that are kept by month, by name: a conversion changes the oid behind it.
create table partitions.tables (
  id integer generated always as identity constraint tables_pkey primary key,
  schema_name name not null,
  table_name name not null,
  -- The instant by which its rows lie in months.
  key_column name not null,
  -- Whose months: they begin at midnight there.
  zone text not null,
  -- Null: for ever.
  keep_months integer constraint tables_keep_months_positive check (keep_months > 0),
  expired text not null constraint tables_expired_known check (expired in ('drop', 'archive')),
  months_ahead integer not null constraint tables_months_ahead_sane check (months_ahead between 1 and 24),
  -- What tells a row from every other, the instant among it.
  pair_columns name[] not null,
  -- Storage options of its partitions: a partitioned table has none itself.
  storage text[] not null default '{}',
  --  preparing ─▶ attached ─▶ partitioned ─▶ (its row goes, with the way back)
  --                  └──── copying is under way where partitions.copies has a row
  state text not null default 'preparing' constraint tables_state_known check (state in ('preparing', 'attached', 'partitioned')),
  -- The month before which the past ends; null where rows lie beyond it.
  closes_at date,
  -- What was the table, now the partition of everything before the months; null when it has none.
  past name,
  -- What the table was, as far as the way back has to make it again.
  original jsonb not null default '{}',
  -- Materialized views that read what was the table, until others have taken their place.
  followers jsonb not null default '[]',
  begun_at timestamptz not null default clock_timestamp(),
  -- When its months were last seen to, by the clock of that time.
  maintained_at timestamptz,
  constraint tables_name_key unique (schema_name, table_name)
);

comment on table partitions.tables is 'The tables that liventix partitions keeps by month. Nobody but the owner reads or writes it.';

-- Unique keys that cannot hold the instant: each in a table of its own, kept by a trigger.
create table partitions.keys (
  table_id integer not null constraint keys_table_id_fkey references partitions.tables,
  columns name[] not null,
  -- The table that holds them, in the schema of the table itself.
  side_table name not null,
  constraint keys_pkey primary key (table_id, columns)
);

-- Copies under way: from which relation, by blocks, into which, and whose changes are captured meanwhile.
create table partitions.copies (
  table_id integer not null constraint copies_table_id_fkey references partitions.tables,
  -- There, or back.
  way text not null constraint copies_way_known check (way in ('apply', 'rollback')),
  captured text not null,
  source text not null,
  target text not null,
  next_block bigint not null default 0,
  -- As many as it had when capturing began: what comes into later ones is captured.
  blocks bigint not null,
  rows_copied bigint not null default 0,
  begun_at timestamptz not null default clock_timestamp(),
  constraint copies_pkey primary key (table_id, source)
);

-- Rows that were changed while they were copied, by what tells them apart. No content: the copy is made to be what the source is.
create table partitions.captured (
  seq bigint generated always as identity constraint captured_pkey primary key,
  table_id integer not null,
  pair jsonb not null
);

-- Rows that had no instant and were given one, so that the way back can take it away again.
create table partitions.filled (
  table_id integer not null,
  pair jsonb not null
);

-- Rows of tables that hold copies of a table's rows, begun and never finished: those that were only there, and were taken, and those that say something else.
create table partitions.reconciled (
  table_id integer not null,
  copy text not null,
  pair jsonb not null,
  finding text not null constraint reconciled_finding_known check (finding in ('taken', 'left', 'differs')),
  constraint reconciled_pkey primary key (table_id, copy, pair)
);

-- What another table has taken the place of: it is kept until somebody says that it may go.
create table partitions.set_aside (
  relation text not null constraint set_aside_pkey primary key,
  table_name text not null,
  at timestamptz not null default clock_timestamp()
);

-- What was done to months, and what was left undone.
create table partitions.log (
  id bigint generated always as identity constraint log_pkey primary key,
  at timestamptz not null default clock_timestamp(),
  table_name text not null,
  action text not null,
  partition text,
  detail text
);

-- Who sees to the months: pg_cron or the worker, never both.
create table partitions.settings (
  is_only boolean not null default true constraint settings_pkey primary key constraint settings_is_only check (is_only),
  runner text not null default 'worker' constraint settings_runner_known check (runner in ('worker', 'pg_cron'))
);
insert into partitions.settings default values;

-- Refuses. Parameters: a code of src/errors.ts, its message. Returns nothing. Locks nothing.
create function partitions.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'PARTITIONS_TRUNCATE_REFUSED' then 'LV100'
      when 'PARTITIONS_TABLE_UNKNOWN' then 'LV101'
    end;
end
$$;

-- The qualified name of a table that is kept by month. Parameters: its id. Returns it quoted. Raises LV101 where there is none. Locks nothing.
create function partitions.name_of(p_table integer) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_name text;
begin
  select format('%I.%I', t.schema_name, t.table_name) into v_name from partitions.tables t where t.id = p_table;
  if v_name is null then
    perform partitions.refuse('PARTITIONS_TABLE_UNKNOWN', format('No table of number %s is kept by month.', p_table));
  end if;
  return v_name;
end
$$;

-- ------------------------------------------------------------------------------------------------------ copying

-- Trigger of a table that is being copied, for each row: notes which row was changed.
-- Arguments: the table's id; the columns that tell a row from every other, of which alone it reads. As its owner, since whoever writes has no rights here.
create function partitions.capture_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_pair constant text := (select string_agg(format('%L, ($1).%I', c, c), ', ') from unnest(tg_argv[1:]) c);
  v_old jsonb;
  v_new jsonb;
begin
  if tg_op <> 'INSERT' then
    execute format('select jsonb_build_object(%s)', v_pair) into v_old using old;
  end if;
  if tg_op <> 'DELETE' then
    execute format('select jsonb_build_object(%s)', v_pair) into v_new using new;
  end if;
  insert into partitions.captured (table_id, pair)
  select tg_argv[0]::integer, p.pair from (select v_old as pair union select v_new) p where p.pair is not null;
  return null;
end
$$;

-- Trigger of a table that is being copied: nobody empties it meanwhile.
create function partitions.refuse_truncate() returns trigger
language plpgsql set search_path = '' as $$
begin
  perform partitions.refuse('PARTITIONS_TRUNCATE_REFUSED', format(
    '%s.%s is being copied into months: it cannot be emptied meanwhile. Delete its rows, or wait: liventix partitions status',
    quote_ident(tg_table_schema), quote_ident(tg_table_name)));
  return null;
end
$$;

-- The columns of a relation that are written when it is copied, quoted, in their order. Parameters: the relation; what stands before each. Locks nothing.
create function partitions.columns_of(p_relation regclass, p_prefix text default '') returns text
language sql stable set search_path = '' as $$
  select string_agg(p_prefix || quote_ident(a.attname), ', ' order by a.attnum)
  from pg_catalog.pg_attribute a
  where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$$;

-- Copies the rows that lie in the next blocks of a source, and writes down how far it came, in the caller's transaction.
-- Parameters: the table's id; the source; how many blocks at most. Returns how many rows; null when there are no more blocks.
-- Locks no row: who changes one meanwhile is captured.
create function partitions.copy_blocks(p_table integer, p_source text, p_blocks integer) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_copy partitions.copies;
  v_columns text;
  v_rows bigint;
begin
  select * into v_copy from partitions.copies c where c.table_id = p_table and c.source = p_source for update;
  if not found or v_copy.next_block >= v_copy.blocks then
    return null;
  end if;
  v_columns := partitions.columns_of(p_source::regclass);
  execute format('insert into %s (%s) overriding system value select %s from only %s where ctid >= %L::tid and ctid < %L::tid',
    v_copy.target, v_columns, v_columns, p_source,
    format('(%s,0)', v_copy.next_block), format('(%s,0)', least(v_copy.next_block + p_blocks, v_copy.blocks)));
  get diagnostics v_rows = row_count;
  update partitions.copies c
  set next_block = least(c.next_block + p_blocks, c.blocks), rows_copied = c.rows_copied + v_rows
  where c.table_id = p_table and c.source = p_source;
  return v_rows;
end
$$;

-- A row that was changed while it was copied may have come twice, or its key's former holder still be there. Before a unique index is built, all copies of rows
-- that were changed go: the drain brings them back. Parameters: the table's id; what holds the copies. Returns how many went.
create function partitions.drop_changed(p_table integer, p_target text) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_rows bigint;
begin
  execute format(
    'delete from %1$s t using (
       select distinct %2$s from partitions.captured c cross join jsonb_to_record(c.pair) r (%3$s) where c.table_id = %4$s
     ) r where (%5$s) = (%6$s)',
    p_target, partitions.pair_list(p_table, 'r'), partitions.pair_types(p_table), p_table,
    partitions.pair_list(p_table, 't'), partitions.pair_list(p_table, 'r'));
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- The columns that tell rows apart, each with a prefix: r.id, r.created_at. Parameters: the table's id, the prefix. Locks nothing.
create function partitions.pair_list(p_table integer, p_prefix text) returns text
language sql stable set search_path = '' as $$
  select string_agg(format('%s.%I', p_prefix, c.name), ', ' order by c.nth)
  from partitions.tables t cross join unnest(t.pair_columns) with ordinality c (name, nth)
  where t.id = p_table
$$;

-- The same with their types: id uuid, created_at timestamptz. Parameters: the table's id. Locks nothing.
create function partitions.pair_types(p_table integer) returns text
language sql stable set search_path = '' as $$
  select string_agg(format('%I %s', c.name, format_type(a.atttypid, a.atttypmod)), ', ' order by c.nth)
  from partitions.tables t
  cross join unnest(t.pair_columns) with ordinality c (name, nth)
  join pg_catalog.pg_attribute a on a.attrelid = partitions.name_of(t.id)::regclass and a.attname = c.name
  where t.id = p_table
$$;

-- Takes captured changes: each row that they name is made in the copy what it is in the source now, be that gone. In the caller's transaction;
-- once more does no harm, as each later change is captured too. Parameters: the table's id; where the rows are and where their copies are; how
-- many changes at most. Returns how many it took.
create function partitions.drain(p_table integer, p_source text, p_target text, p_limit integer) returns integer
language plpgsql set search_path = '' as $$
declare
  v_pairs jsonb;
  v_taken integer;
  v_columns text := partitions.columns_of(p_source::regclass);
  v_rows text := format('(select distinct * from jsonb_to_recordset($1) r (%s)) r', partitions.pair_types(p_table));
  v_same text := format('(%s) = (%s)', partitions.pair_list(p_table, 't'), partitions.pair_list(p_table, 'r'));
  v_insert text := format('insert into %s (%s) overriding system value select %s from %s t join %s on %s', p_target, v_columns,
    partitions.columns_of(p_source::regclass, 't.'), p_source, v_rows, v_same);
begin
  with taken as (
    delete from partitions.captured c where c.seq in (
      select n.seq from partitions.captured n where n.table_id = p_table order by n.seq limit p_limit
    ) returning c.pair
  )
  select count(*)::integer, jsonb_agg(t.pair) into v_taken, v_pairs from taken t;
  if v_taken > 0 then
    execute format('delete from %s t using %s where %s', p_target, v_rows, v_same) using v_pairs;
    begin
      execute v_insert using v_pairs;
    exception when unique_violation then
      -- Of a key that went from one row to another, the former holder may wait further back.
      perform partitions.drop_changed(p_table, p_target);
      execute v_insert using v_pairs;
    end;
  end if;
  return v_taken;
end
$$;

-- The SQL that sums up a relation's rows but for those that wait to be drained: how many, and the sum of the hashes of what they say. Parameters: the
-- table's id; the relation. Locks nothing.
create function partitions.sum_sql(p_table integer, p_relation text) returns text
language sql stable set search_path = '' as $$
  select format(
    'select count(*) as rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text as hash from %1$s t where not exists (
       select from partitions.captured c cross join jsonb_to_record(c.pair) r (%2$s) where c.table_id = %3$s and (%4$s) = (%5$s))',
    p_relation, partitions.pair_types(p_table), p_table, partitions.pair_list(p_table, 't'), partitions.pair_list(p_table, 'r'))
$$;

-- ------------------------------------------------------------------------------------------------------ side tables of keys

-- Trigger of a table that is kept by month, for each row: keeps a unique key that cannot hold the instant in a table of its own, where it is one
-- over all months and where foreign keys find it. Rows of which a column of the key is null have none. A row that moves to another month goes here
-- and comes there: its key stays, so that nothing that refers to it follows it away. Arguments: the side table, quoted; the instant's column; the columns of
-- the key.
create function partitions.keep_key() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_table constant text := coalesce((select h.inhparent from pg_inherits h where h.inhrelid = tg_relid and (select c.relispartition from pg_class c where c.oid = tg_relid)), tg_relid)::regclass;
  v_columns constant text := (select string_agg(format('%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_values constant text := (select string_agg(format('($1).%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_key constant text := (select string_agg(format('($1).%I', c), ', ') from unnest(tg_argv[2:]) c);
  v_keys constant text := (select string_agg(format('%I', c), ', ') from unnest(tg_argv[2:]) c);
  v_same constant text := (select string_agg(format('k.%1$I = ($1).%1$I', c), ' and ') from unnest(tg_argv[2:]) c);
  v_sets constant text := (select string_agg(format('%1$I = ($2).%1$I', c), ', ') from unnest(tg_argv[1:]) c);
  v_had boolean := false;
  v_has boolean := false;
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
      -- Not there yet, while the side table is filled.
      if v_rows = 0 then
        execute format('insert into %s (%s) values (%s) on conflict (%s) do nothing', tg_argv[0], v_columns, v_values, v_keys) using new;
      end if;
    when tg_op = 'INSERT' and v_has then
      -- There already where the row comes from another month: it is one still.
      execute format('select count(*) from %s k where %s', v_table, v_same) into v_rows using new;
      execute format('insert into %s (%s) values (%s)%s', tg_argv[0], v_columns, v_values,
        case v_rows when 1 then format(' on conflict (%s) do nothing', v_keys) else '' end) using new;
    when tg_op = 'UPDATE' and v_has then
      execute format('insert into %s (%s) values (%s)', tg_argv[0], v_columns, v_values) using new;
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

-- Trigger of a table that is kept by month, before it is emptied: its keys go too, unless something refers to them, which refuses it. Arguments: the side
-- table, quoted.
create function partitions.empty_keys() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  execute format('truncate %s', tg_argv[0]);
  return null;
end
$$;

-- Leaves a relation to its owner alone: no policy, no right of anybody else, whatever default privileges gave. Parameters: the relation. Returns nothing.
-- Locks it against everything.
create function partitions.close_to_others(p_relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_policy name;
  v_grantee oid;
begin
  execute format('alter table %s enable row level security', p_relation);
  for v_policy in select p.polname from pg_catalog.pg_policy p where p.polrelid = p_relation loop
    execute format('drop policy %I on %s', v_policy, p_relation);
  end loop;
  for v_grantee in
    select distinct g.grantee from pg_catalog.pg_class c, aclexplode(c.relacl) g where c.oid = p_relation and g.grantee <> c.relowner
    union
    select distinct g.grantee from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid, aclexplode(a.attacl) g
    where c.oid = p_relation and a.attacl is not null and g.grantee <> c.relowner
  loop
    execute format('revoke all on %s from %s', p_relation, restructure.role_in_words(v_grantee));
  end loop;
end
$$;

-- ------------------------------------------------------------------------------------------------------ copies of rows

-- Compares some blocks of a table of copies with the table, row by row of one key, and takes rows that are only there, if told so. What differs is written
-- down; the table's row stays. Parameters: the table's id; the copies' table, as it is called, and one of its partitions, or itself; the columns of the key;
-- the blocks; whether to take. Returns how many were alike, taken or left, and different. Done again, it finds those alike that it took.
create function partitions.reconcile_blocks(
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
begin
  return query execute format(
    'with compared as materialized (
       select c.*, jsonb_build_object(%1$s) as liventix_pair, t.tableoid is not null as liventix_has, (%2$s) is not distinct from (%3$s) as liventix_same
       from (select * from only %4$s where ctid >= %5$L::tid and ctid < %6$L::tid) c left join %7$s t on %8$s
     ),
     taken as (
       insert into %7$s (%9$s) select %2$s from compared c where not c.liventix_has and $1
     ),
     noted as (
       insert into partitions.reconciled (table_id, copy, pair, finding)
       select $2, $3, c.liventix_pair, case when c.liventix_has then %10$L when $1 then %11$L else %12$L end
       from compared c where not (c.liventix_has and c.liventix_same) on conflict (table_id, copy, pair) do nothing
     )
     select count(*) filter (where liventix_has and liventix_same), count(*) filter (where not liventix_has), count(*) filter (where liventix_has and not liventix_same)
     from compared',
    v_pair, v_of_copy, v_of_table, p_leaf, format('(%s,0)', p_from), format('(%s,0)', p_until), v_parent, v_same, v_columns, 'differs', 'taken', 'left')
    using p_take, p_table, p_copy;
end
$$;

-- ------------------------------------------------------------------------------------------------------ months

-- When a month begins, as the bound of a partition. Parameters: any day of it; the zone; the key's type. Returns a literal, quoted.
create function partitions.month_bound(p_month date, p_zone text, p_type text) returns text
language sql stable set search_path = '' set timezone = 'UTC' set datestyle = 'ISO' as $$
  select case p_type
    when 'timestamp with time zone' then quote_literal((date_trunc('month', p_month::timestamp) at time zone p_zone)::text)
    else quote_literal(date_trunc('month', p_month::timestamp)::text)
  end
$$;

-- The partitions of a table with their bounds as the days, in the table's zone, on which they begin and end. Parameters: the table's id.
-- Returns null for what has no bound; both null for the default partition too. Locks nothing but what naming them takes.
create function partitions.months_of(p_table integer)
returns table (partition regclass, first_day date, end_day date, is_default boolean)
language plpgsql stable set search_path = '' set timezone = 'UTC' set datestyle = 'ISO' as $$
begin
  return query
    select p.oid::regclass, day.first, day.last, p.bound = 'DEFAULT'
    from partitions.tables t
    join pg_catalog.pg_inherits h on h.inhparent = to_regclass(partitions.name_of(t.id))
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

-- The type of the key, as format_type says it. Parameters: the table's id. Locks nothing.
create function partitions.key_type(p_table integer) returns text
language sql stable set search_path = '' as $$
  select format_type(a.atttypid, null)
  from partitions.tables t join pg_catalog.pg_attribute a on a.attrelid = to_regclass(partitions.name_of(t.id)) and a.attname = t.key_column
  where t.id = p_table
$$;

-- A name for a partition that nothing bears yet: <table>_202601, or with a number behind it. Parameters: the table's id; what follows.
create function partitions.free_name(p_table integer, p_suffix text) returns text
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
  where t.id = p_table and to_regclass(format('%I.%I', t.schema_name, n.name)) is null
  order by nth limit 1
$$;

-- Makes a table of the shape of a partition, not attached: nobody waits for it. Parameters: the table's id; what it is like, which may be the table
-- under another name; its name. Returns its oid. By its own name it shows nothing: it has row security and no policy.
create function partitions.make_table(p_table integer, p_like regclass, p_name text, p_with_indexes boolean default true) returns regclass
language plpgsql set search_path = '' as $$
declare
  v_storage text[] := (select t.storage from partitions.tables t where t.id = p_table);
  v_owner name := (select pg_get_userbyid(c.relowner) from pg_catalog.pg_class c where c.oid = p_like);
  v_identity "char" := (select c.relreplident from pg_catalog.pg_class c where c.oid = p_like);
begin
  execute format('create table %s (like %s including all excluding identity%s)', p_name, p_like,
    case when p_with_indexes then '' else ' excluding indexes' end);
  if cardinality(v_storage) > 0 then
    execute format('alter table %s set (%s)', p_name, array_to_string(v_storage, ', '));
  end if;
  perform partitions.close_to_others(p_name::regclass);
  if v_identity in ('f', 'n') then
    execute format('alter table %s replica identity %s', p_name, case v_identity when 'f' then 'full' else 'nothing' end);
  end if;
  if v_owner <> current_user then
    execute format('alter table %s owner to %I', p_name, v_owner);
  end if;
  return p_name::regclass;
end
$$;

-- Attaches a partition. Parameters: the table's id; what bears the table's partitions, itself or what is to be it; the partition; the months in which it
-- begins and ends, null for no bound. Locks the partition and the default one, and what the table's foreign keys refer to, while the transaction lasts.
create function partitions.attach(p_table integer, p_parent regclass, p_partition regclass, p_first date, p_end date) returns void
language plpgsql set search_path = '' as $$
declare
  v_zone text;
  v_type text;
begin
  select t.zone, format_type(a.atttypid, null) into strict v_zone, v_type
  from partitions.tables t join pg_catalog.pg_attribute a on a.attrelid = p_parent and a.attname = t.key_column where t.id = p_table;
  execute format('alter table %s attach partition %s for values from (%s) to (%s)', p_parent, p_partition,
    coalesce(partitions.month_bound(p_first, v_zone, v_type), 'minvalue'), coalesce(partitions.month_bound(p_end, v_zone, v_type), 'maxvalue'));
end
$$;

-- Makes a month and attaches it. Parameters: the table's id; what bears its partitions; any day of the month. Returns it. Locks as attach does.
create function partitions.make_month(p_table integer, p_parent regclass, p_month date) returns regclass
language plpgsql set search_path = '' as $$
declare
  v_partition regclass := partitions.make_table(p_table, p_parent, partitions.free_name(p_table, to_char(p_month, 'YYYYMM')));
begin
  perform partitions.attach(p_table, p_parent, v_partition, p_month, (p_month + interval '1 month')::date);
  return v_partition;
end
$$;

-- Makes a partition that is to be filled before it is attached: without indexes, with its bounds as a check, under the name that rows are copied to.
-- Parameters: the table's id; what rows are copied to; what its name ends in; the months in which it begins and ends, null for no bound, both null for the
-- default partition. Returns it. Locks nothing that others use.
create function partitions.make_leaf(p_table integer, p_target regclass, p_suffix text, p_first date, p_end date) returns regclass
language plpgsql set search_path = '' as $$
declare
  v_leaf regclass := partitions.make_table(p_table, partitions.name_of(p_table)::regclass, partitions.free_name(p_table, p_suffix), false);
  v_key name := (select t.key_column from partitions.tables t where t.id = p_table);
  v_zone text := (select t.zone from partitions.tables t where t.id = p_table);
  v_type text := partitions.key_type(p_table);
begin
  if p_end is null then
    execute format('alter table %s attach partition %s default', p_target, v_leaf);
    return v_leaf;
  end if;
  execute format('alter table %s add constraint liventix_in_month check (%s)', v_leaf, concat_ws(' and ',
    quote_ident(v_key) || ' >= ' || partitions.month_bound(p_first, v_zone, v_type), quote_ident(v_key) || ' < ' || partitions.month_bound(p_end, v_zone, v_type)));
  perform partitions.attach(p_table, p_target, v_leaf, p_first, p_end);
  return v_leaf;
end
$$;

-- Lets what rows were copied to give its partitions to the table, with the same bounds. Parameters: the table's id; the table; what they were copied to.
-- Returns nothing. Locks as attach does, for each of them.
create function partitions.take_leaves(p_table integer, p_parent regclass, p_target regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_leaf record;
begin
  for v_leaf in
    select c.oid::regclass as name, pg_get_expr(c.relpartbound, c.oid) as bound,
      exists (select from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.conname = 'liventix_in_month') as is_checked
    from pg_catalog.pg_inherits h join pg_catalog.pg_class c on c.oid = h.inhrelid where h.inhparent = p_target order by c.relname
  loop
    execute format('alter table %s detach partition %s', p_target, v_leaf.name);
    execute format('alter table %s attach partition %s %s', p_parent, v_leaf.name, v_leaf.bound);
    -- It has said what it was there for.
    if v_leaf.is_checked then
      execute format('alter table %s drop constraint liventix_in_month', v_leaf.name);
    end if;
  end loop;
end
$$;

-- Makes the partition of what lies in no month and attaches it: no row is ever refused or lost for want of a month. It is to be empty; doctor tells when
-- it is not. Parameters: the table's id; what bears its partitions. Returns it. Locks as attach does.
create function partitions.make_default(p_table integer, p_parent regclass) returns regclass
language plpgsql set search_path = '' as $$
declare
  v_partition regclass := partitions.make_table(p_table, p_parent, partitions.free_name(p_table, 'other'));
begin
  execute format('alter table %s attach partition %s default', p_parent, v_partition);
  return v_partition;
end
$$;

-- ------------------------------------------------------------------------------------------------------ beside the restructuring

-- What was done to a table that another has taken the place of was done to that one: steps of the restructuring name it from now on. What differs
-- between the two, they take for what somebody changed since. Parameters: the oids of both. Returns nothing. Locks the steps.
create function partitions.replaced(p_former oid, p_now oid) returns void
language sql set search_path = '' as $$
  with renamed as (
    select s.id, (
      select jsonb_object_agg(case when f.key like p_former || ' %' then p_now || substr(f.key, length(p_former::text) + 1) else f.key end, f.value)
      from jsonb_each(s.before) f
    ) as before, (
      select jsonb_object_agg(case when f.key like p_former || ' %' then p_now || substr(f.key, length(p_former::text) + 1) else f.key end, f.value)
      from jsonb_each(s.after) f
    ) as after
    from restructure.steps s where p_former = any (s.relations)
  )
  update restructure.steps s
  set relations = array_replace(s.relations, p_former, p_now), before = coalesce(r.before, '{}'), after = coalesce(r.after, '{}')
  from renamed r where r.id = s.id
$$;

-- ------------------------------------------------------------------------------------------------------ upkeep

-- Writes down what was done to a month, or left undone. Parameters: the table's id; what; to which partition; why. Returns nothing.
create function partitions.note(p_table integer, p_action text, p_partition text default null, p_detail text default null) returns void
language sql set search_path = '' as $$
  insert into partitions.log (table_name, action, partition, detail)
  select format('%s.%s', t.schema_name, t.table_name), p_action, p_partition, p_detail from partitions.tables t where t.id = p_table
$$;

-- The first day of the month in which an instant lies, where the table's months begin. Parameters: the table's id; the instant.
create function partitions.month_at(p_table integer, p_at timestamptz) returns date
language sql stable set search_path = '' as $$
  select date_trunc('month', p_at at time zone t.zone)::date from partitions.tables t where t.id = p_table
$$;

-- The months that a table lacks: from its first, or two years back, to so many ahead of an instant. One that somebody dropped is made again.
-- Parameters: the table's id; the instant. Locks nothing.
create function partitions.missing_months(p_table integer, p_now timestamptz) returns setof date
language sql stable set search_path = '' as $$
  with bounds as (
    select t.id, partitions.month_at(t.id, p_now) as present, t.months_ahead, (
      select min(coalesce(p.first_day, p.end_day)) from partitions.months_of(t.id) p where not p.is_default
    ) as oldest
    from partitions.tables t where t.id = p_table
  )
  select m.month::date
  from bounds b
  cross join lateral generate_series(
    greatest(b.present - interval '24 months', least(b.oldest, b.present)), b.present + make_interval(months => b.months_ahead), interval '1 month') m (month)
  where not exists (
    select from partitions.months_of(b.id) p
    where not p.is_default and coalesce(p.first_day, '-infinity') < m.month + interval '1 month' and coalesce(p.end_day, 'infinity') > m.month)
  order by m.month
$$;

-- Whether a month may be taken out: not before what counts its rows has counted them. Parameters: the table's id; the partition.
create function partitions.may_go(p_table integer, p_partition regclass) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_may boolean := true;
begin
  if to_regprocedure('rollups.may_lose(text, regclass)') is not null then
    execute 'select rollups.may_lose($1, $2)' into v_may using partitions.name_of(p_table), p_partition;
  end if;
  return v_may;
end
$$;

-- The partitions that are older than a table keeps, and may go. What is of this month and the ones before, counted from where the newest row lies where that
-- is earlier than the clock: a clock that is ahead drops nothing. Parameters: the table's id; the instant. Locks nothing but what reading takes.
create function partitions.expired_months(p_table integer, p_now timestamptz) returns setof regclass
language plpgsql set search_path = '' as $$
declare
  v_keep integer := (select t.keep_months from partitions.tables t where t.id = p_table);
  v_newest date;
  v_partition record;
  v_has boolean;
begin
  if v_keep is null then
    return;
  end if;
  for v_partition in select m.partition, m.first_day from partitions.months_of(p_table) m where m.first_day is not null order by m.first_day desc loop
    execute format('select exists (select from %s)', v_partition.partition) into v_has;
    if v_has then
      v_newest := v_partition.first_day;
      exit;
    end if;
  end loop;
  -- Where no month has a row, nobody knows what is old.
  if v_newest is null then
    return;
  end if;
  return query
    select m.partition from partitions.months_of(p_table) m
    where m.end_day <= least(v_newest, partitions.month_at(p_table, p_now)) - make_interval(months => v_keep) and partitions.may_go(p_table, m.partition)
    order by m.end_day;
end
$$;

-- Moves rows that lie in no month into months that they belong to, which are made for it: those from the oldest that is kept to the last ahead. Others
-- stay. In the caller's transaction, and only where they are few: the table is locked while they are copied. No trigger fires: the partition is replaced,
-- nothing is deleted. Parameters: the table's id; the instant. Returns for how many months rows were found. Locks the table against everything.
create function partitions.empty_default(p_table integer, p_now timestamptz) returns integer
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
    raise exception using message = format('more than %s rows of it lie in no month: roll the table back and apply again', c_most), errcode = 'program_limit_exceeded';
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

-- The months of which a partition has rows, of those that a table keeps or has ahead. Parameters: the table's id; the partition; the instant. Locks nothing
-- but what reading takes.
create function partitions.months_in(p_table integer, p_partition regclass, p_now timestamptz) returns date[]
language plpgsql stable set search_path = '' as $$
declare
  v_kept partitions.tables;
  v_months date[];
begin
  select * into v_kept from partitions.tables t where t.id = p_table;
  execute format('select array(select distinct date_trunc(%L, %s)::date from %s where isfinite(%I))', 'month',
    case partitions.key_type(p_table) when 'timestamp with time zone' then format('%I at time zone %L', v_kept.key_column, v_kept.zone)
      else format('%I::timestamp', v_kept.key_column) end,
    p_partition, v_kept.key_column) into v_months;
  return array(
    select m from unnest(v_months) m
    where m <= partitions.month_at(p_table, p_now) + make_interval(months => v_kept.months_ahead)
      and m >= partitions.month_at(p_table, p_now) - make_interval(months => coalesce(v_kept.keep_months, 120))
    order by m);
end
$$;

-- Takes a month out of a table: dropped, or put into the schema partitions_archive, as the table says. Parameters: the table's id; the partition. Returns
-- nothing. Locks the table, and what its foreign keys refer to, for an instant. Raises 2BP01 where something stands on the partition.
-- lint: allow set-schema-without-view because it is out of the table, by whose name its rows were asked for
create function partitions.expire_month(p_table integer, p_partition regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_name constant text := p_partition::text;
  v_key name;
begin
  execute format('alter table %s detach partition %s', partitions.name_of(p_table), p_partition);
  -- Once more, now that nobody writes to it.
  if not partitions.may_go(p_table, p_partition) then
    raise exception 'what counts its rows has not counted all of them';
  end if;
  if (select t.expired from partitions.tables t where t.id = p_table) = 'drop' then
    execute format('drop table %s', p_partition);
    perform partitions.note(p_table, 'dropped', v_name);
    return;
  end if;
  -- It refers to nothing any more: what it refers to may go.
  for v_key in select k.conname from pg_catalog.pg_constraint k where k.conrelid = p_partition and k.contype = 'f' loop
    execute format('alter table %s drop constraint %I', p_partition, v_key);
  end loop;
  execute format('alter table %s set schema partitions_archive', p_partition);
  perform partitions.note(p_table, 'archived', v_name);
end
$$;

-- Forgets some keys of rows that went with their month, but for those that something refers to. Parameters: the table's id; how many at most.
-- Returns how many went.
create function partitions.forget_keys(p_table integer, p_most integer) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_kept partitions.tables;
  v_key partitions.keys;
  v_oldest date;
  v_side regclass;
  v_default regclass;
  v_unless text;
  v_gone bigint := 0;
  v_rows bigint;
begin
  select * into v_kept from partitions.tables t where t.id = p_table;
  select m.first_day into v_oldest from partitions.months_of(p_table) m where not m.is_default order by m.first_day nulls first limit 1;
  select m.partition into v_default from partitions.months_of(p_table) m where m.is_default;
  if v_oldest is null then
    return 0;
  end if;
  for v_key in select * from partitions.keys k where k.table_id = p_table loop
    v_side := format('%I.%I', v_kept.schema_name, v_key.side_table)::regclass;
    select coalesce(string_agg(format(' and not exists (select from %s r where %s)', c.conrelid::regclass, (
      select string_agg(format('r.%I = k.%I', a.attname, b.attname), ' and ')
      from unnest(c.conkey, c.confkey) u (mine, its)
      join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = u.mine join pg_catalog.pg_attribute b on b.attrelid = c.confrelid and b.attnum = u.its
    )), ''), '') into v_unless
    from pg_catalog.pg_constraint c where c.confrelid = v_side and c.contype = 'f' and c.conparentid = 0;
    if v_default is not null then
      v_unless := v_unless || format(' and not exists (select from %s r where %s)', v_default,
        (select string_agg(format('r.%1$I = k.%1$I', c), ' and ') from unnest(v_key.columns || v_kept.key_column) c));
    end if;
    execute format('delete from %1$s where ctid = any (array(select k.ctid from %1$s k where k.%2$I < %3$s%4$s limit %5$s))', v_side, v_kept.key_column,
      partitions.month_bound(v_oldest, v_kept.zone, partitions.key_type(p_table)), v_unless, p_most);
    get diagnostics v_rows = row_count;
    v_gone := v_gone + v_rows;
  end loop;
  return v_gone;
end
$$;

-- Tries one step of the upkeep. Parameters: the table's id; what; the month, or the partition; the instant. Returns null when it is done, 'busy' where a lock
-- was not free in time, which may be tried again, 'failed' for anything else, which is written down.
create function partitions.try_step(p_table integer, p_action text, p_month date, p_partition regclass, p_now timestamptz) returns text
language plpgsql set search_path = '' as $$
begin
  case p_action
    when 'make' then perform partitions.note(p_table, 'made', partitions.make_month(p_table, partitions.name_of(p_table)::regclass, p_month)::text);
    when 'expire' then perform partitions.expire_month(p_table, p_partition);
    when 'refill' then perform partitions.empty_default(p_table, p_now);
  end case;
  return null;
exception
  when lock_not_available or deadlock_detected then
    return 'busy';
  when others then
    perform partitions.note(p_table, 'left', coalesce(p_partition::text, to_char(p_month, 'YYYY-MM')), format('%s (%s)', sqlerrm, sqlstate));
    return 'failed';
end
$$;

-- What the upkeep of a table has to do, in order. Parameters: the table's id; the instant; whether months may go. Locks nothing but what reading takes.
create function partitions.due(p_table integer, p_now timestamptz, p_may_expire boolean)
returns table (action text, month date, partition regclass, what text)
language sql set search_path = '' as $$
  -- Rows that lie in no month first: a month that they would lie in cannot be made beside them. Neither they nor what is old while rows are copied.
  select d.action, d.month, d.partition, coalesce(d.partition::text, to_char(d.month, 'YYYY-MM'))
  from (
    select 1 as nth, 'refill' as action, null::date as month, m.partition from partitions.months_of(p_table) m
    where m.is_default and not exists (select from partitions.copies c where c.table_id = p_table) and cardinality(partitions.months_in(p_table, m.partition, p_now)) > 0
    union all
    select 2, 'make', m.month, null from partitions.missing_months(p_table, p_now) m (month)
    union all
    select 3, 'expire', null, e.partition from partitions.expired_months(p_table, p_now) e (partition)
    where p_may_expire and not exists (select from partitions.copies c where c.table_id = p_table)
  ) d
  order by d.nth, d.month
$$;

-- Sees to the months of all tables: makes those ahead, gives months to rows that lie in none, takes out what is older than is kept. Each step in a transaction
-- of its own, which gives way to whoever uses the table after 50 ms and is tried again. Two at once do each step once.
-- Parameters: who runs it, 'pg_cron', 'worker' or 'command': of the first two only who is meant to (partitions.settings); the instant; whether a person has
-- looked at it: more than 45 days after the last time nothing is taken out, as the clock may be wrong.
create procedure partitions.maintain(p_runner text default 'command', p_now timestamptz default now(), p_is_confirmed boolean default false)
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
begin
  if p_runner <> 'command' and p_runner <> (select s.runner from partitions.settings s) then
    return;
  end if;
  v_tables := array(select t.id from partitions.tables t where t.state <> 'preparing' order by t.id);
  foreach v_table in array v_tables loop
    v_may_expire := (
      select p_is_confirmed or p_now < coalesce(t.maintained_at, t.begun_at) + interval '45 days' from partitions.tables t where t.id = v_table);
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
      if v_result = 'busy' then
        perform partitions.note(v_table, 'left', v_step.what, 'it was in use each time');
        commit;
        -- Who holds it holds it for the next step too.
        exit steps;
      end if;
    end loop;
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

revoke all on schema partitions, partitions_aside, partitions_archive from public;
revoke all on all functions in schema partitions from public;
revoke all on all procedures in schema partitions from public;
