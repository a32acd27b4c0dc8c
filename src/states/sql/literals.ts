/** A text as SQL writes it. */
export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;

export const literalOrNull = (text: string | undefined): string => (text === undefined ? 'null' : literal(text));

/** A list of texts, each as SQL writes it. */
export const literals = (texts: readonly string[]): string => texts.map(literal).join(', ');

/** An array of names as SQL writes it. */
export const names = (texts: readonly string[]): string => literal(`{${texts.join(',')}}`);

/** SQL of a declaration, which speaks of `row.column` and of the `caller`, as a statement has it that is given the two as $1 and $2. */
export const ofParameters = (sql: string): string =>
  sql.replace(/\brow\.(\w+)/g, (_, column: string) => `($1).${column}`).replace(/\bcaller\b/g, '$2');

/** The same with the row under the alias `t`. */
export const ofAlias = (sql: string): string => ofParameters(sql).replaceAll('($1).', 't.');

/** INSERT of rows, each on a line of its own. Nothing where there are none. */
export function insert(table: string, columns: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const lines = rows.map((row) => `  (${row.join(', ')})`).join(',\n');
  return `insert into ${table} (${columns.join(', ')}) values\n${lines};\n`;
}

/** A name as SQL writes it. */
export const identifier = (name: string): string =>
  /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
