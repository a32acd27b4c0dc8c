-- Rollups once more: what failed of a refresh is told with its detail, and whether nothing but another declaration helps.

-- Whether the rows were not unique by the columns that the view is declared to be unique by.
-- lint: allow lock-without-timeout because nobody but a refresh writes it, and it is changed in no time
alter table rollups.refreshes add column is_not_unique boolean not null default false;

-- Refreshes a materialized view beside its readers; the first time, when there is nothing to read, not beside them. Where somebody else is at it
-- does nothing. Two transactions: that it began is there even where it is killed. Parameters: the view, as in rollups.views. Raises LV110.
create or replace procedure rollups.refresh(p_view text)
language plpgsql as $$
declare
  v_view record;
  v_id bigint;
  v_rows bigint;
  v_detail text;
  v_state text;
  v_is_not_unique boolean;
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
    get stacked diagnostics v_state = returned_sqlstate, v_detail = pg_exception_detail;
    -- Of a view without rows its index is refused, of another what would replace them; a subquery of more than one row has the same state, and no detail.
    v_is_not_unique := v_state = '23505' or (v_state = '21000' and v_detail <> '');
    v_detail := pg_catalog.concat_ws(' ', sqlerrm, nullif(v_detail, ''));
    update rollups.refreshes set finished_at = pg_catalog.clock_timestamp(), error = v_detail, is_not_unique = v_is_not_unique where id = v_id;
    raise warning 'view %: %', p_view, v_detail;
  end;
  delete from rollups.refreshes r where r.view = p_view and r.started_at < pg_catalog.clock_timestamp() - interval '30 days';
end
$$;
