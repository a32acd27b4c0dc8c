-- Rollups once more: what failed of a refresh is told with its detail, and whether nothing but another declaration helps; and a
-- rebuild keeps what nothing could count anew by group and day, not by month.

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

-- What a row comes under: its groups and its day, as an SQL expression. Parameters: the rollup; the columns, with their alias. Locks nothing.
create function rollups.key_of(p_rollup rollups.rollups, p_columns text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('row(%s)::rollups.%I', array_to_string(p_columns, ', '), p_rollup.name || '_key')
$$;

-- The same of a row `s` of the source, of one `q` that was taken back, and of one `t` of the rollup.
create function rollups.keys_of(p_rollup rollups.rollups, out of_source text, out of_changes text, out of_rollup text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select
    rollups.key_of(p_rollup, array_agg(format('s.%I', g.name) order by g.number)
      || format('(s.%I at time zone %L)::date', p_rollup.declaration ->> 'time', p_rollup.declaration ->> 'zone')),
    rollups.key_of(p_rollup, array_agg(format('q.group%s', g.number - 1) order by g.number) || 'q.day'::text),
    rollups.key_of(p_rollup, array_agg(format('t.%I', g.name) order by g.number) || 't.day'::text)
  from jsonb_array_elements_text(p_rollup.declaration -> 'group') with ordinality g (name, number)
$$;

-- Which groups and days of a month a rebuild keeps: a partition of the day is gone, and the rollup counts more than there is. Nothing could count them
-- anew; verify judges by the same. Parameters: the rollup; its source; the month; what is of it. Returns their cells, or null.
create function rollups.kept_cells(p_rollup rollups.rollups, p_source text, p_month timestamp, p_range text, p_days text) returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_time constant text := p_rollup.declaration ->> 'time';
  v_gone constant text := rollups.gone_days(p_source::regclass, v_time, p_rollup.declaration ->> 'zone');
  v_keys record;
  v_is_gone boolean;
  v_kept bigint[];
begin
  if p_month is null or not isfinite(p_month) or p_month >= '290000-01-01' then
    return null;
  end if;
  execute format('select bool_or(%s) from generate_series($1, $1 + interval ''1 month'' - interval ''1 day'', ''1 day'') d (day)',
    replace(v_gone, '{day}', 'd.day::date')) into v_is_gone using p_month;
  if not v_is_gone then
    return null;
  end if;
  v_keys := rollups.keys_of(p_rollup);
  execute format(
    'select array_agg(t.cell)
     from %I.%I t
     left join (
       select c.key, count(*) as rows
       from (
         select %s as key from %s s where (s.recorded_xid is null or s.recorded_xid < $1) and %s
         union all
         select %s from rollups.%I q where (q.recorded_xid is null or q.recorded_xid < $1) and %s) c
       group by c.key) e on e.key = %s
     where %s and t.%I > coalesce(e.rows, 0) and %s',
    p_rollup.declaration ->> 'schema', p_rollup.name,
    v_keys.of_source, p_source, replace(p_range, '{time}', format('s.%I', v_time)),
    v_keys.of_changes, p_rollup.name || '_changes', replace(p_range, '{time}', 'q.happened_at'),
    v_keys.of_rollup, p_days, p_rollup.declaration ->> 'count', replace(v_gone, '{day}', 't.day'))
    into v_kept using p_rollup.counted_below;
  return v_kept;
end
$$;

-- Whether a rebuild keeps anything of a month. Parameters: as of kept_cells.
create or replace function rollups.is_kept(p_rollup rollups.rollups, p_source text, p_month timestamp, p_range text, p_days text) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
  select rollups.kept_cells(p_rollup, p_source, p_month, p_range, p_days) is not null
$$;

-- Builds the next month of a rollup, in one transaction. Parameters: the rollup. Returns what became of it (built, kept where groups and days of it
-- are, under way, ready), how many rows it counted, and how many months are left. Raises LV110, LV112.
create or replace function rollups.build(p_rollup text, out status text, out changes bigint, out months_left bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_chunk rollups.chunks;
  v_source text;
  v_of record;
  v_rows text;
  v_changes text;
  v_kept bigint[];
  v_keys record;
  v_others text;
begin
  changes := 0;
  if not rollups.is_mine(p_rollup) then
    status := 'under way';
    return;
  end if;
  v_rollup := rollups.get(p_rollup);
  select * into v_chunk from rollups.chunks c where c.rollup = p_rollup and c.built_at is null order by c.number limit 1;
  if v_rollup.state <> 'building' or not found then
    if v_rollup.state = 'building' then
      update rollups.rollups set state = 'ready', last_counted_at = clock_timestamp() where name = p_rollup;
    end if;
    status := 'ready';
    months_left := 0;
    return;
  end if;
  v_source := rollups.source_of(v_rollup.sources);
  v_of := rollups.month_ranges(v_chunk.month, v_rollup.declaration ->> 'zone');
  v_rows := replace(v_of.range, '{time}', format('s.%I', v_rollup.declaration ->> 'time'));
  v_changes := replace(v_of.range, '{time}', 'q.happened_at');
  status := 'built';
  -- So that no partition goes between a look and the next.
  execute format('lock table only %s in access share mode', v_source);
  if not v_rollup.everything then
    v_kept := rollups.kept_cells(v_rollup, v_source, v_chunk.month, v_of.range, v_of.days);
  end if;
  if v_kept is not null then
    -- All else of the month is counted anew. What is taken back of what is kept stays, for the next run.
    v_keys := rollups.keys_of(v_rollup);
    v_others := format('not exists (select from (select %s as key from %I.%I t where t.cell = any (%L::bigint[])) k where k.key = ',
      v_keys.of_rollup, v_rollup.declaration ->> 'schema', p_rollup, v_kept);
    v_rows := format('%s and %s %s)', v_rows, v_others, v_keys.of_source);
    v_changes := format('%s and %s %s)', v_changes, v_others, v_keys.of_changes);
    v_of.days := format('%s and t.cell <> all (%L::bigint[])', v_of.days, v_kept);
    status := 'kept';
  end if;
  execute replace(v_rollup.wipe_sql, '{days}', v_of.days);
  changes := rollups.merge(
    v_rollup,
    replace(replace(replace(v_rollup.build_sql, '{source}', v_source), '{rows}', v_rows), '{changes}', v_changes),
    null, v_rollup.counted_below);
  update rollups.chunks set built_at = clock_timestamp() where rollup = p_rollup and number = v_chunk.number;
  months_left := (select count(*) from rollups.chunks c where c.rollup = p_rollup and c.built_at is null);
end
$$;

revoke all on all functions in schema rollups from public;
