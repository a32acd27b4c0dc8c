import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** A page of the manual, by its path in the project. */
export interface Page {
  readonly path: string;
  readonly text: string;
}

/** README.md and everything in docs/. */
export function readPages(): readonly Page[] {
  const inDocs = readdirSync(`${root}docs`, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path}`);
  return ['README.md', ...inDocs].toSorted().map(readPage);
}

export const readPage = (path: string): Page => ({ path, text: readFileSync(`${root}${path}`, 'utf8') });

interface Fence {
  /** What stands after the opening backticks. */
  readonly info: string;
  readonly lines: readonly string[];
  /** Of its first line in the page, from 1. */
  readonly firstLine: number;
}

/** The fenced blocks of a page, in their order. */
export function fencesOf({ text }: Page): readonly Fence[] {
  const fences: { info: string; lines: string[]; firstLine: number }[] = [];
  let open: { info: string; lines: string[]; firstLine: number } | undefined;
  for (const [index, line] of text.split('\n').entries()) {
    const isMark = line.startsWith('```');
    if (isMark && open === undefined) open = { info: line.slice(3).trim(), lines: [], firstLine: index + 2 };
    else if (isMark && open !== undefined) {
      fences.push(open);
      open = undefined;
    } else open?.lines.push(line);
  }
  return fences;
}

/** A page without its fenced blocks: what is read as Markdown. */
export function proseOf({ text }: Page): string {
  return text.replace(/^```.*$[\s\S]*?^```$/gm, '');
}
