import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import { qualified } from '../statements.ts';

const { escapeIdentifier: ident } = pg;

/** A table, or a partition of one, that was moved and stands. */
export interface MovedRelation {
  readonly oid: number;
  /** Where it was, and where its view is. */
  readonly from: string;
  readonly schema: string;
  readonly name: string;
  /** Whether rows lie in it, and not in partitions of it. */
  readonly isLeaf: boolean;
  /** The columns of its view, those of them that have no hash of their own as text. */
  readonly columns: readonly string[];
  /** The columns of its primary key; empty where it has none. */
  readonly key: readonly string[];
}

export async function readMoved(db: Queryable): Promise<readonly MovedRelation[]> {
  const { rows } = await db.query<
    Omit<MovedRelation, 'columns'> & { columns: { name: string; isHashable: boolean }[] }
  >(
    `select c.oid, s.before -> (r.oid || ' relation ' || c.relname) ->> 'schema' as from, n.nspname as schema, c.relname as name,
       c.relkind = 'r' as "isLeaf",
       array(
         select jsonb_build_object('name', a.attname, 'isHashable',
           exists (
             select from pg_opclass o join pg_am m on m.oid = o.opcmethod and m.amname = 'hash'
             where o.opcdefault and o.opcintype = coalesce(nullif(e.typbasetype, 0), nullif(case when e.typcategory = 'A' then e.typelem else 0 end, 0), e.oid))
           or e.typtype = 'e')
         from pg_attribute a join pg_type e on e.oid = a.atttypid
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and s.before ? (r.oid || ' column ' || a.attname)
         order by a.attnum
       ) as columns,
       array(
         select a.attname::text from pg_index x cross join unnest(x.indkey) with ordinality k (number, at)
         join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
         where x.indrelid = c.oid and x.indisprimary order by k.at
       ) as key
     from restructure.steps s
     cross join unnest(s.relations) with ordinality r (oid, at)
     join pg_class c on c.oid = r.oid
     join pg_namespace n on n.oid = c.relnamespace
     where s.kind = 'table' and s.undone_at is null
     order by s.id, r.at`,
  );
  return rows.map(({ columns, ...relation }) => ({
    ...relation,
    columns: columns.map(({ name, isHashable }) => (isHashable ? ident(name) : `${ident(name)}::text`)),
  }));
}

/** Rows and their content as sums, in some chunks by key, which rows that come or go elsewhere do not change. */
export const CHUNKS = 64;

/**
 * SQL that gives, for each chunk that has rows, how many there are and the sum of their hashes. Sums do not depend on the order of rows, and
 * are made as rows are read; they find faults, not fraud, and are promised to be the same on one major version only.
 */
export function contentSql({ columns, key, ...relation }: MovedRelation, by: 'old name' | 'new name'): string {
  const on = by === 'old name' ? qualified(relation.from, relation.name) : qualified(relation.schema, relation.name);
  const chunk =
    key.length === 0
      ? '0'
      : `mod(abs(hash_record_extended(row(${key.map((name) => `${ident(name)}::text`).join(', ')}), 0) / 2), ${CHUNKS})`;
  return `select ${chunk}::int as chunk, count(*) as rows, sum(hash_record_extended(row(${columns.join(', ')}), 0)::numeric)::text as hash from ${on} group by 1`;
}
