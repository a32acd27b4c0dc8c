-- Tables of keys: one that is gone, or called otherwise; and those of a conversion that lies broken off.

-- The table of keys itself, whatever it is called. Null of those that were gone before.
-- lint: allow lock-without-timeout because nobody but a conversion and the upkeep read or write it
alter table partitions.keys add column relation regclass;
-- lint: allow rows-changed-under-lock because it has a row for each table of keys
update partitions.keys k set relation = to_regclass(format('%I.%I', t.schema_name, k.side_table)) from partitions.tables t where t.id = k.table_id;

-- What keeps a table's keys, as far as it is not as it is to be: the table of keys, under its name; a trigger on the table and each of its partitions that is enabled always,
-- and on the table alone one that empties the keys with it. Of a table whose own trigger is not, partitions are left out; where the table of keys is not, triggers. Parameters: the
-- table's id. Returns the columns of the key, on what the trigger is to be, whether it is the one that empties, what it is called, null where there is none, and all of it
-- in words; nothing of a table that is lost. Locks nothing.
create or replace function partitions.unkept_keys(p_table integer) returns table (columns name[], relation regclass, empties boolean, trigger_name name, fault text)
language sql stable set search_path = '' as $$
  with kept as (
    select k.columns, t.relation as root, s.side, array_to_string(k.columns, ', ') as key,
      c.oid::regclass as itself, to_regclass(s.side) is not null and coalesce(k.relation, to_regclass(s.side)) = to_regclass(s.side) as is_there,
      -- As its triggers name it.
      convert_to(format('"%s"."%s"', replace(t.schema_name, '"', '""'), replace(k.side_table, '"', '""')), getdatabaseencoding()) || '\x00'::bytea as argument
    from partitions.keys k join partitions.tables t on t.id = k.table_id cross join lateral format('%I.%I', t.schema_name, k.side_table) s (side)
    left join pg_catalog.pg_class c on c.oid = k.relation
    where t.id = p_table and not partitions.is_lost(t.id)
  ),
  wanted as (
    select k.columns, k.key, k.root, k.argument, p.relid::regclass as relation, false as empties, array['A'] as enabled, 'partitions.keep_key()'::regprocedure as function
    from kept k cross join lateral (select k.root as relid union select t.relid from pg_partition_tree(k.root) t) p where k.is_there
    union all
    select k.columns, k.key, k.root, k.argument, k.root, true, array['A', 'O'], 'partitions.empty_keys()'::regprocedure from kept k where k.is_there
  ),
  unkept as (
    select w.columns, w.key, w.root, w.relation, w.empties, g.tgname as trigger_name
    from wanted w
    left join pg_catalog.pg_trigger g on g.tgrelid = w.relation and g.tgfoid = w.function and position(w.argument in g.tgargs) = 1
    -- Those of before the TRUNCATE were made so by a former release: what refers to the table has its rows still then.
    where g.oid is null or g.tgenabled <> all (w.enabled::"char"[]) or w.empties and g.tgtype & 2 <> 0
  )
  select k.columns, k.root, false, null::name, format('%s, which keeps the keys (%s) of %s, %s: rows that are written are refused', k.side, k.key, k.root,
    case when k.itself is null then 'is gone' else format('is called %s by now', k.itself) end)
  from kept k where not k.is_there
  union all
  select * from (
    select u.columns, u.relation, u.empties, u.trigger_name,
      case when u.trigger_name is null then format('%s has no trigger that %s its keys (%s)', u.relation, what.does, u.key)
        else format('the trigger %I of %s, which %s its keys (%s), %s', u.trigger_name, u.relation, what.does, u.key,
          case when u.empties then 'is not enabled, or fires before the TRUNCATE' else 'is not enabled always' end) end
    from unkept u cross join lateral (select case when u.empties then 'empties' else 'keeps' end as does) what
    where u.relation = u.root or not exists (select from unkept o where o.relation = o.root and o.columns = u.columns and not o.empties)
    order by u.columns, u.empties, u.relation::text
  ) t
$$;

-- The SQL condition that a row of a table, called r, has a key that the side table lacks, or has with another instant; none is an instant too, while the table is prepared.
-- Parameters: the table's id; the key's columns. Locks nothing.
create or replace function partitions.lacking_sql(p_table integer, p_columns name[]) returns text
language sql stable set search_path = '' as $$
  select format('(%s) is not null and not exists (select from %I.%I s where %s and s.%I is not distinct from r.%5$I)',
    (select string_agg(format('r.%I', c), ', ') from unnest(p_columns) c), t.schema_name, k.side_table,
    (select string_agg(format('s.%1$I = r.%1$I', c), ' and ') from unnest(p_columns) c), t.key_column)
  from partitions.tables t join partitions.keys k on k.table_id = t.id and k.columns = p_columns where t.id = p_table
$$;

-- The SQL condition that no row has a key of a side table, called k. Parameters: the table's id; the key's columns. Locks nothing.
create function partitions.rowless_sql(p_table integer, p_columns name[]) returns text
language sql stable set search_path = '' as $$
  select format('not exists (select from %s r where %s)', partitions.name_of(p_table), string_agg(format('r.%1$I = k.%1$I', c), ' and ')) from unnest(p_columns) c
$$;

-- The SQL condition that a key of a side table, called k, is left over: no row has it, and nothing refers to it. Parameters: the table's id; the key's columns. Locks nothing.
create or replace function partitions.left_over_sql(p_table integer, p_columns name[]) returns text
language sql stable set search_path = '' as $$
  select format('%s and %s', partitions.rowless_sql(p_table, p_columns), partitions.unreferenced_sql(format('%I.%I', t.schema_name, k.side_table)::regclass, 'k'))
  from partitions.tables t join partitions.keys k on k.table_id = t.id and k.columns = p_columns where t.id = p_table
$$;

revoke all on all functions in schema partitions from public;
