import { isDeepStrictEqual } from 'node:util';
import { keyOf, type ReferenceTable, type Row, rowsOf, type Snapshot, TABLES, type Value } from './table.ts';

/**
 * The migration from what landed before to what is declared: rows that changed or are new, and since when others are withdrawn. It may be
 * applied again, and puts back what was changed by hand.
 * @param schema the tables, where there are none before; what follows its line `-- then …` comes before the rows of ref.currencies
 */
export function migrationSql(before: Snapshot | null, after: Snapshot, schema: string): string {
  const sqlOf = (tables: readonly ReferenceTable[]) =>
    tables.map((table) => differencesSql(table, { before, after })).filter((sql) => sql !== '');
  if (before !== null) return [HEADER, ...sqlOf(TABLES)].join('\n');
  // Who waits for ref.currencies shall not wait for everything else. What the others name of it is there since 0001.
  const [tables = '', currencies = ''] = schema.split(/^-- then .*\n/m);
  const [first, ...others] = TABLES;
  return [HEADER, tables, ...sqlOf(others), currencies, ...sqlOf(first === undefined ? [] : [first])].join('\n');
}

const HEADER =
  '-- Generated from the packages that ref.sources names and from our own lists by npm run reference, as they were then.\n';

interface Change {
  readonly before: Snapshot | null;
  readonly after: Snapshot;
}

function differencesSql(table: ReferenceTable, { before, after }: Change): string {
  const was = new Map(rowsOf(before, table).map((row) => [keyOf(table, row), row]));
  const rows = rowsOf(after, table);
  const kept = new Set(rows.map((row) => keyOf(table, row)));
  const withdrawn = [...was.keys()].filter((key) => !kept.has(key));
  const changed = rows.filter((row) => !isDeepStrictEqual(was.get(keyOf(table, row)), row));
  const day = rowsOf(after, sourcesTable).find(({ table_name }) => table_name === table.name)?.['taken_on'] ?? null;
  return [
    // First, since what is unique is so among those that are not withdrawn.
    ...(withdrawn.length > 0 ? [withdrawalSql(table, withdrawn, day)] : []),
    ...(changed.length > 0 ? [upsertSql(table, changed)] : []),
  ].join('\n');
}

const sourcesTable = TABLES.find(({ name }) => name === 'sources') as ReferenceTable;

function withdrawalSql({ name, columns: [key] }: ReferenceTable, keys: readonly string[], day: Value): string {
  return `update ref.${name} set withdrawn_on = ${literal(day)}
where ${key} in (${keys.map(literal).join(', ')}) and withdrawn_on is null;
`;
}

function upsertSql(table: ReferenceTable, rows: readonly Row[]): string {
  const { name, columns, fixed } = table;
  const [key, ...others] = columns;
  const changeable = others.filter((column) => fixed?.columns.includes(column) !== true);
  const sets = changeable.map((column) => `${column} = excluded.${column}`);
  if (table.withdraws !== false) sets.push('withdrawn_on = null');
  return `insert into ref.${name} (${columns.join(', ')}) values
${rows.map((row) => `  (${columns.map((column) => literal(row[column] ?? null)).join(', ')})`).join(',\n')}
on conflict (${key}) do update set ${sets.join(', ')};
`;
}

function literal(value: Value): string {
  if (value === null) return 'null';
  if (typeof value === 'number') return String(value);
  const text = typeof value === 'string' ? value : `{${value.map((element) => JSON.stringify(element)).join(',')}}`;
  return `'${text.replaceAll("'", "''")}'`;
}
