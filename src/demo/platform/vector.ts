import type { Queryable } from '../../db/pool.ts';

/**
 * Makes the type `public.vector`, of the extension where the server has it and this role may create it. Elsewhere a
 * domain stands in for it, which holds the numbers, however many, and compares nothing.
 */
export async function installVector(db: Queryable): Promise<void> {
  const sql = (await mayCreateExtension(db))
    ? 'create extension vector schema public'
    : 'create domain public.vector as real[]';
  await db.query(sql);
}

async function mayCreateExtension(db: Queryable): Promise<boolean> {
  const { rows } = await db.query(
    `select from pg_available_extensions a
     join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
     join pg_roles r on r.rolname = current_user
     where a.name = 'vector'
       and (r.rolsuper or (v.trusted and has_database_privilege(current_database(), 'create')))`,
  );
  return rows.length > 0;
}
