-- Tables by month: one that is renamed while its conversion lies broken off.

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

revoke all on all functions in schema partitions from public;
