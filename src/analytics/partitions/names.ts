import { createHash } from 'node:crypto';
import pg from 'pg';
import type { Queryable } from '../../db/pool.ts';
import { nameParts } from './mapping.ts';

export const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

const MOST_BYTES = 63;

/** A name with something behind it, no longer than the server takes; what is behind it has to leave room. */
export const named = (name: string, suffix: string): string =>
  `${startOf(name, MOST_BYTES - Buffer.byteLength(suffix))}${suffix}`;

function startOf(name: string, mostBytes: number): string {
  let start = name;
  while (Buffer.byteLength(start) > mostBytes) start = start.slice(0, -1);
  return start;
}

/** Quoted, with its schema. */
export const qualified = (schema: string, name: string): string => `${ident(schema)}.${ident(name)}`;

/** `analytics.event_impressions`, quoted. */
export function quotedName(table: string): string {
  const parts = nameParts(table);
  return qualified(parts.schema, parts.table);
}

export const columnList = (columns: readonly string[]): string => columns.map((column) => ident(column)).join(', ');

/** Where a table that is to take another's place waits for that, under a name of its own. */
export const STAGE = 'partitions';
export const stagedName = (tableId: number): string => `staged_${tableId}`;
/** Where that is put which another has taken the place of, under the name that it had. */
export const ASIDE = 'partitions_aside';

const STEM_BYTES = 45;

/** So much of a table's name that what is made of it can have something behind it. */
export const stem = (table: string): string => startOf(table, STEM_BYTES);

/** What was the table, as a partition: it holds what came before the months. */
export const pastName = (table: string): string => `${stem(table)}_past`;

/** How the past is closed while it becomes a partition. */
export const closingCheck = (table: string): string => named(table, '_in_the_past');
export const notNullCheck = (table: string): string => named(table, '_key_not_null');
/** The unique index that becomes the primary key of the past. */
export const pastKey = (table: string): string => `${pastName(table)}_key`;
/** The nth index that the mapping asks for, on the past. */
export const pastIndex = (table: string, nth: number): string => `${pastName(table)}_x${nth}`;
/** A foreign key of another table, while it refers to a side table already and to the table still. */
export const byKeyName = (constraint: string): string => named(constraint, '_by_key');

/** With what stands before them, so many bytes of a side table's columns leave room for some of the table's name. */
const COLUMNS_BYTES = 20;

/** What holds a key that no partition can. Where the columns' names are too long, a digest keeps two such tables apart: it stands first, as what is behind it may be cut. */
export function sideTable(table: string, columns: readonly string[]): string {
  const suffix = `_by_${columns.join('_')}`;
  if (Buffer.byteLength(suffix) <= MOST_BYTES) return named(table, suffix);
  const digest = createHash('sha256')
    .update(JSON.stringify([table, columns]))
    .digest('hex')
    .slice(0, 12);
  return named(table, `_by_${digest}_${startOf(columns.join('_'), COLUMNS_BYTES)}`);
}

/** What has the rows of a table, quoted: its partitions, or itself. @param table quoted, with its schema */
export async function leavesOf(db: Queryable, table: string): Promise<readonly string[]> {
  const { rows } = await db.query<{ leaf: string }>(
    `select format('%I.%I', n.nspname, c.relname) as leaf
     from (select $1::regclass as relid, true as isleaf where not exists (select from pg_partitioned_table where partrelid = $1::regclass)
       union select relid, isleaf from pg_partition_tree($1::regclass)) t
     join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace where t.isleaf order by c.relname`,
    [table],
  );
  return rows.map(({ leaf }) => leaf);
}
