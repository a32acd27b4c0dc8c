import { html, type Markup } from '../html/markup.ts';
import { formatCents, formatCount, type View } from '../html/view.ts';

/** A column: what its cells say of a row. */
export interface Column<Row> {
  readonly title: string;
  readonly isNumber?: boolean;
  readonly cell: (row: Row) => Markup | string;
}

/** So many characters of figures fit beside each other, on paper and on a desk. */
const FITTING = 78;
const FITTING_SMALLER = 96;
const FITTING_SMALLEST = 116;

/**
 * A table that a phone shows as cards, and paper with its head on each page. How small it is set is told by the longest figure of each
 * column, for none may be cut off.
 * @param total the last row, of the same columns
 */
export function tableOf<Row>(
  caption: string,
  columns: readonly Column<Row>[],
  { rows, total }: { readonly rows: readonly Row[]; readonly total?: Row },
): Markup {
  const cellsOf = (row: Row) => columns.map(({ cell }) => cell(row));
  const [body, last] = [rows.map(cellsOf), total === undefined ? [] : [cellsOf(total)]];
  const letters = columns.map(({ title, isNumber = false }, at) =>
    isNumber ? Math.max(title.length, ...[...body, ...last].map((cells) => lettersOf(cells[at]))) : FREE,
  );
  const width = letters.reduce((sum, each) => sum + each + GAP, 0);
  const head = columns.map(
    ({ title, isNumber = false }) => html`<th scope="col"${isNumber ? html` class="n"` : ''}>${title}</th>`,
  );
  const rowOf = (cells: readonly (Markup | string)[], kind: Markup | string = '') =>
    html`<tr${kind}>${columns.map(({ title, isNumber = false }, at) => html`<td${isNumber ? html` class="n"` : ''} data-is="${title}"><span>${cells[at] ?? ''}</span></td>`)}</tr>
`;
  const size = SIZES.find(([most]) => width > most)?.[1] ?? '';
  return html`<table class="cards${size}${rows.length <= MOST_WHOLE ? ' whole' : ''}"><caption>${caption}</caption><thead><tr>${head}</tr></thead>
<tbody>${body.map((cells) => rowOf(cells))}${last.map((cells) => rowOf(cells, html` class="total"`))}</tbody></table>`;
}

/** Rows of a table that paper has on one page. */
const MOST_WHOLE = 20;

/** What text, which may be broken, wants at least; and what is between columns. */
const FREE = 16;
const GAP = 2;

const SIZES: readonly (readonly [most: number, name: string])[] = [
  [FITTING_SMALLEST, ' longest'],
  [FITTING_SMALLER, ' longer'],
  [FITTING, ' long'],
];

const lettersOf = (cell: Markup | string | undefined): number =>
  (typeof cell === 'string' ? cell : (cell?.text ?? '').replaceAll(/<[^>]*>/gu, '')).length;

/** A column of counts. */
export const countColumn = <Row>(title: string, of: (row: Row) => bigint | null, view: View): Column<Row> => ({
  title,
  isNumber: true,
  cell: (row) => {
    const count = of(row);
    return count === null ? '' : formatCount(count, view);
  },
});

/** A column of amounts in the currency that the table is of. */
export const centsColumn = <Row>(
  title: string,
  of: (row: Row) => bigint | null,
  { decimalPlaces, view }: { readonly decimalPlaces: number; readonly view: View },
): Column<Row> => ({
  title,
  isNumber: true,
  cell: (row) => {
    const cents = of(row);
    return cents === null ? '' : formatCents({ cents, decimalPlaces }, view);
  },
});
