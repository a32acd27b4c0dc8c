import { keyOf, rowsOf, type Snapshot, TABLES } from './table.ts';

/** What a database would refuse, and what it must never be asked: a key twice, a row that is not there, a change of what is fixed. */
export function findFaults(before: Snapshot | null, after: Snapshot): string[] {
  const keys = new Map(
    TABLES.map((table) => [table.name, new Set(rowsOf(after, table).map((row) => keyOf(table, row)))]),
  );
  return TABLES.flatMap((table) => {
    const rows = rowsOf(after, table);
    const was = new Map(rowsOf(before, table).map((row) => [keyOf(table, row), row]));
    const twice = rows.map((row) => keyOf(table, row)).filter((key, n, all) => all.indexOf(key) !== n);
    const dangling = Object.entries(table.references ?? {}).flatMap(([column, target]) =>
      rows
        .filter((row) => row[column] !== null && keys.get(target)?.has(String(row[column])) !== true)
        .map((row) => `${table.name} ${keyOf(table, row)}: ${column} is ${row[column]}, which is not in ${target}`),
    );
    const changed = (table.fixed?.columns ?? []).flatMap((column) =>
      rows
        .filter((row) => was.has(keyOf(table, row)) && was.get(keyOf(table, row))?.[column] !== row[column])
        .map((row) => {
          const key = keyOf(table, row);
          return `${table.name} ${key}: ${column} is ${row[column]} and was ${was.get(key)?.[column]}: ${table.fixed?.because}`;
        }),
    );
    const empty = rows.length === 0 ? [`${table.name}: no rows at all`] : [];
    return [...empty, ...twice.map((key) => `${table.name} ${key}: twice`), ...dangling, ...changed];
  });
}
