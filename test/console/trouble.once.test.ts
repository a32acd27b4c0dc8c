import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { createPool } from '../../src/db/pool.ts';
import { openBook } from '../../src/ledger/books.ts';
import { browse } from '../support/browsing.ts';
import { startTestConsole } from '../support/console.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
let served: Console;

beforeAll(async () => {
  database = await createDatabase();
  await fillDiverseBook(database.pool, 1);
  served = await startTestConsole(database);
});
afterAll(async () => {
  await served?.stop();
  await database?.drop();
});

const verifications = async () => {
  const { rows } = await database.pool.query<{ state: string; failure: string | null; asked_by: string }>(
    'select state, failure, asked_by from console.verifications order by verification_id',
  );
  return rows;
};

/** Holds a verification where it is: it reads what somebody has locked. */
async function holding<T>(work: () => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: database.url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    await client.query('begin; lock table payments.holds in access exclusive mode');
    return await work();
  } finally {
    await client.end();
  }
}

describe('bad input', () => {
  it.each([
    ['/books/0', 400, 'a whole number from 1'],
    ['/books/99999999999999999999', 400, 'a whole number from 1'],
    ['/books/x%00y', 400, 'a whole number from 1'],
    ['/books/2147483647', 404, 'LEDGER_BOOK_UNKNOWN'],
    ['/books/1/seals?after=%F0%9F%92%A9', 400, 'a place in this list that there is not'],
    ['/books/1/seals?after=WyJkcm9wIHRhYmxlIl0', 400, 'a place in this list that there is not'],
    ['/books/1/seals?after=WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Il0', 400, 'a place in this list that there is not'],
    [`/books/1/seals?after=${'A'.repeat(3_000)}`, 400, 'CONSOLE_INVALID'],
    ['/books/1/seals?export=xml', 400, 'csv or json'],
    ['/books/1/seals?export=csv&export=csv', 400, 'CONSOLE_INVALID'],
    ['/books/verifications/999', 404, 'There is no verification 999'],
    ['/books/verifications/-1', 400, 'CONSOLE_INVALID'],
    ['/nothing/of/the/kind', 404, 'There is no page'],
    ['/%ff', 400, 'CONSOLE_INVALID'],
    ['/.//x', 404, 'There is no page'],
    ['/audit?actor=%00', 400, 'DB_FAILED'],
    ['/audit?event=99999999999999999999', 200, 'What was done here'],
    ['/audit?event=%3Cscript%3E', 200, 'What was done here'],
  ])('%s is answered with %i and one sentence', async (path, status, sentence) => {
    const answer = await browse(served.url).get(path);
    expect(answer.status).toBe(status);
    expect(answer.text).toContain(sentence);
    expect(answer.text).not.toMatch(/\bat .*\.ts:\d+|<script>(?!<)/);
  });

  it('shows what was asked for as text, whatever it is', async () => {
    const { text } = await browse(served.url).get('/%3Cscript%3Ealert(1)%3C/script%3E?actor="><img src=x>');
    expect(text).not.toMatch(/<script>alert|<img/);
    const audit = await browse(served.url).get(`/audit?actor=${encodeURIComponent('"><img src=x onerror=alert(1)>')}`);
    expect(audit.text).toContain('value="&quot;&gt;&lt;img src=x onerror=alert(1)&gt;"');
  });

  it('takes no form that is larger than a form is', async () => {
    const { status, text } = await browse(served.url).post('/books/verify', { _csrf: 'x'.repeat(100_000) });
    expect([status, text.includes('CONSOLE_INVALID')]).toEqual([400, true]);
  });
});

describe('settings', () => {
  it('keep a zone and a language for figures and times, and take no others', async () => {
    const browsing = browse(served.url);
    expect((await browsing.submit('/settings', { zone: 'Europe/Zurich', locale: 'de-CH' })).status).toBe(303);
    const { text } = await browsing.get('/books/1');
    expect(text).toContain('Europe/Zurich');
    // A sentence of figures that no floating-point number holds.
    expect(text).toContain('900&#39;000&#39;000&#39;000&#39;001.2346');
    for (const wrong of [
      { zone: 'Mars/Olympus', locale: 'en' },
      { zone: 'UTC', locale: 'no language at all' },
    ]) {
      const { status, text: said } = await browsing.submit('/settings', wrong);
      expect([status, /there is no such/.test(said)]).toEqual([400, true]);
    }
  });
});

describe('two who press the same button', () => {
  it('verify once, and the second is shown what the first one does', async () => {
    const before = (await verifications()).length;
    const answers = await holding(async () => {
      const [one, two] = [browse(served.url), browse(served.url)];
      const pressed = await Promise.all([
        one.submit('/books/verify', {}, { from: '/books' }),
        two.submit('/books/verify', {}, { from: '/books' }),
      ]);
      const said = await Promise.all(
        pressed.map(({ headers }, at) => [one, two][at]?.get(headers.get('location') ?? '')),
      );
      return said.map((answer) => answer?.text ?? '');
    });
    expect(answers.filter((text) => text.includes('You began verification'))).toHaveLength(1);
    expect(answers.filter((text) => text.includes('is at work already'))).toHaveLength(1);
    expect(answers.every((text) => text.includes('<progress'))).toBe(true);
    await eventually('it ended', async () => (await verifications()).every(({ state }) => state !== 'running'));
    expect((await verifications()).slice(before)).toMatchObject([{ state: 'balances' }]);
  });
});

describe('a verification that does not come to its end', () => {
  it('is written down as failed when the console stops, and the next one is begun', async () => {
    const other = await startTestConsole(database);
    await holding(async () => {
      await browse(other.url).submit('/books/verify', {}, { from: '/books' });
      await other.stop();
    });
    expect((await verifications()).at(-1)).toMatchObject({
      state: 'failed',
      failure: expect.stringContaining('STOPPED'),
    });
  });

  it('counts as broken off when nobody has heard of it, and keeps nobody from the next', async () => {
    await database.pool.query(
      `insert into console.verifications (asked_by, heard_at) values ('a console that died', now() - interval '31 seconds')`,
    );
    const browsing = browse(served.url);
    expect((await browsing.get('/books/verifications')).text).toContain('broken off');
    await browsing.submit('/books/verify', {}, { from: '/books' });
    await eventually('it ended', async () => (await verifications()).at(-1)?.state === 'balances');
    expect((await verifications()).at(-2)).toMatchObject({ state: 'broken_off', asked_by: 'a console that died' });
  });

  it('is never rewritten once it has ended', async () => {
    for (const change of [`update console.verifications set state = 'balances'`, 'delete from console.verifications']) {
      await expect(database.pool.query(change)).rejects.toMatchObject({ code: 'LV009' });
    }
  });
});

it('shows a book that was opened while it ran', async () => {
  const book = await openBook(database.pool, '<i>new</i>');
  const browsing = browse(served.url);
  const shown = await eventually('the book is seen', async () => {
    const { text } = await browsing.get('/books');
    return text.includes('&lt;i&gt;new&lt;/i&gt;') ? text : undefined;
  });
  expect(shown).toContain(`/books/${book}`);
});

it('says that the database is away while it is, and shows its pages when it is back', async () => {
  const browsing = browse(served.url);
  await asSuperuser(
    { ...database, adminUrl: new URL('/postgres', database.adminUrl).href },
    `alter database ${database.name} allow_connections false`,
  );
  await database.pool
    .query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
    )
    .catch(() => undefined);
  const away = await browsing.get('/books');
  expect(away.status).toBe(503);
  expect(away.text).toMatch(/The database does not answer.*DB_/s);
  await asSuperuser(
    { ...database, adminUrl: new URL('/postgres', database.adminUrl).href },
    `alter database ${database.name} allow_connections true`,
  );
  const back = await eventually('it is back', async () => {
    const answer = await browsing.get('/books');
    return answer.status === 200 ? answer : undefined;
  });
  expect(back.text).toContain('Do the books balance?');
});

it('ends a page that a lost connection would keep for ever', async () => {
  await holding(async () => {
    const answered = browse(served.url).get('/books/1');
    const killer = createPool({ databaseUrl: database.url, max: 1 });
    await eventually('the page is under way or done', async () => {
      const { rows } = await killer.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'liventix-console' and datname = current_database()`,
      );
      return rows.length > 0;
    });
    await killer.end();
    expect([200, 503]).toContain((await answered).status);
  });
});
