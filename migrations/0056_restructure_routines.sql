-- Steps on what is no relation, functions and search paths, know what they left: somebody's later change of it is not undone with them.

set local lock_timeout = '1s';

-- What there was of the object once the step was done; null where nothing is noted, as of steps from before this migration.
alter table restructure.steps add column made jsonb;

-- A digest of a function's body. Parameters: its oid. Returns 32 hexadecimal digits; null where it is not there. Locks nothing.
create function restructure.body_of(p_function oid) returns text
language sql stable set search_path = '' as $$
  select md5(concat_ws(' ', f.prolang, f.prosrc, f.prosqlbody::text)) from pg_proc f where f.oid = p_function
$$;

-- What there is of a function or of a role's search_path. A function's rights and settings are not of it: other steps change them.
-- Parameters: the kind of a step, the object that it names; of a function that may have another name by now, its oid. Returns null where it
-- is not there, and of other kinds. Locks nothing.
create function restructure.made_of(p_kind text, p_object text, p_function oid default null) returns jsonb
language sql stable set search_path = '' as $$
  select case
    when p_kind in ('replacement', 'tenant replacement') then (
      select jsonb_build_object('function', f.oid, 'body', restructure.body_of(f.oid))
      from pg_proc f where f.oid = coalesce(p_function, to_regprocedure(p_object)))
    when p_kind = 'search path' then (
      select jsonb_build_object('role', r.oid, 'search_path', (
        select setting from pg_db_role_setting s, unnest(s.setconfig) setting
        where s.setrole = r.oid and setting like 'search\_path=%'
          and s.setdatabase = (select d.oid from pg_database d where d.datname = current_database())))
      from pg_roles r where r.rolname = p_object)
  end
$$;

-- Trigger. Of every step what it left, in its transaction.
create function restructure.note_made() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.made := restructure.made_of(new.kind, new.object);
  return new;
end
$$;

create trigger steps_note_made before insert on restructure.steps for each row execute function restructure.note_made();

-- Before a function is replaced. Parameters: the function, the digest of its body as whoever replaces it has read it. Returns nothing.
-- Locks nothing. Raises LV096 where it has another by now.
create function restructure.assert_body(p_function text, p_body text) returns void
language plpgsql set search_path = '' as $$
begin
  if restructure.body_of(to_regprocedure(p_function)) is distinct from p_body then
    perform restructure.refuse('RESTRUCTURE_DRIFTED',
      format('%s is not any more what it was. Make another plan: liventix restructure plan', p_function));
  end if;
end
$$;

-- Before a step is undone. Parameters: its kind and object. Returns nothing. Locks nothing. Raises LV097 where somebody changed since what it
-- left: undoing it would undo that too.
create function restructure.assert_as_made(p_kind text, p_object text) returns void
language plpgsql set search_path = '' as $$
declare
  v_id bigint;
  v_made jsonb;
begin
  select s.id, s.made into v_id, v_made from restructure.steps s where s.kind = p_kind and s.object = p_object and s.undone_at is null;
  if v_made is not null and restructure.made_of(p_kind, p_object, (v_made ->> 'function')::oid) is distinct from v_made then
    perform restructure.refuse('RESTRUCTURE_CHANGED_MORE', format(
      '%s was changed since step %s, and stays as it is. To undo the step all the same, put back what it left (its statements are in restructure.steps) and run again',
      p_object, v_id));
  end if;
end
$$;

revoke all on all functions in schema restructure from public;
