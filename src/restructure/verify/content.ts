import pg from 'pg';
import type { Tx } from '../../db/pool.ts';
import { isDenied } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';

const { escapeIdentifier: ident } = pg;

/** A column as the catalog has it, and how its values are hashed: as they are, as the oid that they are, or as text. */
interface ContentColumn {
  readonly name: string;
  readonly type: string;
  readonly hashedAs: 'value' | 'oid' | 'text';
}

/**
 * Types whose equal values are the same bytes: 1.0 is 1.00 as a numeric, and a hash that equal values share would not tell them apart.
 * What a type of ours is equal to, nobody knows; as text every value of it is told from the others.
 */
const EXACT = '{bool,int2,int4,int8,oid,uuid,text,bytea,date,time,timestamp,timestamptz}';

/** SQL for the columns of the relation `relation`, as an array of ContentColumn; `only` is a condition on its pg_attribute `a`. */
export const columnsSql = (relation: string, only = 'true'): string => `array(
  select jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'hashedAs', case
    -- As text it is the name of something that may move.
    when e.typnamespace = 'pg_catalog'::regnamespace and e.typname like 'reg%' then 'oid'
    when coalesce(nullif(e.typbasetype, 0), e.oid) = any ('${EXACT}'::regtype[]) and coalesce(l.collisdeterministic, true) then 'value'
    else 'text' end)
  from pg_attribute a join pg_type e on e.oid = a.atttypid left join pg_collation l on l.oid = a.attcollation
  where a.attrelid = ${relation} and a.attnum > 0 and not a.attisdropped and ${only}
  order by a.attnum)`;

/** SQL for the names of the columns of the primary key of `relation`; empty where it has none. */
export const keySql = (relation: string): string => `array(
  select a.attname::text from pg_index x cross join unnest(x.indkey) with ordinality k (number, at)
  join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.number
  where x.indrelid = ${relation} and x.indisprimary order by k.at)`;

/**
 * Has the server write values as text in one way, whatever the role, the database or the session say; row security refuses, where it would
 * hide rows. For the transaction.
 */
export async function readWholeRows(tx: Tx): Promise<void> {
  await tx.query(`set local search_path = ''; set local row_security = off; ${SAME_TEXT}`);
}

/** @throws AppError RESTRUCTURE_ROWS_HIDDEN where `read` meets row security that would hide rows, or what whoever asks may not read */
export async function readingWhole<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const cause = error instanceof AppError ? error.cause : error;
    if (!(cause instanceof Error && isDenied(cause))) throw error;
    throw new AppError(
      'RESTRUCTURE_ROWS_HIDDEN',
      `Not every row may be read: ${cause.message}. Run it as a role that may read it whole, and that row security does not concern.`,
      { cause },
    );
  }
}

export const SAME_TEXT = `set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'postgres';
  set local extra_float_digits = 1; set local bytea_output = 'hex'; set local xmlbinary = 'base64'; set local lc_monetary = 'C'`;

/** Rows and their content as sums, in some chunks by key, which rows that come or go elsewhere do not change. */
const CHUNKS = 64;

/** A relation as far as its rows are hashed. */
export interface Content {
  readonly columns: readonly ContentColumn[];
  readonly key: readonly string[];
}

/**
 * SQL that gives, for each chunk of `from` that has rows, how many there are and the sum of their hashes. Sums do not depend on the order of
 * rows, and are made as rows are read; they find faults, not fraud, and are promised to be the same on one major version only.
 * @param more expressions beside them, each with its name
 */
export function contentSql(from: string, { columns, key }: Content, more: readonly string[] = []): string {
  const keys = columns.filter(({ name }) => key.includes(name));
  const chunk = keys.length === 0 ? '0' : `mod(abs(${hashOf(keys)} / 2), ${CHUNKS})`;
  return `select ${[`${chunk}::int as chunk`, ...sumsOf(columns), ...more].join(', ')} from ${from} group by 1`;
}

/** SQL that gives how many rows of `from` whoever asks sees, and the sum of their hashes. */
export const wholeSql = (from: string, { columns }: Content, more: readonly string[] = []): string =>
  `select ${[...sumsOf(columns), ...more].join(', ')} from ${from}`;

const sumsOf = (columns: readonly ContentColumn[]): readonly string[] => [
  'count(*) as rows',
  `coalesce(sum(${hashOf(columns)}), 0)::text as hash`,
];

const hashOf = (columns: readonly ContentColumn[]): string =>
  `hash_record_extended(row(${columns.map(expressionOf).join(', ')}), 0)`;

function expressionOf({ name, hashedAs }: ContentColumn): string {
  if (hashedAs === 'value') return ident(name);
  return hashedAs === 'oid' ? `${ident(name)}::oid` : `(${ident(name)}::text collate "C")`;
}
