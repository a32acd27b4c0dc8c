import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { openBook } from '../../src/ledger/books.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
let served: Console;
let browser: Browser;

beforeAll(async () => {
  [database, browser] = await Promise.all([createDatabase(), launchBrowser()]);
  await fillDiverseBook(database.pool, 1);
  await fillDiverseBook(database.pool, await openBook(database.pool, '<b>another</b> "book" & more'));
  await sealBook(database.pool, 1);
  served = await startTestConsole(database);
});
afterAll(async () => {
  await browser?.close();
  await served?.stop();
  await database?.drop();
});

const visit = async (javaScriptEnabled = true) => {
  const window = await openWindow(browser, { origin: served.url, javaScriptEnabled });
  return { ...window, [Symbol.asyncDispose]: () => window.context.close() };
};
const verdict = (page: Page) => page.locator('.verdict strong').textContent();
const endedVerification = (page: Page) =>
  eventually('the verification ended', async () => (await page.locator('dl.facts .badge').count()) === 1);

describe('the books', () => {
  it('says that nothing is known before a verification, and yes after one, with its proof', async () => {
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/`);
    expect(await verdict(page)).toBe('Every currency sums to zero, and that is all that is known.');
    await page.getByRole('button', { name: 'Verify now' }).click();
    await page.waitForURL('**/books/verifications/*');
    await endedVerification(page);
    expect(await page.locator('dl.facts').textContent()).toContain('balances');
    await page.goto(`${served.url}/books`);
    expect(await verdict(page)).toBe('Yes: the books balance.');
    const { rows } = await database.pool.query<{ sha256: string }>(
      'select certificate_sha256 as sha256 from console.verifications order by verification_id desc limit 1',
    );
    expect(await page.locator('.verdict').textContent()).toContain(rows[0]?.sha256);
    expect(faults).toEqual([]);
  });

  it('verifies without scripts too, and its page is loaded anew meanwhile', async () => {
    await using window = await visit(false);
    const { page } = window;
    await page.goto(`${served.url}/books`);
    await page.getByRole('button', { name: 'Verify independently' }).click();
    await page.waitForURL('**/books/verifications/*');
    await eventually('it ended', async () => {
      await page.reload();
      return (await page.locator('dl.facts .badge').count()) === 1;
    });
    expect(await page.locator('dl.facts').textContent()).toContain('independently');
  });

  it('shows of each currency what SQL says', async () => {
    await using window = await visit();
    const { page } = window;
    await page.goto(`${served.url}/books/1`);
    const { rows } = await database.pool.query<{
      currency: string;
      type: string;
      debit: string;
      credit: string;
      places: number;
    }>(
      `select b.currency, b.type, c.decimal_places as places,
              sum(greatest(b.balance_cents * s.sign, 0))::text as debit, sum(greatest(-b.balance_cents * s.sign, 0))::text as credit
       from payments.account_balances b join ref.currencies c on c.code = b.currency
       join payments.account_types t on t.type = b.type
       cross join lateral (select case t.normal_side when 'debit' then 1 else -1 end as sign) s
       where b.book_id = 1 group by 1, 2, 3`,
    );
    expect(rows.length).toBeGreaterThan(20);
    for (const { currency, type, debit, credit, places } of rows) {
      const row = page
        .getByRole('table', { name: `Trial balance in ${currency}` })
        .getByRole('row')
        .filter({
          has: page.getByRole('link', { name: type, exact: true }),
        });
      const shown = await row.getByRole('cell').allInnerTexts();
      const cents = shown.slice(2, 4).map((text) => text.replaceAll(/[^\d-]/g, '').replace(/^0+(?=\d)/, ''));
      expect(cents, `${currency} ${type}`).toEqual([debit, credit]);
      expect(shown[2]?.split('.')[1]?.length ?? 0).toBe(places);
    }
  });

  it.each([
    '/books',
    '/books/1',
    '/books/1/seals',
    '/books/verifications',
    '/books/verifications/1',
    '/audit',
    '/settings',
    '/nothing',
  ])('%s fits each width, is accessible, moves nothing, and asks for nothing elsewhere', async (path) => {
    await using window = await visit();
    const { page, faults } = window;
    await expectStill(page, served.url + path);
    await expectFits(page);
    await expectAccessible(page);
    expect(faults).toEqual([]);
  });
});
