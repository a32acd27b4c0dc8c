-- Tables whose code cannot be changed announce themselves: an attachment is a row of outbox.attachments, and the triggers on its table
-- that the row stands for. Inserting the row makes them, deleting it drops them, so neither is ever there without the other.
--
--   condition (kind)          announced                            triggers
--   insert                    every new row                        insert
--   delete                    every row that goes                  delete
--   change   a, b -> c        a column goes from a or b to c       update
--   becomes  -> c             the same from whatever, or new as c  insert, update
--
-- The condition is the trigger's WHEN, which PostgreSQL judges before it queues anything: rows that do not match cost one comparison.
-- Not UPDATE OF the column: that looks at the statement, and misses what another trigger writes into the row.

-- Raises a code of the attachments. Parameters: the code, as in docs/errors.md, and a message.
create function outbox.refuse_attachment(p_code text, p_message text) returns void
language plpgsql as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'OUTBOX_ATTACHMENT_INVALID' then 'LV070'
      when 'OUTBOX_ATTACHMENT_DIFFERS' then 'LV071'
    end;
end $$;

create table outbox.attachments (
  id bigint not null generated always as identity,
  name text not null,
  relation regclass not null,
  kind text not null,
  column_name text,
  from_values text[],
  to_values text[],
  topic text not null,
  payload_columns text[] not null,
  organization_column text,
  ordering_key_column text,
  with_change boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  constraint attachments_pkey primary key (id),
  constraint attachments_name_key unique (name),
  -- One change is announced once under one topic, whatever the attachments are called.
  constraint attachments_condition_key unique nulls not distinct (relation, topic, kind, column_name, from_values, to_values),
  constraint attachments_name_format check (name ~ '^[^[:cntrl:]]+$' and length(name) <= 200),
  constraint attachments_kind_values check (kind in ('insert', 'delete', 'change', 'becomes')),
  constraint attachments_condition_of_kind check (
    case when kind in ('insert', 'delete') then num_nonnulls(column_name, from_values, to_values) = 0 and not with_change
         when kind = 'becomes' then column_name is not null and from_values is null
         else column_name is not null end),
  -- Of which a key of the index above takes some more.
  constraint attachments_values_bounded check (
    (from_values is null or cardinality(from_values) > 0) and (to_values is null or cardinality(to_values) > 0)
    and octet_length(concat(array_to_string(from_values, ','), array_to_string(to_values, ','))) <= 1000),
  -- As public.outbox has it: found out here, and not by whoever changes a row.
  constraint attachments_topic_format check (topic ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' and length(topic) <= 128),
  constraint attachments_payload_columns_bounded check (cardinality(payload_columns) between 1 and 50),
  -- Keys of the payload that say something about it.
  constraint attachments_payload_columns_free check (not payload_columns && array['_change', '_left_out'])
);

comment on table outbox.attachments is 'Tables that announce their changes. A row is never changed: detach, and attach anew.';
comment on column outbox.attachments.relation is 'By its oid, so that it is found wherever it is moved and whatever it is renamed to.';
comment on column outbox.attachments.from_values is 'What the column must have been, null among them for SQL''s null; null as a whole: whatever else.';
comment on column outbox.attachments.to_values is 'What the column must become; null as a whole: whatever else.';
comment on column outbox.attachments.with_change is 'Whether the payload has what the column was and what it became.';

-- What a kind of condition has triggers for.
create function outbox.attachment_operations(p_kind text) returns text[]
language sql immutable parallel safe
return case p_kind when 'change' then array['update'] when 'becomes' then array['insert', 'update'] else array[p_kind] end;

-- The name of a trigger of an attachment: names of attachments are longer than PostgreSQL takes, and are in the trigger's argument.
create function outbox.attachment_trigger(p_name text, p_operation text) returns text
language sql immutable parallel safe
return format('liventix_announce_%s_%s', left(encode(sha256(convert_to(p_name, 'UTF8')), 'hex'), 12), p_operation);

-- ------------------------------------------------------------------------------------------------- what is refused

-- Refuses a table that rows would get out of unannounced, or that announces by itself. Raises OUTBOX_ATTACHMENT_INVALID.
create function outbox.check_attached_table(p_relation regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  v_table pg_class := (select c from pg_class c where c.oid = p_relation);
  v_why constant text := case
    when v_table.oid is null then 'is not there'
    when v_table.relkind not in ('r', 'p') then 'is not a table'
    when v_table.relpersistence = 't' then 'is temporary'
    when v_table.relnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) then 'is of PostgreSQL itself'
    when v_table.relnamespace = 'outbox'::regnamespace or coalesce(pg_partition_root(p_relation), p_relation) = 'public.outbox'::regclass
      then 'is of the outbox, which would announce its own announcements'
    when v_table.relkind = 'r' and exists (select from pg_inherits i where i.inhparent = p_relation)
      then 'has children by inheritance, whose rows it would not see: attach those'
  end;
begin
  if v_why is not null then
    perform outbox.refuse_attachment('OUTBOX_ATTACHMENT_INVALID', format('%s %s.', p_relation, v_why));
  end if;
end $$;

-- Refuses columns that are not there, twice, or whose values a trigger cannot tell. Raises OUTBOX_ATTACHMENT_INVALID.
create function outbox.check_attached_columns(p outbox.attachments) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  v_named constant text[] := array_remove(p.payload_columns || array[p.column_name, p.organization_column, p.ordering_key_column], null);
  v_there constant text[] := array(
    select a.attname::text from pg_attribute a where a.attrelid = p.relation and a.attnum > 0 and not a.attisdropped order by a.attnum);
  v_missing constant text[] := array(select distinct n from unnest(v_named) n where n <> all (v_there) order by 1);
  v_fault text;
begin
  v_fault := case
    when array_position(p.payload_columns, null) is not null then 'A column of the payload is null.'
    when cardinality(v_missing) > 0
      then format('%s has no column %s. It has %s.', p.relation, array_to_string(v_missing, ', '), array_to_string(v_there, ', '))
    when cardinality(p.payload_columns) <> (select count(distinct n) from unnest(p.payload_columns) n)
      then format('The payload names a column twice: %s.', array_to_string(p.payload_columns, ', '))
    end;
  if v_fault is null then
    select format('%s of %s is generated as it is read, so that no trigger has its value.', a.attname, p.relation) into v_fault
    from pg_attribute a
    where a.attrelid = p.relation and a.attname = any (v_named) and a.attgenerated = 'v'
    limit 1;
  end if;
  if v_fault is null and not exists (
    select from pg_attribute a
    where a.attrelid = p.relation and a.attname = p.organization_column and a.atttypid = 'uuid'::regtype or p.organization_column is null)
  then
    v_fault := format('%s of %s is no uuid, as the id of an organization is.', p.organization_column, p.relation);
  end if;
  if v_fault is null and exists (
    select from pg_partitioned_table t join pg_attribute a on a.attrelid = t.partrelid and a.attnum = any (t.partattrs)
    where t.partrelid = p.relation and a.attname = p.column_name)
  then
    v_fault := format('%s is partitioned by %s: PostgreSQL moves a row whose %s changes by deleting it and inserting it anew, which no trigger can tell from a change.',
      p.relation, p.column_name, p.column_name);
  end if;
  if v_fault is not null then
    perform outbox.refuse_attachment('OUTBOX_ATTACHMENT_INVALID', v_fault);
  end if;
end $$;

-- Refuses values that the condition's column cannot have, and a column that cannot be compared. Returns the name of its type, as a
-- literal is cast to it. Raises OUTBOX_ATTACHMENT_INVALID.
create function outbox.check_attached_values(p outbox.attachments) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  v_type text;
  v_labels text;
  v_value text;
begin
  -- Without its length, which would cut a value off instead of refusing it.
  select format_type(a.atttypid, -1),
         (select string_agg(e.enumlabel, ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = a.atttypid)
  into strict v_type, v_labels
  from pg_attribute a where a.attrelid = p.relation and a.attname = p.column_name;
  execute format('select null::%1$s is distinct from null::%1$s', v_type);
  foreach v_value in array array_remove(coalesce(p.from_values, '{}') || coalesce(p.to_values, '{}'), null) loop
    execute format('select %L::%s', v_value, v_type);
  end loop;
  return v_type;
exception
  when undefined_function then
    perform outbox.refuse_attachment('OUTBOX_ATTACHMENT_INVALID', format(
      '%s of %s is %s, which PostgreSQL cannot compare.', p.column_name, p.relation, v_type));
  when data_exception or integrity_constraint_violation then
    perform outbox.refuse_attachment('OUTBOX_ATTACHMENT_INVALID', format(
      '%s of %s is %s, and never %s.%s', p.column_name, p.relation, v_type, quote_literal(v_value), ' It has the values ' || v_labels || '.'));
end $$;

-- --------------------------------------------------------------------------------------------- what is installed

-- The part of a condition that one side of a change must meet. Parameters: the side, as SQL; the values, null for whatever; their type.
create function outbox.side_of_condition(p_side text, p_values text[], p_type text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
return (
  select '(' || string_agg(case when v is null then format('%s is null', p_side) else format('%s = %L::%s', p_side, v, p_type) end, ' or ') || ')'
  from unnest(p_values) v);

-- The statements that install an attachment, each a trigger. Raises OUTBOX_ATTACHMENT_INVALID. Locks nothing.
create function outbox.attachment_statements(p outbox.attachments) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  v_type text;
  v_became text;
  v_changed text;
begin
  perform outbox.check_attached_table(p.relation);
  perform outbox.check_attached_columns(p);
  if p.column_name is not null then
    v_type := outbox.check_attached_values(p);
    v_became := outbox.side_of_condition(format('new.%I', p.column_name), p.to_values, v_type);
    v_changed := concat_ws(' and ', format('old.%1$I is distinct from new.%1$I', p.column_name),
      outbox.side_of_condition(format('old.%I', p.column_name), p.from_values, v_type), v_became);
  end if;
  return array(
    select format('create trigger %I after %s on %s for each row%s execute function outbox.announce_change(%L)',
      outbox.attachment_trigger(p.name, o), o, p.relation,
      ' when (' || case o when 'update' then v_changed when 'insert' then v_became end || ')', p.name)
    from unnest(outbox.attachment_operations(p.kind)) o);
end $$;

-- A value as a payload may have it; null where it is longer than that.
create function outbox.bounded_value(p_value jsonb) returns jsonb
language sql immutable parallel safe
return case when octet_length(p_value::text) <= 8192 then p_value end;

-- An ordering key as an index takes it: its hash, where it is longer.
create function outbox.bounded_key(p_key text) returns text
language sql immutable parallel safe
return case when octet_length(p_key) <= 200 then p_key else 'sha256:' || encode(sha256(convert_to(p_key, 'UTF8')), 'hex') end;

-- A row's columns one by one, those left out that jsonb cannot have: a json with \u0000 in it, a text of more than 256 MB.
create function outbox.readable_columns(p_row anyelement, p_columns text[]) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
declare
  v_column text;
  v_value jsonb;
  v_readable jsonb := '{}';
begin
  foreach v_column in array p_columns loop
    begin
      execute format('select to_jsonb(($1).%I)', v_column) into v_value using p_row;
      v_readable := v_readable || jsonb_build_object(v_column, v_value);
    exception
      when others then null;
    end;
  end loop;
  return v_readable;
end $$;

-- Announces the change of a row as the attachment says that the trigger names. Nothing that a row may hold makes it fail: the change is
-- the application's, and a value that the payload cannot have is left out, and named in it. As the owner, because whoever changes the
-- table need not be allowed to announce; with settings of its own, so that a payload is the same whoever that is.
create function outbox.announce_change() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
  v_attachment outbox.attachments;
  v_row jsonb;
  v_former jsonb;
  v_present jsonb;
  v_payload jsonb;
  v_left_out text[];
begin
  select a.* into v_attachment from outbox.attachments a where a.name = tg_argv[0];
  if not found then
    raise warning 'The trigger % on % announces nothing: there is no attachment %', tg_name, tg_relid::regclass, tg_argv[0];
    return null;
  end if;
  if tg_op = 'DELETE' then
    new := old;
  end if;

  begin
    v_row := to_jsonb(new);
    if v_attachment.with_change and tg_op = 'UPDATE' then
      v_former := to_jsonb(old) -> v_attachment.column_name;
    end if;
  exception
    when others then
      v_row := outbox.readable_columns(new, v_attachment.payload_columns
        || array[v_attachment.column_name, v_attachment.organization_column, v_attachment.ordering_key_column]);
      if v_attachment.with_change and tg_op = 'UPDATE' then
        v_former := outbox.readable_columns(old, array[v_attachment.column_name]) -> v_attachment.column_name;
      end if;
  end;

  select jsonb_object_agg(c.key, c.value), array_agg(c.key) filter (where c.value is null)
  into v_payload, v_left_out
  from (select k as key, outbox.bounded_value(v_row -> k) as value from unnest(v_attachment.payload_columns) k) c;
  if v_attachment.with_change then
    v_former := outbox.bounded_value(v_former);
    v_present := outbox.bounded_value(v_row -> v_attachment.column_name);
    v_payload := v_payload || jsonb_build_object('_change', jsonb_build_object('from', v_former, 'to', v_present));
    if v_present is null or v_former is null and tg_op = 'UPDATE' then
      v_left_out := array_append(v_left_out, '_change');
    end if;
  end if;
  if v_left_out is not null then
    v_payload := v_payload || jsonb_build_object('_left_out', v_left_out);
  end if;

  if coalesce(v_attachment.organization_column, v_attachment.ordering_key_column) is null then
    insert into public.outbox (topic, payload) values (v_attachment.topic, v_payload);
  else
    insert into public.outbox (topic, payload, organization_id, ordering_key)
    values (v_attachment.topic, v_payload,
      -- Whatever the column may have become since.
      case when v_row ->> v_attachment.organization_column ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
           then (v_row ->> v_attachment.organization_column)::uuid end,
      outbox.bounded_key(v_row ->> v_attachment.ordering_key_column));
  end if;
  return null;
end $$;

-- -------------------------------------------------------------------------------------------- row and triggers are one

create function outbox.install_attachment() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  v_statement text;
begin
  foreach v_statement in array outbox.attachment_statements(new) loop
    execute v_statement;
  end loop;
  return null;
end $$;

-- Drops an attachment's triggers. Waits for whoever uses the table, and bounds that by the transaction's lock_timeout.
create function outbox.remove_attachment() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  v_trigger name;
begin
  for v_trigger in
    select t.tgname
    from pg_trigger t
    where t.tgrelid = old.relation and t.tgfoid = 'outbox.announce_change'::regproc
      and t.tgname in (select outbox.attachment_trigger(old.name, o) from unnest(outbox.attachment_operations(old.kind)) o)
  loop
    execute format('drop trigger %I on %s', v_trigger, old.relation);
  end loop;
  return null;
end $$;

create function outbox.refuse_attachment_change() returns trigger
language plpgsql as $$
begin
  perform outbox.refuse_attachment('OUTBOX_ATTACHMENT_DIFFERS',
    'A row of outbox.attachments is inserted or deleted, and its triggers with it; it is never changed.');
end $$;

create trigger attachments_install after insert on outbox.attachments for each row execute function outbox.install_attachment();
create trigger attachments_remove after delete on outbox.attachments for each row execute function outbox.remove_attachment();
create trigger attachments_never_change before update or truncate on outbox.attachments
for each statement execute function outbox.refuse_attachment_change();

select outbox.keep_from_guests();
