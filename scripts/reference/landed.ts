import { isDeepStrictEqual } from 'node:util';
import { rowsOf, type Snapshot, TABLES } from './table.ts';

/** Which migration brought the rows to what they are, and from what. */
export interface Landed {
  readonly migration: string;
  readonly before: Snapshot | null;
  readonly after: Snapshot | null;
}

export interface NextOptions {
  readonly landed: Landed;
  readonly declared: Snapshot;
  /** The last migration anew, which nobody has applied. */
  readonly amend: boolean;
  /** Names of all migrations. */
  readonly migrations: readonly string[];
}

/** The last migration where nothing changed since, or where it is amended; else one of the next number. */
export function nextMigration({ landed, declared, amend, migrations }: NextOptions): Landed {
  const isLast = landed.migration !== '' && (amend || isDeepStrictEqual(landed.after, declared));
  if (isLast) return { ...landed, after: declared };
  const last = Math.max(0, ...migrations.map((name) => Number.parseInt(name, 10)));
  return { migration: `${String(last + 1).padStart(4, '0')}_reference_data`, before: landed.after, after: declared };
}

/** As JSON with a line for each row: a difference is read row by row. */
export function landedText({ migration, before, after }: Landed): string {
  return `{
"migration": ${JSON.stringify(migration)},
"before": ${snapshotText(before)},
"after": ${snapshotText(after)}
}
`;
}

function snapshotText(snapshot: Snapshot | null): string {
  if (snapshot === null) return 'null';
  const tables = TABLES.map((table) => {
    const rows = rowsOf(snapshot, table).map((row) => JSON.stringify(row));
    return `${JSON.stringify(table.name)}: [\n${rows.join(',\n')}\n]`;
  });
  return `{\n${tables.join(',\n')}\n}`;
}
