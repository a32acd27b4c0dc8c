import { createHash } from 'node:crypto';

const LONGEST_NAME_BYTES = 63;

/** A name of ours for a table, cut and told apart by a digest where it would be too long. */
export function nameFor(prefix: string, table: string): string {
  const name = `${prefix}_${table}`;
  if (Buffer.byteLength(name) <= LONGEST_NAME_BYTES) return name;
  const digest = createHash('sha256').update(table).digest('hex').slice(0, 12);
  return `${prefix}_${digest}`;
}
