/** Lines and columns count from 1; columns in characters. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** The index of the first that starts at an offset or after it, of things in their order. */
export function firstFrom(sorted: readonly { readonly start: number }[], offset: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if ((sorted[middle]?.start ?? 0) < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The text of a file, and where in it a byte is: the parser counts bytes. */
export class SqlText {
  readonly bytes: Buffer;
  readonly #lineStarts: readonly number[];

  constructor(text: string) {
    this.bytes = Buffer.from(text, 'utf8');
    const starts = [0];
    for (let at = this.bytes.indexOf(0x0a); at >= 0; at = this.bytes.indexOf(0x0a, at + 1)) starts.push(at + 1);
    this.#lineStarts = starts;
  }

  at(offset: number): Position {
    const line = this.#lineOf(offset);
    const start = this.#lineStarts[line] ?? 0;
    return { line: line + 1, column: [...this.slice(start, offset)].length + 1 };
  }

  isOnOneLine(offset: number, other: number): boolean {
    return this.#lineOf(offset) === this.#lineOf(other);
  }

  slice(start: number, end: number): string {
    return this.bytes.toString('utf8', start, end);
  }

  /** Of a line and a column as others count them: both from 0, the column in bytes. */
  offsetOf(line: number, column: number): number {
    return (this.#lineStarts[line] ?? this.bytes.length) + column;
  }

  #lineOf(offset: number): number {
    let low = 0;
    let high = this.#lineStarts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#lineStarts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}
