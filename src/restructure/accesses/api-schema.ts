import type { Queryable } from '../../db/pool.ts';
import { type Origin, originsIn } from './view-origins.ts';

/** The schema whose names the API knows. */
export const EXPOSED = 'public';

/** A table or a view, as the API knows them. */
export interface ApiRelation {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly isView: boolean;
  readonly columns: readonly { readonly name: string; readonly type: string; readonly isGenerated: boolean }[];
  /** By column, the table and its column that it is, or shows as it is. */
  readonly origins: ReadonlyMap<string, ColumnRef>;
}

interface ColumnRef {
  readonly relation: number;
  readonly column: string;
}

export interface ForeignKey {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly columns: readonly string[];
  readonly toColumns: readonly string[];
}

/** A primary key or a unique constraint, and every other unique index. */
export interface UniqueKey {
  readonly relation: number;
  readonly columns: readonly string[];
  readonly isPrimary: boolean;
  readonly isConstraint: boolean;
}

export interface ApiFunction {
  readonly name: string;
  readonly arguments: readonly { readonly name: string; readonly type: string }[];
  /** How many of the last arguments may be left out. */
  readonly defaults: number;
  readonly returns: string;
}

/** What PostgREST reads of a database when it starts. */
export interface ApiSchema {
  /** All of them, by oid; those that the API exposes, by name. */
  readonly relations: ReadonlyMap<number, ApiRelation>;
  readonly exposed: ReadonlyMap<string, ApiRelation>;
  readonly foreignKeys: readonly ForeignKey[];
  readonly uniqueKeys: readonly UniqueKey[];
  readonly functions: readonly ApiFunction[];
}

/** @throws AppError DB_* */
export async function readApiSchema(db: Queryable): Promise<ApiSchema> {
  const raw = await readRawRelations(db);
  const byOid = new Map(raw.map((each) => [each.oid, each]));
  const relations = new Map(raw.map((each) => [each.oid, { ...each, origins: originsOf(each, byOid) }]));
  return {
    relations,
    exposed: new Map(
      [...relations.values()].filter(({ schema }) => schema === EXPOSED).map((each) => [each.name, each]),
    ),
    foreignKeys: (await db.query<ForeignKey>(FOREIGN_KEYS)).rows,
    uniqueKeys: (await db.query<UniqueKey>(UNIQUE_KEYS)).rows,
    functions: (await db.query<ApiFunction>(FUNCTIONS, [EXPOSED])).rows,
  };
}

interface RawRelation extends Omit<ApiRelation, 'origins'> {
  readonly numbers: readonly number[];
  readonly shows: readonly Origin[];
}

async function readRawRelations(db: Queryable): Promise<readonly RawRelation[]> {
  const { rows } = await db.query<Omit<RawRelation, 'shows'> & { ruleTree: string | null }>(RELATIONS);
  return rows.map(({ ruleTree, ...relation }) => ({ ...relation, shows: originsIn(ruleTree ?? '') }));
}

function originsOf(relation: RawRelation, byOid: ReadonlyMap<number, RawRelation>): ReadonlyMap<string, ColumnRef> {
  if (!relation.isView)
    return new Map(relation.columns.map(({ name }) => [name, { relation: relation.oid, column: name }]));
  return new Map(
    relation.shows.flatMap(({ column, relation: from, attribute }) => {
      const base = byOid.get(from);
      const shown = base?.columns[base.numbers.indexOf(attribute)]?.name;
      // Of a view of a view, what the inner one shows.
      const origin = base === undefined || shown === undefined ? undefined : originsOf(base, byOid).get(shown);
      return origin === undefined ? [] : [[column, origin] as const];
    }),
  );
}

/**
 * The one table that a table or a view of it stands for, if every column of the view is a column of that table: what is written to the one
 * is written to the other.
 */
export function tableBehind(relation: ApiRelation): number | undefined {
  const tables = new Set([...relation.origins.values()].map((origin) => origin.relation));
  const [table] = tables;
  return tables.size === 1 && relation.origins.size === relation.columns.length ? table : undefined;
}

/** The columns by which the relation's rows are told apart: of a view, those that show a table's whole primary key. */
export function primaryKeyOf(schema: ApiSchema, relation: ApiRelation): readonly string[] {
  for (const key of schema.uniqueKeys.filter(({ isPrimary }) => isPrimary)) {
    const columns = shownColumns(relation, key.relation, key.columns);
    if (columns !== undefined) return columns;
  }
  return [];
}

/** What the relation calls these columns of a table; undefined where it does not show them all. */
export function shownColumns(
  relation: ApiRelation,
  table: number,
  columns: readonly string[],
): readonly string[] | undefined {
  const shown = columns.flatMap((column) => {
    const found = [...relation.origins].find(([, origin]) => origin.relation === table && origin.column === column);
    return found === undefined ? [] : [found[0]];
  });
  return shown.length === columns.length ? shown : undefined;
}

const NOT_THE_SERVERS = `n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'`;

const RELATIONS = `
  select c.oid, n.nspname as schema, c.relname as name, c.relkind in ('v', 'm') as "isView",
    array(
      select jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'isGenerated', a.attgenerated <> '')
      from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
    ) as columns,
    array(
      select a.attnum::int4 from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
    ) as numbers,
    (select w.ev_action::text from pg_rewrite w where w.ev_class = c.oid and w.rulename = '_RETURN') as "ruleTree"
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'f', 'v', 'm') and not c.relispartition and ${NOT_THE_SERVERS}
  order by n.nspname, c.relname`;

const columnsOf = (table: string, numbers: string): string => `array(
  select named.attname::text from unnest(${numbers}) with ordinality part (number, place)
  join pg_attribute named on named.attrelid = ${table} and named.attnum = part.number order by part.place)`;

const FOREIGN_KEYS = `
  select k.conname as name, k.conrelid as from, k.confrelid as to,
    ${columnsOf('k.conrelid', 'k.conkey')} as columns, ${columnsOf('k.confrelid', 'k.confkey')} as "toColumns"
  from pg_constraint k where k.contype = 'f' and k.conparentid = 0 order by k.conname, k.conrelid`;

const UNIQUE_KEYS = `
  select x.indrelid as relation, ${columnsOf('x.indrelid', 'x.indkey::int2[]')} as columns, x.indisprimary as "isPrimary",
    exists (select from pg_constraint k where k.conindid = x.indexrelid and k.contype in ('p', 'u')) as "isConstraint"
  from pg_index x join pg_class c on c.oid = x.indrelid join pg_namespace n on n.oid = c.relnamespace
  where x.indisunique and not c.relispartition and ${NOT_THE_SERVERS}
  order by x.indrelid, not x.indisprimary, x.indexrelid`;

const FUNCTIONS = `
  select f.proname as name, f.pronargdefaults::int4 as defaults, f.prorettype::regtype::text as returns,
    array(
      select jsonb_build_object('name', coalesce(f.proargnames[a.place], ''), 'type', format_type(a.type, null))
      from unnest(f.proargtypes) with ordinality a (type, place) order by a.place
    ) as arguments
  from pg_proc f where f.pronamespace = to_regnamespace($1) and f.prokind = 'f'
  order by f.proname, f.oid::regprocedure::text`;
