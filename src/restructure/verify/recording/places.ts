import type { Queryable } from '../../../db/pool.ts';
import { qualified } from '../../statements.ts';
import { type Content, columnsSql, keySql } from '../content.ts';

/** A table or partition under its old name, and where its rows are by now: the same place, unless it was moved. */
export interface Place extends Content {
  readonly oid: number;
  /** The old name. */
  readonly schema: string;
  readonly name: string;
  readonly schemaNow: string;
  readonly isMoved: boolean;
  /** Whether rows lie in it, and not in partitions of it. */
  readonly isLeaf: boolean;
  /** The table that it is, or is a partition of, by its old name. */
  readonly table: string;
}

/** As a message says it. */
export const shownName = ({ schema, name }: Pick<Place, 'schema' | 'name'>): string => `${schema}.${name}`;
export const oldName = ({ schema, name }: Pick<Place, 'schema' | 'name'>): string => qualified(schema, name);
export const nameNow = ({ schemaNow, name }: Place): string => qualified(schemaNow, name);

/** Every table by the name that it has, or had before a standing step moved it. */
const NAMED = `
  select c.oid, c.relname as name, n.nspname as schema_now, coalesce(m.schema, n.nspname) as schema, m.schema is not null as is_moved, c.relkind
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join (
    select r.oid, s.before -> (r.oid || ' relation ' || c.relname) ->> 'schema' as schema
    from restructure.steps s cross join unnest(s.relations) r (oid) join pg_class c on c.oid = r.oid
    where s.kind = 'table' and s.undone_at is null
  ) m on m.oid = c.oid
  where c.relkind in ('r', 'p')`;

/** The tables of these names in a schema, as far as there are any, each followed by its partitions and heirs. */
export async function readPlaces(db: Queryable, from: string, tables: readonly string[]): Promise<readonly Place[]> {
  const { rows } = await db.query<Place>(
    `with recursive named as materialized (${NAMED}),
     member as (
       select n.oid, n.name as table, w.at, 0 as depth from named n join unnest($2::text[]) with ordinality w (name, at) on w.name = n.name
       where n.schema = $1
       union all
       select h.inhrelid, m."table", m.at, m.depth + 1 from member m join pg_inherits h on h.inhparent = m.oid
     ),
     once as (select distinct on (oid) * from member order by oid, at, depth)
     select n.oid, n.schema, n.name, n.schema_now as "schemaNow", n.is_moved as "isMoved", n.relkind = 'r' as "isLeaf", o."table",
       ${columnsSql('n.oid')} as columns, ${keySql('n.oid')} as key
     from once o join named n using (oid)
     order by o.at, o.depth, n.schema, n.name`,
    [from, tables],
  );
  return rows;
}
