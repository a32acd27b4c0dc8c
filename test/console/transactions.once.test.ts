import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { openPool, type Pool } from '../../src/db/pool.ts';
import { addSlots } from '../../src/ledger/accounts.ts';
import { openBook } from '../../src/ledger/books.ts';
import { findTransactions, type LogPlace } from '../../src/ledger/find-transactions.ts';
import { placeHold } from '../../src/ledger/holds.ts';
import { type NewTransaction, openAccounts, type Posted, postAll } from '../../src/ledger/ledger.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { findLedgerMessages } from '../../src/outbox/ledger-messages.ts';
import { expectAccessible, expectFits, expectStill, launchBrowser, openWindow } from '../support/browser.ts';
import { type Browsing, browse } from '../support/browsing.ts';
import { checkProofs } from '../support/check-proof.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { disguised } from '../support/tamperings/tampering.ts';

const HOSTILE = `<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202Egnp.exe`;
const NOBODY = '00000000-0000-4000-8000-00000000dead';

let database: TestDatabase;
let served: Console;
let browser: Browser;
let client: Browsing;
let [cash, counter] = ['', ''];
/** One that was sealed, was reversed in part and wholly, captured a hold, announced itself, and has hostile texts. */
let rich = '';
let [partly, wholly, legs, unsealed] = ['', '', '', ''];

beforeAll(async () => {
  [database, browser] = await Promise.all([createDatabase(), launchBrowser()]);
  const { pool } = database;
  await fillDiverseBook(pool, 1);
  await fillDiverseBook(pool, await openBook(pool, HOSTILE));
  [cash, counter] = (await openAccounts(pool, [
    { type: 'cash', currency: 'USD', name: 'cash_of_test' },
    { type: 'receivable', currency: 'USD', name: 'counter_of_test' },
  ])) as [string, string];
  const hold = await placeHold(pool, { accountId: cash, amountCents: 5_000n, currency: 'USD' });
  rich = await post({
    entries: transfer(1_234n),
    idempotencyKey: HOSTILE,
    idempotencyScope: 'of the test',
    description: HOSTILE,
    referenceType: HOSTILE,
    referenceId: HOSTILE,
    metadata: { [HOSTILE]: HOSTILE },
    announce: 'test.moved',
    capture: { holdId: hold.holdId },
  });
  partly = await post({ reverses: rich, entries: transfer(-234n) });
  wholly = await post({ reverses: rich });
  await sealBook(pool, 1);
  unsealed = await post({ entries: transfer(1n) });
  legs =
    (await one(
      `select event_id as id from payments.events where payload ->> 'description' = 'a thousand legs' and book_id = 1`,
    )) ?? '';
  served = await startTestConsole(database);
  client = browse(served.url);
});
afterAll(async () => {
  await browser?.close();
  await served?.stop();
  await database?.drop();
});

const transfer = (amountCents: bigint): NewTransaction['entries'] => [
  { accountId: cash, amountCents, currency: 'USD' },
  { accountId: counter, amountCents: -amountCents, currency: 'USD' },
];
async function post(transaction: Parameters<typeof postAll>[1][number], db: Pool = database.pool): Promise<string> {
  const [outcome] = await postAll(db, [transaction]);
  expect(
    outcome?.status,
    JSON.stringify(outcome, (_, value) => String(value)),
  ).toBe('posted');
  return (outcome as Posted).transactionId;
}
const one = async (sql: string): Promise<string | undefined> =>
  (await database.pool.query<{ id: string }>(sql)).rows[0]?.id;

type Exported = Readonly<Record<string, string | number | boolean | null>>;
const exportOf = async (path: string): Promise<readonly Exported[]> => {
  const { status, text } = await client.get(`${path}${path.includes('?') ? '&' : '?'}export=json`);
  expect(status, text).toBe(200);
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Exported);
};
const idsWhere = async (condition: string): Promise<readonly string[]> => {
  const { rows } = await database.pool.query<{ id: string }>(
    `select event_id as id from payments.events where type = 'transaction.posted' and ${condition} order by position desc`,
  );
  return rows.map(({ id }) => id);
};

describe('the list of transactions', () => {
  it('has every transaction once, the newest in the log first, with the sums of SQL', async () => {
    const rows = await exportOf('/transactions');
    expect(rows.map((row) => row['transaction_id'])).toEqual(await idsWhere('true'));
    const { rows: sums } = await database.pool.query<{ id: string; amounts: string }>(
      `select transaction_id as id, string_agg(cents || ' ' || currency, ', ' order by currency) as amounts
       from (select transaction_id, currency, sum(amount_cents) filter (where amount_cents > 0) as cents
             from payments.entries group by transaction_id, currency) c
       group by transaction_id`,
    );
    const wanted = new Map(sums.map(({ id, amounts }) => [id, amounts]));
    for (const row of rows) expect(row['amounts']).toBe(wanted.get(String(row['transaction_id'])));
  });

  it('has on its pages, one after the other, what it has in its file', async () => {
    const found: string[] = [];
    for (let next: string | undefined = '/transactions'; next !== undefined; ) {
      const { text } = await client.get(next);
      found.push(
        ...[...text.matchAll(/data-is="Transaction">(?:<div>)?<span class="id" data-copy="([^"]+)"/g)].map(
          ([, id = '']) => id,
        ),
      );
      next = /href="([^"]*)" rel="next"/.exec(text)?.[1]?.replaceAll('&amp;', '&');
    }
    expect(found).toEqual(await idsWhere('true'));
  });

  it.each([
    ['book=2', 'book_id = 2'],
    ['reference=date', `payload ->> 'reference_id' = 'date'`],
    [`reference=${encodeURIComponent(HOSTILE)}`, `idempotency_scope = 'of the test'`],
    [`reference_type=${encodeURIComponent(HOSTILE)}`, `idempotency_scope = 'of the test'`],
    [`key=${encodeURIComponent(HOSTILE)}`, `idempotency_scope = 'of the test'`],
    ['reference=%2B1', `payload ->> 'reference_id' = '+1'`],
    ['reference=%2B1&book=2', `payload ->> 'reference_id' = '+1' and book_id = 2`],
    ['reference=%2B1&reference_type=-1', 'false'],
    ['to=2020-01-01', 'false'],
    ['from=2020-01-01', 'true'],
    ['from=9999-12-31', 'false'],
    [`id=${NOBODY}`, 'false'],
  ])('finds by %s what SQL finds', async (query, condition) => {
    expect((await exportOf(`/transactions?${query}`)).map((row) => row['transaction_id'])).toEqual(
      await idsWhere(condition),
    );
  });

  it('finds by its id, and by when it was recorded, to the microsecond', async () => {
    expect((await exportOf(`/transactions?id=${rich}`)).map((row) => row['transaction_id'])).toEqual([rich]);
    const { rows } = await database.pool.query<{ from: string; to: string }>(
      `select payments.instant_text(min(recorded_at)) as from, payments.instant_text(max(recorded_at)) as to
       from (select recorded_at from payments.events where type = 'transaction.posted' order by position offset 5 limit 20) e`,
    );
    const { from, to } = rows[0] as { from: string; to: string };
    expect((await exportOf(`/transactions?from=${from}&to=${to}`)).map((row) => row['transaction_id'])).toEqual(
      await idsWhere(`recorded_at >= '${from}' and recorded_at < '${to}'`),
    );
  });

  it('ends a page where it has looked at as many events as it may, and says so; the next one looks on', async () => {
    const found: string[] = [];
    let cutShort = 0;
    for (let after: LogPlace | undefined, isFirst = true; isFirst || after !== undefined; isFirst = false) {
      const page = await findTransactions(database.pool, { referenceType: '+1' }, { limit: 5, lookAt: 7, after });
      found.push(...page.transactions.map(({ transactionId }) => transactionId));
      after = page.next;
      cutShort += page.isCutShort === 'page' ? 1 : 0;
    }
    expect(found).toEqual(await idsWhere(`payload ->> 'reference_type' = '+1'`));
    expect(cutShort).toBeGreaterThan(10);
  });

  it('has those of one reference page after page', async () => {
    const found: string[] = [];
    for (let after: LogPlace | undefined, isFirst = true; isFirst || after !== undefined; isFirst = false) {
      const page = await findTransactions(database.pool, { referenceId: '+1' }, { limit: 1, after });
      found.push(...page.transactions.map(({ transactionId }) => transactionId));
      after = page.next;
    }
    expect(found).toEqual(await idsWhere(`payload ->> 'reference_id' = '+1'`));
    expect(found).toHaveLength(2);
  });

  it('says where a reference has more entries than it looks at', async () => {
    const page = (lookAt: number) => findTransactions(database.pool, { referenceId: '+1' }, { limit: 5, lookAt });
    expect((await page(2)).isCutShort).toBe('all');
    expect((await page(4)).isCutShort).toBe('no');
  });
});

describe('the page of a transaction', () => {
  it('draws each account with its debits on the left and its credits on the right', async () => {
    const { text } = await client.get(`/transactions/1/${rich}`);
    const drawn = [
      ...text.matchAll(
        /<figcaption><a href="\/accounts\/1\/([^"]+)">.*?<div class="t-account"><div>(.*?)<\/div><div>(.*?)<\/div>/gs,
      ),
    ].map(([, account, debit, credit]) => [account, amountsIn(debit), amountsIn(credit)]);
    expect(drawn).toEqual([
      [cash, ['12.34'], []],
      [counter, [], ['12.34']],
    ]);
  });

  it('says what reverses it, what it reverses, and which hold it captured', async () => {
    const { text } = await client.get(`/transactions/1/${rich}`);
    expect(text).toMatch(new RegExp(`<dt>Reversed by</dt>.*${partly}.*in part.*${wholly}.*wholly`));
    expect(text).toMatch(/<dt>Captures<\/dt>.*12\.34 USD.*37\.66 USD/);
    const reversal = await client.get(`/transactions/1/${wholly}`);
    expect(reversal.text).toMatch(new RegExp(`<dt>Reverses</dt>.*${rich}.*nothing is left after it`));
  });

  it('shows the first hundred of a thousand entries, and takes all of them away', async () => {
    const { text } = await client.get(`/transactions/1/${legs}`);
    expect(text.match(/data-is="Debit"/g)).toHaveLength(100);
    expect(text).toContain('The first 100 of 1,000');
    expect(text.length).toBeLessThan(80_000);
    const entries = await exportOf(`/transactions/1/${legs}`);
    const { rows } = await database.pool.query<{ id: string }>(
      'select id::text from payments.entries where transaction_id = $1 and book_id = 1 order by id',
      [legs],
    );
    expect(entries.map((entry) => entry['entry_id'])).toEqual(rows.map(({ id }) => id));
    expect(
      entries.reduce((sum, entry) => sum + BigInt(entry['debit_cents'] ?? 0) - BigInt(entry['credit_cents'] ?? 0), 0n),
    ).toBe(0n);
  });

  it('names the account, and not its slot', async () => {
    const { pool } = database;
    const [spread = ''] = await openAccounts(pool, [{ type: 'revenue', currency: 'USD', name: 'spread' }]);
    await addSlots(pool, { accountId: spread, slots: 64 });
    const named = new Set<string>();
    for (let connection = 0; connection < 3; connection += 1) {
      const other = await openPool({ databaseUrl: database.url, max: 1 });
      const posted = await post(
        { entries: [...transfer(3n).slice(0, 1), { accountId: spread, amountCents: -3n, currency: 'USD' }] },
        other,
      );
      await other.end();
      for (const entry of await exportOf(`/transactions/1/${posted}`)) named.add(String(entry['account_id']));
    }
    expect([...named].sort()).toEqual([cash, spread].sort());
    const { rows } = await pool.query(
      'select from payments.entries n join payments.account_slots s on s.slot_account_id = n.account_id',
    );
    expect(rows.length).toBeGreaterThan(0);
  });

  it('gives the whole payload of its event as a file', async () => {
    const { text } = await client.get(`/transactions/1/${legs}/payload`);
    expect((JSON.parse(text) as { entries: unknown[] }).entries).toHaveLength(1_000);
  });
});

const amountsIn = (html = ''): string[] =>
  [...html.matchAll(/class="money">([^<]*)</g)].map(([, amount = '']) => amount);

describe('the proof', () => {
  it('is shown and given of what is sealed, and holds by itself', async () => {
    const { text } = await client.get(`/transactions/1/${rich}`);
    const { rows } = await database.pool.query<{ root: string }>(
      `select encode(root, 'hex') as root from payments.seals where book_id = 1 order by seal_number desc limit 1`,
    );
    expect(text).toContain('the event and its path give the sealed root');
    expect(text).toContain(rows[0]?.root);
    const proof = await client.get(`/transactions/1/${rich}/proof`);
    expect(proof.headers.get('content-disposition')).toContain(`proof-${rich}.json`);
    // By the checker that the package ships, which asks nobody of ours: with the root that somebody kept, and with another one.
    const roots = [[rows[0]?.root ?? ''], ['00'.repeat(32)]];
    expect(checkProofs([proof.text, proof.text], roots)).toEqual([0, 1]);
  });

  it('is awaited of what is not sealed yet', async () => {
    const { text } = await client.get(`/transactions/1/${unsealed}`);
    expect(text).toContain('It is not sealed yet');
    expect(text).toContain('The last seal of this book is 1');
    expect((await client.get(`/transactions/1/${unsealed}/proof`)).text).toContain('SEAL_EVENT_NOT_SEALED');
    expect((await client.get(`/transactions/2/${await secondBook()}`)).text).toContain(
      'Nothing of this book is sealed so far',
    );
  });
});

const secondBook = () =>
  one(`select event_id as id from payments.events where type = 'transaction.posted' and book_id = 2 limit 1`);

describe('what it announced', () => {
  it('is its message, with the state of the deliveries', async () => {
    const message = await one(`select id from public.outbox where ledger_book_id = 1 and topic = 'test.moved'`);
    expect((await client.get(`/transactions/1/${rich}`)).text).toContain('no worker has looked yet');
    await database.pool.query(
      `insert into outbox.deliveries (day, message_id, endpoint_id, state, due_at, finished_at)
       select o.day, o.id, gen_random_uuid(), s.state, null, clock_timestamp()
       from public.outbox o cross join unnest(array['delivered', 'delivered', 'dead']) as s (state) where o.id = $1`,
      [message],
    );
    const { text } = await client.get(`/transactions/1/${rich}`);
    expect(text).toContain(`<a href="/outbox/messages/${message}">`);
    expect(text).toContain('2 delivered');
    expect(text).toContain('1 dead');
  });

  it('is looked for among a large day’s messages only when it is asked for', async () => {
    const { rows } = await database.pool.query<{ recordedAt: string }>(
      'select payments.instant_text(recorded_at) as "recordedAt" from payments.events where event_id = $1',
      [rich],
    );
    const posting = { bookId: 1, transactionId: rich, recordedAt: rows[0]?.recordedAt ?? '' };
    expect((await findLedgerMessages(database.pool, posting, 1)).kind).toBe('too_many');
    expect((await findLedgerMessages(database.pool, posting, null)).kind).toBe('found');
    const before = { ...posting, recordedAt: '2001-01-01T00:00:00Z' };
    expect((await findLedgerMessages(database.pool, before, null)).kind).toBe('gone');
  });

  it('is nothing where it was posted without a topic', async () => {
    expect((await client.get(`/transactions/1/${unsealed}`)).text).toContain('it was posted without');
  });
});

describe('bad input', () => {
  it.each([
    ['/transactions?id=7', 400],
    ['/transactions?reference=%00', 400],
    ['/transactions?key=%ED%A0%80', 200],
    ['/transactions?from=0000-01-01', 400],
    ['/transactions?from=2026-02-01&to=2026-01-01', 200],
    ['/transactions?from=0001-01-01&to=9999-12-31', 200],
    ['/transactions?after=xx', 400],
    ['/transactions?after=WyI5OTk5OTk5OTk5OTk5OTk5OTk5IiwiMSJd', 400],
    [`/transactions/1/${NOBODY}`, 404],
    [`/transactions/7/${NOBODY}`, 404],
    [`/transactions/1/${NOBODY}/proof`, 404],
    [`/transactions/1/${NOBODY}/payload`, 404],
    ['/transactions/1/ACCOUNT', 404],
    ['/transactions/x/ACCOUNT', 400],
    ['/transactions/1/x', 400],
  ])('%s is answered with %i', async (path, status) => {
    const answer = await client.get(path.replace('ACCOUNT', cash));
    expect(answer.status, answer.text).toBe(status);
    expect(answer.text).not.toContain('INTERNAL');
  });
});

describe('every page', () => {
  it.each(['/transactions', '/transactions?reference=none', '/transactions/1/RICH', '/transactions/1/LEGS'])(
    '%s fits each width, is accessible, moves nothing, and takes texts for texts',
    async (path) => {
      const { page, faults, context } = await openWindow(browser, { origin: served.url });
      await expectStill(page, served.url + path.replace('RICH', rich).replace('LEGS', legs));
      await expectFits(page);
      await expectAccessible(page);
      expect(await page.locator('img, main script').count()).toBe(0);
      expect(faults).toEqual([]);
      await context.close();
    },
  );
});

it('says of a log that was changed after it was sealed that it no longer gives what was sealed', async () => {
  await database.pool.query(disguised(`update payments.events set created_by = 'x' where event_id = '${partly}'`));
  const { status, text } = await client.get(`/transactions/1/${partly}`);
  expect(status).toBe(200);
  expect(text).toContain('The log no longer gives what was sealed.');
});
