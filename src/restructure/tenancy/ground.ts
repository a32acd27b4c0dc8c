import type { Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { Mapping } from '../mapping.ts';
import type { Place, PolicyContext } from './conditions.ts';
import { ownersIn, type Tenancy, type TenantTable } from './declaration.ts';

/** A table of the tenancy, or a partition of one, where it is by now. */
export interface Member extends Place {
  readonly oid: number;
  readonly hasRowSecurity: boolean;
  /** Whether rows lie in it, and not in partitions of it. */
  readonly isLeaf: boolean;
  readonly columns: readonly string[];
  /** The view under its old name. */
  readonly standIn: number | null;
  /** Roles, `public` among them, that may update every column, or give every column to a row that they insert. */
  readonly updaters: readonly string[];
  readonly inserters: readonly string[];
}

/** What there is of the tables that a tenancy speaks of. */
export interface Ground {
  readonly context: PolicyContext;
  /** By the name of the mapping, the table first, then its partitions; absent where there is no such table. */
  readonly members: ReadonlyMap<string, readonly Member[]>;
}

/**
 * Finds the tables of a tenancy, each where its mapping moves it, or where it was before.
 * @throws AppError RESTRUCTURE_MAPPING_INVALID where a table that others refer to is missing, or has no key of one column
 */
export async function readGround(db: Queryable, mapping: Mapping, tenancy: Tenancy): Promise<Ground> {
  const names = [
    ...new Set([
      ...tenancy.tables.map(({ table }) => table),
      tenancy.organizations.table,
      ...tenancy.memberships.map(({ table }) => table),
    ]),
  ];
  const members = await readMembers(db, mapping, names);
  const keys = await readKeys(db, members);
  const places = new Map(
    [...members].flatMap(([table, [root]]) => (root === undefined ? [] : [[table, root] as const])),
  );
  for (const { table, byKey } of referredTo(tenancy)) {
    if (places.has(table) && (keys.has(table) || !byKey)) continue;
    const fault = places.has(table) ? 'has no primary key of one column' : 'is not there';
    throw new AppError(
      'RESTRUCTURE_MAPPING_INVALID',
      `The tenancy of other tables is that of ${table}, which ${fault}.`,
    );
  }
  for (const { table } of [tenancy.organizations, ...tenancy.memberships]) {
    if (places.has(table)) continue;
    throw new AppError('RESTRUCTURE_MAPPING_INVALID', `The table of members ${table} is not there.`);
  }
  return { context: { tenancy, from: mapping.from, places, keys }, members };
}

/** The tables that policies of others read, and whether they look for the primary key. */
const referredTo = ({ tables }: Tenancy): readonly { readonly table: string; readonly byKey: boolean }[] =>
  tables.flatMap((table: TenantTable) => {
    const { organization, parent } = table;
    return [
      ...(organization !== undefined && 'of' in organization ? [{ table: organization.of, byKey: true }] : []),
      ...ownersIn(table).map(({ of }) => ({ table: of, byKey: true })),
      ...(parent === undefined ? [] : [{ table: parent.of, byKey: parent.key === undefined }]),
    ];
  });

const granteesOf = (privilege: string): string => `array(
         select case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end::text
         from aclexplode(c.relacl) g where g.privilege_type = '${privilege}' and g.grantee <> c.relowner order by 1)`;

async function readMembers(
  db: Queryable,
  mapping: Mapping,
  names: readonly string[],
): Promise<ReadonlyMap<string, readonly Member[]>> {
  const targets = mapping.schemas.flatMap((schema) => schema.tables.map((table) => ({ table, schema: schema.name })));
  const { rows } = await db.query<Member & { table: string }>(
    `with recursive root as (
       select distinct on (w.name) w.name as table, c.oid
       from unnest($1::text[]) w (name)
       join pg_class c on c.relname = w.name and c.relkind in ('r', 'p')
       join pg_namespace n on n.oid = c.relnamespace
       left join jsonb_to_recordset($3) t ("table" text, schema text) on t."table" = w.name and t.schema = n.nspname
       where t.schema is not null or n.nspname = $2
       order by w.name, t.schema nulls last
     ), member as (
       select "table", oid, 0 as depth from root
       union all
       select m."table", h.inhrelid, m.depth + 1 from member m join pg_inherits h on h.inhparent = m.oid
     )
     select m."table", m.oid, n.nspname as schema, c.relname as name, c.relrowsecurity as "hasRowSecurity", c.relkind = 'r' as "isLeaf",
       array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns,
       (select v.oid from pg_class v join pg_namespace vn on vn.oid = v.relnamespace
         where v.relkind = 'v' and v.relname = c.relname and vn.nspname = $2) as "standIn",
       ${granteesOf('UPDATE')} as updaters, ${granteesOf('INSERT')} as inserters
     from member m join pg_class c on c.oid = m.oid join pg_namespace n on n.oid = c.relnamespace
     order by m."table", m.depth, m.oid`,
    [names, mapping.from, JSON.stringify(targets)],
  );
  const members = new Map<string, Member[]>();
  for (const { table, ...member } of rows) members.set(table, [...(members.get(table) ?? []), member]);
  return members;
}

/** The column of the primary key, of those tables whose key is one column. */
async function readKeys(
  db: Queryable,
  members: ReadonlyMap<string, readonly Member[]>,
): Promise<ReadonlyMap<string, string>> {
  const roots = new Map(
    [...members].flatMap(([table, [root]]) => (root === undefined ? [] : [[root.oid, table] as const])),
  );
  const { rows } = await db.query<{ oid: number; key: string }>(
    `select x.indrelid as oid, a.attname as key
     from pg_index x join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
     where x.indrelid = any ($1::oid[]) and x.indisprimary and x.indnkeyatts = 1`,
    [[...roots.keys()]],
  );
  return new Map(rows.flatMap(({ oid, key }) => (roots.has(oid) ? [[roots.get(oid) as string, key] as const] : [])));
}
