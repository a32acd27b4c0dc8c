import type { Queryable } from '../../db/pool.ts';
import { type Declarations, invalidDeclaration, type Rollup } from './declaration.ts';
import { targetOf } from './names.ts';
import type { Resolved } from './statements.ts';

/** A table of the declarations that is there. */
export interface Found {
  readonly oid: number;
  /** Quoted. */
  readonly name: string;
  readonly isPartitioned: boolean;
}

/**
 * Finds a declared table: the first of its places that is a table, not the view that may stand in for it under an old name.
 * @throws AppError ROLLUP_DECLARATION_INVALID
 */
async function findTable(db: Queryable, { tables }: Declarations, key: string): Promise<Found> {
  const places = tables[key];
  if (places === undefined) throw invalidDeclaration(`{${key}} is not in tables.`);
  const { rows } = await db.query<Found>(
    `select c.oid, format('%I.%I', n.nspname, c.relname) as name, c.relkind = 'p' as "isPartitioned"
     from unnest($1::text[]) with ordinality p (name, number)
     join pg_namespace n on n.nspname = split_part(p.name, '.', 1)
     join pg_class c on c.relnamespace = n.oid and c.relname = split_part(p.name, '.', 2) and c.relkind in ('r', 'p')
     order by p.number limit 1`,
    [places],
  );
  const [found] = rows;
  if (found === undefined) throw invalidDeclaration(`None of ${places.join(', ')} is a table of this database.`);
  return found;
}

/** A query with the tables, and the rollups, that it names as {name}. Those are made before it is run. */
export async function withTables(db: Queryable, declarations: Declarations, query: string): Promise<string> {
  let resolved = query;
  for (const key of new Set([...query.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name)))
    resolved = resolved.replaceAll(`{${key}}`, await relationOf(db, declarations, key));
  return resolved;
}

async function relationOf(db: Queryable, declarations: Declarations, key: string): Promise<string> {
  const rollup = Object.hasOwn(declarations.tables, key)
    ? undefined
    : declarations.rollups.find(({ name }) => name === key);
  return rollup === undefined ? (await findTable(db, declarations, key)).name : targetOf(rollup);
}

/** Which of the roles that a declaration names there are not: they are left out. */
export async function missingRoles(db: Queryable, roles: readonly string[]): Promise<readonly string[]> {
  const existing = await existingRoles(db, roles);
  return [...new Set(roles)].filter((role) => !existing.includes(role));
}

export async function existingRoles(db: Queryable, roles: readonly string[]): Promise<readonly string[]> {
  const { rows } = await db.query<{ name: string }>(
    'select r.rolname as name from unnest($1::text[]) with ordinality w (name, number) join pg_roles r on r.rolname = w.name order by w.number',
    [roles],
  );
  return rows.map(({ name }) => name);
}

/**
 * A rollup with what the catalog says of its source.
 * @throws AppError ROLLUP_DECLARATION_INVALID
 */
export async function resolveRollup(
  db: Queryable,
  declarations: Declarations,
  rollup: Rollup,
): Promise<Resolved & { readonly source: Found }> {
  const source = await findTable(db, declarations, rollup.of);
  const types = await columnTypes(db, source.oid);
  const faults = faultsOf(rollup, types);
  const { rows: zones } = await db.query('select from pg_timezone_names where name = $1', [rollup.zone]);
  if (zones.length === 0) faults.push(`${rollup.zone} is no time zone`);
  if (faults.length > 0) throw invalidDeclaration(`in ${source.name} ${faults.join('; ')}.`);
  const readSome = [];
  for (const { roles, column, among } of rollup.readers.some) {
    const query = await withTables(db, declarations, among);
    readSome.push({ roles: await existingRoles(db, roles), column, among: query });
  }
  return {
    rollup,
    source,
    sources: await Promise.all((declarations.tables[rollup.of] ?? []).map((place) => placeName(db, place))),
    groupTypes: rollup.group.map((column) => types.get(column) ?? 'text'),
    readAll: await existingRoles(db, rollup.readers.all),
    readSome,
  };
}

/** As the server writes it, with quotes where it needs them. */
async function placeName(db: Queryable, place: string): Promise<string> {
  const { rows } = await db.query<{ name: string }>(
    `select format('%I.%I', split_part($1, '.', 1), split_part($1, '.', 2)) as name`,
    [place],
  );
  return rows[0]?.name ?? place;
}
/** The same of what is made. */
export const madeName = (db: Queryable, { schema, name }: { schema: string; name: string }): Promise<string> =>
  placeName(db, `${schema}.${name}`);

const NUMBERS = /^(smallint|integer|bigint|numeric(\(.*\))?)$/;
const WEIGHTS = /^(smallint|integer|bigint|numeric(\(.*\))?|real|double precision)$/;

function faultsOf({ time, group, countIf, measures, median }: Rollup, types: ReadonlyMap<string, string>): string[] {
  const wanted: readonly (readonly [string, RegExp, string])[] = [
    [time, /^timestamp with time zone$/, 'no timestamp with time zone'],
    ...group.map((column) => [column, /./, ''] as const),
    ...countIf.map(({ column }) => [column, /^boolean$/, 'no boolean'] as const),
    ...measures.map(({ column }) => [column, NUMBERS, 'neither a whole number nor numeric'] as const),
    ...(median === undefined ? [] : [[median.column, WEIGHTS, 'no number'] as const]),
  ];
  return wanted.flatMap(([column, expected, otherwise]) => {
    const type = types.get(column);
    if (type === undefined) return [`it has no column ${column}`];
    return expected.test(type) ? [] : [`${column} is ${type}, ${otherwise}`];
  });
}

/** With their schemas, whatever the search path. */
async function columnTypes(db: Queryable, oid: number): Promise<ReadonlyMap<string, string>> {
  const { rows } = await db.query<{ name: string; type: string }>(
    `select a.attname as name,
       case when t.typnamespace = 'pg_catalog'::regnamespace then format_type(a.atttypid, a.atttypmod)
         else format('%I.%I', n.nspname, t.typname) end as type
     from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_namespace n on n.oid = t.typnamespace
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped`,
    [oid],
  );
  return new Map(rows.map(({ name, type }) => [name, type]));
}
