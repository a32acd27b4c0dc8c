import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openBook } from '../../src/ledger/books.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { transfer } from '../support/books.ts';
import { CAUSES, cellsOf, digitsOf, openReporting, type Reporting, readPdf, shownAs } from '../support/reports.ts';

const CHROMIUM = '/usr/bin/chromium';

let reporting: Reporting;
const report = (args: readonly string[], format?: string) => reporting.report(args, format);
const open = (path: string) => reporting.open(path);

beforeAll(async () => {
  reporting = await openReporting();
});
afterAll(() => reporting?.close());

describe('a report on paper', () => {
  it.each([
    ['a4', [595, 842]],
    ['letter', [612, 792]],
  ] as const)(
    'of %s has every figure of every table whole, within its margins, and numbers its pages',
    async (paper, size) => {
      // With amounts near 64 bits in four decimal places, and more causes than a page has.
      const args = ['--period', '2026-02'];
      await using window = await open(await report(args));
      const pdf = readPdf(await report([...args, '--paper', paper, '--chromium', CHROMIUM], 'pdf'));
      expect(pdf.size.map(Math.round)).toEqual(size);
      const figures = await window.page
        .locator('td.n')
        .evaluateAll((cells) => cells.map((cell) => cell.textContent.trim()).filter((text) => text !== ''));
      const names = await window.page
        .locator('tbody td:first-child')
        .evaluateAll((cells) =>
          cells.flatMap((cell) => cell.textContent.trim().split(/\s+/)).filter((word) => word.length < 12),
        );
      expect(figures.length).toBeGreaterThan(400);
      expect(
        lacking(
          [...figures, ...names],
          pdf.words.map(({ text }) => text),
        ),
      ).toEqual([]);
      const [left, right] = [30, (size[0] ?? 0) - 30];
      expect(pdf.words.filter((word) => word.left < left || word.right > right)).toEqual([]);
      const texts = Array.from({ length: pdf.pages }, (_, at) =>
        pdf.words
          .filter(({ page }) => page === at + 1)
          .map(({ text }) => text)
          .join(' '),
      );
      expect(texts.map((text) => /page \d+ of \d+/.exec(text)?.[0])).toEqual(
        texts.map((_, at) => `page ${at + 1} of ${pdf.pages}`),
      );
      // A table that goes on has its head on each of its pages.
      const causes = texts.filter((text) => /\bcause_0\d\d\b/.test(text));
      expect(causes.length).toBeGreaterThan(1);
      for (const text of causes) expect(text).toContain('Cause Opening Debited Credited Closing');
      expect(texts.join(' ')).toContain('book 1, 2026-02, provisional');
    },
  );

  it('is printed the same from any browser', async () => {
    await using window = await open(await report(['--period', '2026-02']));
    const path = join(reporting.folder, 'by-hand.pdf');
    await window.page.pdf({ path, format: 'A4', margin: { top: '15mm', left: '13mm', right: '13mm', bottom: '17mm' } });
    const figures = await window.page
      .locator('td.n')
      .evaluateAll((cells) => cells.map((cell) => cell.textContent.trim()));
    expect(
      lacking(
        figures.filter((text) => text !== ''),
        readPdf(path).words.map(({ text }) => text),
      ),
    ).toEqual([]);
  });
});

/** Those that are not there as often as they are wanted. */
function lacking(wanted: readonly string[], there: readonly string[]): readonly string[] {
  const left = new Map<string, number>();
  for (const word of there) left.set(word, (left.get(word) ?? 0) + 1);
  return wanted.filter((word) => {
    const count = left.get(word) ?? 0;
    left.set(word, count - 1);
    return count <= 0;
  });
}

describe('a report as CSV', () => {
  it('has the figures of the page, one a line, and no formula', async () => {
    const args = ['--period', '2026-02', '--no-verify'];
    const lines = parsed(await readFile(await report(args, 'csv'), 'utf8'));
    const [head, ...rows] = lines;
    expect(head).toEqual(['section', 'currency', 'type', 'item', 'measure', 'value', 'cents']);
    expect(new Set(lines.map((cells) => cells.length))).toEqual(new Set([7]));
    const named = rows.map(([section, currency, type = '', ...rest]) => [
      section,
      currency,
      shownAs(type.replace(/^'/, '')),
      ...rest,
    ]);
    const centsOf = (...of: string[]) => named.find((row) => of.every((each, at) => row[at] === each))?.[6];
    await using window = await open(await report(args));
    for (const currency of ['USD', 'JPY', 'BHD', 'CLF']) {
      const types = (await cellsOf(window.page, `Movements in ${currency}`)).slice(0, -1);
      expect(types.length).toBeGreaterThan(0);
      for (const [type = '', opening, , debited, , credited, closing] of types) {
        expect(
          ['opening', 'debited', 'credited', 'closing'].map((measure) => centsOf('type', currency, type, '', measure)),
          `${currency} ${type}`,
        ).toEqual([opening, debited, credited, closing].map(digitsOf));
      }
    }
    expect(rows.filter((row) => row[0] === 'suspense' && row[1] === 'JPY' && row[4] === 'closing')).toHaveLength(
      CAUSES + 1,
    );
    expect(rows.map(([, , type]) => type)).toContain(`'=HYPERLINK("http://example.com";"x")`);
    expect(rows.flat().filter((cell) => /^[=+@]/.test(cell))).toEqual([]);
    expect(rows.find((row) => row[4] === 'status')?.[5]).toBe('provisional');
  });
});

/** RFC 4180, by itself. */
function parsed(text: string): string[][] {
  expect(text.endsWith('\r\n')).toBe(true);
  const rows: string[][] = [[]];
  for (const [, quoted, plain = '', end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g)) {
    rows.at(-1)?.push(quoted?.replaceAll('""', '"') ?? plain);
    if (end !== ',') rows.push([]);
  }
  return rows.slice(0, -1);
}

describe('an entry that is dated back', () => {
  it('is in the report of its period, until that is closed', async () => {
    const bookId = await openBook(reporting.database.pool, 'dated back');
    const [debit = '', credit = ''] = await openAccounts(
      reporting.database.pool,
      ['receivable', 'revenue'].map((type) => ({ type, currency: 'USD', name: 'x' })),
      { bookId },
    );
    const debited = async () => {
      await using window = await open(await report(['--period', '2026-05', '--book', `${bookId}`]));
      return (await cellsOf(window.page, 'Movements in USD')).at(-1)?.[3];
    };
    const owe = (amountCents: bigint, at: string) =>
      post(reporting.database.pool, transfer(debit, credit, { amountCents, effectiveAt: new Date(at) }), { bookId });
    await owe(100n, '2026-05-31T23:59:59.999Z');
    await owe(1n, '2026-06-01T00:00:00Z');
    expect(await debited()).toBe('1.00');
    await owe(20n, '2026-05-01T00:00:00Z');
    expect(await debited()).toBe('1.20');
    await closePeriod(reporting.database.pool, { until: '2026-06-01T00:00:00Z', bookId });
    await expect(owe(3n, '2026-05-31T00:00:00Z')).rejects.toMatchObject({ code: 'LEDGER_PERIOD_CLOSED' });
    expect(await debited()).toBe('1.20');
  });
});
