import pg from 'pg';
import type { Rollup } from './declaration.ts';

const { escapeIdentifier: ident } = pg;

export const targetOf = ({ schema, name }: { schema: string; name: string }): string =>
  `${ident(schema)}.${ident(name)}`;
/** What belongs to a rollup beside its table: its changes, viewers, buckets, and the functions. */
export const innerName = ({ name }: Rollup, what: string): string => `rollups.${ident(`${name}_${what}`)}`;

export const TRIGGER = {
  recorded: 'zz_liventix_rollups_recorded',
  changed: ({ name }: Rollup) => `zz_liventix_rollup_${name}`,
  emptied: ({ name }: Rollup) => `zz_liventix_rollup_${name}_t`,
};
