import type { Catalogue, Check, Column, Table } from '../../src/demo/platform/catalogue.ts';

type Parent = Exclude<Table, { kind: 'partition' }>;

/** Whoever and whatever a row is about: one id for all, so that each key finds the one row that there is. */
export const ONLY_ID = '00000000-0000-4000-8000-000000000001';

/** Columns that a check wants though they may be null, or of which it refuses the default. */
const WANTED: Readonly<Record<string, readonly string[]>> = {
  ad_clicks: ['session_id'],
  ad_impressions: ['session_id'],
  credit_lots: ['wallet_id'],
  deliverables: ['spec'],
  invoices: ['wallet_id'],
  proposal_messages: ['offer'],
  role_invites: ['email'],
};

export interface Row {
  readonly table: string;
  readonly insert: string;
}

/** A row for each table, after those that it refers to; the profile of the one user is made with the user. */
export function oneRowEach(catalogue: Catalogue): Row[] {
  const parents = catalogue.tables.filter((table) => table.kind !== 'partition');
  const labels = new Map(catalogue.enums.map((type) => [type.name, type.labels[0] ?? '']));
  return inOrder(parents)
    .filter(({ name }) => name !== 'user_profiles')
    .map((table) => ({ table: table.name, insert: insertSql(table, labels) }));
}

function inOrder(tables: readonly Parent[]): Parent[] {
  const ordered: Parent[] = [];
  const visit = (table: Parent) => {
    if (ordered.includes(table)) return;
    for (const key of neededKeys(table)) {
      const referred = tables.find(({ name }) => `public.${name}` === key.references);
      if (referred !== undefined && referred !== table) visit(referred);
    }
    ordered.push(table);
  };
  for (const table of tables) visit(table);
  return ordered;
}

const neededKeys = (table: Parent) => {
  const names = neededColumns(table).map(({ name }) => name);
  return table.foreign_keys.filter((key) => key.columns.every((column) => names.includes(column)));
};

const neededColumns = (table: Parent) =>
  table.columns.filter(
    ({ name, type, nullable, default: value }) =>
      (!nullable && (value.kind === 'none' || (value.kind === 'uuid' && type === 'uuid'))) ||
      WANTED[table.name]?.includes(name),
  );

function insertSql(table: Parent, labels: ReadonlyMap<string, string>): string {
  const columns = neededColumns(table);
  const values = columns.map((column) => valueSql(column, table.checks, labels));
  const names = columns.map(({ name }) => `"${name}"`);
  return columns.length === 0
    ? `insert into public.${table.name} default values`
    : `insert into public.${table.name} (${names.join(', ')}) values (${values.join(', ')})`;
}

function valueSql({ name, type }: Column, checks: readonly Check[], labels: ReadonlyMap<string, string>): string {
  const allowed = checks.find((check) => 'in' in check && check.column === name);
  if (allowed !== undefined && 'in' in allowed) return `'${allowed.in[0]}'`;
  const label = labels.get(type);
  if (label !== undefined) return `'${label}'`;
  switch (type) {
    case 'uuid':
      return `'${ONLY_ID}'`;
    case 'text':
      return `'sixteen letters.'`;
    case 'jsonb':
      return `'{"some": "thing"}'`;
    case 'timestamp with time zone':
    case 'date':
      return 'now()';
    case 'boolean':
      return 'true';
    case 'text[]':
    case 'uuid[]':
      return `'{}'`;
    default:
      return '1';
  }
}
