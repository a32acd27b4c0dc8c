import stringWidth from 'string-width';
import type { Streams } from './output.ts';

/** Text, or text with a colour of its own, which takes no place. */
export type Cell = string | { readonly text: string; readonly paint: (text: string) => string };

export interface Column {
  /** Numbers and money; others begin at the left. */
  readonly align?: 'right';
  /** Columns of the terminal that it has at least, so that tables below each other look alike. */
  readonly min?: number;
  /** Where the terminal is too narrow it is cut to no less than so many; left out, never: half an id is none. */
  readonly shortens?: number;
}

export interface TableOptions {
  /** Of the terminal; undefined where there is none, and nothing is cut. */
  readonly width?: number | undefined;
  /** Between columns, in columns of the terminal. */
  readonly gap?: number;
}

/** How wide what a command writes to may be; undefined where it is no terminal: whoever reads a pipe wants all of it. */
export const widthOf = ({ out }: Streams): number | undefined =>
  // A terminal that does not say how wide it is says 0.
  out.isTTY === true ? out.columns || undefined : undefined;

/** The lines of a table, each as long as it must be. Widths are those of a terminal: a wide character takes two columns of it. */
export function tableLines(
  rows: readonly (readonly Cell[])[],
  columns: readonly Column[],
  { width, gap = 2 }: TableOptions = {},
): string[] {
  const natural = columns.map(({ min = 0 }, nth) => Math.max(min, ...rows.map((row) => stringWidth(textOf(row[nth])))));
  const widths = fitted(
    natural,
    columns,
    width === undefined ? Number.POSITIVE_INFINITY : width - gap * (columns.length - 1),
  );
  return rows.map((row) =>
    columns
      .map((column, nth) => padded(row[nth] ?? '', widths[nth] ?? 0, column))
      .join(' '.repeat(gap))
      .trimEnd(),
  );
}

/** A table as a command prints it: as wide as its terminal at most, and in full into a pipe or a file. */
export function tableText(
  streams: Streams,
  rows: readonly (readonly Cell[])[],
  columns: readonly Column[],
  gap?: number,
): string {
  const options = { width: widthOf(streams), ...(gap === undefined ? {} : { gap }) };
  return tableLines(rows, columns, options)
    .map((line) => `${line}\n`)
    .join('');
}

const textOf = (cell: Cell | undefined): string => (typeof cell === 'object' ? cell.text : (cell ?? ''));

/** A cell as it stands by itself. */
export const cellText = (cell: Cell): string => (typeof cell === 'object' ? cell.paint(cell.text) : cell);

/** The widest of those that may be shortened gives way first, so that all stay readable for as long as they can. */
function fitted(natural: readonly number[], columns: readonly Column[], room: number): readonly number[] {
  const widths = [...natural];
  let surplus = widths.reduce((sum, each) => sum + each, 0) - room;
  while (surplus > 0) {
    const left = widths.map((each, nth) => (each > (columns[nth]?.shortens ?? each) ? each : 0));
    const widest = Math.max(...left);
    if (widest === 0) break;
    const nth = left.indexOf(widest);
    widths[nth] = widest - 1;
    surplus -= 1;
  }
  return widths;
}

function padded(cell: Cell, width: number, { align }: Column): string {
  const text = shortened(textOf(cell), width);
  const padding = ' '.repeat(Math.max(width - stringWidth(text), 0));
  const painted = typeof cell === 'object' && text !== '' ? cell.paint(text) : text;
  return align === 'right' ? padding + painted : painted + padding;
}

const graphemes = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/** The beginning of a text, with an ellipsis where something is missing; never half a character. */
export function shortened(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  let kept = '';
  let taken = 1;
  for (const { segment } of graphemes.segment(text)) {
    taken += stringWidth(segment);
    if (taken > width) break;
    kept += segment;
  }
  return `${kept}…`;
}
