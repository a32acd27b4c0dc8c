-- Tables by month: what was converted, the copying beside those who write, and the upkeep of months.
--
-- A table that lives becomes the first partition of one that bears its name; its rows are then copied into months while others go on
-- writing, what they change meanwhile is captured, and in one short transaction the months take its place. Nothing is deleted to move it,
-- so nobody who reads misses a row, and no trigger of the table's fires.

create schema partitions;
-- What another has taken the place of, until it may go. A schema of its own: names of indexes are its, and both have the same.
create schema partitions_aside;

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
  is_update boolean not null,
  pair jsonb not null
);

-- Rows that had no instant and were given one, so that the way back can take it away again.
create table partitions.filled (
  table_id integer not null,
  pair jsonb not null
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
-- Arguments: the table's id; the columns that tell a row from every other. As its owner, since whoever writes has no rights here.
create function partitions.capture_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_table constant integer := tg_argv[0];
  v_old jsonb;
  v_new jsonb;
begin
  if tg_op <> 'INSERT' then
    select jsonb_object_agg(c, to_jsonb(old) -> c) into v_old from unnest(tg_argv[1:]) c;
  end if;
  if tg_op <> 'DELETE' then
    select jsonb_object_agg(c, to_jsonb(new) -> c) into v_new from unnest(tg_argv[1:]) c;
  end if;
  insert into partitions.captured (table_id, is_update, pair)
  select v_table, tg_op = 'UPDATE', p.pair
  from (select v_old as pair union select v_new) p
  where p.pair is not null;
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

-- The columns of a relation that are written when it is copied, quoted, in their order. Parameters: the relation. Locks nothing.
create function partitions.columns_of(p_relation regclass) returns text
language sql stable set search_path = '' as $$
  select string_agg(format('%I', a.attname), ', ' order by a.attnum)
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

-- A row that moved to a later block while it was copied has come twice. Before the unique index is built, all copies of rows that were updated go: the
-- drain brings them back. Parameters: the table's id; what holds the copies. Returns how many went.
create function partitions.drop_twice_copied(p_table integer, p_target text) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_rows bigint;
begin
  execute format(
    'delete from %1$s t using (
       select distinct %2$s from partitions.captured c cross join jsonb_to_record(c.pair) r (%3$s) where c.table_id = %4$s and c.is_update
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
begin
  with taken as (
    delete from partitions.captured c where c.seq in (
      select n.seq from partitions.captured n where n.table_id = p_table order by n.seq limit p_limit
    ) returning c.pair
  )
  select count(*)::integer, jsonb_agg(t.pair) into v_taken, v_pairs from taken t;
  if v_taken > 0 then
    execute format('delete from %s t using %s where %s', p_target, v_rows, v_same) using v_pairs;
    execute format('insert into %s (%s) overriding system value select %s from %s t join %s on %s', p_target, v_columns,
      (select string_agg('t.' || trim(c), ', ') from string_to_table(v_columns, ',') c), p_source, v_rows, v_same) using v_pairs;
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
-- over all months and where foreign keys find it. Arguments: the side table, quoted; the instant's column; the columns of the key.
create function partitions.keep_key() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_columns text := (select string_agg(format('%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_values text := (select string_agg(format('($1).%I', c), ', ') from unnest(tg_argv[1:]) c);
  v_same text := (select string_agg(format('k.%1$I = ($1).%1$I', c), ' and ') from unnest(tg_argv[2:]) c);
  v_sets text := (select string_agg(format('%1$I = ($2).%1$I', c), ', ') from unnest(tg_argv[1:]) c);
begin
  case tg_op
    when 'INSERT' then execute format('insert into %s (%s) values (%s)', tg_argv[0], v_columns, v_values) using new;
    when 'DELETE' then execute format('delete from %s k where %s', tg_argv[0], v_same) using old;
    else execute format('update %s k set %s where %s', tg_argv[0], v_sets, v_same) using old, new;
  end case;
  return null;
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
    select left(t.table_name, 63 - length(s.suffix)) || s.suffix as name
    from (select '_' || p_suffix || case nth when 1 then '' else '_' || nth end as suffix) s
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
  execute format('alter table %s enable row level security', p_name);
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
    format('%I >= %s', v_key, partitions.month_bound(p_first, v_zone, v_type)), format('%I < %s', v_key, partitions.month_bound(p_end, v_zone, v_type))));
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

revoke all on schema partitions, partitions_aside from public;
revoke all on all functions in schema partitions from public;
