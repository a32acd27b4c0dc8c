export type CsvCell = string | bigint | null;

/**
 * A text that a spreadsheet would take for a formula begins with an apostrophe, and so does one that began with an
 * apostrophe: cutting off the first gives back every text as it was.
 */
export function freeText(text: string | null): string | null {
  return text !== null && /^[=+\-@＝＋－＠'\t\r\n]/u.test(text) ? `'${text}` : text;
}

/** A line of RFC 4180. */
export function csvLine(cells: readonly CsvCell[]): string {
  return `${cells.map((cell) => quotedWhereNeeded(cell?.toString() ?? '')).join(',')}\r\n`;
}

function quotedWhereNeeded(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
