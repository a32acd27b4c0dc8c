import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { disableEndpoint } from '../../src/outbox/endpoints.ts';
import type { RunningWorker } from '../../src/outbox/worker.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenDeliveries } from '../support/dead-letters.ts';
import { addTestEndpoint, clearOutbox, deliveryStates, settled, startTestWorker } from '../support/outbox.ts';
import { answer, startReceiver, type TestReceiver } from '../support/receiver.ts';

const HOSTILE = '"><img src=x onerror=alert(1)><script>alert(1)</script>';

/** What nobody does who means well. */
const ENABLE = `document.querySelector('button[disabled]').removeAttribute('disabled')`;

let database: TestDatabase;
let served: Console;
let forViewers: Console;
let browser: Browser;
let receiver: TestReceiver;
let worker: RunningWorker;
/** What the receiver answers. */
let status = 204;

beforeAll(async () => {
  [database, browser, receiver] = await Promise.all([
    createDatabase(),
    launchBrowser(),
    startReceiver((response, webhook) => answer(status)(response, webhook)),
  ]);
  worker = await startTestWorker({ databaseUrl: database.url });
  served = await startTestConsole(database);
  forViewers = await startTestConsole(database, { roles: ['viewer'] });
});
afterEach(async () => {
  status = 204;
  await clearOutbox(database.pool);
});
afterAll(async () => {
  await browser?.close();
  await Promise.all([served?.stop(), forViewers?.stop(), worker?.stop()]);
  await receiver?.stop();
  await database?.drop();
});

const visit = async (console = served, javaScriptEnabled = true) => {
  const window = await openWindow(browser, { origin: console.url, javaScriptEnabled });
  return { ...window, [Symbol.asyncDispose]: () => window.context.close() };
};
const said = (page: Page) => page.locator('.said').textContent();
const press = (page: Page, name: string | RegExp) => page.getByRole('button', { name }).click();

let names = 0;
/** An endpoint that takes what it is sent now, with dead letters. */
async function givenDead(count: number, given: { topic?: string; at?: string } = {}) {
  names += 1;
  const path = `/of-${names}`;
  const { id: endpointId } = await addTestEndpoint(database.pool, { url: receiver.url + path });
  const ids = await givenDeliveries(database.pool, { endpointId, count, ...given });
  return { endpointId, ids, path };
}
/** What of one kind was done through the console, as the audit log has it. */
async function audited(action: string): Promise<readonly string[]> {
  const { rows } = await database.pool.query<{ message: string }>(
    `select message from console.events where action = $1 and outcome = 'done' order by event_id desc`,
    [action],
  );
  return rows.map(({ message }) => message);
}

describe('a dead letter', () => {
  it.each([true, false])('is retried by the button of its row (scripts: %s), and delivered', async (scripts) => {
    const { endpointId, ids, path } = await givenDead(2);
    await using window = await visit(served, scripts);
    const { page, faults } = window;
    await page.goto(`${served.url}/outbox/dead-letters?endpoint=${endpointId}`);
    await page
      .getByRole('row')

      .filter({ has: page.getByRole('link', { name: `${ids[0]}`, exact: true }) })
      .getByRole('button', { name: 'Retry' })
      .click();
    expect(await said(page)).toBe(`Delivery ${ids[0]} is attempted again.`);
    expect(page.url()).toContain(`/outbox/dead-letters?endpoint=${endpointId}`);
    await settled(database.pool);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ delivered: 1, dead: 1 });
    expect(receiver.at(path)).toHaveLength(1);
    expect(await audited('retry a delivery')).toContain(`Delivery ${ids[0]} is attempted again.`);
    expect(faults).toEqual([]);
  });

  it('is sent once, when two press the same button: the second is told', async () => {
    const { endpointId, ids, path } = await givenDead(1);
    await using one = await visit();
    await using other = await visit();
    for (const { page } of [one, other]) await page.goto(`${served.url}/outbox/deliveries/${ids[0]}`);
    await Promise.all([press(one.page, 'Retry'), press(other.page, 'Retry')]);
    await settled(database.pool);
    const told = [await said(one.page), await said(other.page)];
    expect(told.filter((text) => text === `Delivery ${ids[0]} is attempted again.`)).toHaveLength(1);
    expect(told.filter((text) => /left alone|nothing was done twice/.test(text ?? ''))).toHaveLength(1);
    expect(receiver.at(path)).toHaveLength(1);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ delivered: 1 });
  });

  it('that died again since the page was made is left alone, and whoever presses is told', async () => {
    const { ids, path } = await givenDead(1);
    await using first = await visit();
    await using second = await visit();
    for (const { page } of [first, second]) await page.goto(`${served.url}/outbox/deliveries/${ids[0]}`);
    status = 410;
    await press(first.page, 'Retry');
    await settled(database.pool);
    await database.pool.query('update outbox.endpoints set enabled = true, disabled_at = null, disabled_reason = null');
    await press(second.page, 'Retry');
    expect(await said(second.page)).toContain('was retried meanwhile: 4 attempts were made by now, not 3');
    expect(receiver.at(path)).toHaveLength(1);
  });

  it('is not for a viewer to retry, whatever he sends', async () => {
    const { endpointId, ids } = await givenDead(1);
    await using window = await visit(forViewers);
    const { page } = window;
    await page.goto(`${forViewers.url}/outbox/dead-letters`);
    expect(await page.getByRole('button', { name: 'Retry' }).count()).toBe(0);
    for (const path of [`/outbox/deliveries/${ids[0]}`, '/outbox/dead-letters/retry']) {
      await page.goto(forViewers.url + path);
      const button = page.getByRole('button', { name: /^Retry/ });
      expect(await button.isDisabled()).toBe(true);
      await page.evaluate(ENABLE);
      await button.click();
      expect(await page.locator('main').textContent()).toContain('CONSOLE_FORBIDDEN');
    }
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 1 });
  });
});

describe('all dead letters that match', () => {
  it.each([true, false])('are counted first, then retried (scripts: %s); the others stay', async (scripts) => {
    const { endpointId, path } = await givenDead(7, { topic: 'ticket.sold' });
    await givenDeliveries(database.pool, { endpointId, count: 2, topic: 'ticket.returned' });
    await using window = await visit(served, scripts);
    const { page } = window;
    await page.goto(`${served.url}/outbox/dead-letters`);
    await page.getByLabel('Topic').fill('ticket.sold');
    await press(page, 'Show');
    await page.getByRole('link', { name: 'Retry all that match' }).click();
    expect(await page.getByRole('row').filter({ hasText: path }).textContent()).toContain('7');
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 9 });
    await press(page, 'Retry 7 deliveries');
    expect(await said(page)).toBe('7 deliveries are attempted again.');
    await settled(database.pool);
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 2, delivered: 7 });
  });

  it('are retried once, when two press at once, even where they die again at once', async () => {
    const { ids, path } = await givenDead(40);
    await using one = await visit();
    await using other = await visit();
    for (const { page } of [one, other]) await page.goto(`${served.url}/outbox/dead-letters/retry`);
    status = 204;
    await press(one.page, /^Retry/);
    await settled(database.pool);
    await database.pool.query(
      `update outbox.deliveries set state = 'dead', finished_at = clock_timestamp(), last_error = 'died again' where id = any ($1)`,
      [ids],
    );
    await press(other.page, /^Retry/);
    expect(await said(other.page)).toContain('Nothing was retried');
    expect(await said(one.page)).toBe('40 deliveries are attempted again.');
    expect(receiver.at(path)).toHaveLength(40);
  });

  it('are each opened by one of two who press at the same moment', async () => {
    const { path } = await givenDead(600);
    await using one = await visit();
    await using other = await visit();
    for (const { page } of [one, other]) await page.goto(`${served.url}/outbox/dead-letters/retry`);
    await Promise.all([press(one.page, /^Retry/), press(other.page, /^Retry/)]);
    await settled(database.pool);
    const counts = [await said(one.page), await said(other.page)].map((text) =>
      Number(/^([\d,]+) deliveries/.exec(text ?? '')?.[1]?.replaceAll(',', '') ?? 0),
    );
    expect((counts[0] ?? 0) + (counts[1] ?? 0)).toBe(600);
    expect(receiver.at(path)).toHaveLength(600);
  });

  it('are refused as long as one of their endpoints is disabled, and those of deleted ones are left alone', async () => {
    const { endpointId } = await givenDead(3);
    const open = await givenDead(2);
    const deleted = await givenDead(4);
    await disableEndpoint(database.pool, endpointId, HOSTILE);
    await database.pool.query(
      `update outbox.endpoints set enabled = false, disabled_at = now(), deleted_at = now() where id = $1`,
      [deleted.endpointId],
    );
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/outbox/dead-letters/retry`);
    expect(await page.locator('main').textContent()).toContain('Some of them are of endpoints that are disabled');
    expect(await page.locator('main').textContent()).toContain(HOSTILE);
    expect(await page.getByRole('button', { name: /^Retry/ }).count()).toBe(0);
    await page.getByRole('row').filter({ hasText: open.path }).getByRole('link', { name: 'only these' }).click();
    await press(page, 'Retry 2 deliveries');
    expect(await said(page)).toBe('2 deliveries are attempted again.');
    await page.goto(`${served.url}/outbox/dead-letters/retry?endpoint=${deleted.endpointId}`);
    expect(await page.locator('dl.facts').textContent()).toContain('4 of deleted endpoints');
    expect(faults).toEqual([]);
  });
});

describe('a replay', () => {
  it.each([true, false])('is counted first, and then sent (scripts: %s)', async (scripts) => {
    const { endpointId, path } = await givenDead(4);
    await givenDeliveries(database.pool, { endpointId, count: 3, state: 'delivered' });
    await using window = await visit(served, scripts);
    const { page } = window;
    await page.goto(`${served.url}/outbox/replay`);
    const today = new Date().toISOString().slice(0, 10);
    await page.getByLabel('Topic').fill('test.*');
    await page.getByLabel('Announced from').fill(today);
    await page.getByLabel('to', { exact: true }).fill(today);
    await press(page, 'Count what would be sent');
    expect(receiver.at(path)).toHaveLength(0);
    await press(page, 'Send 7 deliveries');
    expect(await said(page)).toBe('7 deliveries are sent once more, 0 for the first time.');
    await settled(database.pool);
    expect(receiver.at(path)).toHaveLength(7);
  });

  it('is sent once, whoever presses twice on what was counted at the same time', async () => {
    const { path } = await givenDead(20);
    await using one = await visit();
    await using other = await visit();
    const query = `topic=*&from=2020-01-01&to=9999-12-31`;
    for (const { page } of [one, other]) await page.goto(`${served.url}/outbox/replay?${query}`);
    await press(one.page, 'Send 20 deliveries');
    await settled(database.pool);
    await press(other.page, 'Send 20 deliveries');
    expect(await said(other.page)).toContain('Nothing was sent');
    await settled(database.pool);
    expect(receiver.at(path)).toHaveLength(20);
  });

  it('of more than a thousand is not sent before that is confirmed', async () => {
    const { path } = await givenDead(1_001);
    await using window = await visit(served, false);
    const { page } = window;
    await page.goto(`${served.url}/outbox/replay?topic=*&from=2020-01-01&to=9999-12-31`);
    await page.evaluate(`document.querySelector('[type=checkbox]').removeAttribute('required')`);
    await press(page, 'Send 1,001 deliveries');
    expect(await page.locator('main').textContent()).toContain('OUTBOX_CONFIRMATION_NEEDED');
    expect(receiver.at(path)).toHaveLength(0);
    await page.goBack();
    await page.getByRole('checkbox').check();
    await press(page, 'Send 1,001 deliveries');
    expect(await said(page)).toBe('1,001 deliveries are sent once more, 0 for the first time.');
    await settled(database.pool);
    expect(receiver.at(path)).toHaveLength(1_001);
  });

  it('is not for a viewer', async () => {
    const { endpointId } = await givenDead(1);
    await using window = await visit(forViewers);
    const { page } = window;
    await page.goto(`${forViewers.url}/outbox/replay?topic=*&from=2020-01-01&to=9999-12-31`);
    const button = page.getByRole('button', { name: /^Send/ });
    expect(await button.isDisabled()).toBe(true);
    await page.evaluate(ENABLE);
    await button.click();
    expect(await page.locator('main').textContent()).toContain('CONSOLE_FORBIDDEN');
    expect(await deliveryStates(database.pool, endpointId)).toEqual({ dead: 1 });
  });
});

it('each page fits, is accessible, moves nothing and asks for nothing elsewhere', async () => {
  const { endpointId } = await givenDead(60);
  await database.pool.query('update outbox.deliveries set last_error = $1', [HOSTILE]);
  for (const path of [
    '/outbox/dead-letters',
    `/outbox/dead-letters/retry?endpoint=${endpointId}`,
    '/outbox/replay',
    '/outbox/replay?topic=*&from=2020-01-01&to=9999-12-31',
  ]) {
    await using window = await visit();
    const { page, faults } = window;
    await expectStill(page, served.url + path);
    await expectFits(page);
    await expectAccessible(page);
    expect(faults, path).toEqual([]);
    expect(await page.locator('img').count()).toBe(0);
  }
});

it.each([
  ['/outbox/dead-letters?after=damaged', 400],
  ['/outbox/dead-letters/retry?topic=No%20Topic', 400],
  ['/outbox/replay?topic=*&from=2026-01-02&to=2026-01-01', 400],
  ['/outbox/replay?topic=*&from=0000-01-01&to=2026-01-01', 400],
  ['/outbox/replay?topic=*&from=0001-01-01&to=9999-12-31', 200],
  ['/outbox/replay?topic=*&from=0001-01-01&to=9999-12-31&unless_since=9999-99-99T00:00:00Z', 400],
])('%s answers %i', async (path, expected) => {
  expect((await fetch(served.url + path)).status).toBe(expected);
});
