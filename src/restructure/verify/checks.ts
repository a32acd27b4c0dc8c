import { type Check, type CheckResult, runEach, type VerificationWatch } from '../../db/checks.ts';
import type { Tx } from '../../db/pool.ts';
import { readingWhole, readWholeRows } from './content.ts';
import { readMoved } from './moved.ts';
import { contentCheck, foreignKeyChecks } from './row-checks.ts';

/**
 * Everything that standing steps promise, in the caller's snapshot. Reads every row of every moved table.
 * @throws AppError RESTRUCTURE_ROWS_HIDDEN, DB_*
 */
export async function checkRestructuring(tx: Tx, watch: VerificationWatch): Promise<readonly CheckResult[]> {
  await readWholeRows(tx);
  const moved = await readMoved(tx);
  const checks = [
    COPY_CHECK,
    OBJECT_CHECK,
    ...VIEW_CHECKS,
    ...PRIVILEGE_CHECKS,
    contentCheck(moved),
    ...(await foreignKeyChecks(tx, moved)),
    ...TENANT_CHECKS,
  ];
  return readingWhole(() => runEach(tx, checks, watch));
}

const STANDING = `select s.*, r.oid as relation, r.at from restructure.steps s cross join unnest(s.relations) with ordinality r (oid, at) where s.undone_at is null`;

const COPY_CHECK: Check = {
  name: 'nothing was copied: rows lay after each move where they lay before',
  unit: 'relations',
  examined: `select count(*) from (${STANDING}) s where s.kind = 'table'`,
  faults: `
      select format('%s: %s: %s was %s and became %s', s.object, c.object, c.fact, c.was, c.became)
      from restructure.steps s
      cross join lateral restructure.changes_between(s.before, s.after) c
      where s.kind = 'table' and s.undone_at is null and (split_part(c.object, ' ', 2) = 'storage' or c.fact in ('file', 'oid', 'row type'))
        and c.was is not null
      order by s.id`,
};

/** What steps left of functions and search paths; where two left something of one, the last. */
const MADE = `
  select distinct on (coalesce(s.made ->> 'function', s.kind || ' ' || s.object)) s.*
  from restructure.steps s where s.undone_at is null and s.made is not null
  order by coalesce(s.made ->> 'function', s.kind || ' ' || s.object), s.id desc`;

/** The new name of a function that went along is in what puts it back. */
const GONE_ALONG = `
  select s.*, to_regprocedure(substring(s.inverse[1] from '^alter function (.*) set schema ')) as function
  from restructure.steps s where s.undone_at is null and s.kind = 'function'`;

const OBJECT_CHECK: Check = {
  name: 'every function that was moved or replaced, and every search_path that was set, is as the step left it',
  unit: 'steps',
  examined: `select (select count(*) from (${MADE}) m) + (select count(*) from (${GONE_ALONG}) g)`,
  faults: `
    select format('%s, since step %s: %s', m.object, m.id, case
      when restructure.made_of(m.kind, m.object, (m.made ->> 'function')::oid) is null then 'is gone'
      when m.kind = 'search path' then 'its search_path is another' else 'its body is another' end)
    from (${MADE}) m
    where restructure.made_of(m.kind, m.object, (m.made ->> 'function')::oid) is distinct from m.made
    union all
    select format('%s, since step %s: is not where it was put', g.object, g.id) from (${GONE_ALONG}) g where g.function is null
    order by 1`,
};

/** Each moved relation and what bears its old name. */
const STAND_INS = `
  select s.object, c.oid as relation, c.relname as name, v.oid as view, v.relkind as kind, v.reloptions as options, c.relowner as owner,
    v.relowner as view_owner, c.relacl, v.relacl as view_acl, s.before
  from (${STANDING}) s
  join pg_class c on c.oid = s.relation
  left join pg_namespace n on n.nspname = s.before -> (c.oid || ' relation ' || c.relname) ->> 'schema'
  left join pg_class v on v.relnamespace = n.oid and v.relname = c.relname
  where s.kind = 'table'`;

/** Those that need no table read, so that a diagnosis can ask them. */
export const VIEW_CHECKS: readonly Check[] = [
  {
    name: 'every moved table has a view under its old name that asks for the rights of whoever reads it',
    unit: 'views',
    examined: `select count(*) from (${STAND_INS}) s`,
    faults: `
      select case when s.view is null then format('%s: nothing bears the old name of %s', s.object, s.name)
                  when s.kind <> 'v' then format('%s: what bears the old name of %s is no view', s.object, s.name)
                  else format('%s: its view %s runs with the rights of its owner', s.object, s.view::regclass) end
      from (${STAND_INS}) s
      where s.view is null or s.kind <> 'v' or not coalesce(s.options @> array['security_invoker=true'], false)
      order by 1`,
  },
  {
    name: 'every view has the columns that its table had, in their order, with their types and defaults',
    unit: 'columns',
    examined: `select count(*) from (${STAND_INS}) s join pg_attribute a on a.attrelid = s.view and a.attnum > 0 and not a.attisdropped`,
    faults: `
      select format('%s: column %s of %s %s', s.object, called.attname, s.name, case
        when v.attname is null then 'is not in the view'
        when t.attname is null then 'is not in the table'
        when (t.atttypid, t.atttypmod) is distinct from (v.atttypid, v.atttypmod)
          then format('is %s, and in the view %s', format_type(t.atttypid, t.atttypmod), format_type(v.atttypid, v.atttypmod))
        when called.at <> v.at then format('comes %s., and in the view %s.', called.at, v.at)
        else format('has the default %s, and in the view %s', coalesce(pg_get_expr(td.adbin, td.adrelid), 'none'), coalesce(pg_get_expr(vd.adbin, vd.adrelid), 'none')) end)
      from (${STAND_INS}) s
      cross join lateral (
        select a.attname, row_number() over (order by min(a.attnum) filter (where a.attrelid = s.relation)) as at
        from pg_attribute a where a.attrelid in (s.relation, s.view) and a.attnum > 0 and not a.attisdropped
          and (a.attrelid = s.view or s.before ? (s.relation || ' column ' || a.attname))
        group by a.attname
      ) called
      left join pg_attribute t on t.attrelid = s.relation and t.attname = called.attname and not t.attisdropped
      left join (
        select a.*, row_number() over (partition by a.attrelid order by a.attnum) as at from pg_attribute a where a.attnum > 0 and not a.attisdropped
      ) v on v.attrelid = s.view and v.attname = called.attname
      left join pg_attrdef td on td.adrelid = s.relation and td.adnum = t.attnum and t.attgenerated = ''
      left join pg_attrdef vd on vd.adrelid = s.view and vd.adnum = v.attnum
      where s.view is not null and (t.attname is null or v.attname is null
        or (t.atttypid, t.atttypmod) is distinct from (v.atttypid, v.atttypmod) or called.at <> v.at
        or pg_get_expr(td.adbin, td.adrelid) is distinct from pg_get_expr(vd.adbin, vd.adrelid))
      order by 1`,
  },
];

/** Columns of both that somebody was granted something of, by either name. */
const GRANTED_COLUMNS = `
  select s.object, s.relation, s.view, t.attname
  from (${STAND_INS}) s
  join pg_attribute t on t.attrelid = s.relation and t.attnum > 0 and not t.attisdropped
  join pg_attribute v on v.attrelid = s.view and v.attname = t.attname and not v.attisdropped
  where t.attacl is not null or v.attacl is not null`;

const PRIVILEGE_CHECKS: readonly Check[] = [
  {
    name: 'every role may do by the old name what it may by the new, and reaches the new',
    unit: 'roles by table and verb',
    examined: `select count(*) from (${STAND_INS}) s cross join pg_roles r cross join unnest(array['select', 'insert', 'update', 'delete']) verb where r.rolname not like 'pg\\_%'`,
    faults: `
      select format('%s: %s %s %s by the new name, and %s by the old%s', s.object, r.rolname,
        case when by.table then 'may' else 'may not' end, verb, case when by.view then 'may' else 'may not' end,
        case when has_schema_privilege(r.oid, c.relnamespace, 'usage') then '' else ', without USAGE of the schema' end)
      from (${STAND_INS}) s
      join pg_class c on c.oid = s.relation
      left join pg_class v on v.oid = s.view
      cross join pg_roles r
      cross join unnest(array['select', 'insert', 'update', 'delete']) verb
      cross join lateral (select
        has_table_privilege(r.oid, s.relation, verb) as table, has_table_privilege(r.oid, s.view, verb) as view) by
      where r.rolname not like 'pg\\_%' and s.view is not null
        and (by.table is distinct from by.view
          -- Who may not use the old schema reached the table by no name.
          or by.view and has_schema_privilege(r.oid, v.relnamespace, 'usage') and not has_schema_privilege(r.oid, c.relnamespace, 'usage'))
      order by 1`,
  },
  {
    name: 'every role may do with single columns by the old name what it may by the new',
    unit: 'columns with grants of their own',
    examined: `select count(*) from (${GRANTED_COLUMNS}) g`,
    faults: `
      select format('%s: %s %s %s %s by the new name, and %s by the old', g.object, r.rolname,
        case when by.table then 'may' else 'may not' end, verb, g.attname, case when by.view then 'may' else 'may not' end)
      from (${GRANTED_COLUMNS}) g
      cross join pg_roles r
      cross join unnest(array['select', 'insert', 'update']) verb
      cross join lateral (select
        has_column_privilege(r.oid, g.relation, g.attname, verb) as table, has_column_privilege(r.oid, g.view, g.attname, verb) as view) by
      where r.rolname not like 'pg\\_%' and by.table is distinct from by.view
        -- What is so of the whole table is another check's.
        and has_table_privilege(r.oid, g.relation, verb) = has_table_privilege(r.oid, g.view, verb)
      order by 1`,
  },
];

const TENANT_RELATIONS = `select c.* from (${STANDING}) s join pg_class c on c.oid = s.relation and c.relkind in ('r', 'p') where s.kind = 'policies'`;

/** Where their tables are, and were. */
const TENANT_SCHEMAS = `
  select c.relnamespace from (${TENANT_RELATIONS}) c
  union
  select n.oid from (${STANDING}) s join pg_namespace n on starts_with(s.object, n.nspname || '.') where s.kind = 'policies'`;

/** Functions that run as the owner of what tenants have, beside it and under the old names. */
const PASSING = `
  select distinct f.oid::regprocedure::text as function, f.proconfig
  from pg_proc f
  where f.prosecdef
    and f.proowner in (select c.relowner from (${TENANT_RELATIONS}) c)
    and f.pronamespace in (${TENANT_SCHEMAS})
    and not exists (
      select from pg_depend d
      where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')`;

/** Tables that came to theirs later: what was moved is what the mapping says of it. Partitions are another check's. */
const BESIDE = `
  select c.* from pg_class c
  where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace in (select t.relnamespace from (${TENANT_RELATIONS}) t)
    -- A schema that was there before has tables of others, such as the ledger.
    and exists (
      select from restructure.steps s
      where s.kind = 'schema' and s.undone_at is null and quote_ident(s.object) = c.relnamespace::regnamespace::text
        and s.inverse[cardinality(s.inverse)] like 'drop schema %')
    and c.oid not in (select s.relation from (${STANDING}) s)`;

/** Whom policies hold back: no owner, nobody who passes them, and no group of such. */
const HELD_BACK = `
  select r.oid, r.rolname from pg_roles r
  where not exists (
      select from pg_roles b
      where b.rolbypassrls and not b.rolsuper and pg_has_role(b.oid, r.oid, 'usage')
        and not exists (select from (${TENANT_RELATIONS}) c where pg_has_role(b.oid, c.relowner, 'usage')))
    -- Who may read all there is, may.
    and not r.rolsuper and not pg_has_role(r.oid, 'pg_read_all_data', 'usage')
    and exists (
      select from (${TENANT_RELATIONS}) c
      where has_table_privilege(r.oid, c.oid, 'select') and not pg_has_role(r.oid, c.relowner, 'usage'))`;

const TENANT_CHECKS: readonly Check[] = [
  {
    name: 'every table of a tenancy, and every partition, has row security and the policies of its tenants',
    unit: 'relations',
    examined: `select count(*) from (${STANDING}) s join pg_class c on c.oid = s.relation and c.relkind in ('r', 'p') where s.kind = 'policies'`,
    faults: `
      select format('%s: %s of %s', s.object, case when c.relrowsecurity then format('the policy %s is missing', policy) else 'row security is off' end, c.oid::regclass)
      from (${STANDING}) s
      join pg_class c on c.oid = s.relation and c.relkind in ('r', 'p')
      cross join unnest(array['tenant_reads', 'tenant_inserts', 'tenant_updates', 'tenant_deletes']) policy
      where s.kind = 'policies' and (not c.relrowsecurity
        or not exists (select from pg_policy p where p.polrelid = c.oid and p.polname = policy and not p.polpermissive))
      order by 1`,
  },
  {
    name: 'every partition that came later shows nothing by its own name',
    unit: 'partitions',
    examined: `select count(*) from pg_inherits h where h.inhparent in (select relation from (${STANDING}) s where s.kind = 'policies')`,
    faults: `
      select format('%s has no row security, and is read past the policies of %s', c.oid::regclass, h.inhparent::regclass)
      from pg_inherits h join pg_class c on c.oid = h.inhrelid
      where h.inhparent in (select relation from (${STANDING}) s where s.kind = 'policies') and not c.relrowsecurity
      order by 1`,
  },
  {
    name: 'every function that passes by policies looks nothing up in what a caller has made',
    unit: 'functions',
    examined: `select count(*) from (${PASSING}) f`,
    faults: `
      select format('%s runs as its owner, and looks names up in pg_temp first', f.function) from (${PASSING}) f
      where not exists (select from unnest(f.proconfig) setting where setting ~ '^search_path=(.*, ?)?"?pg_temp"?$')
      order by 1`,
  },
  {
    name: 'every table that came to those of tenants has row security, or is read by nobody whom that would hold back',
    unit: 'relations',
    examined: `select count(*) from pg_class c where c.relkind in ('r', 'p') and c.relnamespace in (select t.relnamespace from (${TENANT_RELATIONS}) t)`,
    faults: `
      select format('%s has no row security and no tenancy, and all of it may be read by %s', c.oid::regclass, string_agg(r.rolname, ', ' order by r.rolname))
      from (${BESIDE}) c
      join (${HELD_BACK}) r on has_table_privilege(r.oid, c.oid, 'select') and has_schema_privilege(r.oid, c.relnamespace, 'usage')
      where not c.relrowsecurity
      group by c.oid order by 1`,
  },
];
