import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { openPool } from '../../src/db/pool.ts';
import { addSlots, changeAccount } from '../../src/ledger/accounts.ts';
import { balanceCurve } from '../../src/ledger/balance-curve.ts';
import { openBook } from '../../src/ledger/books.ts';
import { type AccountPlace, findAccounts } from '../../src/ledger/find-accounts.ts';
import { recordedBalance } from '../../src/ledger/history.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { openAccounts, postAll } from '../../src/ledger/ledger.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { type Browsing, browse } from '../support/browsing.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';

const USER = '00000000-0000-4000-8000-0000000000a1';
const ORGANIZATION = '00000000-0000-4000-8000-0000000000b2';
const HOSTILE = `<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202Egnp.exe`;
const NOBODY = '00000000-0000-4000-8000-00000000dead';

let database: TestDatabase;
let served: Console;
let browser: Browser;
let client: Browsing;
/** One with holds, limits and texts; one with slots; one that is frozen. */
let [busy, slotted, frozen] = ['', '', ''];

beforeAll(async () => {
  [database, browser] = await Promise.all([createDatabase(), launchBrowser()]);
  const { pool } = database;
  await fillDiverseBook(pool, 1);
  await fillDiverseBook(pool, await openBook(pool, HOSTILE));
  await fillAccounts();
  served = await startTestConsole(database);
  client = browse(served.url);
});
afterAll(async () => {
  await browser?.close();
  await served?.stop();
  await database?.drop();
});

async function fillAccounts(): Promise<void> {
  const { pool } = database;
  const opened = await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'busy', userId: USER, floorCents: -1n },
    { type: 'revenue', currency: 'USD', name: 'slotted' },
    { type: 'cash', currency: 'JPY', name: 'frozen', organizationId: ORGANIZATION },
    { type: 'receivable', currency: 'USD', name: 'counter' },
  ]);
  [busy, slotted, frozen] = opened as [string, string, string];
  const counter = opened[3] as string;
  await addSlots(pool, { accountId: slotted, slots: 4 });
  // Each connection has a slot of its own.
  for (let connection = 0; connection < 6; connection += 1) {
    const other = await openPool({ databaseUrl: database.url, max: 1 });
    await postAll(
      other,
      Array.from({ length: 20 }, (_, nth) => ({
        entries: [
          { accountId: nth % 2 === 0 ? busy : slotted, amountCents: -BigInt(100 + nth), currency: 'USD' },
          { accountId: counter, amountCents: BigInt(100 + nth), currency: 'USD' },
        ],
        description: HOSTILE,
        referenceType: HOSTILE,
        referenceId: `${connection}-${nth}`,
        metadata: { [HOSTILE]: HOSTILE },
      })),
    );
    await other.end();
  }
  for (let nth = 0; nth < 12; nth += 1) {
    await placeHold(pool, {
      accountId: busy,
      amountCents: 5n,
      currency: 'USD',
      description: HOSTILE,
      ...(nth % 3 === 0 ? {} : { expiresAt: new Date(Date.UTC(2100, 0, 1 + (nth % 2))) }),
    });
    await changeAccount(pool, { accountId: busy, ceilingCents: BigInt(1_000_000 + nth), reason: HOSTILE });
  }
  // One that was frozen twice, and one that is frozen no longer.
  await changeAccount(pool, { accountId: frozen, status: 'frozen', reason: 'asked for by the police' });
  await changeAccount(pool, { accountId: frozen, ceilingCents: 1_000_000n });
  await changeAccount(pool, { accountId: counter, status: 'frozen' });
  await changeAccount(pool, { accountId: counter, status: 'open' });
}

type Exported = Readonly<Record<string, string | number | boolean | null>>;

const exportOf = async (path: string): Promise<readonly Exported[]> => {
  const { status, text } = await client.get(`${path}${path.includes('?') ? '&' : '?'}export=json`);
  expect(status, text).toBe(200);
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Exported);
};
const idsOf = (rows: readonly Exported[]) => rows.map((row) => row['account_id']).sort();
const idsWhere = async (condition: string): Promise<readonly string[]> => {
  const { rows } = await database.pool.query<{ id: string }>(
    `select account_id as id from payments.account_balances where ${condition} order by account_id::text`,
  );
  return rows.map(({ id }) => id);
};
/** Every row of a list, page after page, by the second part of the address that each names first. */
const pagesOf = async (path: string, link: RegExp): Promise<readonly string[]> => {
  const found: string[] = [];
  for (let next: string | undefined = path; next !== undefined; ) {
    const { status, text } = await client.get(next);
    expect(status, next).toBe(200);
    found.push(...[...text.matchAll(link)].map(([, id = '']) => id));
    next = /href="([^"]*)" rel="next"/.exec(text)?.[1]?.replaceAll('&amp;', '&');
  }
  return found;
};
const figure = (text: string | null) => text?.replaceAll(/[^\d-]/g, '').replace(/^(-?)0+(?=\d)/, '$1');

describe('the list of accounts', () => {
  it('has every account once, with the figures of SQL', async () => {
    const rows = await exportOf('/accounts');
    const { rows: wanted } = await database.pool.query<Exported>(
      `select account_id, balance_cents::text, available_cents::text, entries::text, status from payments.account_balances order by account_id::text`,
    );
    const sorted = rows.toSorted((a, b) => (String(a['account_id']) < String(b['account_id']) ? -1 : 1));
    expect(
      sorted.map(({ account_id, balance_cents, available_cents, entries, status }) => ({
        account_id,
        balance_cents,
        available_cents,
        entries,
        status,
      })),
    ).toEqual(wanted);
  });

  it('has on its pages, one after the other, what it has in its file', async () => {
    const shown = await pagesOf(
      '/accounts',
      /<td class="" data-is="Name">(?:<div>)?<a href="\/accounts\/\d+\/([^"]+)">/g,
    );
    expect(shown).toEqual((await exportOf('/accounts')).map((row) => row['account_id']));
    expect(shown.length).toBeGreaterThan(200);
  });

  it.each([
    ['book=2', 'book_id = 2'],
    ['type=cash', `type = 'cash'`],
    ['type=Prepaid: costs?', `type = 'Prepaid: costs?'`],
    ['currency=BHD', `currency = 'BHD'`],
    ['type=cash&currency=USD&book=1', `type = 'cash' and currency = 'USD' and book_id = 1`],
    ['status=frozen', `status = 'frozen'`],
    ['status=closed', `status = 'closed'`],
    ['status=open&type=escrow', `status = 'open' and type = 'escrow'`],
    [`owner=${USER}`, `user_id = '${USER}'`],
    [`owner=${ORGANIZATION}&type=cash`, `organization_id = '${ORGANIZATION}' and type = 'cash'`],
    [`owner=${ORGANIZATION}&status=frozen`, `organization_id = '${ORGANIZATION}' and status = 'frozen'`],
    ['name=x_', `starts_with(name, 'x_')`],
    ['name=%25', 'false'],
    [`name=${encodeURIComponent(HOSTILE)}`, 'false'],
    [`owner=${NOBODY}`, 'false'],
  ])('finds by %s what SQL finds', async (query, condition) => {
    expect(idsOf(await exportOf(`/accounts?${query}`))).toEqual(await idsWhere(condition));
  });

  it('finds one by its id, and none by that of a slot', async () => {
    expect(idsOf(await exportOf(`/accounts?id=${busy.toUpperCase()}`))).toEqual([busy]);
    const [slot] = await slotsOf();
    expect(await exportOf(`/accounts?id=${slot}`)).toEqual([]);
  });

  it('ends a page where it has looked at as many as it may, and says so; the next one looks on', async () => {
    const found: string[] = [];
    let [pages, cutShort] = [0, 0];
    for (let after: AccountPlace | undefined, isFirst = true; isFirst || after !== undefined; isFirst = false) {
      const page = await findAccounts(database.pool, { namePrefix: 'x' }, { limit: 5, lookAt: 7, after });
      expect(page.accounts.length).toBeLessThanOrEqual(5);
      found.push(...page.accounts.map(({ accountId }) => accountId));
      after = page.next;
      pages += 1;
      cutShort += page.isCutShort ? 1 : 0;
    }
    expect(found.sort()).toEqual(await idsWhere(`starts_with(name, 'x')`));
    expect(cutShort).toBeGreaterThan(10);
    expect(pages).toBeLessThan(80);
  });
});

const slotsOf = async (): Promise<readonly string[]> => {
  const { rows } = await database.pool.query<{ id: string }>(
    'select slot_account_id as id from payments.account_slots order by slot_number',
  );
  return rows.map(({ id }) => id);
};

describe('the page of an account', () => {
  it('shows balance, what is available, and what is held, as SQL has them', async () => {
    const { text } = await client.get(`/accounts/1/${busy}`);
    const { rows } = await database.pool.query<{ balance: string; available: string; held: string }>(
      `select balance_cents::text as balance, available_cents::text as available, (balance_cents - available_cents)::text as held
       from payments.account_balances where account_id = $1`,
      [busy],
    );
    const shown = (name: string) =>
      figure(new RegExp(`<dt>${name}</dt><dd>.*?>([^<]*)</span>`).exec(text)?.[1] ?? null);
    expect({ balance: shown('Balance'), available: shown('Available'), held: shown('Held') }).toEqual(rows[0]);
    expect(rows[0]?.held).toBe('60');
  });

  it('says that a slot is one, and of which account', async () => {
    const [slot] = await slotsOf();
    const { status, text } = await client.get(`/accounts/1/${slot}`);
    expect(status).toBe(200);
    expect(text).toContain(`<a href="/accounts/1/${slotted}">`);
  });

  it.each(['busy', 'slotted'])('draws for each instant the balance that was recorded by then: of %s', async (name) => {
    const accountId = name === 'busy' ? busy : slotted;
    const { rows } = await database.pool.query<{ at: string }>(
      `select payments.instant_text(created_at) as at from payments.entries
       where account_id = any (payments.slots_of(1, $1)) order by id`,
      [accountId],
    );
    const instants = ['0001-01-01T00:00:00Z', ...rows.map(({ at }) => at), '9999-12-31T23:59:59.999999Z'];
    const curve = await balanceCurve(database.pool, { bookId: 1, accountId, instants });
    expect(curve).toHaveLength(62);
    for (const [nth, at] of instants.entries()) {
      const { balance } = await recordedBalance(database.pool, accountId, { at });
      expect(curve[nth]?.signedCents, at).toBe(balance.signedCents);
    }
    const { text } = await client.get(`/accounts/1/${accountId}?chart=all`);
    const drawn = [...text.matchAll(/data-is="Balance in USD">(?:<div>)?<span class="money[^"]*">([^<]*)</g)].map(
      ([, cents]) => cents,
    );
    expect(drawn).toHaveLength(61);
    expect(figure(drawn.at(-1) ?? null)).toBe((-(curve.at(-1)?.signedCents ?? 0n)).toString());
  });

  it('draws no balance of before it was opened', async () => {
    const { text } = await client.get(`/accounts/1/${busy}?chart=12m`);
    const drawn = [...text.matchAll(/data-is="At">(?:<div>)?<time datetime="([^"]+)"/g)].map(([, at = '']) => at);
    const { rows } = await database.pool.query<{ opened: Date }>(
      'select created_at as opened from payments.accounts where id = $1',
      [busy],
    );
    expect(drawn).toHaveLength(53);
    expect(Date.parse(drawn[0] ?? '')).toBeCloseTo(rows[0]?.opened.getTime() ?? Number.NaN, -1);
  });

  it('lists all active holds and all changes, and takes them away', async () => {
    const holds = await exportOf(`/accounts/1/${busy}/holds`);
    const { rows } = await database.pool.query<{ id: string }>(
      `select hold_id as id from payments.holds where account_id = $1 order by expires_at, event_position`,
      [busy],
    );
    expect(holds.map((hold) => hold['hold_id'])).toEqual(rows.map(({ id }) => id));
    expect(await pagesOf(`/accounts/1/${busy}/holds`, /data-is="Hold">(?:<div>)?<code[^>]*>([^<]+)</g)).toEqual(
      rows.map(({ id }) => id),
    );
    expect((await exportOf(`/accounts/1/${busy}/changes`)).map((change) => change['ceiling_cents'])).toEqual([
      ...Array.from({ length: 12 }, (_, nth) => String(1_000_011 - nth)),
      null,
    ]);
  });
});

describe('the statement', () => {
  const linesOf = async (accountId: string, order: string) => {
    const { rows } = await database.pool.query<{ entry_id: string }>(
      `select id::text as entry_id from payments.entries where book_id = 1 and account_id = any (payments.slots_of(1, $1)) order by ${order}`,
      [accountId],
    );
    return rows.map(({ entry_id }) => entry_id);
  };

  it.each([
    ['busy', 'recorded', 'id'],
    ['slotted', 'recorded', 'id'],
    ['slotted', 'effective', 'effective_at, id'],
  ])('has every line once, in its order, and ends with the balance: %s by %s', async (name, by, order) => {
    const accountId = name === 'busy' ? busy : slotted;
    const path = `/accounts/1/${accountId}/statement?by=${by}`;
    const lines = await exportOf(path);
    expect(lines.map((line) => line['entry_id'])).toEqual(await linesOf(accountId, order));
    const { balance } = await recordedBalance(database.pool, accountId);
    expect(lines.at(-1)?.['balance_cents']).toBe(balance.cents.toString());
    const shown = await pagesOf(path, /data-is="Transaction">(?:<div>)?<span class="id" data-copy="([^"]+)"/g);
    expect(shown).toEqual(lines.map((line) => line['transaction_id']));
  });

  it('begins and ends where it is told to', async () => {
    const { rows } = await database.pool.query<{ accountId: string }>(
      `select account_id as "accountId" from payments.entries where book_id = 1 and effective_at < '2021-01-01' and currency = 'USD' limit 1`,
    );
    const accountId = rows[0]?.accountId ?? '';
    const path = `/accounts/1/${accountId}/statement?by=effective&from=2020-06-15&to=2020-06-15`;
    expect(await exportOf(path)).toHaveLength(1);
    const { text } = await client.get(path);
    expect(text).toMatch(/<dt>Opening balance<\/dt><dd><span class="money">0\.00/);
    expect(await exportOf(path.replace('to=2020-06-15', 'to=2020-06-14').replace('from=2020-06-15', ''))).toHaveLength(
      0,
    );
  });
});

describe('bad input', () => {
  it.each([
    ['/accounts?id=7', 400],
    ['/accounts?owner=x', 400],
    ['/accounts?currency=u$', 400],
    ['/accounts?currency=dollars', 400],
    ['/accounts?currency=usd', 200],
    ['/accounts?status=melted', 400],
    ['/accounts?book=0', 400],
    ['/accounts?name=%00', 400],
    ['/accounts?type=%00', 400],
    ['/accounts?after=WyIwIiwiMSJd', 400],
    ['/accounts?after=WyI3IiwiMSJd', 200],
    ['/accounts?after=xx', 400],
    [`/accounts/1/${NOBODY}`, 404],
    [`/accounts/7/${NOBODY}`, 404],
    [`/accounts/1/${NOBODY}/statement`, 404],
    [`/accounts/1/${NOBODY}/holds`, 404],
    [`/accounts/1/${NOBODY}/changes?export=csv`, 404],
    ['/accounts/1/BUSY?chart=century', 400],
    ['/accounts/1/BUSY/statement?from=0000-01-01', 400],
    ['/accounts/1/BUSY/statement?from=2026-02-30', 400],
    ['/accounts/1/BUSY/statement?from=infinity', 400],
    ['/accounts/1/BUSY/statement?from=0001-01-01&to=9999-12-31', 200],
    ['/accounts/1/BUSY/statement?from=9999-12-31&by=effective', 200],
    ['/accounts/1/BUSY/statement?from=2026-02-01&to=2026-01-01', 400],
    ['/accounts/1/BUSY/statement?after=xx', 400],
    ['/accounts/1/BUSY/holds?after=WyJpbmZpbml0eSIsIjEiXQ', 400],
  ])('%s is answered with %i', async (path, status) => {
    const answer = await client.get(path.replace('BUSY', busy));
    expect(answer.status, answer.text).toBe(status);
    expect(answer.text).not.toContain('INTERNAL');
  });
});

describe('every page', () => {
  it.each([
    '/accounts',
    '/accounts?status=closed',
    '/accounts/1/BUSY',
    '/accounts/1/SLOTTED?chart=all',
    '/accounts/1/FROZEN?chart=12m',
    '/accounts/1/BUSY/statement',
    '/accounts/1/BUSY/holds',
    '/accounts/1/BUSY/changes',
  ])('%s fits each width, is accessible, moves nothing, takes texts for texts, and is small', async (path) => {
    const { page, faults, context } = await openWindow(browser, { origin: served.url });
    const address = `${served.url}${path.replace('BUSY', busy).replace('SLOTTED', slotted).replace('FROZEN', frozen)}`;
    await expectStill(page, address);
    await expectFits(page);
    await expectAccessible(page);
    expect(await page.locator('img, main script').count()).toBe(0);
    expect((await page.content()).length).toBeLessThan(80_000);
    expect(faults).toEqual([]);
    await context.close();
  });

  it('shows hostile texts as they are', async () => {
    const { text } = await client.get(`/accounts/1/${busy}`);
    expect(text).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(text).toContain('\\u{202e}gnp.exe');
    expect(text).not.toContain('<script>alert');
  });
});
