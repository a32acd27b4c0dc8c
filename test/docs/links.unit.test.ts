import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';
import { anchorOf } from '../../scripts/manual/markdown.ts';
import { type Page, proseOf, readPages } from './pages.ts';

interface Link {
  readonly page: string;
  readonly target: string;
  readonly path: string;
  readonly anchor: string | undefined;
}

const INDEX = 'docs/README.md';
const pages = readPages();
const links = pages.flatMap(linksOf);
const anchors = new Map(pages.map((page) => [page.path, anchorsOf(page)]));

describe('a link within the project', () => {
  it('is found where there is one', () => {
    expect(links.length).toBeGreaterThan(200);
  });

  it('leads to a file that is there', () => {
    expect(links.filter(({ path }) => !existsSync(path)).map(({ page, target }) => `${page}: ${target}`)).toEqual([]);
  });

  it('leads to a heading that is there', () => {
    const astray = links.filter(({ path, anchor }) => anchor !== undefined && !isThere(path, anchor));
    expect(astray.map(({ page, target }) => `${page}: ${target}`)).toEqual([]);
  });
});

it('leads from the index to every page, and from the README to the index', () => {
  const reached = reachableFrom(INDEX);
  expect(pages.map(({ path }) => path).filter((path) => !reached.has(path))).toEqual([]);
  expect(links.filter(({ page }) => page === 'README.md').map(({ path }) => path)).toContain(INDEX);
});

it('finds a link that leads nowhere', () => {
  const [link] = linksOf({ path: 'docs/how-to/upgrade.md', text: '[there](../nowhere.md#at-all)' });
  expect(link).toEqual({
    page: 'docs/how-to/upgrade.md',
    target: '../nowhere.md#at-all',
    path: 'docs/nowhere.md',
    anchor: 'at-all',
  });
  expect(isThere(INDEX, 'no-such-heading')).toBe(false);
});

function linksOf(page: Page): Link[] {
  const prose = proseOf(page).replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]()]/g, ' '));
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => {
    if (/^[a-z]+:/.test(target)) return [];
    const [path = '', anchor] = target.split('#');
    const resolved = path === '' ? page.path : normalize(join(dirname(page.path), path));
    return [{ page: page.path, target, path: resolved, anchor }];
  });
}

/** As GitHub numbers them: the second heading of a text ends in -1. */
function anchorsOf(page: Page): ReadonlySet<string> {
  const found = new Set<string>();
  for (const [, heading = ''] of proseOf(page).matchAll(/^#{1,6} (.+)$/gm)) {
    const anchor = anchorOf(heading);
    const taken = [...found].filter((each) => each === anchor || each.replace(/-\d+$/, '') === anchor).length;
    found.add(taken === 0 ? anchor : `${anchor}-${taken}`);
  }
  return found;
}

/** Of what is no page of the manual, a line of it: #L12. */
function isThere(path: string, anchor: string): boolean {
  const known = anchors.get(path);
  if (known !== undefined) return known.has(anchor);
  const [, line] = /^L(\d+)$/.exec(anchor) ?? [];
  return line !== undefined && statSync(path).isFile() && Number(line) <= readFileSync(path, 'utf8').split('\n').length;
}

function reachableFrom(start: string): ReadonlySet<string> {
  const reached = new Set([start]);
  // A set is walked to its end, what is added on the way included.
  for (const from of reached) for (const { page, path } of links) if (page === from) reached.add(path);
  return reached;
}
