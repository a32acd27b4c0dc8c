import type { Queryable } from '../../db/pool.ts';
import type { Mapping } from '../mapping.ts';
import type { Ground } from './ground.ts';

/**
 * Writers of a mapping whom policies concern: of what is a tenant's they will see nothing, as they act for nobody. Who passes row security,
 * or owns all the tables, is not asked.
 */
export async function cutOffWriters(
  db: Queryable,
  { roles }: Mapping,
  { members }: Ground,
): Promise<readonly string[]> {
  const tables = [...members.values()].flatMap((each) => each.map(({ oid }) => oid));
  const { rows } = await db.query<{ role: string }>(
    `select r.rolname as role from pg_roles r
     where r.rolname = any ($1) and not r.rolbypassrls and not r.rolsuper
       and exists (select from pg_class c where c.oid = any ($2::oid[]) and not pg_has_role(r.oid, c.relowner, 'usage'))
     order by 1`,
    [roles?.writers ?? [], tables],
  );
  return rows.map(
    ({ role }) =>
      `${role} writes, and has no BYPASSRLS: it will see and write no rows of tenants any more, and nobody will say so. If it serves everybody: alter role ${role} bypassrls`,
  );
}
