import pg from 'pg';
import { nameParts } from './mapping.ts';

export const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

const MOST_BYTES = 63;

/** A name with something behind it, no longer than the server takes. */
export function named(name: string, suffix: string): string {
  const room = MOST_BYTES - Buffer.byteLength(suffix);
  let start = name;
  while (Buffer.byteLength(start) > room) start = start.slice(0, -1);
  return `${start}${suffix}`;
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
export function stem(table: string): string {
  let start = table;
  while (Buffer.byteLength(start) > STEM_BYTES) start = start.slice(0, -1);
  return start;
}

/** What was the table, as a partition: it holds what came before the months. */
export const pastName = (table: string): string => `${stem(table)}_past`;
