import type { Queryable } from '../db/pool.ts';

/** What there is where tables are to go, and what whoever is connected may do there. */
export interface Destination {
  readonly schema: string;
  readonly isThere: boolean;
  /** Whether something may be made in it; where it is not there, whether it may be made. */
  readonly mayCreate: boolean;
  readonly mayGrantUsage: boolean;
  /** Roles that may use it by a grant to themselves; `public` for everybody. */
  readonly users: readonly string[];
  /** The names that are taken: relations, types and statistics each have their own. */
  readonly relations: readonly string[];
  readonly types: readonly string[];
  readonly statistics: readonly string[];
  /** What publishes all of it. */
  readonly publications: readonly string[];
}

/** By schema. Waits for no lock. */
export async function readDestinations(
  db: Queryable,
  schemas: readonly string[],
): Promise<ReadonlyMap<string, Destination>> {
  const { rows } = await db.query<Destination>(DESTINATIONS, [schemas]);
  return new Map(rows.map((destination) => [destination.schema, destination]));
}

const DESTINATIONS = `
  select s.name as schema, n.oid is not null as "isThere",
    case when n.oid is null then has_database_privilege(current_database(), 'create') else has_schema_privilege(n.oid, 'create') end as "mayCreate",
    n.oid is null or has_schema_privilege(n.oid, 'usage with grant option') as "mayGrantUsage",
    array(
      select distinct case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end
      from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g where g.privilege_type = 'USAGE' order by 1
    ) as users,
    array(select c.relname::text from pg_class c where c.relnamespace = n.oid order by 1) as relations,
    array(select t.typname::text from pg_type t where t.typnamespace = n.oid order by 1) as types,
    array(select x.stxname::text from pg_statistic_ext x where x.stxnamespace = n.oid order by 1) as statistics,
    array(
      select p.pubname::text from pg_publication p join pg_publication_namespace pn on pn.pnpubid = p.oid where pn.pnnspid = n.oid order by 1
    ) as publications
  from unnest($1::text[]) s (name) left join pg_namespace n on n.nspname = s.name`;
