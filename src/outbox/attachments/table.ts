import type { Queryable } from '../../db/pool.ts';
import { isInvalidParameter } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';

/** A table, and the view by whose name it was found. */
export interface FoundTable {
  /** As PostgreSQL takes it for a regclass. */
  readonly oid: string;
  /** Qualified and quoted. */
  readonly name: string;
  /** Neither. */
  readonly bareName: string;
  readonly view?: string;
}

/**
 * The table of a name, as SQL reads it. Behind the name of a view that shows one table, such as a restructuring leaves where the
 * table was, that table: its triggers see what is written through the view, too.
 * @throws AppError OUTBOX_ATTACHMENT_TABLE_UNKNOWN with what there is, OUTBOX_ATTACHMENT_INVALID
 */
export async function getTable(db: Queryable, name: string): Promise<FoundTable> {
  const parts = await partsOf(db, name);
  const named = await findRelation(db, name);
  if (named === undefined) throw unknown(`There is no table ${name}. ${await whatThereIs(db, parts)}`);
  if (TABLES.has(named.relkind)) return named;
  if (named.relkind !== VIEW) throw unknown(`${named.name} is neither a table nor a view of one.`);
  const { rows: shown } = await db.query<Relation>(SHOWN, [named.oid]);
  const [table] = shown;
  if (table === undefined || shown.length > 1 || !TABLES.has(table.relkind)) {
    const names = shown.length === 0 ? '' : ` (${shown.map(({ name }) => name).join(', ')})`;
    throw unknown(
      `${named.name} is a view that does not show one table alone, to be written to${names}. Name the table.`,
    );
  }
  return { ...table, view: named.name };
}

/** The first of some schemas that has a table of a name; views do not count. */
export async function findTableIn(
  db: Queryable,
  schemas: readonly string[],
  table: string,
): Promise<FoundTable | undefined> {
  const { rows } = await db.query<FoundTable>(
    `select ${RELATION}
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relname = $1 and n.nspname = any ($2) and c.relkind in ('r', 'p')
     order by array_position($2::text[], n.nspname::text)
     limit 1`,
    [table, schemas],
  );
  return rows[0];
}

const TABLES: ReadonlySet<string> = new Set(['r', 'p']);
const VIEW = 'v';
/** A view of a view of a view …: as deep as one is followed. */
const MAX_DEPTH = 10;
const MAX_LISTED = 10;
const MAX_SHOWN = 200;
/** Of pg_relation_is_updatable: update, insert and delete. */
const UPDATABLE = (1 << 2) | (1 << 3) | (1 << 4);
const RELATION = `c.oid::text as oid, format('%I.%I', n.nspname, c.relname) as name, c.relname as "bareName", c.relkind`;

// What a view reads is what its rule depends on. One that cannot be written to shows no rows of the table as they are.
const SHOWN = `
  with recursive shown as (
    select $1::oid as oid, 0 as depth
    union
    select d.refobjid, s.depth + 1
    from shown s
    join pg_rewrite r on r.ev_class = s.oid
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass and d.refobjid <> s.oid
    where s.depth < ${MAX_DEPTH} and pg_relation_is_updatable(s.oid, false) & ${UPDATABLE} = ${UPDATABLE}
  )
  select ${RELATION}
  from (select distinct s.oid from shown s where s.depth > 0) s
  join pg_class c on c.oid = s.oid
  join pg_namespace n on n.oid = c.relnamespace
  where c.relkind <> 'v'
  order by 2`;

interface Relation extends FoundTable {
  readonly relkind: string;
}

async function findRelation(db: Queryable, name: string): Promise<Relation | undefined> {
  const { rows } = await db.query<Relation>(
    `select ${RELATION} from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)`,
    [name],
  );
  return rows[0];
}

/** A name's parts, as SQL reads them. */
async function partsOf(db: Queryable, name: string): Promise<readonly string[]> {
  const invalid = (why: string, cause?: unknown) =>
    new AppError(
      'OUTBOX_ATTACHMENT_INVALID',
      `The table's name ${JSON.stringify(name.slice(0, MAX_SHOWN))} ${why}. Write it as in SQL, such as ticketing.orders or public."Order".`,
      { cause },
    );
  const parsed = await db.query<{ parts: string[] }>('select parse_ident($1) as parts', [name]).catch((error) => {
    throw isInvalidParameter(error) ? invalid('cannot be read', error) : error;
  });
  const parts = parsed.rows[0]?.parts ?? [];
  if (parts.length > 2) throw invalid(`has ${parts.length} parts`);
  return parts;
}

/** Of the same bare name elsewhere; else the tables of its schema; else the schemas. */
async function whatThereIs(db: Queryable, parts: readonly string[]): Promise<string> {
  const { rows } = await db.query<{ schema: string; table: string; name: string }>(
    `select n.nspname as schema, c.relname as table, format('%I.%I', n.nspname, c.relname) as name
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v') and not c.relispartition
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'outbox', 'console')
     order by 1, 2`,
  );
  const elsewhere = rows.filter(({ table }) => table === parts.at(-1));
  if (elsewhere.length > 0) return `There is ${listed(elsewhere.map(({ name }) => name))}.`;
  const beside = rows.filter(({ schema }) => schema === parts.at(-2));
  if (beside.length > 0) return `The schema has ${listed(beside.map(({ name }) => name))}.`;
  return `There are tables in the schemas ${listed([...new Set(rows.map(({ schema }) => schema))])}.`;
}

function listed(names: readonly string[]): string {
  const more = names.length - MAX_LISTED;
  return `${names.slice(0, MAX_LISTED).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

function unknown(message: string): AppError {
  return new AppError('OUTBOX_ATTACHMENT_TABLE_UNKNOWN', message);
}
