import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { expect } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { launchBrowser, openWindow } from './browser.ts';
import { createDatabase, type TestDatabase } from './database.ts';
import { fillDiverseBook } from './diverse-book.ts';
import { liventix } from './liventix.ts';

/** Of causes of suspense in yen: more than a page of paper has. */
export const CAUSES = 60;

/** A database with a diverse main book, a browser, and a folder for reports. */
export async function openReporting() {
  const [database, browser, folder] = await Promise.all([
    createDatabase(),
    launchBrowser(),
    mkdtemp(join(tmpdir(), 'liventix-test-report-')),
  ]);
  await fillDiverseBook(database.pool, 1);
  await fillForPaper(database.pool, 1);
  let files = 0;
  return {
    database,
    browser,
    folder,
    /** Makes one of which everything holds, and answers its path. */
    report: (args: readonly string[], format = 'html') =>
      makeReport(database, join(folder, `${++files}.${format}`), [...args, '--format', format]),
    open: (path: string) => openReport(browser, path),
    close: async () => {
      await browser.close();
      await database.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export type Reporting = Awaited<ReturnType<typeof openReporting>>;

async function makeReport({ url }: TestDatabase, path: string, args: readonly string[]): Promise<string> {
  const run = await liventix(['books', 'report', '--output', path, ...args], {
    DATABASE_URL: url,
    PATH: '/usr/bin:/bin',
  });
  expect(run).toMatchObject({ exitCode: 0, stderr: '' });
  return path;
}

interface OpenReport extends AsyncDisposable {
  readonly context: BrowserContext;
  readonly page: Page;
  readonly faults: string[];
  readonly url: string;
}

async function openReport(browser: Browser, path: string): Promise<OpenReport> {
  const url = pathToFileURL(path).href;
  const window = await openWindow(browser, { origin: url });
  await window.page.goto(url);
  return { ...window, url, [Symbol.asyncDispose]: () => window.context.close() };
}

/** The cells of a table's rows, by its caption. */
export const cellsOf = async (page: Page, caption: string): Promise<string[][]> =>
  await page
    .getByRole('table', { name: caption, exact: true })
    .locator('tbody tr')
    .evaluateAll((rows) => rows.map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent)));

/** A figure in minor units, whatever stands between its digits. */
export const digitsOf = (text: string | undefined) =>
  (text ?? '').replaceAll(/[^\d-]/g, '').replace(/^(-?)0+(?=\d)/, '$1');

/** As a page shows text: what turns its direction or cannot be seen as its code point. */
export const shownAs = (text: string) =>
  text.replaceAll(/\p{Cf}/gu, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);

/** What would run, load, turn or be taken for a formula, were it not shown as it is. */
export const HOSTILE_TEXTS = [
  `<script>document.title='taken'</script>`,
  `"><img src=x onerror="document.title='taken'">`,
  `</table></style><style>*{display:none}</style>`,
  '\u202Egnp.exe \u2066hidden\u2069',
  '=HYPERLINK("http://example.com";"x")',
  '& &amp; &lt;b&gt;',
];

/** In yen, each posted to once in February 2026: causes of suspense, more than a page of paper has, and account types of hostile names. */
async function fillForPaper(pool: Pool, bookId: number): Promise<void> {
  await pool.query(
    `insert into payments.account_types (type, normal_side, description) select unnest($1::text[]), 'debit', 'added' on conflict do nothing`,
    [HOSTILE_TEXTS],
  );
  const account = (type: string, name: string) => ({ type, currency: 'JPY', name });
  const [clearing = '', ...accounts] = await openAccounts(
    pool,
    [
      account('receivable', 'clearing_of_suspense'),
      ...HOSTILE_TEXTS.map((type) => account(type, 'main')),
      ...Array.from({ length: CAUSES }, (_, at) => account('suspense', `cause_${String(at + 1).padStart(3, '0')}`)),
    ],
    { bookId },
  );
  const posted = accounts.map((accountId, at) => ({
    entries: [
      { accountId, amountCents: BigInt(at + 1), currency: 'JPY' },
      { accountId: clearing, amountCents: -BigInt(at + 1), currency: 'JPY' },
    ],
    effectiveAt: new Date(Date.UTC(2026, 1, 1 + (at % 28), 12)),
  }));
  const refused = (await postAll(pool, posted, { bookId })).filter(({ status }) => status !== 'posted');
  if (refused.length > 0) throw new Error(JSON.stringify(refused));
}

/** A word of a PDF, in points from the left edge of its page. */
export interface Word {
  readonly page: number;
  readonly text: string;
  readonly left: number;
  readonly right: number;
}

/** What is in a PDF, as Debian's poppler-utils read it. */
export function readPdf(file: string): {
  readonly pages: number;
  readonly size: readonly [width: number, height: number];
  readonly words: readonly Word[];
} {
  const info = execFileSync('pdfinfo', [file], { encoding: 'utf8' });
  const numberOf = (pattern: RegExp) => Number(pattern.exec(info)?.[1]);
  const boxes = execFileSync('pdftotext', ['-bbox', file, '-'], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  let page = 0;
  const words: Word[] = [];
  for (const line of boxes.split('\n')) {
    if (line.includes('<page ')) page += 1;
    const [, left, right, text] =
      /<word xMin="([\d.-]+)" yMin="[\d.-]+" xMax="([\d.-]+)" yMax="[\d.-]+">(.*)<\/word>/.exec(line) ?? [];
    if (text !== undefined) words.push({ page, text: unescaped(text), left: Number(left), right: Number(right) });
  }
  return {
    pages: numberOf(/^Pages:\s+(\d+)$/m),
    size: [numberOf(/^Page size:\s+([\d.]+) x/m), numberOf(/^Page size:\s+[\d.]+ x ([\d.]+)/m)],
    words,
  };
}

const unescaped = (text: string) =>
  text
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&apos;', "'")
    .replaceAll('&amp;', '&');
