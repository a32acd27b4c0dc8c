import pg from 'pg';
import type { Rollup } from './declaration.ts';

const { escapeIdentifier: ident } = pg;

export const targetOf = ({ schema, name }: { schema: string; name: string }): string =>
  `${ident(schema)}.${ident(name)}`;
/** What belongs to a rollup beside its table: its changes, viewers, buckets, and the functions. */
export const innerName = ({ name }: Rollup, what: string): string => `rollups.${ident(`${name}_${what}`)}`;

const PREFIX = 'zz_liventix_rollup_';

export const TRIGGER = {
  recorded: 'zz_liventix_rollups_recorded',
  /** Before the rollup's name, and after it where what was emptied is told. */
  prefix: PREFIX,
  changed: ({ name }: Rollup) => `${PREFIX}${name}`,
  emptied: ({ name }: Rollup) => `${PREFIX}${name}_t`,
};
