import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openBook } from '../../src/ledger/books.ts';
import { closePeriod, listPeriods } from '../../src/ledger/periods.ts';
import { listSeals, sealBook } from '../../src/ledger/seals.ts';
import { expectAccessible, expectFits, expectStill } from '../support/browser.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import {
  CAUSES,
  cellsOf,
  digitsOf,
  HOSTILE_TEXTS,
  openReporting,
  type Reporting,
  shownAs,
} from '../support/reports.ts';

let reporting: Reporting;
let closedBook = 0;
let emptyBook = 0;
/** Nothing is posted between these tests: each is made once. */
const made = new Map<string, Promise<string>>();
function report(args: readonly string[]): Promise<string> {
  const kept = made.get(args.join(' ')) ?? reporting.report(args);
  made.set(args.join(' '), kept);
  return kept;
}
const open = (path: string) => reporting.open(path);

beforeAll(async () => {
  reporting = await openReporting();
  const { pool } = reporting.database;
  await sealBook(pool, 1);
  closedBook = await openBook(pool, '<b>another</b> "book" & more');
  await fillDiverseBook(pool, closedBook);
  for (const until of ['2026-02-01T00:00:00Z', '2026-03-01T00:00:00Z']) {
    await closePeriod(pool, { until, bookId: closedBook });
  }
  emptyBook = await openBook(pool, 'empty');
});
afterAll(() => reporting?.close());

describe('the page of a report', () => {
  it.each([
    ['a month that is open', () => ['--period', '2026-02']],
    [
      'a month that is closed, in another zone of time',
      () => ['--period', '2026-01', '--book', `${closedBook}`, '--zone', 'America/St_Johns'],
    ],
    ['a year, as Germans write figures', () => ['--period', '2026', '--locale', 'de-DE', '--zone', 'Europe/Berlin']],
    ['all there is', () => ['--period', '0001-01-01..9999-12-31', '--no-verify']],
    ['a book in which nothing was posted', () => ['--period', '2026-02', '--book', `${emptyBook}`]],
  ])('of %s fits each width, is accessible, stands still, asks for nothing and runs nothing', async (_, args) => {
    await using window = await open(await report(args()));
    const { page, url, faults } = window;
    await expectStill(page, url);
    await expectFits(page);
    await expectAccessible(page);
    expect(await page.title()).not.toBe('taken');
    expect(await page.locator('img, script').count()).toBe(0);
    expect(faults).toEqual([]);
  });

  it.each([
    ['2026-02', '2026-02-01', '2026-03-01'],
    ['2025-Q4', '2025-10-01', '2026-01-01'],
    ['2026', '2026-01-01', '2027-01-01'],
  ])('of %s has of each type and currency what SQL says', async (period, from, until) => {
    await using window = await open(await report(['--period', period]));
    const { page } = window;
    const { rows } = await reporting.database.pool.query<Record<string, string>>(
      `select currency, type, (sum(opening))::text as opening, sum(debited)::text as debited, sum(credited)::text as credited,
              sum(debits)::text as debits, sum(closing)::text as closing, sum(greatest(closing, 0))::text as debit,
              sum(greatest(-closing, 0))::text as credit, count(*)::text as accounts
       from (
         select a.id, a.currency, a.type, coalesce(sum(amount_cents) filter (where effective_at < $1), 0) as opening,
                coalesce(sum(amount_cents) filter (where effective_at >= $1 and amount_cents > 0), 0) as debited,
                coalesce(-sum(amount_cents) filter (where effective_at >= $1 and amount_cents < 0), 0) as credited,
                count(*) filter (where effective_at >= $1 and amount_cents > 0) as debits, sum(amount_cents) as closing
         from payments.entries e join payments.accounts a on a.id = e.account_id and a.book_id = 1
         where e.book_id = 1 and e.effective_at < $2 group by 1, 2, 3
       ) s group by 1, 2`,
      [`${from}T00:00:00Z`, `${until}T00:00:00Z`],
    );
    expect(rows.length).toBeGreaterThan(5);
    for (const { currency, type, ...sums } of rows) {
      const [balance, movement] = await Promise.all(
        ['Trial balance', 'Movements'].map(async (what) =>
          (await cellsOf(page, `${what} in ${currency}`)).find(([name]) => name === shownAs(type ?? '')),
        ),
      );
      expect(balance?.slice(1).map(digitsOf), `${currency} ${type}`).toEqual([
        sums['accounts'],
        sums['debit'],
        sums['credit'],
        sums['closing'],
      ]);
      expect(
        [1, 2, 3, 5, 6].map((at) => digitsOf(movement?.[at])),
        `${currency} ${type}`,
      ).toEqual([sums['opening'], sums['debits'], sums['debited'], sums['credited'], sums['closing']]);
      const places = { USD: 2, JPY: 0, BHD: 3, CLF: 4 }[currency ?? ''];
      expect(balance?.[2]?.split('.')[1]?.length ?? 0).toBe(places);
    }
  });

  it('has each type and cause as it is named, and what turns or cannot be seen as its code point', async () => {
    await using window = await open(await report(['--period', '2026-02']));
    const types = (await cellsOf(window.page, 'Movements in JPY')).map(([name]) => name);
    expect(types).toEqual(expect.arrayContaining(HOSTILE_TEXTS.map(shownAs)));
    const causes = (await cellsOf(window.page, 'Suspense in JPY')).map(([name]) => name);
    expect(causes).toHaveLength(CAUSES + 2);
    expect(causes).toEqual(expect.arrayContaining(['cause_001', `cause_0${CAUSES}`, 'main', 'total']));
    expect(await window.page.locator('h1').textContent()).toBe('main: February 2026');
  });

  it('says of an open month that it is provisional and how to close it, and of a closed one its certificate', async () => {
    await using provisional = await open(await report(['--period', '2026-02']));
    const text = await provisional.page.locator('main').textContent();
    expect(text).toContain('Provisional: these figures may still change.');
    expect(text).toContain('liventix books close --book 1 --until 2026-03-01');
    const [seal] = await listSeals(reporting.database.pool, { bookId: 1, limit: 1 });
    expect(text).toContain(seal?.root);

    await using final = await open(await report(['--period', '2026-02', '--book', `${closedBook}`]));
    const closed = await final.page.locator('main').textContent();
    expect(closed).toContain('Final: the period is closed.');
    const periods = await listPeriods(reporting.database.pool, { bookId: closedBook });
    expect(await cellsOf(final.page, 'Closed periods')).toMatchObject([
      [expect.any(String), 'what stood at the beginning', 'yes', expect.any(String), periods[0]?.hash],
      [expect.any(String), 'what stood at the end', 'yes', expect.any(String), periods[1]?.hash],
    ]);
    expect(await final.page.locator('pre').first().textContent()).toBe(periods[1]?.text);
    expect(await final.page.locator('h1').textContent()).toBe('<b>another</b> "book" & more: February 2026');
  });

  it.each([
    ['a month that has not begun', ['--period', '2199-12'], 'The period lies in the future'],
    ['the year that is', ['--period', `${new Date().getUTCFullYear()}`], 'The period has not ended'],
    ['a month in which nothing was', ['--period', '2024-02'], 'Nothing moved in it'],
    ['a month before the first entry', ['--period', '1800-02'], 'it lies before the book’s first entry'],
  ])('says of %s that it is that', async (_, args, says) => {
    await using window = await open(await report(args));
    expect(await window.page.locator('main').textContent()).toContain(says);
  });

  it('writes figures as the locale does, whichever way that is written', async () => {
    await using window = await open(await report(['--period', '2026-02', '--locale', 'ar-EG']));
    const [, , , opening] = (await cellsOf(window.page, 'Trial balance in CLF')).at(-1) ?? [];
    expect(opening).toMatch(/^[٠-٩٬]+٫[٠-٩]{4}$/u);
    expect(await window.page.locator('tbody').first().textContent()).not.toContain('\\u{');
  });

  it('is dark where the screen is, and light on paper', async () => {
    await using window = await open(await report(['--period', '2026-02']));
    const { page } = window;
    const lightness = async () =>
      Number(/\d+/.exec(await page.evaluate('getComputedStyle(document.body).backgroundColor'))?.[0]);
    await page.emulateMedia({ colorScheme: 'dark' });
    expect(await lightness()).toBeLessThan(40);
    await page.emulateMedia({ colorScheme: 'dark', media: 'print' });
    expect(await lightness()).toBe(255);
  });
});
