import { givingWay } from '../../db/giving-way.ts';
import type { Copying } from './copy.ts';
import type { TableFacts } from './facts.ts';
import { ident, literal, named } from './names.ts';

/** What a table of copies gets once they are there: keys, indexes and foreign keys as the table that it is to stand in for has them. */
export interface Wanted {
  readonly keys: readonly {
    readonly name: string;
    readonly isConstraint: boolean;
    readonly isPrimary: boolean;
    readonly definition: string;
  }[];
  readonly indexes: readonly { readonly name: string; readonly definition: string }[];
  readonly foreignKeys: TableFacts['foreignKeys'];
}

/**
 * Nobody reads it yet, so that nobody waits. Run again, it makes what is missing.
 * @param made quoted, with its schema
 * @throws AppError PARTITIONS_BUSY, DB_*
 */
export async function finishTable(
  { pool, locking }: Copying,
  made: string,
  { keys, indexes, foreignKeys }: Wanted,
): Promise<void> {
  for (const { name, isConstraint, definition } of keys) {
    if (isConstraint)
      await pool.query(ifMissing(made, name, `alter table ${made} add constraint ${ident(name)} ${definition}`));
    else await pool.query(`create unique index if not exists ${ident(name)} on ${made} using ${definition}`);
  }
  for (const { name, definition } of indexes) {
    await pool.query(`create index if not exists ${ident(name)} on ${made} using ${definition}`);
  }
  for (const { name, definition } of foreignKeys) {
    // Not valid first: what it refers to is locked while it is added, and its rows are read afterwards.
    await givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
      tx.query(
        ifMissing(
          made,
          name,
          `alter table ${made} add constraint ${ident(name)} ${definition.replace(/ NOT VALID$/, '')} not valid`,
        ),
      ),
    );
    await pool.query(`alter table ${made} validate constraint ${ident(name)}`);
  }
  await pool.query(`analyze ${made}`);
}

const ifMissing = (table: string, constraint: string, statement: string): string => `
  do $do$ begin
    if not exists (select from pg_constraint where conrelid = ${literal(table)}::regclass and conname = ${literal(constraint)}) then
      execute ${literal(statement)};
    end if;
  end $do$`;

/** Names of the indexes of a leaf, which are its schema's: behind its own. */
export function wantedOfLeaf({ uniqueKeys, indexes, foreignKeys }: TableFacts, leaf: string): Wanted {
  return {
    keys: uniqueKeys.map((key, nth) => ({ ...key, name: named(leaf, key.isPrimary ? '_pkey' : `_u${nth}`) })),
    indexes: indexes.map(({ definition }, nth) => ({ name: named(leaf, `_i${nth}`), definition })),
    foreignKeys,
  };
}
