/** What a column of a row holds, as JSON has it. Decimals and dates are text: no floating point on the way. */
export type Value = string | number | null | readonly string[];
export type Row = Readonly<Record<string, Value>>;

/** A table of schema ref whose rows are declared. */
export interface ReferenceTable {
  readonly name: string;
  /** The first one is the key: text, and for ever, since rows of other schemas refer to it. */
  readonly columns: readonly [string, ...string[]];
  /** Columns that no refresh may change, and why. */
  readonly fixed?: { readonly columns: readonly string[]; readonly because: string };
  /** Columns that name the key of a row, in this table or another. */
  readonly references?: Readonly<Record<string, string>>;
  /** Where false, rows never go: there is no column that says since when one is withdrawn. */
  readonly withdraws?: false;
}

/** Each after those that it refers to: ref.currencies, which is older than the others, is the first. */
export const TABLES: readonly ReferenceTable[] = [
  {
    name: 'currencies',
    columns: ['code', 'name', 'symbol', 'decimal_places'],
    fixed: {
      columns: ['decimal_places'],
      because: 'every amount that was ever booked in it would mean something else',
    },
  },
  {
    name: 'countries',
    columns: ['code', 'alpha3', 'name', 'phone_prefixes', 'currency_code'],
    references: { currency_code: 'currencies' },
  },
  {
    name: 'timezones',
    columns: ['name', 'alias_of', 'country_code'],
    references: { alias_of: 'timezones', country_code: 'countries' },
  },
  { name: 'languages', columns: ['code', 'name', 'native_name'] },
  {
    name: 'tax_rates',
    columns: ['id', 'country_code', 'region_code', 'tax_type', 'rate_percent', 'valid_from', 'valid_until'],
    references: { country_code: 'countries' },
  },
  { name: 'industries', columns: ['slug', 'name'] },
  {
    name: 'event_categories',
    columns: ['slug', 'name', 'parent_slug'],
    references: { parent_slug: 'event_categories' },
  },
  { name: 'hashtag_stoplist', columns: ['tag', 'reason'] },
  {
    name: 'sources',
    columns: ['table_name', 'package', 'version', 'licence', 'note', 'taken_on'],
    withdraws: false,
  },
];

/** The rows of every table, in the order of their keys. */
export type Snapshot = Readonly<Record<string, readonly Row[]>>;

export const keyOf = (table: ReferenceTable, row: Row): string => String(row[table.columns[0]]);

export const inOrder = (table: ReferenceTable, rows: readonly Row[]): readonly Row[] =>
  rows.toSorted((a, b) => (keyOf(table, a) < keyOf(table, b) ? -1 : 1));

export const rowsOf = (snapshot: Snapshot | null, table: ReferenceTable): readonly Row[] =>
  snapshot?.[table.name] ?? [];
