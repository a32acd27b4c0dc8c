import type { Queryable } from '../../db/pool.ts';
import { type Content, columnsSql, keySql } from './content.ts';

/** A table, or a partition of one, that was moved and stands. */
export interface MovedRelation extends Content {
  readonly oid: number;
  /** Where it was, and where its view is. */
  readonly from: string;
  readonly schema: string;
  readonly name: string;
  /** Whether rows lie in it, and not in partitions of it. */
  readonly isLeaf: boolean;
  /** What of its columns whatever bears its old name does not have; all where nothing does. */
  readonly hidden: readonly string[];
}

export async function readMoved(db: Queryable): Promise<readonly MovedRelation[]> {
  const { rows } = await db.query<MovedRelation>(
    `select c.oid, s.before -> (r.oid || ' relation ' || c.relname) ->> 'schema' as from, n.nspname as schema, c.relname as name,
       c.relkind = 'r' as "isLeaf", ${columnsSql('c.oid', `s.before ? (r.oid || ' column ' || a.attname)`)} as columns, ${keySql('c.oid')} as key,
       array(
         select a.attname::text from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and s.before ? (r.oid || ' column ' || a.attname)
           and not exists (
             select from pg_class v join pg_namespace o on o.oid = v.relnamespace
             join pg_attribute b on b.attrelid = v.oid and b.attname = a.attname and not b.attisdropped
             where v.relname = c.relname and o.nspname = s.before -> (r.oid || ' relation ' || c.relname) ->> 'schema')
         order by a.attnum
       ) as hidden
     from restructure.steps s
     cross join unnest(s.relations) with ordinality r (oid, at)
     join pg_class c on c.oid = r.oid
     join pg_namespace n on n.oid = c.relnamespace
     where s.kind = 'table' and s.undone_at is null
     order by s.id, r.at`,
  );
  return rows;
}
