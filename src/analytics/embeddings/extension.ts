import pg from 'pg';
import type { Pool, Queryable } from '../../db/pool.ts';
import { withTransaction } from '../../db/transaction.ts';
import { AppError } from '../../errors.ts';

const { escapeIdentifier: ident } = pg;

/** pgvector, as this database has it. */
export interface Extension {
  /** Null where it is not created. */
  readonly version: string | null;
  readonly schema: string | null;
  /** What the server could create; null where it has no pgvector. */
  readonly available: string | null;
  /** Whether the role of the connection may create it. */
  readonly mayCreate: boolean;
}

export async function readExtension(db: Queryable): Promise<Extension> {
  const { rows } = await db.query<Extension>(
    `select
       (select e.extversion from pg_extension e where e.extname = 'vector') as version,
       (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector') as schema,
       (select a.default_version from pg_available_extensions a where a.name = 'vector') as available,
       exists (
         select from pg_available_extensions a
         join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
         join pg_roles r on r.rolname = current_user
         where a.name = 'vector' and (r.rolsuper or v.trusted and has_database_privilege(current_database(), 'create'))) as "mayCreate"`,
  );
  const [extension] = rows;
  if (extension === undefined) throw new AppError('INTERNAL', 'The server did not say what extensions there are.');
  return extension;
}

/** Where extensions are on Supabase, and where no name of the old platform is in their way: its stand-in for the type is public.vector. */
export const USUAL_SCHEMA = 'extensions';

/**
 * Creates pgvector where it is not there, in a schema that everybody may look into.
 * @returns what there is by now
 * @throws AppError EMBEDDING_EXTENSION_MISSING where the server has none, or the role may not create it; DB_*
 */
export async function createExtension(pool: Pool, schema = USUAL_SCHEMA): Promise<Extension> {
  const found = await readExtension(pool);
  if (found.version !== null) return found;
  if (found.available === null) {
    throw new AppError(
      'EMBEDDING_EXTENSION_MISSING',
      'This server has no pgvector. Install it there (Debian: postgresql-NN-pgvector), then run this again; until then the search is exact, and slower.',
    );
  }
  if (!found.mayCreate) {
    throw new AppError(
      'EMBEDDING_EXTENSION_MISSING',
      `This role may not create pgvector ${found.available}. Have a superuser run: create extension vector schema ${ident(schema)}; then run this again.`,
    );
  }
  await withTransaction(pool, async (tx) => {
    for (const statement of await creationOf(tx, schema)) await tx.query(statement);
  });
  return readExtension(pool);
}

/** What creates it in a schema, and that, where it is not there. */
export async function creationOf(db: Queryable, schema: string): Promise<readonly string[]> {
  const { rowCount } = await db.query('select from pg_namespace where nspname = $1', [schema]);
  const making = [`create schema ${ident(schema)}`, `grant usage on schema ${ident(schema)} to public`];
  return [...(rowCount === 0 ? making : []), `create extension vector schema ${ident(schema)}`];
}
