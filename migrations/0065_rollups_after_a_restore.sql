-- Rollups after a restore, where a source has more than one, or numbers are higher.

-- From where on transactions of this server are to be counted, of a rollup that counted on another, whose numbers are higher: the horizon when that was first noticed.
-- lint: allow lock-without-timeout because nobody but a run writes it, and it is changed in no time
alter table rollups.rollups add column moved_at xid8;

-- Writes down of every rollup that counted further than this server has come where it had come when that was noticed. In a transaction of its own, before a run or a rebuild
-- that may be refused. Returns nothing. Locks the rows of such rollups.
create function rollups.note_moves() returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update rollups.rollups r set moved_at = h.horizon
  from (select greatest(pg_snapshot_xmin(pg_current_snapshot()), '1') as horizon) h
  where r.moved_at is null and h.horizon < r.counted_below
$$;

-- Begins to build a rollup from its source, or to rebuild it: which months there are, and what is counted by runs from then on. Months whose partitions are
-- gone are kept unless told otherwise; of a source without partitions there are none. In one transaction, which reads the whole source before it
-- writes anything. Where it would lose what nothing could count anew it is refused, unless told otherwise; what a TRUNCATE emptied is meant to go. Parameters:
-- the rollup; whether nothing is kept; whether what the source has less of goes, though no partition of it is gone. Returns how many months. Raises LV110,
-- LV112, LV113, LV114, LV115.
create or replace function rollups.begin_build(p_rollup text, p_everything boolean, p_may_lose boolean default false) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_rollup rollups.rollups;
  v_source text;
  v_horizon xid8;
  v_months timestamp[];
  v_has_rows boolean;
  v_everything boolean;
  v_losses record;
begin
  perform pg_advisory_xact_lock(hashtext('liventix.rollups'), hashtext(p_rollup));
  v_rollup := rollups.get(p_rollup);
  v_source := rollups.source_of(v_rollup.sources);
  execute format('select exists (select from %s)', v_source) into v_has_rows;
  if not v_has_rows and not p_everything then
    perform rollups.refuse('ROLLUP_SOURCE_EMPTY', format(
      '%s has no rows, so a rebuild of %s would keep every day or none. To empty it: liventix rollups rebuild %s --everything', v_source, p_rollup, p_rollup));
  end if;
  v_everything := p_everything or (v_rollup.everything and v_rollup.state <> 'ready');
  if not v_everything and not p_may_lose and not exists (select from rollups.marks m where m.rollup = p_rollup and m.is_emptied) then
    v_losses := rollups.losses(v_rollup, v_source, false);
    if v_losses.rows > 0 then
      perform rollups.refuse('ROLLUP_WOULD_LOSE', format(
        'A rebuild of %s would lose %s rows of %s, which it counts and %s has not. Nothing was changed. If they went with their month, leave it so: nothing counts them again. If they are to go: liventix rollups rebuild %s --yes',
        p_rollup, v_losses.rows, v_losses.days, v_source, p_rollup));
    end if;
  end if;
  -- Everything below it is in the table, or in changes, for whoever looks later.
  v_horizon := greatest(pg_snapshot_xmin(pg_current_snapshot()), '1');
  v_months := rollups.months_of(v_rollup, v_source);
  v_everything := v_everything or not exists (select from pg_partitioned_table p where p.partrelid = v_source::regclass);
  perform rollups.take_over(v_rollup, v_source);
  if not v_everything then
    -- Of another server's numbers none is left that is below where this one's begin.
    v_rollup.counted_below := coalesce(v_rollup.moved_at, v_rollup.counted_below);
    perform rollups.catch_up(v_rollup, v_source, v_horizon);
  end if;
  delete from rollups.chunks where rollup = p_rollup;
  -- Of rows too that were taken back: those changes are dropped by the build of their month.
  insert into rollups.chunks (rollup, number, month) select p_rollup, m.number, m.month from unnest(v_months) with ordinality m (month, number);
  delete from rollups.marks where rollup = p_rollup;
  update rollups.rollups
  set state = 'building', counted_below = v_horizon, counted_on = (pg_control_system()).system_identifier, moved_at = null, everything = v_everything,
    failing_since = null, error = null
  where name = p_rollup;
  return coalesce(cardinality(v_months), 0);
end
$$;

-- Runs every rollup until it is up to date, for pg_cron: select cron.schedule('10 seconds', 'call rollups.run_all()'). Each step is a transaction;
-- what fails of one is a warning, and written down, and the others go on.
create or replace procedure rollups.run_all(p_most integer default 50000)
language plpgsql as $$
declare
  v_behind text[] := array(select r.name from rollups.rollups r where r.state = 'ready' order by r.name);
  v_name text;
  v_is_behind boolean;
begin
  perform rollups.note_moves();
  commit;
  -- One step each in turn: one that is far behind keeps no other waiting.
  while pg_catalog.cardinality(v_behind) > 0 loop
    foreach v_name in array v_behind loop
      begin
        select r.is_behind into v_is_behind from rollups.run(v_name, p_most) r;
      exception when others then
        raise warning 'rollup %: %', v_name, sqlerrm;
        perform rollups.note_failure(v_name, sqlerrm);
        v_is_behind := false;
      end;
      commit;
      if not v_is_behind then
        v_behind := pg_catalog.array_remove(v_behind, v_name);
      end if;
    end loop;
  end loop;
end
$$;

-- Rollups of before 0063 had a day made of the time by the zone itself: as all that reads what they made does since, near the first and the last instant there is too.
-- lint: allow rows-changed-under-lock because it has a row for each rollup
do $$
declare
  v_rollup rollups.rollups;
  v_function regprocedure;
  v_time text;
  v_old text;
  v_new text;
begin
  for v_rollup in select r.* from rollups.rollups r loop
    -- As src/analytics/rollups/merge.ts quotes it.
    v_time := format('s."%s"', replace(v_rollup.declaration ->> 'time', '"', '""'));
    v_old := format('(%s at time zone %L)::date', v_time, v_rollup.declaration ->> 'zone');
    v_new := format('rollups.local_time(%s, %L)::date', v_time, v_rollup.declaration ->> 'zone');
    update rollups.rollups r set read_sql = replace(r.read_sql, v_old, v_new), build_sql = replace(r.build_sql, v_old, v_new) where r.name = v_rollup.name;
    v_function := to_regprocedure(format('rollups.%I()', v_rollup.name || '_changed'));
    if v_function is not null then
      execute replace(pg_get_functiondef(v_function), v_old, v_new);
    end if;
  end loop;
end
$$;

revoke all on all functions in schema rollups from public;
