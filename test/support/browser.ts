import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { expect } from 'vitest';

/** Debian's package `chromium`; the test command installs it where it can. */
const CHROMIUM = '/usr/bin/chromium';
const AXE_TEXT = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const IN_PAGE = fileURLToPath(new URL('./in-page.js', import.meta.url));
/** A tenth of what counts as good. */
const MOST_SHIFT = 0.01;

/** A phone, a tablet, a desk. */
const WIDTHS = [360, 768, 1440] as const;

export async function launchBrowser(): Promise<Browser> {
  if (!existsSync(CHROMIUM)) throw new Error(`The tests of the console need ${CHROMIUM}: apt-get install chromium`);
  return await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
}

/** A browser's window that notes what must not happen: a request to elsewhere, a script or style that the policy refused, an error. */
export async function openWindow(
  browser: Browser,
  options: BrowserContextOptions & { readonly origin: string },
): Promise<{ context: BrowserContext; page: Page; faults: string[] }> {
  const { origin, ...settings } = options;
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...settings });
  await context.addInitScript({ path: IN_PAGE });
  const page = await context.newPage();
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
  page.on('console', (message) => {
    // A page that says that something failed comes with a status, which the browser writes down too.
    if (message.type() === 'error' && !message.text().includes('the server responded with a status of')) {
      faults.push(`console: ${message.text()}`);
    }
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(origin)) faults.push(`request: ${request.url()}`);
  });
  return { context, page, faults };
}

/** Nothing is wider than the window, at each width. */
export async function expectFits(page: Page): Promise<void> {
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 900 });
    expect(await page.evaluate('looked.tooWide()'), `${page.url()} at ${width} pixels`).toEqual({
      scrolls: false,
      reaches: [],
    });
  }
}

/** axe-core finds nothing, in light and in dark. */
export async function expectAccessible(page: Page): Promise<void> {
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    // By the browser's own debugger: the page's policy lets no script of ours in.
    if ((await page.evaluate('typeof axe')) === 'undefined') await page.evaluate(AXE_TEXT);
    expect(await page.evaluate('looked.axe()'), `${page.url()} in ${colorScheme}`).toEqual([]);
  }
}

/** No part moves after it was first drawn. */
export async function expectStill(page: Page, url: string): Promise<void> {
  await page.goto(url, { waitUntil: 'networkidle' });
  expect(await page.evaluate('looked.shift()'), url).toBeLessThan(MOST_SHIFT);
}
