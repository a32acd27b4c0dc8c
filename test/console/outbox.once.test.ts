import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { disableEndpoint } from '../../src/outbox/endpoints.ts';
import { outboxStatus } from '../../src/outbox/status.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { eventually } from '../support/eventually.ts';
import { addTestEndpoint, announce, announceMany, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

const SCRIPT = '<script>alert(1)</script>';
const IMAGE = '"><img src=x onerror=alert(1)>';
const BIDI = '\u202Eevil';
const ABSENT = '00000000-0000-4000-8000-000000000000';

let database: TestDatabase;
let served: Console;
let browser: Browser;
let receiver: TestReceiver;
let endpoints: { ok: string; bad: string; closed: string };
let messageId: string;

/** What a worker made of it: delivered, dead after its attempts with answers that would like to be HTML, and what waits for nobody. */
beforeAll(async () => {
  [database, browser, receiver] = await Promise.all([
    createDatabase(),
    launchBrowser(),
    startReceiver((response, webhook) =>
      (webhook.path.startsWith('/bad') ? answer(500, {}, `${SCRIPT}${IMAGE}${BIDI}`) : answer(204))(response, webhook),
    ),
  ]);
  const { pool } = database;
  const ok = await addTestEndpoint(pool, { url: `${receiver.url}/ok`, description: `${SCRIPT} ${BIDI}` });
  const bad = await addTestEndpoint(pool, {
    url: `${receiver.url}/bad?${encodeURIComponent(IMAGE)}`,
    topics: ['test.refused'],
    headers: { 'x-password': 'not to be seen' },
  });
  const closed = await addTestEndpoint(pool, { url: `${receiver.url}/closed`, topics: ['test.closed'] });
  endpoints = { ok: ok.id, bad: bad.id, closed: closed.id };
  await disableEndpoint(pool, closed.id, `closed ${IMAGE}`);
  const worker = await startTestWorker({ databaseUrl: database.url, breaker: { openMs: 100, maxOpenMs: 200 } });
  await announceMany(pool, 30);
  messageId = await announce(pool, {
    topic: 'test.refused',
    payload: { text: `${SCRIPT}${IMAGE}${BIDI}`, n: 12_345 },
  });
  await announceMany(pool, 5, 'test.refused');
  await settled(pool);
  await worker.stop();
  await givenDeliveries(pool, { endpointId: closed.id, count: 3, state: 'pending' });
  served = await startTestConsole(database);
});
afterAll(async () => {
  await browser?.close();
  await served?.stop();
  await receiver?.stop();
  await database?.drop();
});

const visit = async (javaScriptEnabled = true) => {
  const window = await openWindow(browser, { origin: served.url, javaScriptEnabled });
  return { ...window, [Symbol.asyncDispose]: () => window.context.close() };
};
const tile = (page: Page, what: string) => page.locator('.tiles li', { hasText: what }).locator('strong').textContent();
const row = (page: Page, table: string, text: string) =>
  page.getByRole('table', { name: table, exact: true }).getByRole('row').filter({ hasText: text });

describe('the outbox at a glance', () => {
  it('has the figures of liventix outbox status, and of each endpoint', async () => {
    await using window = await visit();
    const { page } = window;
    await page.goto(`${served.url}/outbox`);
    const status = await outboxStatus(database.pool);
    const { pending, paused, queued, delivering, dead } = status.deliveries;
    expect(dead).toBe(6);
    expect(paused).toBe(3);
    expect(await tile(page, 'not yet turned')).toBe(`${status.messages.unprocessed}`);
    expect(await tile(page, 'pending')).toBe(`${pending}`);
    expect(await tile(page, 'queued or under way')).toBe(`${queued + delivering}`);
    expect(await tile(page, 'paused')).toBe(`${paused}`);
    expect(await tile(page, 'dead letters')).toBe(`${dead}`);
    expect(await tile(page, 'workers')).toBe(`${status.workers}`);
    for (const { url, waiting, paused: waits, dead: ofIt, lastError } of status.endpoints) {
      const cells = await row(page, 'Endpoints', url).getByRole('cell').allInnerTexts();
      expect(cells.slice(2, 4), url).toEqual([`${waiting + waits}`, `${ofIt}`]);
      if (lastError !== null) expect(cells[5]).toContain(lastError);
    }
  });

  it('draws what SQL counts', async () => {
    await using window = await visit();
    const response = await window.page.request.get(`${served.url}/outbox?hours=1&export=json`);
    const parts = (await response.text()).trim().split('\n');
    const figures = parts.map((line) => JSON.parse(line) as { delivered: number; failed: number; p95_ms: number });
    const { rows } = await database.pool.query<{ delivered: number; failed: number }>(
      `select count(*) filter (where error_class is null)::integer as delivered, count(error_class)::integer as failed from outbox.attempts`,
    );
    expect(parts).toHaveLength(60);
    expect({
      delivered: figures.reduce((sum, { delivered }) => sum + delivered, 0),
      failed: figures.reduce((sum, { failed }) => sum + failed, 0),
    }).toEqual(rows[0]);
    // One was told that an endpoint was disabled.
    expect(rows[0]).toEqual({ delivered: 37, failed: 18 });
    await window.page.goto(`${served.url}/outbox?hours=1`);
    expect(await window.page.locator('svg:visible').first().getAttribute('aria-label')).toBe(
      'Attempts per minute: 37 delivered, 18 failed',
    );
  });

  it('says first what is wrong and what to do, follows by itself, and says yes when all is well', async () => {
    const other = await createDatabase();
    const console = await startTestConsole(other);
    const worker = await startTestWorker({ databaseUrl: other.url });
    await using window = await visit();
    const { page } = window;
    try {
      await page.goto(`${console.url}/outbox`);
      await eventually('a relay leads', async () => {
        await page.reload();
        return (await tile(page, 'session')) === 'a relay leads';
      });
      expect(await page.locator('.verdict strong').textContent()).toBe('Yes: what is due is delivered.');
      await worker.stop();
      await addTestEndpoint(other.pool, { url: `${receiver.url}/ok` });
      await announce(other.pool);
      await eventually('the page has followed', async () =>
        (await page.locator('.verdict strong').textContent())?.startsWith('No worker runs, and 1 message'),
      );
      expect(await page.locator('.verdict').textContent()).toContain('liventix worker');
    } finally {
      await console.stop();
      await other.drop();
    }
  });
});

describe('deliveries and messages', () => {
  it('tells a message’s story: its payload, each delivery, each attempt with its answer', async () => {
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/outbox/messages/msg_${messageId}`);
    const payload = await page.locator('pre').textContent();
    expect(JSON.parse(payload?.replaceAll('\\u{202e}', '\u202E') ?? '')).toEqual({
      text: `${SCRIPT}${IMAGE}${BIDI}`,
      n: 12_345,
    });
    const { rows } = await database.pool.query<{ id: string; attempts: number }>(
      `select d.id::text, count(a)::integer as attempts from outbox.deliveries d join outbox.attempts a on a.delivery_id = d.id
       where message_id = $1 group by d.id order by d.id`,
      [messageId],
    );
    for (const { id, attempts } of rows) {
      const table = page.getByRole('table', { name: `Attempts of delivery ${id}` });
      expect(await table.getByRole('row').count(), id).toBe(attempts + 1);
    }
    expect(await page.locator('main').textContent()).toContain(SCRIPT);
    expect(faults).toEqual([]);
  });

  it('says of a message that was sent to nobody who was passed over, and why', async () => {
    const { rows } = await database.pool.query<{ id: string }>(
      `insert into public.outbox (topic, payload, processed_at) values ('test.closed', '{}', clock_timestamp()) returning id`,
    );
    await using window = await visit();
    await window.page.goto(`${served.url}/outbox/messages/${rows[0]?.id}`);
    const why = await row(window.page, 'Passed over', '/closed').textContent();
    expect(why).toContain('it was disabled, since');
    await window.page.getByRole('link', { name: 'Send it to them after all' }).click();
    expect(await window.page.locator('h1').textContent()).toBe('Replay messages');
  });

  it('narrows deliveries by state, topic and endpoint, as SQL does, and gives all of them as files', async () => {
    await using window = await visit(false);
    const { page } = window;
    await page.goto(`${served.url}/outbox/deliveries`);
    await page.getByLabel('State').selectOption('dead');
    await page.getByLabel('Topic').fill('test.*');
    await page.getByLabel('Endpoint').fill(endpoints.bad);
    await page.getByRole('button', { name: 'Show' }).click();
    expect(await page.getByRole('table').getByRole('row').count()).toBe(1 + 6);
    const csv = await page.request.get(`${served.url}/outbox/deliveries?endpoint=${endpoints.ok}&export=csv`);
    expect((await csv.text()).trim().split('\r\n')).toHaveLength(1 + 37);
    expect(csv.headers()['content-type']).toContain('text/csv');
  });

  it('goes page by page through all of them, each once', async () => {
    await using window = await visit();
    const { page } = window;
    const { rows } = await database.pool.query<{ count: number }>(
      'select count(*)::integer as count from outbox.deliveries',
    );
    await givenDeliveries(database.pool, { endpointId: endpoints.ok, count: 60, state: 'delivered' });
    await page.goto(`${served.url}/outbox/deliveries`);
    const seen: string[] = [];
    for (let isLast = false; !isLast; ) {
      seen.push(...(await page.locator('tbody tr td:first-child a').allInnerTexts()));
      const next = page.getByRole('link', { name: 'Next page' });
      isLast = (await next.count()) === 0;
      if (!isLast) await next.click();
    }
    expect(seen).toHaveLength((rows[0]?.count ?? 0) + 60);
    expect(new Set(seen).size).toBe(seen.length);
  });
});

describe('an endpoint', () => {
  it('is shown with its settings, how it answered last, its deliveries, and nothing that is secret', async () => {
    await using window = await visit();
    const { page } = window;
    await page.goto(`${served.url}/outbox/endpoints/${endpoints.bad}`);
    const text = await page.locator('main').textContent();
    expect(text).toContain('x-password (their values are secret)');
    expect(text).not.toContain('not to be seen');
    expect(text).not.toContain('whsec_');
    expect(text).toContain('answered 500');
    expect(await row(page, 'Its dead letters', 'test.refused').count()).toBe(6);
    expect(await page.getByRole('table', { name: 'Its last attempts' }).getByRole('row').count()).toBe(1 + 18);
    expect(await page.content()).not.toContain('not to be seen');
  });
});

describe('pages of the outbox', () => {
  const paths = (): readonly string[] => [
    '/outbox',
    '/outbox/endpoints',
    `/outbox/endpoints/${endpoints.bad}`,
    `/outbox/endpoints/${endpoints.closed}`,
    '/outbox/deliveries',
    `/outbox/deliveries?state=queued`,
    `/outbox/messages/${messageId}`,
  ];

  it('fit each width, are accessible, move nothing, and ask for nothing elsewhere', async () => {
    for (const path of paths()) {
      await using window = await visit();
      const { page, faults } = window;
      await expectStill(page, served.url + path);
      await expectFits(page);
      await expectAccessible(page);
      expect(faults, path).toEqual([]);
      expect(await page.locator('img').count()).toBe(0);
    }
  });

  it.each<[string, number, string]>([
    [`/outbox/endpoints/${ABSENT}`, 404, 'OUTBOX_ENDPOINT_UNKNOWN'],
    ['/outbox/endpoints/nonsense', 400, 'CONSOLE_INVALID'],
    [`/outbox/messages/${ABSENT}`, 404, 'OUTBOX_MESSAGE_UNKNOWN'],
    ['/outbox/deliveries/999999999', 404, 'OUTBOX_DELIVERY_UNKNOWN'],
    ['/outbox/deliveries/0', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?after=damaged', 400, 'CONSOLE_INVALID'],
    ['/outbox/endpoints?after=WyIxIl0', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?topic=Not%20One', 400, 'OUTBOX_TOPIC_INVALID'],
    [`/outbox/deliveries?endpoint=${ABSENT}`, 404, 'OUTBOX_ENDPOINT_UNKNOWN'],
    ['/outbox/deliveries?from=0000-01-01', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?from=infinity', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?from=2026-02-30', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?from=2026-03-02&to=2026-03-01', 400, 'CONSOLE_INVALID'],
    ['/outbox/deliveries?from=0001-01-01&to=9999-12-31', 200, ''],
    ['/outbox/deliveries?state=lost', 400, 'CONSOLE_INVALID'],
    ['/outbox?hours=1000', 400, 'CONSOLE_INVALID'],
  ])('%s answers %i %s', async (path, status, code) => {
    const response = await fetch(served.url + path);
    expect(response.status).toBe(status);
    expect(await response.text()).toContain(code);
  });
});
