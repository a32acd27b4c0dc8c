import type { Queryable } from '../../../db/pool.ts';
import type { Place } from './places.ts';

export const WRITE_VERBS = ['insert', 'update', 'delete'] as const;

/** Of the rows that a viewer sees, how many he might insert anew, update without change, delete: by privilege and by policy. */
export type Writes = [inserts: number, updates: number, deletes: number];

/** SQL that is true of a row that a role may write so, in the order of WRITE_VERBS; asked as that role, of the table itself. */
export type WriteConditions = readonly string[];

/** By the oid of a place. Nothing is written to find it out: it is what the server would ask of a row. */
export async function readWriteConditions(
  db: Queryable,
  role: string,
  places: readonly Place[],
): Promise<ReadonlyMap<number, WriteConditions>> {
  const { rows } = await db.query<{ oid: number; conditions: string[] }>(
    `select t.oid, array(
       select format('(select %s) and ((select not row_security_active(%s)) or ((%s) and (%s)))',
         case v.verb when 'delete' then format('has_table_privilege(%s, %L)', t.oid, v.verb)
           else format('has_any_column_privilege(%s, %L)', t.oid, v.verb) end,
         t.oid, coalesce(p.permitted, 'false'), coalesce(p.restricted, 'true'))
       from unnest($3::text[], array['a', 'w', 'd']::"char"[]) with ordinality v (verb, command, at)
       left join lateral (
         select string_agg(c.condition, ' or ') filter (where p.polpermissive) as permitted,
           string_agg(c.condition, ' and ') filter (where not p.polpermissive) as restricted
         from pg_policy p
         cross join lateral (select pg_get_expr(p.polqual, p.polrelid) as old, pg_get_expr(p.polwithcheck, p.polrelid) as new) e
         cross join lateral (
           select format('(%s)', case v.verb
             when 'insert' then coalesce(e.new, e.old, 'true')
             when 'update' then format('(%s) and (%s)', coalesce(e.old, 'true'), coalesce(e.new, e.old, 'true'))
             else coalesce(e.old, 'true') end) as condition
         ) c
         where p.polrelid = t.oid and p.polcmd in ('*', v.command)
           and (0 = any (p.polroles) or exists (select from unnest(p.polroles) r (oid) where pg_has_role($2::name, r.oid, 'usage')))
       ) p on true
       order by v.at) as conditions
     from unnest($1::oid[]) t (oid)`,
    [places.map(({ oid }) => oid), role, WRITE_VERBS],
  );
  return new Map(rows.map(({ oid, conditions }) => [oid, conditions]));
}
