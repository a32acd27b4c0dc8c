-- Tables by month: one that is renamed while its conversion lies broken off, and a table of keys that is gone.

-- Trigger: the table that a row is of is what bears its name when it is begun, and when it becomes another, whichever release does that.
create function partitions.keep_relation() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.relation := to_regclass(format('%I.%I', new.schema_name, new.table_name));
  return new;
end
$$;

-- lint: allow lock-without-timeout because nobody but a conversion and the upkeep read or write it
create trigger keep_relation_when_begun before insert on partitions.tables for each row execute function partitions.keep_relation();
create trigger keep_relation before update on partitions.tables for each row when (new.state <> old.state) execute function partitions.keep_relation();

-- lint: allow rows-changed-under-lock because it has a row for each table that is kept by month
update partitions.tables t set relation = to_regclass(partitions.name_of(t.id)) where t.state = 'preparing';

-- Whether nothing bears a table's name any more, or what does is another: somebody dropped or renamed it, and may have made one of its name. Parameters: the table's
-- id. Locks nothing.
create or replace function partitions.is_lost(p_table integer) returns boolean
language sql stable set search_path = '' as $$
  select not exists (
    select from partitions.tables t join pg_catalog.pg_class c on c.oid = t.relation and c.oid = to_regclass(partitions.name_of(t.id)) where t.id = p_table)
$$;

-- What keeps a table's keys, as far as it is not as it is to be: the table of keys; a trigger on the table and each of its partitions that is enabled always, and on the
-- table alone one that empties the keys with it. Of a table whose own trigger is not, partitions are left out; where the table of keys is gone, triggers. Parameters: the
-- table's id. Returns the columns of the key, on what the trigger is to be, whether it is the one that empties, what it is called, null where there is none, and all of it
-- in words; nothing of a table that is not partitioned. Locks nothing.
create or replace function partitions.unkept_keys(p_table integer) returns table (columns name[], relation regclass, empties boolean, trigger_name name, fault text)
language sql stable set search_path = '' as $$
  with kept as (
    select k.columns, t.relation as root, format('%I.%I', t.schema_name, k.side_table) as side,
      -- As its triggers name it.
      convert_to(format('"%s"."%s"', replace(t.schema_name, '"', '""'), replace(k.side_table, '"', '""')), getdatabaseencoding()) || '\x00'::bytea as argument
    from partitions.keys k join partitions.tables t on t.id = k.table_id
    where t.id = p_table and t.state <> 'preparing' and not partitions.is_lost(t.id)
  ),
  wanted as (
    select k.columns, k.root, k.argument, p.relid::regclass as relation, false as empties, array['A'] as enabled, 'partitions.keep_key()'::regprocedure as function
    from kept k cross join pg_partition_tree(k.root) p where to_regclass(k.side) is not null
    union all
    select k.columns, k.root, k.argument, k.root, true, array['A', 'O'], 'partitions.empty_keys()'::regprocedure from kept k where to_regclass(k.side) is not null
  ),
  unkept as (
    select w.columns, w.root, w.relation, w.empties, g.tgname as trigger_name
    from wanted w
    left join pg_catalog.pg_trigger g on g.tgrelid = w.relation and g.tgfoid = w.function and position(w.argument in g.tgargs) = 1
    -- Those of before the TRUNCATE were made so by a former release: what refers to the table has its rows still then.
    where g.oid is null or g.tgenabled <> all (w.enabled::"char"[]) or w.empties and g.tgtype & 2 <> 0
  )
  select k.columns, k.root, false, null::name, format('%s, which keeps (%s) of %s, is gone: every row that is written is refused', k.side, array_to_string(k.columns, ', '), k.root)
  from kept k where to_regclass(k.side) is null
  union all
  select * from (
    select u.columns, u.relation, u.empties, u.trigger_name,
      case when u.trigger_name is null then format('%s has no trigger that %s its keys (%s)', u.relation, what.does, array_to_string(u.columns, ', '))
        else format('the trigger %I of %s, which %s its keys (%s), %s', u.trigger_name, u.relation, what.does, array_to_string(u.columns, ', '),
          case when u.empties then 'is not enabled, or fires before the TRUNCATE' else 'is not enabled always' end) end
    from unkept u cross join lateral (select case when u.empties then 'empties' else 'keeps' end as does) what
    where u.relation = u.root or not exists (select from unkept o where o.relation = o.root and o.columns = u.columns and not o.empties)
    order by u.columns, u.empties, u.relation::text
  ) t
$$;

revoke all on all functions in schema partitions from public;
