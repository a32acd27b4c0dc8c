-- Moving tables between schemas: the journal of what was done, and the two functions that do a step and undo it.
--
-- A step proves itself: what the catalog says of its relations is read under their locks before and after it, and it fails
-- where anything changed beside what it names. So whatever stands in the journal changed nothing else.

create schema restructure;

-- What was done, in order. To undo is to run `inverse`; a step that is undone stays, and may be done again as another.
create table restructure.steps (
  id bigint generated always as identity constraint steps_pkey primary key,
  kind text not null,
  -- What it was done to, by the name that it had before: public.orders.
  object text not null,
  -- The relations whose facts were compared, the object first, by oid: a move changes none.
  relations oid[] not null,
  -- The digest of the plan that it was done by.
  plan text not null,
  statements text[] not null,
  inverse text[] not null,
  before jsonb not null,
  after jsonb not null,
  done_at timestamptz not null default clock_timestamp(),
  undone_at timestamptz
);

create unique index steps_one_standing on restructure.steps (kind, object) where undone_at is null;
create index steps_standing_relation on restructure.steps ((relations[1])) where undone_at is null;

comment on table restructure.steps is 'What liventix restructure apply did, with its inverse. Nobody but the owner reads or writes it.';

-- Who may do what with an object, in words that do not depend on the order in which it was granted.
-- Parameters: its acl; the kind of object that acldefault() takes; its owner. Returns sorted words. Locks nothing.
create function restructure.grants_in_words(p_acl aclitem[], p_kind "char", p_owner oid) returns jsonb
language sql stable as $$
  select coalesce(jsonb_agg(words order by words), '[]')
  from (
    select concat_ws(' ', g.privilege_type, 'to', case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
      'by', pg_get_userbyid(g.grantor), case when g.is_grantable then 'with grant option' end) as words
    from aclexplode(coalesce(p_acl, acldefault(p_kind, p_owner))) g
  ) said
$$;

-- Everything that the catalog says of some relations, and that a move must leave as it is.
-- Parameters: their oids. Returns an object: '<oid> <kind of object> <name>' → what is said of it. Expressions are given as they
-- are stored, by oids, which no renaming changes. Locks nothing. In PL/pgSQL, which keeps its plan, if told so: making it takes as long as
-- running it, and that while the table is locked.
create function restructure.facts_of(p_relations oid[]) returns jsonb
language plpgsql stable set plan_cache_mode = force_generic_plan as $$
begin
  return (
  with relation as (
    select c.*, n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any (p_relations)
  ),
  said (relation, object, value) as (
    select r.oid, 'relation ' || r.relname, jsonb_build_object(
      'schema', r.nspname, 'kind', r.relkind, 'owner', pg_get_userbyid(r.relowner), 'persistence', r.relpersistence,
      'row type', r.reltype, 'of type', r.reloftype, 'options', r.reloptions, 'row security', r.relrowsecurity,
      'row security forced', r.relforcerowsecurity, 'replica identity', r.relreplident, 'bound', md5(r.relpartbound::text),
      'access method', r.relam, 'grants', restructure.grants_in_words(r.relacl, 'r', r.relowner),
      'comment', obj_description(r.oid, 'pg_class'))
    from relation r
    union all
    select r.oid, 'storage ' || r.relname, jsonb_build_object('file', r.relfilenode, 'tablespace', r.reltablespace, 'toast', r.reltoastrelid)
    from relation r
    union all
    select r.oid, 'column ' || a.attname, jsonb_build_object(
      'number', a.attnum, 'type', a.atttypid, 'modifier', a.atttypmod, 'not null', a.attnotnull, 'identity', a.attidentity,
      'generated', a.attgenerated, 'collation', a.attcollation, 'storage', a.attstorage, 'compression', a.attcompression,
      'statistics', nullif(a.attstattarget, -1), 'options', a.attoptions, 'inherited', a.attinhcount, 'local', a.attislocal,
      'default', (select md5(d.adbin::text) from pg_attrdef d where d.adrelid = r.oid and d.adnum = a.attnum),
      'grants', case when a.attacl is null then '[]' else restructure.grants_in_words(a.attacl, 'c', r.relowner) end,
      'comment', col_description(r.oid, a.attnum))
    from relation r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    union all
    select r.oid, 'constraint ' || k.conname, jsonb_build_object(
      'oid', k.oid, 'type', k.contype, 'columns', k.conkey, 'refers to', k.confrelid, 'its columns', k.confkey,
      'on delete', k.confdeltype, 'on delete sets', k.confdelsetcols, 'on update', k.confupdtype, 'match', k.confmatchtype,
      'deferrable', k.condeferrable, 'deferred', k.condeferred, 'validated', k.convalidated, 'no inherit', k.connoinherit,
      'parent', k.conparentid, 'index', k.conindid, 'expression', md5(k.conbin::text),
      'comment', obj_description(k.oid, 'pg_constraint'))
    from relation r join pg_constraint k on k.conrelid = r.oid
    union all
    select r.oid, concat_ws(' ', 'reference', k.oid), jsonb_build_object('name', k.conname, 'from', k.conrelid, 'validated', k.convalidated)
    from relation r join pg_constraint k on k.confrelid = r.oid and k.conparentid = 0
    union all
    select r.oid, 'index ' || i.relname, jsonb_build_object(
      'oid', i.oid, 'columns', x.indkey::text, 'classes', x.indclass::text, 'collations', x.indcollation::text,
      'directions', x.indoption::text, 'unique', x.indisunique, 'nulls not distinct', x.indnullsnotdistinct,
      'primary', x.indisprimary, 'exclusion', x.indisexclusion, 'valid', x.indisvalid, 'replica identity', x.indisreplident,
      'clustered', x.indisclustered, 'predicate', md5(x.indpred::text), 'expressions', md5(x.indexprs::text),
      'access method', i.relam, 'options', i.reloptions, 'file', i.relfilenode, 'owner', pg_get_userbyid(i.relowner),
      'comment', obj_description(i.oid, 'pg_class'))
    from relation r join pg_index x on x.indrelid = r.oid join pg_class i on i.oid = x.indexrelid
    union all
    select r.oid, concat_ws(' ', 'trigger', t.tgname), jsonb_build_object(
      'oid', t.oid, 'function', t.tgfoid, 'type', t.tgtype, 'enabled', t.tgenabled, 'internal', t.tgisinternal,
      'columns', t.tgattr::text, 'arguments', encode(t.tgargs, 'hex'), 'condition', md5(t.tgqual::text), 'constraint', t.tgconstraint,
      'deferrable', t.tgdeferrable, 'deferred', t.tginitdeferred, 'old rows', t.tgoldtable, 'new rows', t.tgnewtable,
      'parent', t.tgparentid, 'comment', obj_description(t.oid, 'pg_trigger'))
    from relation r join pg_trigger t on t.tgrelid = r.oid
    union all
    select r.oid, 'policy ' || p.polname, jsonb_build_object(
      'oid', p.oid, 'command', p.polcmd, 'permissive', p.polpermissive, 'roles', p.polroles::text, 'using', md5(p.polqual::text),
      'check', md5(p.polwithcheck::text), 'comment', obj_description(p.oid, 'pg_policy'))
    from relation r join pg_policy p on p.polrelid = r.oid
    union all
    select r.oid, 'rule ' || w.rulename, jsonb_build_object(
      'oid', w.oid, 'event', w.ev_type, 'enabled', w.ev_enabled, 'instead', w.is_instead, 'action', md5(w.ev_action::text))
    from relation r join pg_rewrite w on w.ev_class = r.oid
    union all
    select r.oid, 'sequence ' || s.relname, jsonb_build_object(
      'oid', s.oid, 'schema', s.relnamespace::regnamespace, 'column', d.refobjsubid, 'owner', pg_get_userbyid(s.relowner),
      'type', q.seqtypid, 'start', q.seqstart, 'increment', q.seqincrement, 'least', q.seqmin, 'most', q.seqmax, 'cache', q.seqcache,
      'cycles', q.seqcycle, 'file', s.relfilenode, 'grants', restructure.grants_in_words(s.relacl, 's', s.relowner),
      'comment', obj_description(s.oid, 'pg_class'))
    from relation r
    join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.classid = 'pg_class'::regclass
      and d.deptype in ('a', 'i')
    join pg_class s on s.oid = d.objid and s.relkind = 'S'
    join pg_sequence q on q.seqrelid = s.oid
    union all
    select r.oid, 'statistics ' || s.stxname, jsonb_build_object(
      'oid', s.oid, 'schema', s.stxnamespace::regnamespace, 'columns', s.stxkeys::text, 'kinds', s.stxkind,
      'expressions', md5(s.stxexprs::text))
    from relation r join pg_statistic_ext s on s.stxrelid = r.oid
    union all
    -- However a publication comes to it: by its name, by its schema, with everything. What is not logged is not published.
    select r.oid, 'publication ' || p.pubname, jsonb_build_object(
      'oid', p.oid, 'columns', max(pr.prattrs::text), 'filter', md5(max(pr.prqual::text)))
    from relation r
    cross join pg_publication p
    left join pg_publication_rel pr on pr.prpubid = p.oid and pr.prrelid = r.oid
    where r.relpersistence = 'p' and r.relkind in ('r', 'p') and (p.puballtables or pr.oid is not null
      or exists (select from pg_publication_namespace pn where pn.pnpubid = p.oid and pn.pnnspid = r.relnamespace))
    group by r.oid, p.oid, p.pubname
    union all
    select r.oid, concat_ws(' ', 'parent', h.inhparent), jsonb_build_object('order', h.inhseqno)
    from relation r join pg_inherits h on h.inhrelid = r.oid
    union all
    select r.oid, concat_ws(' ', 'child', h.inhrelid), jsonb_build_object('order', h.inhseqno)
    from relation r join pg_inherits h on h.inhparent = r.oid
    union all
    select r.oid, concat_ws(' ', 'reader', w.ev_class), jsonb_build_object(
      'name', v.relname, 'schema', v.relnamespace::regnamespace, 'kind', v.relkind, 'body', md5(w.ev_action::text))
    from relation r
    join lateral (
      select distinct d.objid from pg_depend d
      where d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.classid = 'pg_rewrite'::regclass
    ) d on true
    join pg_rewrite w on w.oid = d.objid and w.ev_class <> r.oid
    join pg_class v on v.oid = w.ev_class and v.relnamespace <> 'restructure'::regnamespace
  )
  select coalesce(jsonb_object_agg(concat_ws(' ', relation, object), value), '{}') from said
  );
end
$$;

-- What differs between two such objects, fact by fact.
-- Parameters: the facts before and after. Returns the object's key, the fact, and both values; an object that is there on one
-- side alone has null on the other for every fact of it. Locks nothing.
create function restructure.changes_between(p_before jsonb, p_after jsonb)
returns table (object text, fact text, was jsonb, became jsonb)
language sql immutable as $$
  select object, fact, b.value -> fact, a.value -> fact
  from jsonb_each(p_before) b (object, value)
  full join jsonb_each(p_after) a (object, value) using (object)
  cross join lateral (
    select jsonb_object_keys(coalesce(b.value, '{}') || coalesce(a.value, '{}'))
  ) facts (fact)
  where b.value is distinct from a.value and (b.value -> fact) is distinct from (a.value -> fact)
$$;

-- A digest of facts by which a plan knows the table that it was made for: all but where its bytes lie, which VACUUM FULL changes.
-- Parameters: the facts. Returns 32 hexadecimal digits. Locks nothing.
create function restructure.fingerprint(p_facts jsonb) returns text
language sql immutable as $$
  select md5(coalesce(jsonb_object_agg(object, value - 'file'), '{}')::text)
  from jsonb_each(p_facts) f (object, value)
  where split_part(object, ' ', 2) <> 'storage'
$$;

-- Gives a view exactly the grants of the table that it stands for, whatever default privileges gave it. Who owns the table and not the view
-- may hand on what is its own all the same.
-- Parameters: the table, its view of the same columns. Returns nothing. Locks nothing.
create function restructure.copy_grants(p_table regclass, p_view regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_grant record;
begin
  for v_grant in
    select distinct g.grantee from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g where c.oid = p_view
  loop
    execute format('revoke all on %s from %s', p_view, restructure.role_in_words(v_grant.grantee));
  end loop;
  for v_grant in
    select g.grantee, g.privilege_type, null::name as attname,
      g.is_grantable or g.grantee = c.relowner and g.grantee <> (select v.relowner from pg_class v where v.oid = p_view) as is_grantable
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g where c.oid = p_table
    union all
    select g.grantee, g.privilege_type, a.attname, g.is_grantable from pg_attribute a, aclexplode(a.attacl) g where a.attrelid = p_table and a.attacl is not null
  loop
    execute format('grant %s%s on %s to %s%s', v_grant.privilege_type, ' (' || quote_ident(v_grant.attname) || ')', p_view,
      restructure.role_in_words(v_grant.grantee), case when v_grant.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

-- Gives a view the defaults of the table that it stands for, as they read where the table is now: its sequences went along with it. The
-- table's own would do, but for whoever reads the catalog to find out what may be left out.
-- Parameters: the table, its view of the same columns. Returns nothing. Locks nothing.
create function restructure.copy_defaults(p_table regclass, p_view regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_default record;
begin
  for v_default in
    select a.attname, pg_get_expr(d.adbin, d.adrelid) as expression
    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.adrelid = p_table and a.attgenerated = ''
    order by a.attnum
  loop
    execute format('alter view %s alter column %I set default %s', p_view, v_default.attname, v_default.expression);
  end loop;
end
$$;

-- Lets a table's extended statistics, which do not go along by themselves, follow it to the schema that it is in.
-- Parameters: the table, where it was; statistics that lie elsewhere stay there. Returns nothing. Locks nothing.
create function restructure.take_statistics_along(p_table regclass, p_from name) returns void
language plpgsql set search_path = '' as $$
declare
  v_statistics record;
begin
  for v_statistics in
    select s.stxname, c.relnamespace::regnamespace as target
    from pg_statistic_ext s join pg_class c on c.oid = s.stxrelid join pg_namespace n on n.oid = s.stxnamespace
    where s.stxrelid = p_table and n.nspname = p_from
    order by s.stxname
  loop
    execute format('alter statistics %I.%I set schema %s', p_from, v_statistics.stxname, v_statistics.target);
  end loop;
end
$$;

-- Takes a view away from the name under which it stood in for a table, and leaves it in this schema: sessions that have looked the name up, and
-- wait for its lock, find what they looked up. It is dropped when nobody waits any more.
-- Parameters: its qualified name; where nothing bears it, there is nothing to do. Returns nothing. Locks the view. Raises 2BP01 where something
-- stands on it, as dropping it would.
create function restructure.set_aside(p_view text) returns void
language plpgsql set search_path = '' as $$
declare
  v_view regclass := to_regclass(p_view);
  v_aside name := 'aside_' || v_view::oid;
  v_schema name;
  v_dependents text;
begin
  if v_view is null then
    return;
  end if;
  select string_agg(distinct case when w.oid is null then pg_describe_object(d.classid, d.objid, 0) else pg_describe_object('pg_class'::regclass, w.ev_class, 0) end, ', ')
  into v_dependents
  from pg_class v
  join pg_depend d on d.deptype = 'n' and (d.refclassid, d.refobjid) in (
    ('pg_class'::regclass, v.oid), ('pg_type'::regclass, v.reltype),
    ('pg_type'::regclass, (select t.typarray from pg_type t where t.oid = v.reltype)))
  left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
  where v.oid = v_view and w.ev_class is distinct from v.oid;
  if v_dependents is not null then
    raise exception using errcode = '2BP01', message = format('%s cannot go because other objects depend on it', p_view),
      detail = format('%s depends on view %s', v_dependents, v_view);
  end if;
  select n.nspname into v_schema from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = v_view;
  execute format('alter view %s rename to %I', v_view, v_aside);
  execute format('alter view %I.%I set schema restructure', v_schema, v_aside);
end
$$;

-- Takes a table out of a publication that has it by its name; one that has it no more, or is gone, is no fault.
-- Parameters: the publication, the table. Returns nothing. Locks nothing.
create function restructure.take_out_of_publication(p_publication name, p_table regclass) returns void
language plpgsql set search_path = '' as $$
begin
  if exists (
    select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid where p.pubname = p_publication and r.prrelid = p_table
  ) then
    execute format('alter publication %I drop table only %s', p_publication, p_table);
  end if;
end
$$;

-- A role as SQL writes it. Parameters: its oid, 0 for everybody. Returns its quoted name. Locks nothing.
create function restructure.role_in_words(p_role oid) returns text
language sql stable as $$
  select case p_role when 0 then 'public' else quote_ident(pg_get_userbyid(p_role)) end
$$;

-- Refuses. Parameters: a code of src/errors.ts, its message. Returns nothing. Locks nothing.
create function restructure.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'RESTRUCTURE_DRIFTED' then 'LV096'
      when 'RESTRUCTURE_CHANGED_MORE' then 'LV097'
      when 'RESTRUCTURE_STEP_UNKNOWN' then 'LV098'
    end;
end
$$;

-- Does a step, in the caller's transaction, which holds the locks of its relations.
-- Parameters: see restructure.steps; p_expected: the fingerprint of the relations as the plan has them, null for none;
-- p_may_change: what the step is there to change, as '<kind of object>.<fact>', and '+<kind of object>' for what it adds.
-- Returns the step's id. Raises LV096 where the relations are not what the plan says; LV097 where the step changed something else.
create function restructure.take_step(
  p_kind text, p_object text, p_relations oid[], p_plan text, p_expected text, p_statements text[], p_inverse text[],
  p_may_change text[]
) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_before jsonb := restructure.facts_of(p_relations);
  v_after jsonb;
  v_statement text;
  v_faults text;
  v_id bigint;
begin
  if restructure.fingerprint(v_before) <> p_expected then
    perform restructure.refuse('RESTRUCTURE_DRIFTED',
      format('%s is not any more what the plan says. Make another: liventix restructure plan', p_object));
  end if;
  foreach v_statement in array p_statements loop
    execute v_statement;
  end loop;
  v_after := restructure.facts_of(p_relations);
  select string_agg(format('%s: %s was %s and would be %s', c.object, c.fact, coalesce(c.was::text, 'not there'),
    coalesce(c.became::text, 'gone')), '; ' order by c.object, c.fact)
  into v_faults
  from restructure.changes_between(v_before, v_after) c
  where split_part(c.object, ' ', 2) || '.' || c.fact <> all (p_may_change)
    and not (c.was is null and '+' || split_part(c.object, ' ', 2) = any (p_may_change));
  if v_faults is not null then
    perform restructure.refuse('RESTRUCTURE_CHANGED_MORE',
      format('%s would not be what it was: %s. Nothing was changed.', p_object, v_faults));
  end if;
  insert into restructure.steps (kind, object, relations, plan, statements, inverse, before, after)
  values (p_kind, p_object, p_relations, p_plan, p_statements, p_inverse, v_before, v_after)
  returning id into v_id;
  return v_id;
end
$$;

-- Writes down what was made already, outside of any transaction, as an index beside whoever writes is.
-- Parameters: as those of take_step; p_made: what was made, as '<kind of object> <name>'. Returns the step's id.
create function restructure.note_made(
  p_kind text, p_object text, p_relations oid[], p_plan text, p_inverse text[], p_made text[]
) returns bigint
language sql set search_path = '' as $$
  with facts (after) as (select restructure.facts_of(p_relations))
  insert into restructure.steps (kind, object, relations, plan, statements, inverse, before, after)
  select p_kind, p_object, p_relations, p_plan, '{}', p_inverse, (
    select coalesce(jsonb_object_agg(f.key, f.value), '{}') from jsonb_each(after) f
    where substr(f.key, strpos(f.key, ' ') + 1) <> all (p_made)
  ), after
  from facts
  returning id
$$;

-- Undoes a step, in the caller's transaction, which holds the locks of its relations. What others changed since stays as it is.
-- Parameters: the step's id. Returns nothing. Raises LV098 where it is not standing; LV097 where the relations would not be what
-- they were before the step, but for what others changed since.
create function restructure.undo_step(p_id bigint) returns void
language plpgsql set search_path = '' as $$
declare
  v_step restructure.steps;
  v_now jsonb;
  v_statement text;
  v_faults text;
begin
  select * into v_step from restructure.steps s where s.id = p_id and s.undone_at is null for update;
  if not found then
    perform restructure.refuse('RESTRUCTURE_STEP_UNKNOWN', format('Step %s is not there, or was undone before.', p_id));
  end if;
  v_now := restructure.facts_of(v_step.relations);
  foreach v_statement in array v_step.inverse loop
    execute v_statement;
  end loop;
  select string_agg(format('%s: %s was %s and would be %s', c.object, c.fact, coalesce(c.was::text, 'not there'),
    coalesce(c.became::text, 'gone')), '; ' order by c.object, c.fact)
  into v_faults
  from restructure.changes_between(v_step.before, restructure.facts_of(v_step.relations)) c
  where not exists (
    select from restructure.changes_between(v_step.after, v_now) since where since.object = c.object and since.fact = c.fact
  );
  if v_faults is not null then
    perform restructure.refuse('RESTRUCTURE_CHANGED_MORE',
      format('%s would not be again what it was: %s. Nothing was changed.', v_step.object, v_faults));
  end if;
  update restructure.steps set undone_at = clock_timestamp() where id = p_id;
end
$$;

revoke all on schema restructure from public;
revoke all on all functions in schema restructure from public;
