import { finished } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import type { Tx } from '../../db/pool.ts';
import { COLUMNS, type Field, type FieldsOf, type RowSink, type Table } from './rows.ts';

/** Rows held before they are written: bounds the memory, whatever the size of the database. */
const FLUSH_ROWS = 2_000;
const TABLES = Object.keys(COLUMNS) as Table[];

/** Gathers rows of many tables and writes them by COPY, each table after those it refers to. */
export class CopyWriter implements RowSink {
  readonly #tx: Tx;
  readonly #lines = new Map<Table, string[]>(TABLES.map((table) => [table, []]));
  readonly #counts = new Map<Table, number>(TABLES.map((table) => [table, 0]));
  #held = 0;

  constructor(tx: Tx) {
    this.#tx = tx;
  }

  get isFull(): boolean {
    return this.#held >= FLUSH_ROWS;
  }

  count(table: Table): number {
    return this.#counts.get(table) ?? 0;
  }

  add<T extends Table>(table: T, fields: FieldsOf<T>): void {
    this.#lines.get(table)?.push(lineOf(fields as readonly Field[]));
    this.#counts.set(table, this.count(table) + 1);
    this.#held += 1;
  }

  async flush(): Promise<void> {
    for (const [table, lines] of this.#lines) {
      if (lines.length === 0) continue;
      const stream = this.#tx.query(copyFrom(`copy ${table} (${COLUMNS[table].join(', ')}) from stdin`));
      stream.end(`${lines.join('\n')}\n`);
      await finished(stream);
      lines.length = 0;
    }
    this.#held = 0;
  }
}

function lineOf(fields: readonly Field[]): string {
  let line = '';
  for (const [index, field] of fields.entries()) line += index === 0 ? textOf(field) : `\t${textOf(field)}`;
  return line;
}

const SPECIAL = /[\\\t\n\r]/g;
const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' };

function textOf(field: Field): string {
  if (field === null) return '\\N';
  if (typeof field !== 'string') return String(field);
  return SPECIAL.test(field) ? field.replace(SPECIAL, (char) => ESCAPES[char] ?? char) : field;
}
