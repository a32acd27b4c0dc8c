import { givingWay } from '../../db/giving-way.ts';
import { withRest } from '../../db/rest.ts';
import type { Copying } from './copy.ts';
import { readFacts, type TableFacts, type UniqueKey } from './facts.ts';
import { ident } from './names.ts';
import { runUntilStopped } from './stopped.ts';

/** What a table of copies gets once they are there. */
export interface Wanted extends Pick<TableFacts, 'uniqueKeys' | 'indexes' | 'foreignKeys'> {
  /** Whether they get the names that they have; else the server finds some. */
  readonly areNamed: boolean;
}

/**
 * Gives a table its keys, indexes and foreign keys. Nobody reads it yet, so that nobody waits. Run again, it makes what is missing.
 * @throws AppError PARTITIONS_BUSY, DB_*
 */
export async function finishTable(
  { pool, locking, restFactor }: Copying,
  { name: made, bare }: { readonly name: string; readonly bare: string },
  { uniqueKeys, indexes, foreignKeys, areNamed }: Wanted,
): Promise<void> {
  const there = await readFacts(pool, bare, '');
  const isMissing =
    (of: readonly { readonly definition: string }[] = []) =>
    (each: { readonly definition: string }) =>
      !of.some(({ definition }) => definition === each.definition);
  const run = (sql: string) =>
    withRest({ restFactor, stop: locking.stop }, () => runUntilStopped(pool, locking.stop, sql));
  const named = (name: string) => (areNamed ? ident(name) : '');
  for (const key of uniqueKeys.filter(isMissing(there?.uniqueKeys))) await run(keyStatement(made, key, areNamed));
  for (const { name, definition } of indexes.filter(isMissing(there?.indexes))) {
    await run(`create index ${named(name)} on ${made} using ${definition}`);
  }
  for (const { name, definition } of foreignKeys) {
    const known = there?.foreignKeys.find((each) => each.name === name);
    // Not valid first: what it refers to is locked while it is added, and its rows are read afterwards.
    if (known === undefined) {
      await givingWay(pool, { ...locking, code: 'PARTITIONS_BUSY' }, (tx) =>
        tx.query(
          `alter table ${made} add constraint ${ident(name)} ${definition.replace(/ NOT VALID$/, '')} not valid`,
        ),
      );
    }
    if (known?.isValidated !== true) await run(`alter table ${made} validate constraint ${ident(name)}`);
  }
  await run(`analyze ${made}`);
}

/** A unique key of a table that has no such key yet. */
export function keyStatement(table: string, { name, isConstraint, definition }: UniqueKey, isNamed = true): string {
  if (!isConstraint) return `create unique index ${isNamed ? ident(name) : ''} on ${table} using ${definition}`;
  return `alter table ${table} add ${isNamed ? `constraint ${ident(name)} ` : ''}${definition}`;
}
