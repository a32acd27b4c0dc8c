import type { Pool, Queryable } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { nameParts } from './mapping.ts';
import { closingCheck, columnList, notNullCheck } from './names.ts';

/** A unique key: a constraint, the primary key among them, or an index alone. */
export interface UniqueKey {
  readonly name: string;
  readonly columns: readonly string[];
  readonly isPrimary: boolean;
  readonly isConstraint: boolean;
  readonly isDeferrable: boolean;
  /** Has an expression, a condition, or nulls that are alike, so that its columns do not say what is unique. */
  readonly isPartial: boolean;
  /** Whether no column of it may be null. */
  readonly isNotNull: boolean;
  /** As SQL makes it again, after the table's name: `primary key (id)`, or of an index what follows USING. */
  readonly definition: string;
}

interface Index {
  readonly name: string;
  /** What follows USING. */
  readonly definition: string;
}

interface ForeignKey {
  readonly name: string;
  readonly definition: string;
  readonly isValidated: boolean;
}

/** A foreign key of another table that refers to it. */
export interface Reference {
  readonly name: string;
  /** Quoted, with its schema. */
  readonly table: string;
  readonly columns: readonly string[];
  readonly refersTo: readonly string[];
  /** As SQL says it, behind the name of what it refers to: `(id) ON DELETE CASCADE`. */
  readonly tail: string;
  readonly isValidated: boolean;
  readonly isOurs: boolean;
  /** Policies of the table that refers hold for its owner too. */
  readonly isForced: boolean;
}

export interface Trigger {
  readonly name: string;
  /** Names the table as it is called when it is run. */
  readonly definition: string;
  readonly enabled: 'O' | 'D' | 'R' | 'A';
  readonly isSuitable: boolean;
}

/** A view or materialized view that reads it. */
export interface Reader {
  /** Quoted, with its schema. */
  readonly name: string;
  readonly kind: 'view' | 'materialized view';
  readonly definition: string;
  readonly options: readonly string[];
  readonly isOurs: boolean;
  readonly isPopulated: boolean;
}

/** Whether the instant is one of its columns. */
export const holdsKey = ({ columns, isPartial }: Pick<UniqueKey, 'columns' | 'isPartial'>, by: string): boolean =>
  !isPartial && columns.includes(by);

/** A foreign key of another table, as it refers to a table of that name. */
export const referenceTo = ({ columns, tail }: Reference, table: string): string =>
  `foreign key (${columnList(columns)}) references ${table}${tail.replace(/ NOT VALID$/, '')}`;

/** What a table is, as far as another has to be made that takes its place. Texts of SQL name everything with its schema. */
export interface TableFacts {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** In words. */
  readonly kind: string;
  readonly owner: string;
  readonly isOurs: boolean;
  readonly isLogged: boolean;
  readonly comment: string | null;
  readonly storage: readonly string[];
  readonly heirs: number;
  readonly isHeir: boolean;
  readonly extension: string | null;
  readonly identityColumns: readonly string[];
  readonly columns: readonly string[];
  readonly rowSecurity: boolean;
  readonly rowSecurityForced: boolean;
  readonly bypassesPolicies: boolean;
  readonly replicaIdentity: 'd' | 'f' | 'n' | 'i';
  readonly key: { readonly type: string; readonly isNotNull: boolean; readonly isGenerated: boolean } | null;
  readonly uniqueKeys: readonly UniqueKey[];
  readonly indexes: readonly Index[];
  /** Not valid, or not for heirs. */
  readonly unsuitableChecks: readonly string[];
  readonly foreignKeys: readonly ForeignKey[];
  readonly references: readonly Reference[];
  readonly triggers: readonly Trigger[];
  readonly policies: readonly string[];
  readonly readers: readonly Reader[];
  readonly publications: readonly {
    readonly name: string;
    readonly definition: string;
    readonly isOurs: boolean;
    readonly viaRoot: boolean;
  }[];
  /** Sequences that a column owns: they go where the table goes. */
  readonly sequences: readonly { readonly name: string; readonly column: string }[];
  /** What else hangs on it and cannot be carried over, in words. */
  readonly others: readonly string[];
  /** Null where nobody has counted yet. */
  readonly rowsEstimated: number | null;
  readonly sizeBytes: bigint;
  /** Files of WAL that the server keeps in store, to be written again. */
  readonly walInStoreBytes: bigint;
  /** What the catalog says of it, in one digest. */
  readonly fingerprint: string;
}

/** @returns undefined where no relation has that name @throws AppError DB_* */
export function readFacts(pool: Pool, table: string, keyColumn: string): Promise<TableFacts | undefined> {
  return withTransaction(pool, (tx) => readFactsIn(tx, table, keyColumn));
}

/** The same in a transaction, whose search_path it empties: so the server names everything with its schema. */
export async function readFactsIn(tx: Queryable, table: string, keyColumn: string): Promise<TableFacts | undefined> {
  await tx.query(`set local search_path = ''`);
  const { rows } = await tx.query<TableFacts>(FACTS, [
    table,
    keyColumn,
    ...[closingCheck, notNullCheck].map((check) => check(nameParts(table).table)),
  ]);
  return rows[0];
}

const QUOTED = `format('%I.%I', n.nspname, x.relname)`;
const ACTION_KEYS = `array(select a.attname::text from unnest(k.conkey) with ordinality u (n, nth) join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by nth)`;

/** What follows USING, whatever the table is called. */
const ON_TABLE = `format(' ON %s%I.%I USING ', case c.relkind when 'p' then 'ONLY ' else '' end, s.nspname, c.relname)`;
const INDEX_TAIL = `split_part(pg_get_indexdef(i.indexrelid), ${ON_TABLE}, 2)`;

// `to_regclass` of a name that is given unquoted would fold its case: parts are compared instead.
const FACTS = `
  select c.oid, s.nspname as schema, c.relname as name,
    case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
      when 'S' then 'sequence' else 'relation of another kind' end as kind,
    pg_get_userbyid(c.relowner) as owner, pg_has_role(c.relowner, 'usage') as "isOurs", c.relpersistence = 'p' as "isLogged",
    obj_description(c.oid, 'pg_class') as comment, coalesce(c.reloptions, '{}') as storage,
    (select count(*)::int from pg_catalog.pg_inherits h where h.inhparent = c.oid) as heirs,
    exists (select from pg_catalog.pg_inherits h where h.inhrelid = c.oid) as "isHeir",
    (select e.extname from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid
      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e') as extension,
    array(select a.attname::text from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and a.attidentity <> '' and not a.attisdropped) as "identityColumns",
    array(select a.attname::text from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns,
    c.relrowsecurity as "rowSecurity", c.relforcerowsecurity as "rowSecurityForced", (select r.rolsuper or r.rolbypassrls from pg_catalog.pg_roles r where r.rolname = current_user) as "bypassesPolicies", c.relreplident as "replicaIdentity",
    (select jsonb_build_object('type', format_type(a.atttypid, null), 'isNotNull', a.attnotnull, 'isGenerated', a.attgenerated <> '')
      from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = $2 and not a.attisdropped) as key,
    array(
      select jsonb_build_object('name', coalesce(k.conname, x.relname),
        'columns', array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality u (n, nth)
          join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = u.n where u.nth <= i.indnkeyatts order by u.nth),
        'isPrimary', i.indisprimary, 'isNotNull', not exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum = any (i.indkey::int2[]) and not a.attnotnull), 'isConstraint', k.oid is not null, 'isDeferrable', coalesce(k.condeferrable, false), 'isPartial', i.indpred is not null or i.indexprs is not null or i.indnullsnotdistinct,
        'definition', coalesce(pg_get_constraintdef(k.oid), ${INDEX_TAIL}))
      from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
      left join pg_catalog.pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u')
      where i.indrelid = c.oid and i.indisunique and not i.indisexclusion and i.indisvalid order by i.indisprimary desc, x.relname
    ) as "uniqueKeys",
    array(
      select jsonb_build_object('name', x.relname, 'definition', ${INDEX_TAIL})
      from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
      where i.indrelid = c.oid and not i.indisunique and not i.indisexclusion and i.indisvalid order by x.relname
    ) as indexes,
    array(
      select k.conname::text from pg_catalog.pg_constraint k
      where k.conrelid = c.oid and k.contype in ('c', 'n') and (not k.convalidated or k.connoinherit) and k.conname not in ($3, $4)
    ) as "unsuitableChecks",
    array(
      select jsonb_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid), 'isValidated', k.convalidated)
      from pg_catalog.pg_constraint k where k.conrelid = c.oid and k.contype = 'f' and k.conparentid = 0 order by k.conname
    ) as "foreignKeys",
    array(
      select jsonb_build_object('name', k.conname, 'table', ${QUOTED}, 'columns', ${ACTION_KEYS},
        'refersTo', array(select a.attname::text from unnest(k.confkey) with ordinality u (n, nth)
          join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = u.n order by nth),
        'tail', split_part(pg_get_constraintdef(k.oid), format(' REFERENCES %I.%I', s.nspname, c.relname), 2), 'isValidated', k.convalidated, 'isOurs', pg_has_role(x.relowner, 'usage'),
        'isForced', x.relrowsecurity and x.relforcerowsecurity)
      from pg_catalog.pg_constraint k join pg_catalog.pg_class x on x.oid = k.conrelid join pg_catalog.pg_namespace n on n.oid = x.relnamespace
      where k.confrelid = c.oid and k.contype = 'f' and k.conparentid = 0 and k.conrelid <> c.oid order by x.relname, k.conname
    ) as references,
    array(
      select jsonb_build_object('name', t.tgname, 'definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled,
        'isSuitable', not ((t.tgtype & 1) = 1 and (t.tgoldtable is not null or t.tgnewtable is not null)))
      from pg_catalog.pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal and t.tgparentid = 0 order by t.tgname
    ) as triggers,
    array(
      select format('create policy %I on %I.%I as %s for %s to %s%s%s', p.policyname, p.schemaname, p.tablename, p.permissive, p.cmd,
        (select string_agg(case r when 'public' then 'public' else quote_ident(r) end, ', ') from unnest(p.roles) r),
        ' using (' || p.qual || ')', ' with check (' || p.with_check || ')')
      from pg_catalog.pg_policies p where p.schemaname = s.nspname and p.tablename = c.relname order by p.policyname
    ) as policies,
    array(
      select jsonb_build_object('name', ${QUOTED}, 'kind', case x.relkind when 'v' then 'view' else 'materialized view' end,
        'definition', rtrim(pg_get_viewdef(x.oid), ';'), 'options', coalesce(x.reloptions, '{}'), 'isOurs', pg_has_role(x.relowner, 'usage'), 'isPopulated', x.relispopulated)
      from (
        select distinct w.ev_class from pg_catalog.pg_depend d join pg_catalog.pg_rewrite w on w.oid = d.objid
        where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_rewrite'::regclass and w.ev_class <> c.oid
      ) r join pg_catalog.pg_class x on x.oid = r.ev_class join pg_catalog.pg_namespace n on n.oid = x.relnamespace
      where n.nspname <> 'restructure' order by n.nspname, x.relname
    ) as readers,
    array(
      select jsonb_build_object('name', b.pubname, 'isOurs', pg_has_role(b.pubowner, 'usage'), 'viaRoot', b.pubviaroot,
        'definition', concat_ws(' ', '(' || (
          select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum = any (p.prattrs)
        ) || ')', 'where (' || pg_get_expr(p.prqual, c.oid) || ')'))
      from pg_catalog.pg_publication_rel p join pg_catalog.pg_publication b on b.oid = p.prpubid where p.prrelid = c.oid order by b.pubname
    ) as publications,
    array(
      select jsonb_build_object('name', ${QUOTED}, 'column', a.attname)
      from pg_catalog.pg_depend d join pg_catalog.pg_class x on x.oid = d.objid and x.relkind = 'S' join pg_catalog.pg_namespace n on n.oid = x.relnamespace
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
      where d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'a' order by x.relname
    ) as sequences,
    array(
      select distinct pg_describe_object(d.classid, d.objid, d.objsubid)
      from pg_catalog.pg_depend d
      where d.deptype = 'n' and (
        d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid and (
          d.classid in ('pg_proc'::regclass, 'pg_rewrite'::regclass) and not exists (
            select from pg_catalog.pg_rewrite w join pg_catalog.pg_class x on x.oid = w.ev_class
            where d.classid = 'pg_rewrite'::regclass and w.oid = d.objid and x.relkind in ('v', 'm') and w.ev_type = '1')
          or d.classid = 'pg_policy'::regclass and not exists (select from pg_catalog.pg_policy p where p.oid = d.objid and p.polrelid = c.oid))
        or d.refclassid = 'pg_type'::regclass and d.refobjid in (select unnest(array[y.oid, y.typarray]) from pg_catalog.pg_type y where y.oid = c.reltype)
      )
      union
      select pg_describe_object('pg_rewrite'::regclass, w.oid, 0) from pg_catalog.pg_rewrite w where w.ev_class = c.oid and c.relkind <> 'v'
      union
      select pg_describe_object('pg_constraint'::regclass, k.oid, 0) from pg_catalog.pg_constraint k
      where k.conrelid = c.oid and (k.contype = 'x' or k.contype = 'f' and k.confrelid = c.oid)
      union
      -- A view that groups by the primary key alone stands on that.
      select pg_describe_object(d.classid, d.objid, d.objsubid)
      from pg_catalog.pg_constraint k join pg_catalog.pg_depend d on d.refclassid = 'pg_constraint'::regclass and d.refobjid = k.oid and d.deptype = 'n' and d.classid = 'pg_rewrite'::regclass
      where k.conrelid = c.oid
      union
      select format('the subscription %s', u.subname) from pg_catalog.pg_subscription_rel r join pg_catalog.pg_subscription u on u.oid = r.srsubid where r.srrelid = c.oid
      order by 1
    ) as others,
    nullif(c.reltuples, -1)::float8 as "rowsEstimated", (
      select sum(pg_total_relation_size(r.oid))::int8 from (select c.oid union select t.relid::oid from pg_partition_tree(c.oid) t) r (oid)
    ) as "sizeBytes",
    (select setting::int8 * 1048576 from pg_catalog.pg_settings where name = 'min_wal_size') as "walInStoreBytes",
    restructure.fingerprint(restructure.facts_of(array[c.oid])) as fingerprint
  from pg_catalog.pg_class c join pg_catalog.pg_namespace s on s.oid = c.relnamespace
  where s.nspname = split_part($1, '.', 1) and c.relname = split_part($1, '.', 2)`;
