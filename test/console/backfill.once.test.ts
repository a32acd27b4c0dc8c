import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import type { Queryable } from '../../src/db/pool.ts';
import { approveDrift } from '../../src/replay/approve.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { cutOver } from '../../src/replay/cut-over.ts';
import { listDrift } from '../../src/replay/drift-list.ts';
import { pauseBackfill, resumeBackfill } from '../../src/replay/pause.ts';
import { replaceWalletFunctions } from '../../src/replay/wallet-functions.ts';
import { backfillStatus, SIZE } from '../support/backfill.ts';
import { ledgerState } from '../support/books.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { startTestConsole } from '../support/console.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { createLegacyTestDatabase, givenRow, givenWallet, type LegacyWallet } from '../support/legacy.ts';
import { liventix } from '../support/liventix.ts';

const HOSTILE = `<script>document.title='had'</script>"><img src=x onerror="document.title='had'">\u202egnp.exe`;

let database: TestDatabase;
let served: Console;
let browser: Browser;
/** Agrees, and is cut over by nobody. */
let ready: LegacyWallet;
/** Has more than its rows, and nobody has signed for that. */
let unexplained: LegacyWallet;
/** Is kept by the ledger. */
let cutOverAlready: LegacyWallet;

beforeAll(async () => {
  [database, browser] = await Promise.all([createLegacyTestDatabase(SIZE), launchBrowser()]);
  const { pool } = database;
  ready = await givenWallet(pool, { balance: 500 });
  await givenRow(pool, ready, { type: 'adjustment', referenceType: 'system', delta: 500 });
  unexplained = await givenWallet(pool, { kind: 'organization', balance: 777 });
  await givenRow(pool, unexplained, { type: 'adjustment', referenceType: 'system', delta: 500 });
  cutOverAlready = await givenWallet(pool, { balance: 900 });
  await givenRow(pool, cutOverAlready, { type: 'adjustment', referenceType: 'system', delta: 900 });
  await runBackfill(pool, { settleMs: 0 });
  await replaceWalletFunctions(pool, {});
  await cutOver(pool, { owners: ownersOf(cutOverAlready), settleMs: 0 });
  served = await startTestConsole(database);
});
afterAll(async () => {
  await browser?.close();
  await served?.stop();
  await database?.drop();
});

const ownersOf = ({ kind, ownerId }: LegacyWallet) => ({ kind, id: ownerId });
const pathOf = ({ kind, ownerId }: LegacyWallet) => `/backfill/owners/${kind}/${ownerId}`;
const visit = async (javaScriptEnabled = true, to = served) => {
  const window = await openWindow(browser, { origin: to.url, javaScriptEnabled });
  return { ...window, [Symbol.asyncDispose]: () => window.context.close() };
};
const get = (path: string) => fetch(served.url + path);
const textOf = async (path: string) => (await get(path)).text();
const linesOf = async (path: string) =>
  (await textOf(`${path}?export=json`))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
const rowsOf = async (page: Page, table: string) => {
  const rows = page.getByRole('table', { name: table }).locator('tbody tr');
  const texts = await Promise.all((await rows.all()).map((row) => row.getByRole('cell').allInnerTexts()));
  return texts.map((cells) => cells.map((cell) => cell.trim()));
};
const cents = (text: string | undefined) => Number((text ?? '').replaceAll(/[^\d-]/g, ''));

/** Everything that a rehearsal could have changed. */
async function everything(db: Queryable): Promise<string> {
  const { rows: tables } = await db.query<{ name: string }>(
    `select c.oid::regclass::text as name from pg_class c
     where c.relkind = 'r' and (c.relnamespace = 'replay'::regnamespace
       or c.oid = any (array['wallets', 'org_wallets', 'wallet_transactions', 'org_wallet_transactions']::regclass[])) order by 1`,
  );
  const states = await Promise.all(
    tables.map(async ({ name }) => {
      const { rows } = await db.query<{ state: string }>(
        `select concat(count(*), ' ', sum(hashtextextended(t::text, 0)::numeric)) as state from ${name} t`,
      );
      return `${name} ${rows[0]?.state}`;
    }),
  );
  return [await ledgerState(db), ...states].join('\n');
}

describe('the backfill', () => {
  it('shows what liventix backfill status says', async () => {
    const status = await backfillStatus(database);
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/backfill`);
    expect(await page.locator('.verdict strong').textContent()).toBe('Every old row is in the log.');
    const sources = await rowsOf(page, 'Sources');
    expect(sources.map(([source, rows, total, done]) => [source, cents(rows), cents(total), done])).toEqual(
      status.sources.map((each: { source: string; rows: number; total: number }) => [
        each.source,
        each.rows,
        each.total,
        'finished',
      ]),
    );
    const drift = await rowsOf(page, 'Drift by cause');
    expect(
      Object.fromEntries(drift.map(([cause, , count, sum]) => [cause, { count: cents(count), cents: cents(sum) }])),
    ).toEqual(status.drift);
    const [ledger, legacy] = await page.locator('.tiles strong').allInnerTexts();
    expect({ ledger: cents(ledger), legacy: cents(legacy) }).toEqual(status.wallets);
    const { rows: findings } = await database.pool.query<{ cause: string; rows: bigint }>(
      'select cause, count(*) as rows from replay.findings group by 1 order by 1',
    );
    const shown = await rowsOf(page, 'Findings by cause');
    expect(shown.map(([cause, , count]) => [cause, BigInt(count ?? '')])).toEqual(
      findings.map(({ cause, rows }) => [cause, rows]),
    );
    expect(faults).toEqual([]);
  });

  it('lists for each cause what it comes from: as many, and as much', async () => {
    const { drift } = await backfillStatus(database);
    expect(Object.keys(drift).length).toBeGreaterThan(5);
    for (const [cause, { count, cents: sum }] of Object.entries<{ count: number; cents: number }>(drift)) {
      const pieces = await linesOf(`/backfill/drift/${cause}`);
      expect(pieces.length, cause).toBe(count);
      expect(
        pieces.reduce((total, piece) => total + Number(piece.cents), 0),
        cause,
      ).toBe(sum);
    }
    const [piece] = await linesOf('/backfill/drift/opening_balance');
    expect(piece.owner_kind).toMatch(/^(user|organization)$/);
    const page = await textOf('/backfill/drift/opening_balance');
    expect(page).toContain(`href="/backfill/owners/${piece.owner_kind}/${piece.owner}"`);
    expect(page).toContain(`href="/accounts/1/${piece.account}"`);
    expect(page).toContain(`href="/transactions/1/${piece.transaction}"`);
  });

  it('goes on where it stopped looking, with none twice and none left out', async () => {
    const { drift } = await backfillStatus(database);
    for (const cause of ['zero_row', 'unreferenced_credit']) {
      const seen: string[] = [];
      let after: readonly string[] | undefined;
      do {
        const { pieces, next } = await listDrift(database.pool, { cause, after, limit: 3, mostRare: 7 });
        seen.push(...pieces.map(({ place }) => `${place.part} ${place.accountId} ${place.seq}`));
        after = next && [String(next.part), next.accountId, String(next.seq)];
      } while (after !== undefined);
      expect(new Set(seen).size, cause).toBe(drift[cause].count);
      expect(seen.length, cause).toBe(drift[cause].count);
    }
  });

  it('lists every wallet as liventix backfill reconcile does, a page at a time and as a file', async () => {
    const { stdout } = await liventix(['backfill', 'reconcile', '--format', 'json', '--all'], {
      DATABASE_URL: database.url,
    });
    const expected = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const shown = await linesOf('/backfill/owners');
    const pairs = (counts: object) =>
      Object.entries(counts)
        .map(([cause, count]) => `${cause}=${count}`)
        .join(' ');
    expect(shown).toEqual(
      expected.map((wallet) => ({
        owner_id: wallet.ownerId,
        owner_kind: wallet.table === 'wallets' ? 'user' : 'organization',
        wallet_id: wallet.walletId,
        standing: wallet.standing,
        kept_by: wallet.mode,
        balance_cents: String(wallet.balanceCents),
        ledger_cents: String(wallet.ledgerCents),
        rows: String(wallet.rows),
        rows_cents: String(wallet.rowsCents),
        drift: pairs(wallet.drift),
        findings: pairs(wallet.findings),
        approved_cents: String(wallet.approvedCents),
        unapproved_cents: String(wallet.unapprovedCents),
      })),
    );
    await using window = await visit(false);
    const { page } = window;
    await page.goto(`${served.url}/backfill/owners`);
    const ids: (string | undefined)[] = [];
    for (;;) {
      ids.push(...(await rowsOf(page, 'Wallets')).map(([, id]) => id));
      const next = page.getByRole('link', { name: 'Next page' });
      if ((await next.count()) === 0) break;
      await next.click();
    }
    expect(ids).toEqual(expected.map(({ walletId }) => walletId));
  });

  it('finds the wallets of an owner', async () => {
    await using window = await visit(false);
    const { page } = window;
    await page.goto(`${served.url}/backfill/owners`);
    await page.getByLabel('Id of an owner').fill(unexplained.ownerId);
    await page.getByRole('button', { name: 'Search' }).click();
    expect((await rowsOf(page, 'Wallets')).map(([, id]) => id)).toEqual([unexplained.id]);
    await page.getByRole('link', { name: unexplained.ownerId }).click();
    const text = await page.locator('main').textContent();
    expect(text).toContain('7.77 USD');
    expect(text).toContain('2.77 USD are unexplained, and nobody has signed for them');
    expect(text).toContain(`liventix backfill cutover --organization ${unexplained.ownerId}`);
  });

  it.each(['/backfill', '/backfill/drift/unexplained', '/backfill/drift/zero_row', '/backfill/owners'])(
    '%s fits each width, is accessible and still',
    async (path) => {
      await using window = await visit();
      await expectStill(window.page, served.url + path);
      await expectFits(window.page);
      await expectAccessible(window.page);
      expect(window.faults).toEqual([]);
    },
  );

  it.each([
    ['/backfill/drift/nothing', 404, 'Nothing has the cause nothing'],
    ['/backfill/drift/%3Cscript%3E', 404, 'the cause &lt;script&gt;'],
    ['/backfill/drift/unexplained?after=xyz', 400, 'a place in this list'],
    ['/backfill/owners?after=WyIyIiwieCJd', 400, 'a place in this list'],
    ['/backfill/owners?owner=me', 400, 'an id such as'],
    ['/backfill/owners/user/00000000-0000-4000-8000-000000000000', 404, 'has no wallet'],
    ['/backfill/owners/nobody/00000000-0000-4000-8000-000000000000', 400, 'user or organization'],
    ['/backfill/owners/user/xyz', 400, 'an id such as'],
  ])('%s is answered with what is wrong', async (path, status, text) => {
    const response = await get(path);
    expect(response.status).toBe(status);
    expect(await response.text()).toContain(text);
  });

  it('shows what the ledger said of a wallet as text', async () => {
    await database.pool.query(
      `insert into replay.held_back (wallet_id, source, book_id, reason) values ($1, 'wallet_transactions', 1, $2)`,
      [ready.id, HOSTILE],
    );
    await using window = await visit();
    const { page, faults } = window;
    await page.goto(`${served.url}/backfill`);
    expect(await page.title()).toBe('Backfill · Liventix');
    expect(await page.locator('.facts').textContent()).toContain(`wallet ${ready.id}: <script>`);
    expect(await page.locator('.facts').textContent()).toContain('\\u{202e}gnp.exe');
    expect(faults).toEqual([]);
    await database.pool.query('delete from replay.held_back');
  });
});

describe('the rehearsal of a cut-over', () => {
  const rehearse = async (wallet: LegacyWallet, javaScriptEnabled: boolean) => {
    await using window = await visit(javaScriptEnabled);
    const { page, faults } = window;
    await page.goto(served.url + pathOf(wallet));
    await page.getByRole('button', { name: 'Rehearse the cut-over' }).click();
    await page.waitForURL('**/backfill/owners/**event=*');
    expect(faults).toEqual([]);
    return await page.locator('.said').textContent();
  };

  it.each([true, false])('says that it would do, and changes nothing; with scripts: %s', async (javaScriptEnabled) => {
    const before = await everything(database.pool);
    expect(await rehearse(ready, javaScriptEnabled)).toBe('Yes: 1 wallet would be cut over. Nothing was changed.');
    expect(await everything(database.pool)).toBe(before);
  });

  it('says why not, and what to do', async () => {
    const before = await everything(database.pool);
    const said = await rehearse(unexplained, true);
    expect(said).toContain(`No: org_wallets ${unexplained.id}: 277 cents of it are unexplained`);
    expect(said).toContain(`liventix backfill approve --organization ${unexplained.ownerId}`);
    expect(await everything(database.pool)).toBe(before);
    await approveDrift(database.pool, { owners: ownersOf(unexplained), reason: 'seen' });
    expect(await rehearse(unexplained, true)).toContain('Yes: 1 wallet would be cut over.');
  });

  it('shows the command that does it, which finds the same', async () => {
    await using window = await visit(false);
    await window.page.goto(served.url + pathOf(unexplained));
    const [, ...command] = ((await window.page.locator('main pre').textContent()) ?? '').split(' ');
    const { exitCode, stdout } = await liventix([...command, '--dry-run', '--json'], { DATABASE_URL: database.url });
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ flipped: 1, refused: [] });
  });

  it('books nothing of what waits, though it does while it rehearses', async () => {
    const { pool } = database;
    await givenRow(pool, ready, { type: 'adjustment', referenceType: 'system', delta: 25 });
    await pool.query('update wallets set balance_credits = balance_credits + 25 where id = $1', [ready.id]);
    const before = await everything(pool);
    expect(before).toMatch(/^replay\.captured_rows [1-9]/m);
    expect(await rehearse(ready, false)).toMatch(/^(Yes: 1 wallet would be cut over|No: wallets)/);
    expect(await everything(pool)).toBe(before);
    await runBackfill(pool, { settleMs: 0 });
  });

  it('lets two operators press at once', async () => {
    const before = await everything(database.pool);
    const said = await Promise.all([rehearse(ready, true), rehearse(ready, false)]);
    for (const each of said) expect(each ?? '').toMatch(/^(Yes: 1 wallet would be cut over|No: .* was in use)/);
    expect(said.join()).toContain('Yes');
    expect(await everything(database.pool)).toBe(before);
  });

  it('is not offered for what the ledger keeps already', async () => {
    const text = await textOf(pathOf(cutOverAlready));
    expect(text).toContain('The ledger keeps this wallet already.');
    expect(text).not.toContain('Rehearse the cut-over');
  });

  it('says what stands against every cut-over', async () => {
    await asSuperuser(database, 'alter table public.wallets disable trigger liventix_capture');
    expect(await rehearse(ready, true)).toMatch(/^No: A trigger of the capture .* Nothing was changed\.$/);
  });

  it('is refused to a viewer, and written down', async () => {
    const looked = await startTestConsole(database, { roles: ['viewer'] });
    try {
      await using window = await visit(true, looked);
      const { page } = window;
      await page.goto(looked.url + pathOf(unexplained));
      const button = page.getByRole('button', { name: 'Rehearse the cut-over' });
      expect(await button.isDisabled()).toBe(true);
      await page.evaluate(`document.querySelector('form.action button').disabled = false`);
      await button.click();
      expect(await page.locator('main').textContent()).toContain('To rehearse a cut-over, one needs to be operator');
    } finally {
      await looked.stop();
    }
    const { rows } = await database.pool.query(
      `select outcome, subject from console.events where action = 'rehearse a cut-over' order by event_id desc limit 1`,
    );
    expect(rows).toEqual([{ outcome: 'refused', subject: pathOf(unexplained) }]);
  });

  it('is refused without the token of a form', async () => {
    const response = await fetch(`${served.url}${pathOf(ready)}/rehearse`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded', origin: served.url },
      body: '',
    });
    expect(response.status).toBe(403);
  });
});

describe('a backfill that is not at its end', () => {
  it('says what to do before it has begun, follows a run, and says when it has ended', async () => {
    const fresh = await createLegacyTestDatabase(SIZE);
    const console = await startTestConsole(fresh);
    try {
      await using window = await visit(true, console);
      const { page, faults } = window;
      await page.goto(`${console.url}/backfill`);
      expect(await page.locator('.verdict').textContent()).toContain('liventix backfill plan');
      expect(await page.locator('#live').count()).toBe(0);
      await pauseBackfill(fresh.pool);
      // At full speed, or it would give way to whatever else the machine does; what a throttled one says of itself is said for it.
      const run = runBackfill(fresh.pool, { settleMs: 0, chunkRows: 50 });
      await eventually('the page says that a run is paused', async () => {
        await page.goto(`${console.url}/backfill`);
        return (await page.locator('.verdict').textContent())?.includes('A run is paused.') === true;
      });
      await expectAccessible(page);
      await expectFits(page);
      expect(await page.locator('.facts').textContent()).toContain('liventix backfill resume');
      await fresh.pool.query(
        `insert into replay.throttle (share, chunk_rows, passed, passed_value, passed_limit, canary_p99_ms, baseline_p99_ms, blind, book_id)
         values (0.25, 12, 'lock_waiters', 3, 1, 7.25, 2, '{replicas}', 1)`,
      );
      await page.reload();
      const facts = await page.locator('.facts').textContent();
      expect(facts).toContain('slowed down to 25 %: 3 sessions waited for it, allowed are 1; chunks of 12 rows');
      expect(facts).toContain('how far replicas are behind is not visible to this role');
      await fresh.pool.query('delete from replay.throttle');
      await resumeBackfill(fresh.pool);
      await run;
      await eventually(
        'the page says that it has ended, by itself',
        async () => (await page.locator('.verdict').textContent())?.includes('Every old row is in the log.') === true,
      );
      expect(await page.locator('#live').count()).toBe(0);
      expect(faults).toEqual([]);
    } finally {
      await console.stop();
      await fresh.drop();
    }
  });

  it('shows nothing in place of what policies hide from the owner', async () => {
    await asSuperuser(
      database,
      'alter table public.wallets enable row level security; alter table public.wallets force row level security',
    );
    for (const path of ['/backfill', '/backfill/owners', pathOf(ready)]) {
      const response = await get(path);
      expect(response.status, path).toBe(403);
      expect(await response.text()).toContain('may not see every row');
    }
    await asSuperuser(database, 'alter table public.wallets no force row level security');
    expect((await get(pathOf(ready))).status).toBe(200);
  });

  it('says so where there are no old tables at all', async () => {
    const empty = await createDatabase();
    const console = await startTestConsole(empty);
    try {
      expect(await (await fetch(`${console.url}/backfill`)).text()).toContain('Nothing was backfilled yet.');
      expect(await (await fetch(`${console.url}/backfill/owners`)).text()).toContain('There are no old wallets');
    } finally {
      await console.stop();
      await empty.drop();
    }
  });
});
