import { withTransaction } from '../../src/db/transaction.ts';
import type { TestDatabase } from './database.ts';

/**
 * All that the catalog says of what is in the database, and of the roles that are its own, in sorted lines that name things by their names:
 * two databases of the same content have the same. Tables have their oids too, and the files that they lie in.
 */
export async function catalogOf({ pool, name }: TestDatabase): Promise<readonly string[]> {
  const lines = await withTransaction(pool, async (tx) => {
    // So that the server writes names with their schemas.
    await tx.query(`set local search_path = ''`);
    const { rows } = await tx.query<{ line: string }>(LINES, [`${name}\\_%`, OURS]);
    return rows.map(({ line }) => line);
  });
  return lines.map((line) => line.replaceAll(name, 'here')).toSorted();
}

/** Liventix's own, which no mapping of a test moves. */
const OURS = [
  'pg_catalog',
  'information_schema',
  'pg_toast',
  'restructure',
  'payments',
  'replay',
  'liventix',
  'states',
  'outbox',
  'analytics',
  'ml',
  'partitions',
  'partitions_aside',
  'partitions_archive',
  'console',
  'rollups',
];

const LINES = `
  with namespace as (select * from pg_namespace where nspname <> all ($2) and nspname not like 'pg\\_temp%' and nspname not like 'pg\\_toast\\_temp%'),
  relation as (
    select c.*, format('%I.%I', n.nspname, c.relname) as named from pg_class c join namespace n on n.oid = c.relnamespace
  ),
  granted (object, acl) as (
    select 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) from namespace
    union all
    select 'relation ' || named, coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)) from relation where relkind not in ('i', 'I')
    union all
    select format('column %s.%I', named, attname), attacl from relation join pg_attribute on attrelid = relation.oid where attacl is not null
    union all
    select 'function ' || p.oid::regprocedure, coalesce(proacl, acldefault('f', proowner)) from pg_proc p join namespace n on n.oid = pronamespace
    union all
    select 'type ' || t.oid::regtype, coalesce(typacl, acldefault('T', typowner)) from pg_type t join namespace n on n.oid = typnamespace where typtype in ('e', 'd')
    union all
    select format('later %s of %s in %s', defaclobjtype, defaclrole::regrole, coalesce(n.nspname, 'any')), defaclacl
    from pg_default_acl left join namespace n on n.oid = defaclnamespace
  )
  select format('schema %s %s', nspname, nspowner::regrole) as line from namespace
  union all
  select format('grant %s: %s to %s by %s %s', object, privilege_type, case grantee when 0 then 'public' else grantee::regrole::text end, grantor::regrole, is_grantable)
  from granted, aclexplode(acl)
  union all
  select concat_ws(' ', 'relation', named, relkind, relowner::regrole, relpersistence, reloptions, reloftype::regtype, relrowsecurity, relforcerowsecurity,
    relreplident, relhastriggers, pg_get_expr(relpartbound, oid), case when relkind in ('r', 'p', 'm', 'S') then concat_ws(' ', oid, relfilenode, reltype, reltoastrelid) end,
    case when relkind in ('v', 'm') then pg_get_viewdef(oid) end)
  from relation
  union all
  select concat_ws(' ', 'column', named, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attcollation, attstorage,
    attcompression, nullif(attstattarget, -1), attoptions, attinhcount, attislocal, pg_get_expr(adbin, adrelid))
  from relation join pg_attribute on attrelid = relation.oid and attnum > 0 left join pg_attrdef on adrelid = relation.oid and adnum = attnum
  union all
  select concat_ws(' ', 'constraint', conrelid::regclass, contypid::regtype, conname, k.oid, convalidated, connoinherit, coninhcount, pg_get_constraintdef(k.oid))
  from pg_constraint k join namespace n on n.oid = connamespace
  union all
  select concat_ws(' ', 'index', pg_get_indexdef(indexrelid), indexrelid, indisvalid, indisclustered, indisreplident, indimmediate, indisexclusion)
  from relation join pg_index on indrelid = relation.oid
  union all
  select concat_ws(' ', 'trigger', tgrelid::regclass, tgname, t.oid, tgenabled, tgconstraint, case when tgisinternal then 'internal' else pg_get_triggerdef(t.oid) end)
  from relation join pg_trigger t on tgrelid = relation.oid
  union all
  select concat_ws(' ', 'policy', polrelid::regclass, polname, polcmd, polpermissive, array(select r::regrole::text from unnest(polroles) r order by 1),
    pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
  from relation join pg_policy on polrelid = relation.oid
  union all
  select concat_ws(' ', 'rule', ev_class::regclass, ev_enabled, pg_get_ruledef(w.oid)) from relation join pg_rewrite w on ev_class = relation.oid where rulename <> '_RETURN'
  union all
  select concat_ws(' ', 'sequence', named, s.*, (select format('%s %s %s', refobjid::regclass, refobjsubid, deptype) from pg_depend
    where classid = 'pg_class'::regclass and objid = seqrelid and refclassid = 'pg_class'::regclass and deptype in ('a', 'i')))
  from relation join pg_sequence s on seqrelid = relation.oid
  union all
  select concat_ws(' ', 'statistics', stxowner::regrole, pg_get_statisticsobjdef(s.oid), s.oid) from pg_statistic_ext s join namespace n on n.oid = stxnamespace
  union all
  select concat_ws(' ', 'heir', inhrelid::regclass, inhparent::regclass, inhseqno) from pg_inherits join relation on inhrelid = relation.oid
  union all
  select concat_ws(' ', 'type', t.oid::regtype, typowner::regrole, typtype, typnotnull, typdefault,
    array(select enumlabel::text from pg_enum where enumtypid = t.oid order by enumsortorder))
  from pg_type t join namespace n on n.oid = typnamespace
  union all
  select concat_ws(' ', 'function', proowner::regrole, prokind, case when prokind in ('f', 'p', 'w') then pg_get_functiondef(p.oid) end)
  from pg_proc p join namespace n on n.oid = pronamespace
  union all
  select concat_ws(' ', 'publication', pubname, pubowner::regrole, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot) from pg_publication
  union all
  select concat_ws(' ', 'published', pubname, prrelid::regclass, prattrs, pg_get_expr(prqual, prrelid)) from pg_publication p join pg_publication_rel on prpubid = p.oid
  union all
  select concat_ws(' ', 'published schema', pubname, pnnspid::regnamespace) from pg_publication p join pg_publication_namespace on pnpubid = p.oid
  union all
  select concat_ws(' ', 'comment', i.type, i.identity, description)
  from pg_description d cross join lateral pg_identify_object(classoid, objoid, objsubid) i
  where i.schema = any (array(select quote_ident(nspname) from namespace)) or split_part(i.identity, '.', 1) in ('public', 'people')
  union all
  select concat_ws(' ', 'role', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolconfig) from pg_roles where rolname like $1
  union all
  select concat_ws(' ', 'member', g.rolname, m.rolname, admin_option) from pg_auth_members a join pg_roles g on g.oid = roleid join pg_roles m on m.oid = member
  where g.rolname like $1 or m.rolname like $1
  union all
  select concat_ws(' ', 'setting', r.rolname, setconfig) from pg_db_role_setting join pg_database d on d.oid = setdatabase left join pg_roles r on r.oid = setrole
  where d.datname = current_database()`;

/** What is in one list and not in the other, as a test prints it. */
export const changesOf = (before: readonly string[], after: readonly string[]): readonly string[] => {
  const [was, is] = [new Set(before), new Set(after)];
  return [
    ...before.filter((line) => !is.has(line)).map((line) => `- ${line}`),
    ...after.filter((line) => !was.has(line)).map((line) => `+ ${line}`),
  ];
};
