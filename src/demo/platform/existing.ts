import type { Queryable } from '../../db/pool.ts';

/** What a database has already of what the catalogue knows. */
export interface Existing {
  readonly types: ReadonlySet<string>;
  readonly indexes: ReadonlySet<string>;
  readonly extensions: ReadonlySet<string>;
  readonly roles: ReadonlySet<string>;
  /** Names of columns in order, by table. */
  readonly columns: ReadonlyMap<string, readonly string[]>;
  /** Each as `nameOn` says. */
  readonly constraints: ReadonlySet<string>;
  readonly triggers: ReadonlySet<string>;
  readonly policies: ReadonlySet<string>;
}

/** Constraints, triggers and policies have names of their table's own. */
export const nameOn = (table: string, name: string): string => `${table}: ${name}`;

export async function findExisting(db: Queryable): Promise<Existing> {
  const names = async (sql: string) => {
    const { rows } = await db.query<{ name: string }>(sql);
    return new Set(rows.map(({ name }) => name));
  };
  const ofTables = (catalog: string, name: string, table: string) =>
    names(`select c.relname || ': ' || o.${name} as name from ${catalog} o join pg_class c on c.oid = o.${table}
      where c.relnamespace = 'public'::regnamespace`);
  return {
    types: await names(`select typname as name from pg_type where typnamespace = 'public'::regnamespace`),
    indexes: await names(
      `select relname as name from pg_class where relkind = 'i' and relnamespace = 'public'::regnamespace`,
    ),
    extensions: await names('select extname as name from pg_extension'),
    roles: await names('select rolname as name from pg_roles'),
    columns: await findColumns(db),
    constraints: await ofTables('pg_constraint', 'conname', 'conrelid'),
    triggers: await ofTables('pg_trigger', 'tgname', 'tgrelid'),
    policies: await ofTables('pg_policy', 'polname', 'polrelid'),
  };
}

async function findColumns(db: Queryable): Promise<Map<string, string[]>> {
  const { rows } = await db.query<{ table: string; columns: string[] }>(
    `select c.relname as table, array_agg(a.attname::text order by a.attnum) as columns
     from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
     group by c.relname`,
  );
  return new Map(rows.map(({ table, columns }) => [table, columns]));
}
