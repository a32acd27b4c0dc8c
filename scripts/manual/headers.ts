import { readdirSync, readFileSync } from 'node:fs';

interface Header {
  /** The number of the migration. */
  readonly since: string;
  readonly text: string;
}

const CREATED = /^create (?:or replace )?(?:function|procedure) ([\w.]+)\s*\(/;

/** The comments above each function in the migrations, in the order of these, by the function's name. */
export function readHeaders(folder: string): ReadonlyMap<string, readonly Header[]> {
  const headers = new Map<string, Header[]>();
  for (const file of readdirSync(folder).toSorted()) {
    if (!file.endsWith('.sql')) continue;
    const lines = readFileSync(`${folder}/${file}`, 'utf8').split('\n');
    for (const [index, line] of lines.entries()) {
      const [, name] = CREATED.exec(line) ?? [];
      const text = name === undefined ? '' : commentAbove(lines, index);
      if (name !== undefined && text !== '')
        headers.set(name, [...(headers.get(name) ?? []), { since: file.slice(0, 4), text }]);
    }
  }
  return headers;
}

function commentAbove(lines: readonly string[], index: number): string {
  let first = index;
  while (lines[first - 1]?.startsWith('--')) first -= 1;
  const comment = lines.slice(first, index).map((line) => line.replace(/^--\s?/, ''));
  return comment.join('\n').trim();
}

/** One that says what became different since an earlier one, and leaves the rest as it was said there. */
const AS_BEFORE = /^As in \d{4}[,;.]?\s*/;

/** What a function is for: its last whole header, and what later ones add to it. */
export function purposeOf(headers: readonly Header[]): string[] {
  const whole = headers.findLastIndex(({ text }) => !AS_BEFORE.test(text));
  const added = headers.slice(whole + 1).map(({ since, text }) => ({ since, text: text.replace(AS_BEFORE, '') }));
  return [
    headers[whole]?.text ?? '',
    ...added
      .filter(({ text }) => text !== '' && text !== 'likewise.')
      .map(({ since, text }) => `Since ${since}: ${text}`),
  ].filter((text) => text !== '');
}
