import type { Queryable } from '../../src/db/pool.ts';
import type { Catalogue, Check, Condition, Default, Table } from '../../src/demo/platform/catalogue.ts';

/** What there is to say of each object, by its kind, its table and its name. */
export type Objects = ReadonlyMap<string, Readonly<Record<string, unknown>>>;

/** Sentences, one for each object that is here or there alone, and for each property in which two differ. */
export function differences({ known, live }: { known: Objects; live: Objects }): string[] {
  const missing = [...known.keys()].filter((key) => !live.has(key)).map((key) => `${key}: missing`);
  const unknown = [...live.keys()].filter((key) => !known.has(key)).map((key) => `${key}: unknown`);
  const changed = [...known].flatMap(([key, properties]) =>
    Object.entries(properties).flatMap(([property, value]) => {
      const found = live.get(key)?.[property];
      const [wanted, got] = [JSON.stringify(value), JSON.stringify(found)];
      return !live.has(key) || wanted === got ? [] : [`${key}: ${property} is ${got}, not ${wanted}`];
    }),
  );
  return [...missing, ...unknown, ...changed];
}

const objects = (entries: Iterable<readonly [string, Readonly<Record<string, unknown>>]>): Objects => {
  const list = [...entries];
  const map = new Map(list);
  if (map.size !== list.length) throw new Error('Two objects of one name.');
  return map;
};

type ParentOrPartition = { readonly own: Table; readonly parent: Exclude<Table, { kind: 'partition' }> };

/** Every table, beside the one that says what its columns are: itself, or whose partition it is. */
function parented({ tables }: Catalogue): ParentOrPartition[] {
  const parents = tables.filter((table) => table.kind !== 'partition');
  return tables.map((own) => {
    const parent = own.kind === 'partition' ? parents.find(({ name }) => name === own.partition_of) : own;
    if (parent === undefined) throw new Error(`${own.name} is a partition of nothing.`);
    return { own, parent };
  });
}

// ------------------------------------------------------------------------------------------------- what is known

export const known = {
  tables: (catalogue: Catalogue) =>
    objects(
      catalogue.tables.map((table) => [
        table.name,
        {
          kind: table.kind,
          rls: table.rls,
          partitioned_by: table.kind === 'partitioned' ? `RANGE (${table.partition_key.columns.join(', ')})` : null,
          parent: table.kind === 'partition' ? table.partition_of : null,
          bounds: table.kind === 'partition' ? boundsSql(table.bounds) : null,
        },
      ]),
    ),
  columns: (catalogue: Catalogue, hasVector: boolean) =>
    objects(
      parented(catalogue).flatMap(({ own, parent }) =>
        parent.columns.map((column, nth) => [
          `${own.name}.${column.name}`,
          {
            nth: nth + 1,
            type: hasVector ? column.type : column.type.replace(/^vector\(.*/, 'vector'),
            nullable: column.nullable,
            default: defaultSql(column.type, column.default),
          },
        ]),
      ),
    ),
  keys: (catalogue: Catalogue) =>
    objects(
      parented(catalogue).flatMap(({ own, parent }) => [
        [`${own.name}: ${own.name}_pkey`, { kind: 'p', columns: parent.primary_key }],
        ...parent.unique.map(({ name, columns }) => [`${own.name}: ${name}`, { kind: 'u', columns }] as const),
      ]),
    ),
  foreignKeys: (catalogue: Catalogue) =>
    objects(
      parented(catalogue).flatMap(({ own, parent }) =>
        parent.foreign_keys.map((key) => [
          `${own.name}: ${key.name}`,
          {
            columns: key.columns,
            references: key.references,
            ref_columns: key.ref_columns,
            on_delete: key.on_delete,
            on_update: 'no action',
          },
        ]),
      ),
    ),
  checks: (catalogue: Catalogue) =>
    objects(
      parented(catalogue).flatMap(({ own, parent }) =>
        parent.checks.map((check) => [
          `${own.name}: ${check.name}`,
          { columns: [...checkedColumns(check)].sort(), ...('expression' in check ? {} : { says: checkSql(check) }) },
        ]),
      ),
    ),
  indexes: (catalogue: Catalogue) =>
    objects(
      catalogue.tables.flatMap((table) =>
        table.indexes.map((index) => [
          `${table.name}: ${index.name}`,
          {
            columns: index.columns.map(plain),
            directions: index.directions,
            unique: index.unique,
            primary: index.primary,
            method: index.method,
            predicate: index.predicate === null ? null : index.predicate.map(conditionSql).join(' AND '),
            from_constraint: index.from_constraint,
          },
        ]),
      ),
    ),
  enums: ({ enums }: Catalogue) => objects(enums.map(({ name, labels }) => [name, { labels }])),
  compositeTypes: ({ composite_types }: Catalogue) =>
    objects(composite_types.map(({ name, columns }) => [name, { columns }])),
  sequences: ({ sequences }: Catalogue) =>
    objects(sequences.map(({ name, ...properties }) => [name, { ...properties }])),
  triggers: ({ triggers }: Catalogue) =>
    objects(
      triggers.map(({ table, name, timing, events, level, function: called }) => [
        `${table}: ${name}`,
        { timing, events: [...events].sort(), level, function: called },
      ]),
    ),
  policies: ({ policies }: Catalogue) =>
    objects(
      policies.map(({ table, name, command, roles, has_using, has_with_check, depends_on }) => [
        `${table}: ${name}`,
        { command, roles: [...roles].sort(), has_using, has_with_check, depends_on: [...depends_on].sort() },
      ]),
    ),
  functions: ({ functions }: Catalogue) =>
    objects(
      functions.map(({ name, args, ...properties }) => [
        `${name}(${args.map(({ type }) => type).join(', ')})`,
        { args: args.map((arg) => arg.name), ...properties },
      ]),
    ),
  views: ({ views }: Catalogue) =>
    objects(
      views.map(({ schema, name, kind, security_invoker, columns, reads }) => [
        `${schema}.${name}`,
        { kind, security_invoker, columns, reads: [...reads].sort() },
      ]),
    ),
};

const checkedColumns = (check: Check): readonly string[] => {
  if ('columns' in check) return check.columns;
  return 'at_least_one_not_null' in check ? check.at_least_one_not_null : [check.column];
};

function boundsSql(bounds: 'default' | { readonly from: string; readonly to: string }): string {
  if (bounds === 'default') return 'DEFAULT';
  return `FOR VALUES FROM ('${bounds.from} 00:00:00+00') TO ('${bounds.to} 00:00:00+00')`;
}

function defaultSql(type: string, value: Default): string | null {
  switch (value.kind) {
    case 'none':
      return null;
    case 'now':
      return 'now()';
    case 'utc_now':
      return `timezone('utc'::text, now())`;
    case 'uuid':
      return 'gen_random_uuid()';
    case 'literal':
      return typeof value.value === 'string' ? `'${value.value}'::${type}` : String(value.value);
    case 'sequence':
      return `nextval('${value.name}'::regclass)`;
    case 'function':
      return `${value.name}()`;
  }
}

function checkSql(check: Exclude<Check, { expression: string }>): string {
  if ('at_least_one_not_null' in check) {
    return check.at_least_one_not_null.map((column) => `${column} IS NOT NULL`).join(' OR ');
  }
  const { column } = check;
  const orNull = (says: string) => (check.nullable === true ? `${column} IS NULL OR ${says}` : says);
  if ('in' in check) return oneOf(column, check.in);
  if ('op' in check) return orNull(`${column} ${check.op} ${check.value}`);
  if ('between' in check) return orNull(between(column, check.between));
  return orNull(between(plain(`char_length(${column})`), check.length_between));
}

const between = (value: string, [least, most]: readonly [number, number]) =>
  `${value} >= ${least} AND ${value} <= ${most}`;

function oneOf(column: string, values: readonly string[]): string {
  const list = values.map((value) => `'${value}'`);
  return list.length === 1 ? `${column} = ${list[0]}` : `${column} = ANY ARRAY[${list.join(', ')}]`;
}

function conditionSql(condition: Condition): string {
  const { column } = condition;
  if ('is_null' in condition) return `${column} IS ${condition.is_null ? '' : 'NOT '}NULL`;
  if ('in' in condition) return oneOf(column, condition.in);
  const { op, value } = condition;
  if (value === true) return column;
  return `${column} ${op} ${typeof value === 'string' ? `'${value}'` : value}`;
}

/** Without the brackets, quotes of names and types that PostgreSQL writes now here, now there; PLAIN says the same. */
const plain = (sql: string) => sql.replace(/[()"]|::[a-z_]+/g, '');
const PLAIN = (sql: string) => `regexp_replace(${sql}, '[()"]|::[a-z_]+', '', 'g')`;

// ---------------------------------------------------------------------------------------------------- what is there

const COLUMN_NAMES = (table: string, numbers: string) => `array(
    select a.attname::text from unnest(${numbers}) with ordinality k(attnum, nr)
    join pg_attribute a on (a.attrelid, a.attnum) = (${table}, k.attnum) order by k.nr
  )`;

const ACTION = (code: string) => `case ${code}
    when 'a' then 'no action' when 'r' then 'restrict' when 'c' then 'cascade' when 'n' then 'set null' end`;

/** Each query's column `key` is the object's. */
const LIVE: Readonly<Record<keyof typeof known, string>> = {
  tables: `
    select c.relname as key, case when c.relispartition then 'partition' when c.relkind = 'p' then 'partitioned' else 'table' end as kind,
      c.relrowsecurity as rls, pg_get_partkeydef(c.oid) as partitioned_by, i.inhparent::regclass::text as parent,
      pg_get_expr(c.relpartbound, c.oid) as bounds
    from pg_class c left join pg_inherits i on i.inhrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')`,
  columns: `
    select c.relname || '.' || a.attname as key,
      (row_number() over (partition by c.oid order by a.attnum))::integer as nth,
      format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable, pg_get_expr(d.adbin, d.adrelid) as default
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')`,
  keys: `
    select t.relname || ': ' || c.conname as key, c.contype::text as kind, ${COLUMN_NAMES('c.conrelid', 'c.conkey')} as columns
    from pg_constraint c join pg_class t on t.oid = c.conrelid
    where t.relnamespace = 'public'::regnamespace and c.contype in ('p', 'u')`,
  foreignKeys: `
    select t.relname || ': ' || c.conname as key, ${COLUMN_NAMES('c.conrelid', 'c.conkey')} as columns,
      r.relnamespace::regnamespace || '.' || r.relname as references, ${COLUMN_NAMES('c.confrelid', 'c.confkey')} as ref_columns,
      ${ACTION('c.confdeltype')} as on_delete, ${ACTION('c.confupdtype')} as on_update
    from pg_constraint c join pg_class t on t.oid = c.conrelid join pg_class r on r.oid = c.confrelid
    where t.relnamespace = 'public'::regnamespace and c.contype = 'f'`,
  checks: `
    select t.relname || ': ' || c.conname as key,
      array(select column_name from unnest(${COLUMN_NAMES('c.conrelid', 'c.conkey')}) column_name order by column_name collate "C") as columns,
      ${PLAIN(`substr(pg_get_constraintdef(c.oid), length('CHECK ') + 1)`)} as says
    from pg_constraint c join pg_class t on t.oid = c.conrelid
    where t.relnamespace = 'public'::regnamespace and c.contype = 'c'`,
  indexes: `
    select t.relname || ': ' || c.relname as key,
      array(select ${PLAIN('pg_get_indexdef(i.indexrelid, k, false)')} from generate_series(1, i.indnkeyatts) k) as columns,
      array(select case when i.indoption[k - 1] & 1 = 1 then 'desc' else 'asc' end from generate_series(1, i.indnkeyatts) k) as directions,
      i.indisunique as unique, i.indisprimary as primary, am.amname as method, ${PLAIN('pg_get_expr(i.indpred, i.indrelid)')} as predicate,
      exists (select from pg_constraint k where k.conindid = c.oid and k.contype in ('p', 'u')) as from_constraint
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_class t on t.oid = i.indrelid join pg_am am on am.oid = c.relam
    where t.relnamespace = 'public'::regnamespace and t.relkind in ('r', 'p')`,
  enums: `
    select t.typname as key, array_agg(e.enumlabel::text order by e.enumsortorder) as labels
    from pg_enum e join pg_type t on t.oid = e.enumtypid where t.typnamespace = 'public'::regnamespace group by 1`,
  compositeTypes: `
    select c.relname as key,
      jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod)) order by a.attnum) as columns
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'c' group by 1`,
  sequences: `
    select c.relname as key, t.relname || '.' || a.attname as owned_by, format_type(s.seqtypid, null) as type,
      s.seqstart::integer as start, s.seqincrement::integer as increment
    from pg_sequence s join pg_class c on c.oid = s.seqrelid
    left join pg_depend d on d.objid = c.oid and d.deptype = 'a'
    left join pg_class t on t.oid = d.refobjid left join pg_attribute a on (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
    where c.relnamespace = 'public'::regnamespace`,
  triggers: `
    select case when c.relnamespace = 'auth'::regnamespace then 'auth.' else '' end || c.relname || ': ' || t.tgname as key,
      case when t.tgtype & 2 = 2 then 'before' else 'after' end as timing,
      array_remove(array[
        case when t.tgtype & 8 = 8 then 'delete' end, case when t.tgtype & 4 = 4 then 'insert' end,
        case when t.tgtype & 16 = 16 then 'update' end
      ], null) as events,
      case when t.tgtype & 1 = 1 then 'row' else 'statement' end as level, p.proname as function
    from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid
    where not t.tgisinternal and t.tgenabled = 'O' and t.tgqual is null and cardinality(t.tgattr) = 0`,
  policies: `
    select c.relname || ': ' || p.polname as key,
      case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end as command,
      case when p.polroles = '{0}' then array['public']
        else array(select rolname::text collate "C" from pg_roles where oid = any (p.polroles) order by 1) end as roles,
      p.polqual is not null as has_using, p.polwithcheck is not null as has_with_check,
      array(
        select distinct coalesce(r.relname, f.proname)::text collate "C" from pg_depend d
        left join pg_class r on d.refclassid = 'pg_class'::regclass and r.oid = d.refobjid
        left join pg_proc f on d.refclassid = 'pg_proc'::regclass and f.oid = d.refobjid
        where d.classid = 'pg_policy'::regclass and d.objid = p.oid and coalesce(r.oid, f.oid) <> p.polrelid order by 1
      ) as depends_on
    from pg_policy p join pg_class c on c.oid = p.polrelid
    where c.relnamespace = 'public'::regnamespace and p.polpermissive`,
  functions: `
    select p.proname || '(' || (
        select coalesce(string_agg(format_type(type, null), ', ' order by nr), '') from unnest(p.proargtypes) with ordinality a(type, nr)
      ) || ')' as key,
      coalesce(p.proargnames[1 : p.pronargs]::text[], '{}') as args, p.pronargdefaults::integer as defaults,
      regexp_replace(pg_get_function_result(p.oid), '^TABLE', 'table') as returns, p.proretset as returns_set, l.lanname as language,
      case p.provolatile when 'v' then 'volatile' when 's' then 'stable' else 'immutable' end as volatility,
      p.prosecdef as security_definer,
      (select substr(setting, length('search_path=') + 1) from unnest(p.proconfig) setting where setting like 'search_path=%') as search_path
    from pg_proc p join pg_language l on l.oid = p.prolang
    where p.pronamespace = 'public'::regnamespace
      and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`,
  views: `
    select c.relnamespace::regnamespace || '.' || c.relname as key, case c.relkind when 'v' then 'view' else 'materialized' end as kind,
      coalesce('security_invoker=true' = any (c.reloptions) or 'security_invoker=on' = any (c.reloptions), false) as security_invoker,
      (
        select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod)) order by a.attnum)
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
      ) as columns,
      array(
        select distinct r.relname::text collate "C" from pg_rewrite w
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
        join pg_class r on r.oid = d.refobjid and r.oid <> c.oid
        where w.ev_class = c.oid order by 1
      ) as reads
    from pg_class c where c.relnamespace in ('public'::regnamespace, 'analytics'::regnamespace) and c.relkind in ('v', 'm')`,
};

export async function readLive(db: Queryable, kind: keyof typeof known): Promise<Objects> {
  const { rows } = await db.query<{ key: string } & Record<string, unknown>>(LIVE[kind]);
  return objects(rows.map(({ key, ...properties }) => [key, properties]));
}
