-- What others do meanwhile to tables that were moved: rights and defaults that they change by the old name, partitions that they drop or make,
-- tables that they drop. Undoing takes all of it along. And facts that were lost, or took long.

set local lock_timeout = '1s';

-- Everything that the catalog says of some relations, and that a move must leave as it is.
-- Parameters: their oids. Returns an object: '<oid> <kind of object> <name>' → what is said of it. Expressions are given as they
-- are stored, by oids, which no renaming changes. Locks nothing. In PL/pgSQL, which keeps its plan, if told so: making it takes as long as
-- running it, and that while the table is locked.
create or replace function restructure.facts_of(p_relations oid[]) returns jsonb
language plpgsql stable set plan_cache_mode = force_generic_plan set search_path = '' as $$
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
    -- Of one name in several schemas, each by its oid too.
    select r.oid, concat_ws(' ', 'statistics', s.stxname, case when count(*) over (partition by r.oid, s.stxname) > 1 then s.oid end), jsonb_build_object(
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
    select r.oid, 'subscription ' || s.subname, jsonb_build_object('oid', s.oid)
    from relation r join pg_subscription_rel sr on sr.srrelid = r.oid join pg_subscription s on s.oid = sr.srsubid
    union all
    select r.oid, concat_ws(' ', 'parent', h.inhparent), jsonb_build_object('order', h.inhseqno)
    from relation r join pg_inherits h on h.inhrelid = r.oid
    union all
    select r.oid, concat_ws(' ', 'child', h.inhrelid), jsonb_build_object('order', h.inhseqno)
    from relation r join pg_inherits h on h.inhparent = r.oid
    union all
    -- A view may have rules beside its query, which read the table too.
    select r.oid, concat_ws(' ', 'reader', w.ev_class, nullif(w.rulename, '_RETURN')), jsonb_build_object(
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

alter function restructure.changes_between(jsonb, jsonb) set search_path = '';
alter function restructure.fingerprint(jsonb) set search_path = '';

-- Of a view with several rules the journal had one, by chance: from now on it has them all.
with now as (
  select s.id, o.former, f.key, f.value
  from restructure.steps s
  cross join lateral jsonb_each(restructure.facts_of(s.relations)) f
  cross join lateral (select concat_ws(' ', split_part(f.key, ' ', 1), 'reader', split_part(f.key, ' ', 3)) as former) o
  where s.undone_at is null and split_part(f.key, ' ', 2) = 'reader' and s.before ? o.former
),
several as (
  select id, array_agg(former) as former, jsonb_object_agg(key, value) as facts
  from now
  where former in (select former from now where key <> former)
  group by id
)
update restructure.steps s set before = (s.before - v.former) || v.facts, after = (s.after - v.former) || v.facts
from several v where v.id = s.id;

-- Of a table's move, what its view had alike when it was done, by oid: who may do what, and defaults. Null in steps from before this was written.
alter table restructure.steps add column terms jsonb;

-- What a table and the view that stands in for it should have alike, unless somebody changed one of them: who may do what with it, and with
-- single columns, and defaults.
-- Parameters: the relation; the owner of the table, whose rights are its to hand on without being told. Returns each term in words, what it is
-- about, and its value. Locks nothing.
create function restructure.terms_of(p_relation oid, p_owner oid)
returns table (term text, attname name, privilege text, grantee oid, value text)
language sql stable as $$
  select concat_ws(' ', g.privilege_type, '(' || quote_ident(g.attname) || ')', 'to', restructure.role_in_words(g.grantee)), g.attname, g.privilege_type,
    g.grantee, case when bool_or(g.is_grantable and g.grantee <> p_owner) then 'granted with grant option' else 'granted' end
  from (
    select null::name as attname, x.* from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x where c.oid = p_relation
    union all
    select a.attname, x.* from pg_attribute a, aclexplode(a.attacl) x where a.attrelid = p_relation and not a.attisdropped
  ) g
  group by g.attname, g.privilege_type, g.grantee
  union all
  select 'default of ' || quote_ident(a.attname), a.attname, null, null, pg_get_expr(d.adbin, d.adrelid)
  from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
  where d.adrelid = p_relation and a.attgenerated = ''
$$;

-- The views that stand in for the relations of a step, where they are.
-- Parameters: the step. Returns their oids, in the step's order. Locks nothing.
create function restructure.stand_ins(p_step restructure.steps)
returns table (relation oid, owner oid, name name, view oid, view_owner oid)
language sql stable as $$
  select c.oid, c.relowner, c.relname, v.oid, v.relowner
  from unnest(p_step.relations) with ordinality r (oid, at)
  join pg_class c on c.oid = r.oid
  join pg_namespace n on n.nspname = p_step.before -> (c.oid || ' relation ' || c.relname) ->> 'schema'
  join pg_class v on v.relnamespace = n.oid and v.relname = c.relname and v.relkind = 'v'
  where p_step.kind = 'table'
  order by r.at
$$;

-- What was changed by the old name since a step was done, and is not so by the new one. A step that has not written down what both had alike
-- believes the table where its facts changed, and its view otherwise. Where the view is somebody else's, the rights of both owners are their own.
-- Parameters: the step, the facts of its relations now. Returns the table and its term, what it was, and what it is by each name. Locks nothing.
create function restructure.changed_by_old_name(p_step restructure.steps, p_now jsonb)
returns table (relation regclass, term text, attname name, privilege text, grantee oid, was text, by_new text, by_old text)
language sql stable as $$
  select s.relation, d.term, d.attname, d.privilege, d.grantee, b.was, d.by_new, d.by_old
  from restructure.stand_ins(p_step) s
  cross join lateral (
    select term, coalesce(o.attname, n.attname) as attname, coalesce(o.privilege, n.privilege) as privilege, coalesce(o.grantee, n.grantee) as grantee,
      n.value as by_new, o.value as by_old
    from restructure.terms_of(s.relation, s.owner) n full join restructure.terms_of(s.view, s.owner) o using (term)
    where n.value is distinct from o.value
  ) d
  cross join lateral (
    select concat_ws(' ', s.relation, case when d.attname is null then 'relation ' || s.name else 'column ' || d.attname end) as key,
      case when d.privilege is null then 'default' else 'grants' end as fact
  ) f
  cross join lateral (
    select case when p_step.terms is not null then p_step.terms -> s.relation::text ->> d.term
      when p_now -> f.key -> f.fact = p_step.after -> f.key -> f.fact then d.by_new
      else d.by_old end as was
  ) b
  where d.by_old is distinct from b.was
    and (s.owner = s.view_owner or d.grantee is null or d.grantee not in (s.owner, s.view_owner))
    and (d.attname is null or (
      select count(*) from pg_attribute a where a.attrelid in (s.relation, s.view) and a.attname = d.attname and not a.attisdropped) = 2)
$$;

-- Does to the tables of a step what was done to their views since: whoever was refused by the old name stays refused.
-- Parameters: the step, the facts of its relations now. Returns whether there was anything. Locks the tables. Raises LV099 where both were changed,
-- and differently, or where somebody else granted what would have to be taken.
create function restructure.carry_over(p_step restructure.steps, p_now jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_change record;
  v_faults text;
begin
  if not exists (select from restructure.changed_by_old_name(p_step, p_now)) then
    return false;
  end if;
  select string_agg(format('%s: %s', c.relation, c.term), ', ' order by c.relation::text, c.term) into v_faults
  from restructure.changed_by_old_name(p_step, p_now) c where c.by_new is distinct from c.was;
  if v_faults is null then
    -- What is taken of a table is taken of its columns too, so that this comes first.
    for v_change in
      select * from restructure.changed_by_old_name(p_step, p_now) c
      where c.privilege is not null and c.by_new is not null and c.by_old is distinct from 'granted with grant option'
      order by c.attname nulls first
    loop
      execute format('revoke %s%s%s on %s from %s cascade', case when v_change.by_old is not null then 'grant option for ' end, v_change.privilege,
        ' (' || quote_ident(v_change.attname) || ')', v_change.relation, restructure.role_in_words(v_change.grantee));
    end loop;
    for v_change in select * from restructure.changed_by_old_name(p_step, p_now) c where c.by_old is not null or c.privilege is null loop
      execute case
        when v_change.privilege is not null then format('grant %s%s on %s to %s%s', v_change.privilege, ' (' || quote_ident(v_change.attname) || ')',
          v_change.relation, restructure.role_in_words(v_change.grantee), substr(v_change.by_old, length('granted') + 1))
        when v_change.by_old is null then format('alter table only %s alter column %I drop default', v_change.relation, v_change.attname)
        else format('alter table only %s alter column %I set default %s', v_change.relation, v_change.attname, v_change.by_old)
      end;
    end loop;
    select string_agg(format('%s: %s', c.relation, c.term), ', ' order by c.relation::text, c.term) into v_faults
    from restructure.changed_by_old_name(p_step, p_now) c;
  end if;
  if v_faults is not null then
    perform restructure.refuse('RESTRUCTURE_NAMES_DIFFER',
      format('What was changed of %s by the old name is not so by the new one, where it was changed too, or granted by somebody else (%s). Nothing was changed: make both say the same, as liventix restructure verify has them.',
        p_step.object, v_faults));
  end if;
  return true;
end
$$;

-- What the SQL of a step calls those of its relations that are gone, before it and after it: always in quotes.
-- Parameters: the step. Returns their names. Locks nothing.
create function restructure.names_of_gone(p_step restructure.steps) returns text[]
language sql stable set search_path = '' as $$
  select array_agg(format('"%s"."%s"', replace(schema, '"', '""'), replace(name, '"', '""')))
  from unnest(p_step.relations) r (oid)
  cross join lateral (
    select substr(f.key, length(r.oid || ' relation ') + 1) as name, f.value ->> 'schema' as former, p_step.after -> f.key ->> 'schema' as moved
    from jsonb_each(p_step.before) f where starts_with(f.key, r.oid || ' relation ')
  ) was
  cross join lateral (values (was.former), (was.moved)) called (schema)
  where not exists (select from pg_class c where c.oid = r.oid)
$$;

-- Takes partitions and heirs that were made after a step had moved their parents, and where it had moved them to, along with them.
-- Parameters: the step. Returns nothing. Locks them.
-- lint: allow set-schema-without-view because no view stood in for what was made after the move
create function restructure.take_later_heirs_along(p_step restructure.steps) returns void
language plpgsql set search_path = '' as $$
declare
  v_heir record;
begin
  for v_heir in
    with recursive heir (oid) as (
      select h.inhrelid from pg_inherits h where h.inhparent = any (p_step.relations)
      union
      select h.inhrelid from heir join pg_inherits h on h.inhparent = heir.oid
    ),
    way as (
      select f.value ->> 'schema' as former, p_step.after -> f.key ->> 'schema' as moved
      from jsonb_each(p_step.before) f where starts_with(f.key, p_step.relations[1] || ' relation ')
    )
    select c.oid, way.former, way.moved
    from way join pg_namespace n on n.nspname = way.moved join pg_class c on c.relnamespace = n.oid join heir on heir.oid = c.oid
    where c.oid <> all (p_step.relations)
    order by c.oid
  loop
    execute format('alter table %s set schema %I', v_heir.oid::regclass, v_heir.former);
    perform restructure.take_statistics_along(v_heir.oid, v_heir.moved);
  end loop;
end
$$;

-- Gives a view exactly the grants of the table that it stands for, whatever default privileges gave it. Who owns the table and not the view
-- may hand on what is its own all the same. One statement for each role: others wait meanwhile.
-- Parameters: the table, its view of the same columns. Returns nothing. Locks nothing.
create or replace function restructure.copy_grants(p_table regclass, p_view regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_grant record;
  v_given text;
begin
  select string_agg(distinct restructure.role_in_words(g.grantee), ', ') into v_given
  from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g where c.oid = p_view;
  if v_given is not null then
    execute format('revoke all on %s from %s', p_view, v_given);
  end if;
  for v_grant in
    select g.grantee, g.is_grantable, string_agg(distinct concat_ws(' ', g.privilege_type, '(' || quote_ident(g.attname) || ')'), ', ') as privileges
    from (
      select null::name as attname, x.grantee, x.privilege_type,
        x.is_grantable or x.grantee = c.relowner and x.grantee <> (select v.relowner from pg_class v where v.oid = p_view) as is_grantable
      from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x where c.oid = p_table
      union all
      select a.attname, x.grantee, x.privilege_type, x.is_grantable from pg_attribute a, aclexplode(a.attacl) x
      where a.attrelid = p_table and not a.attisdropped
    ) g
    group by g.grantee, g.is_grantable
  loop
    execute format('grant %s on %s to %s%s', v_grant.privileges, p_view, restructure.role_in_words(v_grant.grantee),
      case when v_grant.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

-- Gives a view the defaults of the table that it stands for, as they read where the table is now: its sequences went along with it. The
-- table's own would do, but for whoever reads the catalog to find out what may be left out.
-- Parameters: the table, its view of the same columns. Returns nothing. Locks nothing.
create or replace function restructure.copy_defaults(p_table regclass, p_view regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_defaults text;
begin
  select string_agg(format('alter column %I set default %s', a.attname, pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attnum) into v_defaults
  from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
  where d.adrelid = p_table and a.attgenerated = '';
  if v_defaults is not null then
    execute format('alter view %s %s', p_view, v_defaults);
  end if;
end
$$;

-- Refuses. Parameters: a code of src/errors.ts, its message. Returns nothing. Locks nothing.
create or replace function restructure.refuse(p_code text, p_message text) returns void
language plpgsql set search_path = '' as $$
begin
  raise exception using
    message = p_message,
    errcode = case p_code
      when 'RESTRUCTURE_DRIFTED' then 'LV096'
      when 'RESTRUCTURE_CHANGED_MORE' then 'LV097'
      when 'RESTRUCTURE_STEP_UNKNOWN' then 'LV098'
      when 'RESTRUCTURE_NAMES_DIFFER' then 'LV099'
    end;
end
$$;

-- Does a step, in the caller's transaction, which holds the locks of its relations.
-- Parameters: see restructure.steps; p_expected: the fingerprint of the relations as the plan has them, null for none;
-- p_may_change: what the step is there to change, as '<kind of object>.<fact>', and '+<kind of object>' for what it adds.
-- Returns the step's id. Raises LV096 where the relations are not what the plan says; LV097 where the step changed something else.
create or replace function restructure.take_step(
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
  insert into restructure.steps (kind, object, relations, plan, statements, inverse, before, after, terms)
  values (p_kind, p_object, p_relations, p_plan, p_statements, p_inverse, v_before, v_after,
    case when p_kind = 'table' then (
      select jsonb_object_agg(c.oid, (select jsonb_object_agg(t.term, t.value) from restructure.terms_of(c.oid, c.relowner) t))
      from pg_class c where c.oid = any (p_relations)
    ) end)
  returning id into v_id;
  return v_id;
end
$$;

-- Undoes a step, in the caller's transaction, which holds the locks of its relations. What others changed since stays as it is:
-- what they dropped is gone, and of a step all of whose relations are, nothing is left to undo.
-- Parameters: the step's id. Returns nothing. Raises LV098 where it is not standing; LV097 where the relations would not be what
-- they were before the step, but for what others changed since; LV099 where a table and its view were changed differently.
create or replace function restructure.undo_step(p_id bigint) returns void
language plpgsql set search_path = '' as $$
declare
  v_step restructure.steps;
  v_now jsonb;
  v_statement text;
  v_faults text;
  v_gone text[];
begin
  select * into v_step from restructure.steps s where s.id = p_id and s.undone_at is null for update;
  if not found then
    perform restructure.refuse('RESTRUCTURE_STEP_UNKNOWN', format('Step %s is not there, or was undone before.', p_id));
  end if;
  v_now := restructure.facts_of(v_step.relations);
  if restructure.carry_over(v_step, v_now) then
    v_now := restructure.facts_of(v_step.relations);
  end if;
  v_gone := restructure.names_of_gone(v_step);
  foreach v_statement in array v_step.inverse loop
    -- In a literal, a quote is two.
    continue when exists (select from unnest(v_gone) name where strpos(replace(v_statement, '''''', ''''), name) > 0);
    execute v_statement;
  end loop;
  if v_step.kind = 'table' then
    perform restructure.take_later_heirs_along(v_step);
  end if;
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

revoke all on all functions in schema restructure from public;
