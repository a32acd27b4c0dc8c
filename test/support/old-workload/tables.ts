import pg from 'pg';
import type { Queryable } from '../../../src/db/pool.ts';

const { escapeIdentifier: ident } = pg;

/** Rows of each table that the workload reads and writes again and again: few enough that they meet. */
const SAMPLES = 12;

/** A table as the old application knows it: by its bare name. */
export interface OldTable {
  readonly name: string;
  readonly columns: readonly Column[];
  /** Of its primary key. */
  readonly key: readonly Column[];
  /** Values of `columns`, as text. */
  readonly samples: readonly (readonly (string | null)[])[];
}

export interface Column {
  readonly name: string;
  readonly type: string;
  /** Of a primary or unique key: a row of our own needs a value of its own. */
  readonly isUnique: boolean;
  readonly isReference: boolean;
  /** Taken from a sequence where none is given. */
  readonly isCounted: boolean;
}

/** What the catalog says of these tables before any of them moves, and some rows of each. */
export async function readOldTables(db: Queryable, names: readonly string[]): Promise<readonly OldTable[]> {
  const { rows } = await db.query<{ name: string; columns: Column[]; key: string[] }>(
    `select c.relname as name,
       array(
         select jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, null),
           'isUnique', exists (select from pg_index i where i.indrelid = c.oid and i.indisunique and a.attnum = any (i.indkey)),
           'isReference', exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f' and a.attnum = any (k.conkey)),
           'isCounted', coalesce((select pg_get_expr(d.adbin, d.adrelid) like 'nextval(%' from pg_attrdef d
             where d.adrelid = c.oid and d.adnum = a.attnum), a.attidentity <> ''))
         from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attnum
       ) as columns,
       array(
         select a.attname::text from pg_index i, unnest(i.indkey::int2[]) with ordinality k (attnum, at)
         join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where i.indrelid = c.oid and i.indisprimary order by k.at
       ) as key
     from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname = any ($1)
     order by c.relname`,
    [names],
  );
  const tables: OldTable[] = [];
  for (const { name, columns, key } of rows) {
    tables.push({
      name,
      columns,
      key: key.flatMap((wanted) => columns.find((column) => column.name === wanted) ?? []),
      samples: await samplesOf(db, name, columns),
    });
  }
  return tables;
}

async function samplesOf(db: Queryable, table: string, columns: readonly Column[]) {
  const { rows } = await db.query<{ sample: (string | null)[] }>(
    `select array[${columns.map(({ name }) => `${ident(name)}::text`).join(', ')}] as sample
     from public.${ident(table)} order by random() limit ${SAMPLES}`,
  );
  return rows.map(({ sample }) => sample);
}

/** The value that a sample has in a column. */
export const valueIn = (table: OldTable, sample: readonly (string | null)[], column: Column): string | null =>
  sample[table.columns.indexOf(column)] ?? null;
