import type { Queryable, Tx } from '../db/pool.ts';
import { isNotLoaded } from '../db/sqlstate.ts';
import { OF_ANY_TABLE } from './mapping.ts';

type RelationKind = 'table' | 'partitioned table' | 'foreign table' | 'view' | 'materialized view' | 'other';

/** A relation as the catalog has it. Nothing that is read here waits for a lock of the relation. */
export interface Relation {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly kind: RelationKind;
  readonly owner: string;
  /** Whether whoever is connected may alter it. */
  readonly isOurs: boolean;
  /** Whether they may lock it: an owner may have taken that right from itself. */
  readonly mayLock: boolean;
  readonly isPartition: boolean;
  readonly parents: readonly number[];
  /** Partitions and heirs, not those of theirs. */
  readonly children: readonly number[];
  /** The extension that it is a part of. */
  readonly extension: string | null;
  readonly hasPrimaryKey: boolean;
  /** What the types of its rows, and of arrays of them, are called: they go along. */
  readonly rowTypes: readonly string[];
  /** Table, indexes and TOAST together, as of the last VACUUM or ANALYZE. */
  readonly sizeBytes: bigint;
  /** As of the last VACUUM or ANALYZE; null before the first. */
  readonly rowsEstimated: number | null;
}

const KINDS = `case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'f' then 'foreign table'
  when 'v' then 'view' when 'm' then 'materialized view' else 'other' end`;

/** Every table and view outside of the server's own schemas. Sizes are those that the catalog remembers: asking for them would take locks. */
export async function readRelations(db: Queryable): Promise<readonly Relation[]> {
  const { rows } = await db.query<Relation>(`
    select c.oid, n.nspname as schema, c.relname as name, ${KINDS} as kind, pg_get_userbyid(c.relowner) as owner,
      pg_has_role(c.relowner, 'usage') as "isOurs", has_table_privilege(c.oid, 'update, delete, truncate') as "mayLock", c.relispartition as "isPartition",
      array(select h.inhparent from pg_inherits h where h.inhrelid = c.oid order by 1) as parents,
      array(select h.inhrelid from pg_inherits h where h.inhparent = c.oid order by 1) as children,
      (select e.extname from pg_depend d join pg_extension e on e.oid = d.refobjid
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
      ) as extension,
      exists (select from pg_index x where x.indrelid = c.oid and x.indisprimary) as "hasPrimaryKey",
      array(select unnest(array[y.typname, a.typname])::text from pg_type y join pg_type a on a.oid = y.typarray where y.oid = c.reltype) as "rowTypes",
      (coalesce(nullif(c.relpages, -1), 0)
        + coalesce((select sum(i.relpages) from pg_index x join pg_class i on i.oid = x.indexrelid where x.indrelid = c.oid), 0)
        + coalesce((select t.relpages from pg_class t where t.oid = c.reltoastrelid), 0)
      )::int8 * current_setting('block_size')::int8 as "sizeBytes",
      nullif(c.reltuples, -1)::float8 as "rowsEstimated"
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f', 'v', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
      and n.nspname not like 'pg\\_toast%' and n.nspname not like 'pg\\_temp%'
    order by n.nspname, c.relname`);
  return rows;
}

interface NamedObject {
  readonly schema: string;
  readonly name: string;
}

/** A relation whose query reads the table; it is bound by oid, and goes on reading it wherever it goes. */
interface Reader extends NamedObject {
  readonly kind: RelationKind;
  readonly owner: string;
  readonly isOurs: boolean;
  readonly extension: string | null;
  /** Whether it asks for the rights of whoever reads it. */
  readonly isInvoker: boolean;
}

interface PublishedBy {
  readonly name: string;
  readonly how: 'table' | 'schema' | 'all tables';
  readonly isOurs: boolean;
}

/** What hangs on a table: what goes along with it by itself, what has to be changed with it, and what may break. */
export interface Dependents {
  readonly readers: readonly Reader[];
  /** The functions as the server writes them without a search_path: `public.touch()`. */
  readonly triggers: readonly { readonly trigger: string; readonly function: string }[];
  readonly policies: readonly string[];
  readonly defaults: readonly string[];
  readonly sequences: readonly string[];
  readonly statistics: readonly string[];
  /** Those among them that somebody else owns. */
  readonly othersStatistics: readonly string[];
  /** By whose subscriptions rows from another server come into it. */
  readonly subscriptions: readonly string[];
  /** Roles that something was granted to by another than the owner. */
  readonly grantedByOthers: readonly string[];
  /** Whether it, or a column of it, has a security label. */
  readonly isLabelled: boolean;
  /** Those that SET CONSTRAINTS may name. */
  readonly deferrable: readonly string[];
  /** The column of the primary key, where that is one. */
  readonly keyColumn: string | null;
  readonly indexes: readonly string[];
  readonly types: readonly NamedObject[];
  readonly publications: readonly PublishedBy[];
  readonly foreignKeys: { readonly from: number; readonly to: number };
  /**
   * Roles that may do anything with it and use its schema, beside whoever is connected; `public` for everybody. Of a right that came to a role
   * by another one, that one, unless it may not use the schema and the role may.
   */
  readonly grantees: readonly string[];
  /** Functions that take or give its row type. */
  readonly rowTypeOf: readonly string[];
}

/** What hangs on each of these relations, by oid. */
export async function readDependents(db: Queryable, oids: readonly number[]): Promise<ReadonlyMap<number, Dependents>> {
  const { rows } = await db.query<Dependents & { oid: number }>(DEPENDENTS, [oids]);
  return new Map(rows.map(({ oid, ...dependents }) => [oid, dependents]));
}

const NAMED = `'schema', n.nspname, 'name'`;

const DEPENDENTS = `
  select c.oid,
    array(
      select distinct jsonb_build_object(${NAMED}, v.relname, 'kind', ${KINDS.replaceAll('c.', 'v.')}, 'owner', pg_get_userbyid(v.relowner),
        'isOurs', pg_has_role(v.relowner, 'usage'),
        'isInvoker', exists (select from pg_options_to_table(v.reloptions) o where o.option_name = 'security_invoker' and o.option_value::boolean),
        'extension', (
          select e.extname from pg_depend x join pg_extension e on e.oid = x.refobjid
          where x.classid = 'pg_class'::regclass and x.objid = v.oid and x.refclassid = 'pg_extension'::regclass and x.deptype = 'e'))
      from pg_depend d join pg_rewrite w on w.oid = d.objid join pg_class v on v.oid = w.ev_class
      join pg_namespace n on n.oid = v.relnamespace
      where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_rewrite'::regclass and v.oid <> c.oid
    ) as readers,
    array(
      select jsonb_build_object('trigger', t.tgname, 'function', t.tgfoid::regprocedure::text)
      from pg_trigger t
      where t.tgrelid = c.oid and not t.tgisinternal order by t.tgname
    ) as triggers,
    array(select p.polname::text from pg_policy p where p.polrelid = c.oid order by 1) as policies,
    array(
      select a.attname::text from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where d.adrelid = c.oid and a.attgenerated = '' order by a.attnum
    ) as defaults,
    array(
      select s.relname::text from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
      where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
      order by 1
    ) as sequences,
    array(select s.stxname::text from pg_statistic_ext s where s.stxrelid = c.oid and s.stxnamespace = c.relnamespace order by 1) as statistics,
    array(
      select s.stxname::text from pg_statistic_ext s
      where s.stxrelid = c.oid and s.stxnamespace = c.relnamespace and not pg_has_role(s.stxowner, 'usage') order by 1
    ) as "othersStatistics",
    array(
      select s.subname::text from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid where r.srrelid = c.oid order by 1
    ) as subscriptions,
    array(
      select distinct case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end
      from (
        select g.grantee, g.grantor from aclexplode(c.relacl) g
        union all
        select g.grantee, g.grantor from pg_attribute a, aclexplode(a.attacl) g where a.attrelid = c.oid
      ) g
      where g.grantor <> c.relowner order by 1
    ) as "grantedByOthers",
    exists (select from pg_seclabel l where l.classoid = 'pg_class'::regclass and l.objoid = c.oid) as "isLabelled",
    array(select k.conname::text from pg_constraint k where k.conrelid = c.oid and k.condeferrable order by 1) as deferrable,
    (select a.attname::text from pg_index x join pg_attribute a on a.attrelid = c.oid and a.attnum = x.indkey[0]
      where x.indrelid = c.oid and x.indisprimary and x.indnkeyatts = 1) as "keyColumn",
    array(select i.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid where x.indrelid = c.oid order by 1) as indexes,
    array(
      select distinct jsonb_build_object(${NAMED}, y.typname)
      from pg_attribute a
      join pg_type e on e.oid = a.atttypid
      join pg_type y on y.oid = coalesce(nullif(e.typelem, 0), e.oid) and y.typtype in ('e', 'd', 'c')
      join pg_namespace n on n.oid = y.typnamespace and n.nspname <> 'pg_catalog'
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) as types,
    array(
      select jsonb_build_object('name', p.pubname, 'isOurs', pg_has_role(p.pubowner, 'usage'),
        'how', case when pr.oid is not null then 'table' when p.puballtables then 'all tables' else 'schema' end)
      from pg_publication p left join pg_publication_rel pr on pr.prpubid = p.oid and pr.prrelid = c.oid
      where c.relpersistence = 'p' and (pr.oid is not null or p.puballtables
        or exists (select from pg_publication_namespace pn where pn.pnpubid = p.oid and pn.pnnspid = c.relnamespace))
      order by p.pubname
    ) as publications,
    jsonb_build_object(
      'from', (select count(*) from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'),
      'to', (select count(*) from pg_constraint k where k.confrelid = c.oid and k.contype = 'f')) as "foreignKeys",
    array(
      with granted as (
        select g.grantee from aclexplode(c.relacl) g
        union
        select g.grantee from pg_attribute a, aclexplode(a.attacl) g where a.attrelid = c.oid
        union
        select c.relowner
      ),
      reaching as (
        select g.grantee from granted g
        where case g.grantee when 0 then has_schema_privilege('public', c.relnamespace, 'usage') else has_schema_privilege(g.grantee, c.relnamespace, 'usage') end
      ),
      indirect as (
        select r.oid from pg_roles r
        where exists (select from granted g where g.grantee not in (select q.grantee from reaching q) and (g.grantee = 0 or pg_has_role(r.oid, g.grantee, 'usage')))
          and not r.rolsuper and r.rolname not like 'pg\\_%' and has_schema_privilege(r.oid, c.relnamespace, 'usage')
          and not exists (select from reaching q where q.grantee = 0 or pg_has_role(r.oid, q.grantee, 'usage'))
      )
      select case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end::text
      from (select q.grantee from reaching q union select i.oid from indirect i) g
      where g.grantee <> current_user::regrole
      order by 1
    ) as grantees,
    array(
      select distinct f.oid::regprocedure::text
      from pg_proc f
      where array[c.reltype, (select y.typarray from pg_type y where y.oid = c.reltype)]
        && (f.proargtypes::oid[] || f.prorettype || coalesce(f.proallargtypes, '{}'))
      order by 1
    ) as "rowTypeOf"
  from pg_class c
  where c.oid = any ($1::oid[])`;

/** Text in the database that may name tables. */
export interface StoredText {
  /** Statements are such as somebody ran once. */
  readonly kind: 'function' | 'job' | 'statement';
  /** As the plan names it: `function public.refresh_covis()`. */
  readonly where: string;
  readonly text: string;
}

interface StoredTexts {
  readonly texts: readonly StoredText[];
  /** How many statements are remembered whose text may not be read. */
  readonly hidden: number;
}

const MOST_STATEMENTS = 5_000;
const MOST_OF_A_STATEMENT = 60;

/**
 * The bodies of functions, as text; those that are bound by oid follow by themselves. What pg_cron runs, and what pg_stat_statements
 * remembers, where they are.
 */
export async function readStoredTexts(tx: Tx): Promise<StoredTexts> {
  const { rows } = await tx.query<StoredText>(
    `
    select 'function' as kind, 'function ' || f.oid::regprocedure::text as where, f.prosrc as text
    from pg_proc f
    join pg_namespace n on n.oid = f.pronamespace
    join pg_language l on l.oid = f.prolang
    where f.prosqlbody is null and l.lanname not in ('internal', 'c') and n.nspname not in ('pg_catalog', 'information_schema')
      and not exists (
        select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = f.oid
          and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e')
      and n.nspname <> all ($1)
    order by 2`,
    [OF_ANY_TABLE],
  );
  const { texts, hidden } = await readRememberedStatements(tx);
  return { texts: [...rows, ...(await readJobs(tx)), ...texts], hidden };
}

/** Those of pg_cron that whoever is connected may see. */
async function readJobs(tx: Tx): Promise<readonly StoredText[]> {
  const { rows: found } = await tx.query(`
    select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'cron' and c.relname = 'job' and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
      and 3 = (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attname in ('jobid', 'command', 'database'))`);
  if (found.length === 0) return [];
  const { rows } = await tx.query<StoredText>(
    `select 'job' as kind, 'cron job ' || jobid as where, command as text from cron.job where database = current_database() order by jobid`,
  );
  return rows;
}

interface Remembered {
  readonly role: string;
  readonly calls: bigint;
  readonly text: string;
}

const NOTHING_REMEMBERED: StoredTexts = { texts: [], hidden: 0 };

/** None where the extension is not there, or was not loaded when the server started. */
async function readRememberedStatements(tx: Tx): Promise<StoredTexts> {
  const { rows: found } = await tx.query<{ name: string }>(`
    select format('%I.pg_stat_statements', n.nspname) as name
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'`);
  const [view] = found;
  if (view === undefined) return NOTHING_REMEMBERED;
  await tx.query('savepoint remembered');
  try {
    const here = `${view.name} where dbid = (select oid from pg_database where datname = current_database())`;
    const isHidden = `(query is null or query = '<insufficient privilege>')`;
    const { rows: hidden } = await tx.query<{ count: number }>(
      `select count(*)::int as count from ${here} and ${isHidden}`,
    );
    const { rows } = await tx.query<Remembered>(
      `select pg_get_userbyid(userid)::text as role, sum(calls)::int8 as calls, query as text
       from ${here} and not ${isHidden} group by 1, 3 order by 2 desc limit ${MOST_STATEMENTS}`,
    );
    const texts = rows.filter(({ text }) => !isOfThePast(text));
    return {
      hidden: hidden[0]?.count ?? 0,
      texts: texts.map((each) => ({ kind: 'statement', where: statementName(each), text: each.text })),
    };
  } catch (error) {
    if (!isNotLoaded(error)) throw error;
    await tx.query('rollback to savepoint remembered');
    return NOTHING_REMEMBERED;
  }
}

/** What changes tables was for the tables as they were, and pg_dump, which writes its COPY and its cursors like this, finds them where they are. */
const isOfThePast = (statement: string): boolean =>
  /^(?:\s|--[^\n]*\n|\/\*[\s\S]*?\*\/)*(?:create|alter|drop|comment|grant|revoke|reindex|cluster|security|refresh)\b/iu.test(
    statement,
  ) || /^COPY \S+ \([^)]*\) TO stdout;?\s*$|\b_pg_dump_cursor\b/u.test(statement);

function statementName({ role, calls, text }: Remembered): string {
  const line = text.replaceAll(/\s+/gu, ' ').trim();
  const short = line.length > MOST_OF_A_STATEMENT ? `${line.slice(0, MOST_OF_A_STATEMENT)} …` : line;
  return `a statement of ${role} (${calls} calls), ${short}`;
}
