import { html, type Markup } from '../html/markup.ts';
import { type CsvCell, csvLine, freeText } from '../ledger/csv.ts';
import type { Ask, Sent } from './page.ts';

/** One thing of each row: on the page, and in a file. */
export interface Column<Row> {
  /** In the file. */
  readonly name: string;
  /** On the page; of a column without one, the page has none. */
  readonly title?: string;
  readonly isNumber?: boolean;
  /** A word or two, which are not broken where there is little room. */
  readonly isShort?: boolean;
  readonly cell?: (row: Row) => Markup | string;
  readonly text: (row: Row) => string | number | bigint | Date | boolean | null;
}

export interface ListPage<Row> {
  readonly rows: readonly Row[];
  /** Undefined on the last page. */
  readonly next: string | undefined;
  /** What is to be known of this page: that it ends where a bound was reached, and not because it is full. */
  readonly note?: string | undefined;
}

export interface List<Row> {
  /** Of the file, and of the table to whoever cannot see it. */
  readonly name: string;
  readonly columns: readonly Column<Row>[];
  readonly fetch: (cursor: string | undefined, rows: number) => Promise<ListPage<Row>>;
  /** What is said where there is none. */
  readonly empty: string;
}

/** What a page that has a list takes beside its own. */
export interface ListQuery {
  readonly after?: string | undefined;
  readonly export?: 'csv' | 'json' | undefined;
}

/** So many rows a page shows. */
export const PAGE_ROWS = 50;
const EXPORT_ROWS = 1_000;

/** Every row from the beginning, as CSV or as lines of JSON: what is asked for with `export`. */
export function exported<Row>(list: List<Row>, format: 'csv' | 'json'): Sent {
  return {
    fileName: `${list.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}.${format === 'csv' ? 'csv' : 'jsonl'}`,
    contentType: format === 'csv' ? 'text/csv; charset=utf-8; header=present' : 'application/x-ndjson; charset=utf-8',
    text: format === 'csv' ? csvOf(list) : jsonOf(list),
  };
}

async function* csvOf<Row>(list: List<Row>): AsyncGenerator<string> {
  const lines = rowLines(list);
  // Before anything is said: what cannot be read is told on a page.
  const first = await lines.next();
  yield csvLine(list.columns.map(({ name }) => name));
  if (first.done !== true) yield first.value;
  yield* lines;
}

async function* rowLines<Row>(list: List<Row>): AsyncGenerator<string> {
  for await (const row of rowsOf(list)) yield csvLine(list.columns.map(({ text }) => csvCell(text(row))));
}

async function* jsonOf<Row>(list: List<Row>): AsyncGenerator<string> {
  for await (const row of rowsOf(list)) {
    const fields = list.columns.map(({ name, text }) => [name, jsonField(text(row))]);
    yield `${JSON.stringify(Object.fromEntries(fields))}\n`;
  }
}

// Bounded by the list: every page ends later than the one before.
async function* rowsOf<Row>({ fetch }: List<Row>): AsyncGenerator<Row> {
  let cursor: string | undefined;
  do {
    const { rows, next } = await fetch(cursor, EXPORT_ROWS);
    yield* rows;
    cursor = next;
  } while (cursor !== undefined);
}

function csvCell(value: ReturnType<Column<never>['text']>): CsvCell {
  if (typeof value === 'string') return freeText(value);
  if (value instanceof Date) return value.toISOString();
  return typeof value === 'bigint' || value === null ? value : String(value);
}

const jsonField = (value: ReturnType<Column<never>['text']>) => (typeof value === 'bigint' ? value.toString() : value);

/** One page of a list, with the ways to the next, to the first and to a file. */
export const listOf = async <Row>(list: List<Row>, ask: Ask, query: ListQuery): Promise<Markup> =>
  pageOf(list, await list.fetch(query.after, PAGE_ROWS), ask, query);

/** The same of a page that is there already. */
export function pageOf<Row>(
  list: List<Row>,
  { rows, next, note }: ListPage<Row>,
  { url }: Ask,
  { after }: ListQuery,
): Markup {
  if (rows.length === 0 && after === undefined && next === undefined) return html`<p class="empty">${list.empty}</p>`;
  // What was looked through until now has none of them, and there is more.
  const remark =
    note ??
    (rows.length === 0 ? 'None among those that were looked through so far: the next page goes on.' : undefined);
  return html`${rows.length === 0 ? '' : tableOf(list.name, list.columns, rows)}
${remark === undefined ? '' : html`<p class="warn">${remark}</p>`}
<nav class="pager" aria-label="${`Pages of ${list.name}`}">
${after === undefined ? '' : html`<a href="${withQuery(url, { after: undefined })}">« First page</a>`}
${next === undefined ? '' : html`<a href="${withQuery(url, { after: next })}" rel="next">Next page ›</a>`}
<span class="exports">All as <a href="${withQuery(url, { after: undefined, export: 'csv' })}" download>CSV</a> or <a href="${withQuery(url, { after: undefined, export: 'json' })}" download>JSON</a></span>
</nav>`;
}

/** A table that turns into cards where there is no room for it. */
export function tableOf<Row>(name: string, columns: readonly Column<Row>[], rows: readonly Row[]): Markup {
  const shown = columns.filter(({ title }) => title !== undefined);
  const kind = ({ isNumber, isShort }: Column<Row>) => (isNumber === true ? 'n' : isShort === true ? 'short' : '');
  return html`<table class="cards" aria-label="${name}">
<thead><tr>${shown.map((column) => html`<th scope="col" class="${kind(column)}">${column.title ?? ''}</th>`)}</tr></thead>
<tbody>
${rows.map(
  (row) =>
    html`<tr>${shown.map((column) => html`<td class="${kind(column)}" data-is="${column.title ?? ''}">${cellOf(column, row)}</td>`)}</tr>
`,
)}</tbody>
</table>`;
}

/** What is more than a text is held together: a card has a place for what is shown, and one for its name. */
function cellOf<Row>(column: Column<Row>, row: Row): Markup | string {
  const cell = column.cell?.(row) ?? String(column.text(row) ?? '');
  return typeof cell === 'string' ? cell : html`<div>${cell}</div>`;
}

/** The address of the page that is shown, with other values of its query; undefined takes one out. */
export function withQuery(url: URL, changes: Readonly<Record<string, string | undefined>>): string {
  const changed = new URL(url);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) changed.searchParams.delete(name);
    else changed.searchParams.set(name, value);
  }
  return changed.pathname + changed.search;
}
