import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { trialBalance } from '../../src/ledger/trial-balance.ts';
import { listMachines } from '../../src/states/list.ts';
import { statesOf } from '../../src/states/machine.ts';
import { escrow } from '../../src/states/machines/escrow.ts';
import { MACHINES } from '../../src/states/machines.ts';
import { transition } from '../../src/states/transition.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { asSuperuser, type TestDatabase } from '../support/database.ts';
import { createMachinesDatabase, createMachineTablesDatabase, givenOrder, givenRowIn } from '../support/machines.ts';

const HOSTILE = `<script>document.title='had'</script>"><img src=x onerror="document.title='had'">\u202egnp.exe`;

let database: TestDatabase;
let served: Console;
let browser: Browser;
/** An order that has been through a dispute. */
let disputedId: string;

beforeAll(async () => {
  [database, browser] = await Promise.all([createMachinesDatabase(), launchBrowser()]);
  const { pool } = database;
  for (const machine of MACHINES) {
    for (const state of statesOf(machine)) await givenRowIn(pool, machine, state);
  }
  await pool.query('alter table sponsorship_orders drop constraint sponsorship_orders_currency_chk');
  for (const [currency, amount] of [
    ['JPY', 700],
    ['EUR', 12_345],
  ] as const) {
    const id = await givenOrder(pool, { currency, amount_cents: amount, application_fee_cents: 5 });
    await transition(pool, escrow, id, 'pay');
  }
  disputedId = await givenRowIn(pool, escrow, 'locked');
  await transition(pool, escrow, disputedId, 'dispute', { reason: HOSTILE });
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
const get = (path: string) => fetch(served.url + path);
const textOf = async (path: string) => (await get(path)).text();
const rowsOf = async (page: Page, table: string) => {
  const rows = page.getByRole('table', { name: table }).locator('tbody tr');
  const texts = await Promise.all((await rows.all()).map((row) => row.getByRole('cell').allInnerTexts()));
  return texts.map((cells) => cells.map((cell) => cell.trim()));
};

describe('escrow', () => {
  it('says what is held as the ledger’s trial balance says it, in each currency', async () => {
    await using window = await visit();
    await window.page.goto(`${served.url}/escrow`);
    const tiles = await window.page.locator('.tiles strong').allInnerTexts();
    const lines = (await trialBalance(database.pool)).flatMap(({ currency, decimalPlaces, lines: all }) =>
      all
        .filter(({ type, balanceCents }) => type === 'escrow' && balanceCents !== 0n)
        .map(
          ({ balanceCents }) =>
            `${(Number(-balanceCents) / 10 ** decimalPlaces).toLocaleString('en-GB', { minimumFractionDigits: decimalPlaces })} ${currency}`,
        ),
    );
    expect(lines).toHaveLength(3);
    expect(tiles.map((text) => text.trim()).sort()).toEqual(lines.sort());
  });

  it('says of each state how many rows there are, what they keep and since when, as SQL does', async () => {
    await using window = await visit();
    await window.page.goto(`${served.url}/escrow`);
    const shown = await rowsOf(window.page, 'Rows of escrow by state');
    const { rows } = await database.pool.query<{ state: string; rows: bigint; usd: bigint | null; oldest: string }>(
      `select o.state::text as state, count(*) as rows, to_char(min(h.at) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as oldest,
              sum(o.amount_cents) filter (where o.state in ('funded', 'locked', 'disputed') and o.currency = 'USD')::bigint as usd
       from sponsorship_orders o
       cross join lateral (select max(changed_at) as at from states.history where subject_id = o.id) h
       group by o.state order by o.state`,
    );
    expect(shown.map(([state, , count]) => [state, BigInt(count ?? '')])).toEqual(
      rows.map((row) => [row.state, row.rows]),
    );
    for (const [nth, { usd, oldest }] of rows.entries()) {
      const held = shown[nth]?.[3] ?? '';
      if (usd === null) expect(held).toBe('–');
      else expect(held).toContain(`${(Number(usd) / 100).toLocaleString('en-GB', { minimumFractionDigits: 2 })} USD`);
      const times = await window.page.getByRole('table', { name: 'Rows of escrow by state' }).locator('time').all();
      expect(await times[nth]?.getAttribute('datetime')).toBe(oldest);
    }
  });

  it('counts the rows of every machine as liventix states list does', async () => {
    await using window = await visit();
    await window.page.goto(`${served.url}/escrow`);
    const shown = Object.fromEntries(
      (await rowsOf(window.page, 'Machines')).map(([machine = '', table, states = '']) => [
        machine,
        {
          table,
          rows: Object.fromEntries(states.split(' · ').map((line) => [line.split(' ')[0], Number(line.split(' ')[1])])),
        },
      ]),
    );
    for (const { machine, table, rows } of await listMachines(database.pool)) {
      expect(shown[machine]).toEqual({ table, rows });
    }
  });

  it('lists the rows of a state a page at a time, none twice and none left out, and as files', async () => {
    for (let count = 0; count < 60; count += 1) await givenOrder(database.pool);
    await using window = await visit(false);
    const { page } = window;
    await page.goto(`${served.url}/escrow`);
    await page.getByRole('link', { name: 'pending', exact: true }).first().click();
    const ids = (await rowsOf(page, 'escrow pending')).map(([id]) => id);
    expect(ids).toHaveLength(50);
    await page.getByRole('link', { name: 'Next page' }).click();
    ids.push(...(await rowsOf(page, 'escrow pending')).map(([id]) => id));
    const { rows } = await database.pool.query<{ id: string }>(
      `select id from sponsorship_orders where state = 'pending' order by id`,
    );
    expect(ids).toEqual(rows.map(({ id }) => id));
    const lines = (await textOf('/escrow/escrow/pending?export=json')).trim().split('\n');
    expect(lines.map((line) => JSON.parse(line).id)).toEqual(ids);
    const csv = await textOf('/escrow/escrow/disputed?export=csv');
    expect(csv.split(/\r?\n/)[0]).toBe('id,since,event,changed_by,held_cents,currency,account');
    expect(csv).toContain(',50000,USD,');
  });

  it('tells the history of a row with what it posted and what announced it', async () => {
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/escrow/escrow/rows/${disputedId}`);
    const shown = await rowsOf(page, `History of escrow ${disputedId}`);
    expect(shown.map(([, what]) => what?.split(/\n+/))).toEqual([
      ['dispute', 'locked → disputed'],
      ['lock', 'funded → locked'],
      ['pay', 'pending → funded'],
      ['created', 'nothing → pending'],
    ]);
    const { rows } = await database.pool.query<{ message: string; transaction: string }>(
      `select h.message_id as message, e.event_id as transaction from states.history h
       join states.ledger_events l on l.history_id = h.id and l.subject_id = h.subject_id
       join payments.events e on e.event_id = l.event_id and e.type = 'transaction.posted'
       where h.subject_id = $1 and h.event = 'pay'`,
      [disputedId],
    );
    const paid = page.getByRole('row').filter({ hasText: 'pay' }).first();
    await expect(paid.locator(`a[href="/outbox/messages/${rows[0]?.message}"]`).count()).resolves.toBe(1);
    await expect(paid.locator(`a[href="/transactions/1/${rows[0]?.transaction}"]`).count()).resolves.toBe(1);
    expect(shown[2]?.[5]).toContain('500.00 USD');
    expect(await page.title()).toBe(`escrow ${disputedId} · Liventix`);
    expect(shown[0]?.[3]).toContain('<script>');
    expect(shown[0]?.[3]).toContain('\\u{202e}gnp.exe');
    expect(faults).toEqual([]);
  });

  it.each(['/escrow', '/escrow/escrow/funded', '/escrow/escrow/not-taken-in', '/escrow/ticket/issued'])(
    '%s fits each width, is accessible and still',
    async (path) => {
      await using window = await visit();
      await expectStill(window.page, served.url + path);
      await expectFits(window.page);
      await expectAccessible(window.page);
      expect(window.faults).toEqual([]);
    },
  );

  it('fits and is accessible where it shows hostile text', async () => {
    await using window = await visit();
    await expectStill(window.page, `${served.url}/escrow/escrow/rows/${disputedId}`);
    await expectFits(window.page);
    await expectAccessible(window.page);
  });

  it.each([
    ['/escrow/nothing/funded', 404, 'There is no machine'],
    ['/escrow/escrow/nowhere', 404, 'has no state nowhere'],
    ['/escrow/escrow/rows/00000000-0000-4000-8000-000000000000', 404, 'There is no history'],
    ['/escrow/escrow/rows/xyz', 400, 'an id such as'],
    ['/escrow/escrow/funded?after=xyz', 400, 'a place in this list'],
    ['/escrow/escrow/funded?after=WyJ4Il0', 400, 'a place in this list'],
    ['/escrow/%3Cscript%3E/funded', 404, 'There is no machine'],
  ])('%s is answered with what is wrong', async (path, status, text) => {
    const response = await get(path);
    expect(response.status).toBe(status);
    expect(await response.text()).toContain(text);
  });
});

describe('escrow where rows are not as they should be', () => {
  it('says which, and for machines that lost a trigger', async () => {
    await asSuperuser(
      database,
      `set session_replication_role = replica;
       alter table public.sponsorship_orders disable trigger "00_liventix_state_changes";
       update public.sponsorship_orders set state = 'released' where id = '${disputedId}'`,
    );
    const text = await textOf('/escrow');
    expect(text).toContain('1 of those that are released: their history ends in another state.');
    expect(text).toContain('1 of those that are released: they keep money that their state does not imply.');
    expect(text).toContain('1 of those that are released: their account is frozen where it should be open');
    expect(text).toContain('escrow on public.sponsorship_orders lacks 00_liventix_state_changes');
    await asSuperuser(
      database,
      `set session_replication_role = replica;
       update public.sponsorship_orders set state = 'disputed' where id = '${disputedId}';
       alter table public.sponsorship_orders enable always trigger "00_liventix_state_changes"`,
    );
    expect(await textOf('/escrow')).not.toContain('class="bad"');
  });
});

describe('escrow over tables with policies', () => {
  it('shows every row where policies would hide them from its reader, and refuses where they would hide them from the owner', async () => {
    const before = await textOf('/escrow/escrow/funded?export=csv');
    await asSuperuser(
      database,
      `alter table public.sponsorship_orders enable row level security;
       create policy apart on public.sponsorship_orders as restrictive using (false)`,
    );
    expect(await textOf('/escrow/escrow/funded?export=csv')).toBe(before);
    await asSuperuser(database, 'alter table public.sponsorship_orders force row level security');
    for (const path of ['/escrow', '/escrow/escrow/funded', '/escrow/escrow/funded?export=csv']) {
      const response = await get(path);
      expect(response.status, path).toBe(403);
      expect(await response.text()).toContain('may not see every row');
    }
    await asSuperuser(
      database,
      'drop policy apart on public.sponsorship_orders; alter table public.sponsorship_orders no force row level security, disable row level security',
    );
  });

  it('finds a table that has moved into a schema that its reader may not look into', async () => {
    const before = await textOf('/escrow/escrow/funded?export=csv');
    await asSuperuser(
      database,
      'create schema sponsorship authorization liventix; alter table public.sponsorship_orders set schema sponsorship',
    );
    expect(await textOf('/escrow/escrow/funded?export=csv')).toBe(before);
    const text = await textOf('/escrow');
    expect(text).toContain('<code>sponsorship.sponsorship_orders</code>');
    expect(text).toContain('No row is seen to be in another state');
    await asSuperuser(database, 'alter table sponsorship.sponsorship_orders set schema public');
  });

  it('gives its functions to its reader alone', async () => {
    const { rows } = await database.pool.query<{ public: boolean; reader: boolean }>(
      `select has_function_privilege('public', p.oid, 'execute') as public, has_function_privilege(console.reader(), p.oid, 'execute') as reader
       from pg_proc p where p.pronamespace = 'console'::regnamespace and p.prosecdef`,
    );
    expect(rows.length).toBeGreaterThan(3);
    expect(rows.filter((row) => row.public || !row.reader)).toEqual([]);
  });
});

describe('escrow before there is any', () => {
  it('says how a machine is put on its table', async () => {
    const empty = await createMachineTablesDatabase();
    const console = await startTestConsole(empty);
    try {
      const text = await (await fetch(`${console.url}/escrow`)).text();
      expect(text).toContain('<code>liventix states install escrow</code>');
      expect((await fetch(`${console.url}/escrow/escrow/funded`)).status).toBe(200);
    } finally {
      await console.stop();
      await empty.drop();
    }
  });
});
