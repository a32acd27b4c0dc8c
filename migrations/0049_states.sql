-- State machines that hold for every writer. A machine is declared in src/states/machines/ and generated into rows of states.machines and
-- states.edges; it is installed on a table that has a column `id` (uuid) and a column `state`, by triggers that all machines share:
--
--   insert          an initial state alone, of an id that has no history      states.begin_history
--   update          along an edge alone, by a role and under the guards of    states.take_transition
--                   the edge; history, message and money in the same
--                   transaction, or none of it
--   delete          ends the history; never of a row that keeps money         states.end_history
--   truncate        never                                                     states.refuse_truncate
--
-- A table of the old platform keeps the column of its old labels beside `state`; a generated trigger lets each follow the other.

create schema states;

-- Raises one of our codes with its SQLSTATE. Parameters: the code, as in docs/errors.md; a message that says what, which id, both values
-- and what to do; the same for programs.
create function states.refuse(p_code text, p_message text, p_detail jsonb default '{}') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using
    message = p_message,
    detail = coalesce(nullif(p_detail, '{}')::text, ''),
    errcode = case p_code
      when 'STATE_MACHINE_UNKNOWN' then 'LV080'
      when 'STATE_MACHINE_NOT_INSTALLED' then 'LV081'
      when 'STATE_EVENT_UNKNOWN' then 'LV082'
      when 'STATE_UNKNOWN' then 'LV083'
      when 'STATE_EDGE_REFUSED' then 'LV084'
      when 'STATE_INITIAL_REFUSED' then 'LV085'
      when 'STATE_NULL_REFUSED' then 'LV086'
      when 'STATE_ROLE_REFUSED' then 'LV087'
      when 'STATE_GUARD_REFUSED' then 'LV088'
      when 'STATE_ROW_MISSING' then 'LV089'
      when 'STATE_ROW_LOCKED' then 'LV090'
      when 'STATE_HISTORY_APPEND_ONLY' then 'LV091'
      when 'STATE_ROW_FIXED' then 'LV092'
      when 'STATE_MONEY_KEPT' then 'LV093'
      when 'STATE_ACCOUNT_KEPT' then 'LV094'
      when 'STATE_CHANGE_LOST' then 'LV095'
    end;
end $$;

-- ------------------------------------------------------------------------------------------------------ declarations

create table states.machines (
  name text not null,
  about text not null,
  table_name text not null,
  relation regclass,
  state_type text not null,
  initial_states text[] not null,
  label_column text,
  adopted_state text not null,
  installed_at timestamptz,
  dropped_constraints jsonb not null default '{}',
  constraint machines_pkey primary key (name),
  constraint machines_name_format check (name ~ '^[a-z][a-z0-9_]{0,30}$')
);

comment on table states.machines is 'One row a machine, generated from its declaration in src/states/machines/. What it is installed on is beside it.';
comment on column states.machines.table_name is 'The table that it is declared for.';
comment on column states.machines.relation is 'The table that it is installed on, by its oid, so that it is found wherever it is moved; null before.';
comment on column states.machines.state_type is 'The enum type of its states.';
comment on column states.machines.label_column is 'The column of the old platform that shows the state to old code; null for a table without one.';
comment on column states.machines.adopted_state is 'SQL of the state of a row of before the machine, which is $1; $2 is the state that its history ends in, where it has one.';
comment on column states.machines.installed_at is 'Since when its accounts are kept; null before.';
comment on column states.machines.dropped_constraints is 'Checks of the old platform that allow less than the machine, as they were: put back when it is uninstalled.';

create table states.edges (
  machine text not null constraint edges_machine_fkey references states.machines,
  from_state text not null,
  to_state text not null,
  event text not null,
  topic text not null,
  roles text[] not null,
  guards text[] not null,
  has_effects boolean not null,
  organization text,
  is_of_event boolean not null,
  constraint edges_pkey primary key (machine, from_state, to_state),
  constraint edges_event_key unique (machine, from_state, event),
  constraint edges_event_free check (event not in ('created', 'adopted', 'deleted'))
);

comment on table states.edges is 'Which changes of state there are: from, to, and the event that takes it. There is no other.';
comment on column states.edges.topic is 'What it is announced under in public.outbox.';
comment on column states.edges.roles is 'Who may take it: platform, and roles of states.parties.';
comment on column states.edges.guards is 'Which of states.guards must hold of the row, as it is after the change.';
comment on column states.edges.has_effects is 'Whether it moves money, or may free or freeze what is kept.';
comment on column states.edges.organization is 'SQL of whose the message is, the row being $1: an organization, or where is_of_event an event, whose organization it is. Here, and not beside the machine: it is asked each time.';

create table states.guards (
  machine text not null constraint guards_machine_fkey references states.machines,
  name text not null,
  condition text not null,
  says text not null,
  constraint guards_pkey primary key (machine, name)
);

comment on column states.guards.condition is 'SQL of whether it holds; the row is $1.';

create table states.parties (
  machine text not null constraint parties_machine_fkey references states.machines,
  role text not null,
  condition text not null,
  constraint parties_pkey primary key (machine, role)
);

comment on table states.parties is 'Which roles a signed-in user has towards a row.';
comment on column states.parties.condition is 'SQL of whether the user has the role; the row is $1, the user''s id $2.';

-- ----------------------------------------------------------------------------------------------------------- history

create table states.history (
  id bigint not null generated always as identity,
  machine text not null,
  subject_id uuid not null,
  from_state text,
  to_state text,
  event text not null,
  role text not null,
  changed_by text not null,
  changed_at timestamptz not null default clock_timestamp(),
  reason text,
  message_id uuid,
  constraint history_pkey primary key (subject_id, id)
);

comment on table states.history is 'Every change of state of every row, written by its trigger and never changed. Each machine has a view of its own.';
comment on column states.history.id is 'The order of changes of one row: each is written while the row is locked.';
comment on column states.history.from_state is 'null where the row began, or was there before the machine was.';
comment on column states.history.to_state is 'null where the row was deleted.';
comment on column states.history.event is 'created, adopted (it was there before the machine), deleted, or the event of the edge.';
comment on column states.history.role is 'As what the change was allowed.';
comment on column states.history.changed_by is 'The signed-in user, or else the database role.';
comment on column states.history.reason is 'As far as 1,000 characters.';
comment on column states.history.message_id is 'The message in public.outbox that announces it.';

create function states.refuse_history_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_HISTORY_APPEND_ONLY', format(
    '%s of states.history refused: what happened is never changed. Take the transition that follows.', tg_op));
  return null;
end $$;

create trigger history_append_only before update or delete or truncate on states.history
  for each statement execute function states.refuse_history_change();
alter table states.history enable always trigger history_append_only;

-- ------------------------------------------------------------------------------------------------------- who may do what

-- Who asks: the signed-in user, or else the session's role. As payments.acting_user, for callers without a search_path of their own.
create function states.acting_user() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$ select payments.acting_user() $$;

-- Whether the caller is the platform: the owner, or Supabase's server role. Called by functions that run as the owner.
create function states.is_platform() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
  return payments.is_member(v_caller, current_user) or payments.is_member(v_caller, 'service_role');
end $$;

-- The roles that the caller has towards a row: platform, or those of the signed-in user. Called by functions that run as the owner.
-- p_row: a row of the machine's table.
create function states.roles_of_caller(p_machine text, p_row anyelement) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_user_id uuid;
  v_party states.parties;
  v_has_role boolean;
  v_roles text[] := '{}';
begin
  if states.is_platform() then
    return array['platform'];
  end if;
  v_user_id := payments.try_uuid(payments.acting_user());
  if v_user_id is not null then
    for v_party in select p.* from states.parties p where p.machine = p_machine order by p.role loop
      execute format('select %s', v_party.condition) into v_has_role using p_row, v_user_id;
      if v_has_role then
        v_roles := v_roles || v_party.role;
      end if;
    end loop;
  end if;
  return v_roles;
end $$;

-- Refuses a row of which a guard does not hold. p_event: what is asked for, as the message says it.
create function states.check_guards(p_machine text, p_guards text[], p_event text, p_id uuid, p_row anyelement, p_detail jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_guard states.guards;
  v_holds boolean;
begin
  for v_guard in select g.* from states.guards g where g.machine = p_machine and g.name = any (p_guards) order by g.name collate "C" loop
    execute format('select %s', v_guard.condition) into v_holds using p_row;
    if v_holds is not true then
      perform states.refuse('STATE_GUARD_REFUSED', format('%s of %s %s needs that %s.', p_event, p_machine, p_id, v_guard.says),
        p_detail || jsonb_build_object('guard', v_guard.name));
    end if;
  end loop;
end $$;

-- Refuses an edge that the caller may not take, or whose guards do not hold. Returns as what he may.
-- p_old: the row as it was, by which it is decided who he is to it: what he writes into it makes nobody of him. p_new: as it is to be.
create function states.judge_edge(p_machine text, p_from text, p_to text, p_id uuid, p_old anyelement, p_new anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_edge constant states.edges := (
    select e from states.edges e where e.machine = p_machine and e.from_state = p_from and e.to_state = p_to);
  v_roles constant text[] := states.roles_of_caller(p_machine, p_old);
  v_role constant text := (select r from unnest(v_edge.roles) with ordinality as e (r, nth) where r = any (v_roles) order by nth limit 1);
  v_detail constant jsonb := jsonb_build_object('machine', p_machine, 'id', p_id, 'from', p_from, 'to', p_to, 'event', v_edge.event);
begin
  if v_role is null then
    perform states.refuse('STATE_ROLE_REFUSED', format('%s of %s %s is for: %s. The caller is: %s.', v_edge.event, p_machine, p_id,
      array_to_string(v_edge.roles, ', '), coalesce(nullif(array_to_string(v_roles, ', '), ''), 'none that has a part in it')),
      v_detail || jsonb_build_object('roles', v_edge.roles));
  end if;
  perform states.check_guards(p_machine, v_edge.guards, v_edge.event, p_id, p_new, v_detail);
  return v_role;
end $$;

-- Where a row may go from a state, as a message says it.
create function states.ways_from(p_machine text, p_state text) returns text
language sql stable
return coalesce(
  (select string_agg(format('%s (%s)', e.to_state, e.event), ', ' order by e.to_state collate "C")
   from states.edges e where e.machine = p_machine and e.from_state = p_state),
  'nowhere, it is final');

-- Refuses an old label that stands for no state.
create function states.refuse_label(p_machine text, p_id uuid, p_label text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_UNKNOWN', format('%s of %s is %s, which stands for no state.',
    (select m.label_column from states.machines m where m.name = p_machine), concat_ws(' ', p_machine, p_id), payments.shown(p_label)),
    jsonb_build_object('machine', p_machine, 'id', p_id));
end $$;

-- Refuses another id for a row, by which it would leave its history.
create function states.refuse_new_id(p_machine text, p_id uuid, p_new_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_ROW_FIXED', format('The id of %s %s cannot become %s: its history is under it.', p_machine, p_id, p_new_id),
    jsonb_build_object('machine', p_machine, 'id', p_id));
end $$;

-- Refuses a change of state that is no edge.
create function states.refuse_edge(p_machine text, p_id uuid, p_from text, p_to text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_to is null then
    perform states.refuse('STATE_NULL_REFUSED', format('The state of %s %s is %s, and cannot become null.', p_machine, p_id, p_from),
      jsonb_build_object('machine', p_machine, 'id', p_id, 'from', p_from));
  end if;
  perform states.refuse('STATE_EDGE_REFUSED', format('%s %s cannot go from %s to %s. From %s it may go to: %s.',
    p_machine, p_id, p_from, p_to, p_from, states.ways_from(p_machine, p_from)),
    jsonb_build_object('machine', p_machine, 'id', p_id, 'from', p_from, 'to', p_to, 'allowed', (
      select coalesce(jsonb_agg(e.to_state order by e.to_state), '[]') from states.edges e
      where e.machine = p_machine and e.from_state = p_from)));
end $$;

-- -------------------------------------------------------------------------------------------------------- the triggers

-- What an edge does beside changing the state; migration 0050 gives it its body.
create function states.take_effects(p_machine text, p_id uuid, p_event text, p_to text, p_history_id bigint, p_row anyelement) returns void
language plpgsql as $$
begin
end $$;

-- Takes a row of before the machine into it, as it was. Returns its state. p_row: the row as it was.
create function states.adopt(p_machine text, p_id uuid, p_row anyelement) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_state constant text := states.adopted_state(p_machine, p_id, p_row);
  v_column constant text := (select m.label_column from states.machines m where m.name = p_machine);
  v_label text;
  v_history_id bigint;
begin
  if v_column is not null then
    execute format('select ($1).%I::text', v_column) into v_label using p_row;
  end if;
  insert into states.history (machine, subject_id, to_state, event, role, changed_by, reason)
  values (p_machine, p_id, v_state, 'adopted', 'platform', payments.acting_user(), case when v_column is not null then format('its old label was %s', coalesce(v_label, 'null')) end)
  returning id into v_history_id;
  perform states.take_effects(p_machine, p_id, 'adopted', v_state, v_history_id, p_row);
  return v_state;
end $$;

-- The state of a row of before the machine, by its declaration. Where the machine was on the table before, old labels that may stand for several
-- states say the one that the row's history ends in. Refuses a row of which nothing says it.
create function states.adopted_state(p_machine text, p_id uuid, p_row anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_last constant text := (
    select h.to_state from states.history h where h.subject_id = p_id and h.machine = p_machine order by h.id desc limit 1);
  v_state text;
begin
  execute format('select (%s)::text', (select m.adopted_state from states.machines m where m.name = p_machine)) into v_state using p_row, v_last;
  if v_state is null then
    perform states.refuse('STATE_UNKNOWN', format('The old label of %s %s stands for no state: correct it.', p_machine, p_id));
  end if;
  return v_state;
end $$;

-- After each change of `state` or `id`. Its argument is the machine. Locks: the row, which its writer holds; what its effects lock.
-- As the owner, and without a search_path of its own, which took a fifth of what 16 sessions committed: so every name and operator is
-- qualified, and what is not needed each time is left to functions that have one.
create function states.take_transition() returns trigger
language plpgsql security definer as $$
declare
  v_from pg_catalog.text := old.state;
  v_to constant pg_catalog.text := new.state;
  v_event pg_catalog.text;
  v_topic pg_catalog.text;
  v_has_guards pg_catalog.bool;
  v_has_effects pg_catalog.bool;
  v_organization pg_catalog.text;
  v_is_of_event pg_catalog.bool;
  v_role pg_catalog.text := 'platform';
  v_caller pg_catalog.text := pg_catalog.current_setting('role');
  v_claims constant pg_catalog.text := pg_catalog.current_setting('request.jwt.claims', true);
  v_by pg_catalog.text := session_user;
  v_reason pg_catalog.text := pg_catalog.current_setting('liventix.reason', true);
  v_organization_id pg_catalog.uuid;
  v_message_id constant pg_catalog.uuid := pg_catalog.gen_random_uuid();
  v_history_id pg_catalog.int8;
begin
  if new.id operator(pg_catalog.<>) old.id then
    perform states.refuse_new_id(tg_argv[0], old.id, new.id);
  end if;
  if v_from is null then
    v_from := states.adopt(tg_argv[0], old.id, old);
    if v_from operator(pg_catalog.=) v_to then
      return null;
    end if;
  end if;
  select e.event, e.topic, pg_catalog.cardinality(e.guards) operator(pg_catalog.>) 0, e.has_effects, e.organization, e.is_of_event
  into v_event, v_topic, v_has_guards, v_has_effects, v_organization, v_is_of_event
  from states.edges e
  where e.machine operator(pg_catalog.=) tg_argv[0] and e.from_state operator(pg_catalog.=) v_from and e.to_state operator(pg_catalog.=) v_to;
  if not found then
    perform states.refuse_edge(tg_argv[0], new.id, v_from, v_to);
  end if;
  if v_caller operator(pg_catalog.=) 'none' then
    v_caller := session_user;
  end if;
  -- The owner and Supabase's server role may take every edge: only others are looked at, and guards.
  if v_has_guards or v_caller operator(pg_catalog.<>) current_user and v_caller operator(pg_catalog.<>) 'service_role' then
    v_role := states.judge_edge(tg_argv[0], v_from, v_to, new.id, old, new);
  end if;
  if v_claims operator(pg_catalog.<>) '' then
    v_by := states.acting_user();
  end if;
  v_reason := case when v_reason operator(pg_catalog.<>) '' then pg_catalog.left(v_reason, 1000) end;
  if v_organization is not null then
    execute v_organization into v_organization_id using new;
    if v_is_of_event then
      v_organization_id := states.organization_of_event(v_organization_id);
    end if;
  end if;

  insert into states.history (machine, subject_id, from_state, to_state, event, role, changed_by, reason, message_id)
  values (tg_argv[0], new.id, v_from, v_to, v_event, v_role, v_by, v_reason, v_message_id)
  returning id into v_history_id;
  insert into public.outbox (id, topic, organization_id, ordering_key, payload)
  values (v_message_id, v_topic, v_organization_id, new.id, pg_catalog.jsonb_build_object(
    'machine', tg_argv[0], 'id', new.id, 'from', v_from, 'to', v_to, 'event', v_event, 'role', v_role, 'reason', v_reason));
  if v_has_effects then
    perform states.take_effects(tg_argv[0], new.id, v_event, v_to, v_history_id, new);
  end if;
  return null;
end $$;

-- After each insert. A history that has ended is not begun anew: the row would come to a state that no edge leads to.
create function states.begin_history() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_machine constant text := tg_argv[0];
  v_state constant text := new.state;
  v_initial constant text[] := (select m.initial_states from states.machines m where m.name = v_machine);
  v_roles text[];
  -- What every edge asks for that leads there, whoever comes there by none has to have as well.
  v_guards constant text[] := array(
    select g.name from states.guards g
    where g.machine = v_machine and exists (select from states.edges e where e.machine = v_machine and e.to_state = v_state)
      and not exists (select from states.edges e where e.machine = v_machine and e.to_state = v_state and g.name <> all (e.guards)));
begin
  if v_state is null then
    perform states.refuse('STATE_NULL_REFUSED', format('The state of %s %s is null: it begins as %s.', v_machine, new.id,
      array_to_string(v_initial, ' or ')), jsonb_build_object('machine', v_machine, 'id', new.id));
  elsif v_state <> all (v_initial) then
    perform states.refuse('STATE_INITIAL_REFUSED', format('%s %s cannot begin as %s: it begins as %s.', v_machine, new.id, v_state,
      array_to_string(v_initial, ' or ')),
      jsonb_build_object('machine', v_machine, 'id', new.id, 'to', v_state, 'allowed', v_initial));
  elsif exists (select from states.history h where h.subject_id = new.id and h.machine = v_machine) then
    perform states.refuse('STATE_INITIAL_REFUSED', format(
      '%s %s has a history already, which ended when its row was deleted: insert it under another id.', v_machine, new.id),
      jsonb_build_object('machine', v_machine, 'id', new.id, 'to', v_state));
  end if;
  perform states.check_guards(v_machine, v_guards, 'beginning as ' || v_state, new.id, new, jsonb_build_object('machine', v_machine, 'id', new.id, 'to', v_state));
  v_roles := states.roles_of_caller(v_machine, new);
  insert into states.history (machine, subject_id, to_state, event, role, changed_by)
  values (v_machine, new.id, v_state, 'created', coalesce(v_roles[1], 'none'), payments.acting_user());
  return null;
end $$;

-- After each delete; one of a row that keeps money is refused by take_effects.
create function states.end_history() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_machine constant text := tg_argv[0];
  v_roles constant text[] := states.roles_of_caller(v_machine, old);
  v_history_id bigint;
begin
  insert into states.history (machine, subject_id, from_state, event, role, changed_by)
  values (v_machine, old.id, old.state, 'deleted', coalesce(v_roles[1], 'none'), payments.acting_user())
  returning id into v_history_id;
  perform states.take_effects(v_machine, old.id, 'deleted', null, v_history_id, old);
  return null;
end $$;

create function states.refuse_truncate() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform states.refuse('STATE_ROW_FIXED', format('TRUNCATE of %s refused: each row has a history as %s. Delete rows instead.',
    tg_relid::regclass, tg_argv[0]));
  return null;
end $$;

-- ------------------------------------------------------------------------------------------------------- taking an edge

-- The machine of a name, installed. Raises STATE_MACHINE_UNKNOWN, STATE_MACHINE_NOT_INSTALLED.
create function states.machine(p_name text) returns states.machines
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_machine states.machines;
begin
  select m.* into v_machine from states.machines m where m.name = p_name;
  if not found then
    perform states.refuse('STATE_MACHINE_UNKNOWN', format('There is no machine %s. There are: %s.', coalesce(payments.shown(p_name), 'null'),
      (select string_agg(m.name, ', ' order by m.name) from states.machines m)));
  elsif v_machine.relation is null or not exists (select from pg_class c where c.oid = v_machine.relation) then
    perform states.refuse('STATE_MACHINE_NOT_INSTALLED', format('Machine %s is installed on no table: liventix states install %s.', p_name, p_name));
  end if;
  return v_machine;
end $$;

-- The edge that an event takes from a state. Raises STATE_EVENT_UNKNOWN, STATE_EDGE_REFUSED.
create function states.edge_of(p_machine text, p_id uuid, p_from text, p_event text) returns states.edges
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_edge states.edges;
begin
  select e.* into v_edge from states.edges e where e.machine = p_machine and e.from_state = p_from and e.event = p_event;
  if found then
    return v_edge;
  elsif not exists (select from states.edges e where e.machine = p_machine and e.event = p_event) then
    perform states.refuse('STATE_EVENT_UNKNOWN', format('Machine %s has no event %s. It has: %s.', p_machine, coalesce(payments.shown(p_event), 'null'),
      (select string_agg(distinct e.event, ', ' order by e.event) from states.edges e where e.machine = p_machine)));
  end if;
  perform states.refuse('STATE_EDGE_REFUSED', format('%s cannot happen to %s %s, which is %s. From %s it may go to: %s.',
    p_event, p_machine, p_id, p_from, p_from, states.ways_from(p_machine, p_from)),
    jsonb_build_object('machine', p_machine, 'id', p_id, 'from', p_from, 'event', p_event, 'allowed', (
      select coalesce(jsonb_agg(e.to_state order by e.to_state), '[]') from states.edges e
      where e.machine = p_machine and e.from_state = p_from)));
end $$;

create type states.transition as (
  history_id bigint, machine text, id uuid, from_state text, to_state text, event text, role text, message_id uuid
);

-- Takes the edge of an event. Whoever calls it needs a role of the edge, and no right on the table; who has no part in the row learns nothing of
-- it, nor whether there is one.
-- Returns what became of it. Raises STATE_*, and what the ledger refuses.
-- Locks: the row, waiting 2 s at most for who holds it; what the edge's effects lock.
create function states.transition(p_machine text, p_id uuid, p_event text, p_reason text default null) returns states.transition
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
  v_machine constant states.machines := states.machine(p_machine);
  v_is_there boolean;
  v_has_part boolean;
  v_from text;
  v_edge states.edges;
  v_reason_before constant text := coalesce(current_setting('liventix.reason', true), '');
  v_last bigint;
  v_done states.transition;
begin
  begin
    execute format('
      select true, coalesce(x.state::text, states.adopted_state($2, x.id, x)), cardinality(states.roles_of_caller($2, x)) > 0
      from %s x where x.id = $1 for no key update', v_machine.relation)
    into v_is_there, v_from, v_has_part using p_id, p_machine;
  exception when lock_not_available then
    perform states.refuse('STATE_ROW_LOCKED', format(
      '%s %s is held by another transaction, for 2 s by now: nothing was changed. Ask again when it has ended; liventix doctor --max-transaction-seconds 1 names those that are open.',
      p_machine, p_id), jsonb_build_object('machine', p_machine, 'id', p_id, 'event', p_event));
  end;
  if not coalesce(v_has_part, states.is_platform()) then
    perform states.refuse('STATE_ROLE_REFUSED', format('The caller has no part in a %s %s.', p_machine, coalesce(p_id::text, 'null')),
      jsonb_build_object('machine', p_machine, 'id', p_id, 'event', p_event));
  elsif v_is_there is not true then
    perform states.refuse('STATE_ROW_MISSING', format('There is no %s %s in %s.', p_machine, coalesce(p_id::text, 'null'), v_machine.relation),
      jsonb_build_object('machine', p_machine, 'id', p_id));
  end if;
  v_edge := states.edge_of(p_machine, p_id, v_from, p_event);
  v_last := (select max(h.id) from states.history h where h.subject_id = p_id);
  perform set_config('liventix.reason', coalesce(p_reason, ''), true);
  execute format('update %s set state = $1::%s where id = $2', v_machine.relation, v_machine.state_type) using v_edge.to_state, p_id;
  perform set_config('liventix.reason', v_reason_before, true);
  select h.id, h.machine, h.subject_id, h.from_state, h.to_state, h.event, h.role, h.message_id
  into v_done
  from states.history h
  where h.subject_id = p_id and h.machine = p_machine and h.id > coalesce(v_last, 0) and h.event = p_event
  order by h.id desc
  limit 1;
  if v_done.history_id is null then
    perform states.refuse('STATE_CHANGE_LOST', format('%s of %s %s did not happen: another trigger of %s, or a rule, kept the row as it was.',
      p_event, p_machine, p_id, v_machine.relation), jsonb_build_object('machine', p_machine, 'id', p_id, 'event', p_event));
  end if;
  return v_done;
end $$;

-- As states.transition, for callers of PostgREST: rpc('transition_state', …).
create function public.transition_state(machine text, id uuid, event text, reason text default null) returns jsonb
language sql security definer set search_path = pg_catalog, pg_temp as $$
  select to_jsonb(t) from states.transition(machine, id, event, reason) t
$$;

comment on function public.transition_state is 'Takes the edge of an event of a state machine, for whoever has a role of it. Answers {history_id, machine, id, from_state, to_state, event, role, message_id}.';

-- Takes what was granted from whoever is no owner, and lets Supabase's roles do what they may. Run at the end of each migration of this schema.
create function states.keep_from_guests() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_guest text;
begin
  for v_guest in
    select 'public' union all
    select quote_ident(rolname) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on all tables in schema states from %s', v_guest);
    execute format('revoke all on all sequences in schema states from %s', v_guest);
    execute format('revoke all on all functions in schema states from %s', v_guest);
    execute format('revoke all on function public.transition_state(text, uuid, text, text) from %s', v_guest);
  end loop;
  for v_guest in select quote_ident(rolname) from pg_roles where rolname in ('authenticated', 'service_role') loop
    execute format('grant execute on function public.transition_state(text, uuid, text, text) to %s', v_guest);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant usage on schema states to service_role;
    grant select on all tables in schema states to service_role;
  end if;
end $$;

select states.keep_from_guests();
