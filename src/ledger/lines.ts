const NEWLINE = 0x0a;

/** Numbered from 1 as an editor counts; `fault` says why a line cannot be read. */
export type Line =
  | { readonly number: number; readonly text: string }
  | { readonly number: number; readonly fault: string };

/** The lines of a stream of bytes, without those that are blank. None is held that is longer than `maxBytes`. */
export async function* readLines(
  input: AsyncIterable<Uint8Array>,
  options: { readonly maxBytes: number },
): AsyncGenerator<Line, void> {
  let number = 1;
  let pieces: Uint8Array[] = [];
  let bytes = 0;
  const take = (piece: Uint8Array) => {
    bytes += piece.length;
    if (bytes <= options.maxBytes) pieces.push(piece);
    else pieces = [];
  };
  const finish = (): Line => {
    const line =
      bytes > options.maxBytes
        ? { number, fault: `It has more than ${options.maxBytes} bytes.` }
        : { number, ...decode(pieces) };
    number += 1;
    [pieces, bytes] = [[], 0];
    return line;
  };
  for await (const chunk of input) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      take(chunk.subarray(start, end));
      start = end + 1;
      const line = finish();
      if (!isBlank(line)) yield line;
    }
    take(chunk.subarray(start));
  }
  const last = finish();
  if (!isBlank(last)) yield last;
}

function decode(pieces: readonly Uint8Array[]): { text: string } | { fault: string } {
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(pieces)) };
  } catch {
    return { fault: 'It is not UTF-8.' };
  }
}

function isBlank(line: Line): boolean {
  return 'text' in line && line.text.trim() === '';
}
