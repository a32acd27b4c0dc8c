-- Tables by month, read once more: a key beside the table is one whoever writes at the same time, rows are hashed as a whole whatever their columns are called, what
-- was taken once is not taken again, and the upkeep waits for nobody.

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

revoke all on all functions in schema partitions from public;
