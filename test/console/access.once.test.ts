import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Auth, Place } from '../../src/console/access/gate.ts';
import { disableUser, setUser } from '../../src/console/access/users.ts';
import { type Console, startConsole } from '../../src/console/console.ts';
import { type Browsing, browse } from '../support/browsing.ts';
import { startTestConsole } from '../support/console.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const PASSWORD = 'correct horse battery staple';
const BOUNDS = { idleMinutes: 60, longestMinutes: 720 };

let database: TestDatabase;
const consoles: Console[] = [];

beforeAll(async () => {
  database = await createDatabase();
  await setUser(database.pool, { name: 'ada', roles: ['finance'], password: PASSWORD });
  await setUser(database.pool, { name: 'vic', roles: ['viewer'], password: PASSWORD });
});
afterAll(async () => {
  for (const each of consoles) await each.stop();
  await database?.drop();
});

const serve = async (auth: Auth, origin?: string): Promise<Console> => {
  const served = await startTestConsole(database, { auth, place: { host: '127.0.0.1', port: 0, origin } });
  consoles.push(served);
  return served;
};

async function signedIn(base: string, name: string): Promise<Browsing> {
  const browsing = browse(base);
  const { status } = await browsing.submit('/sign-in', { name, password: PASSWORD });
  expect(status).toBe(303);
  return browsing;
}

const lastEvent = async () => {
  const { rows } = await database.pool.query(
    'select actor, action, outcome, message from console.events order by event_id desc limit 1',
  );
  return rows[0];
};

describe('on this machine', () => {
  it('asks nobody who he is, and answers only who asks for it by a name of this machine', async () => {
    const { url } = await serve({ mode: 'none', roles: ['viewer'] });
    expect((await browse(url).get('/books')).status).toBe(200);
    const elsewhere = await browse(url).get('/books', { host: 'console.evil.example' });
    expect(elsewhere.status).toBe(403);
    expect(elsewhere.text).toContain('CONSOLE_FORGED');
    expect(elsewhere.text).not.toContain('trial balance');
  });

  it('does for a viewer nothing that needs another role, and writes down that he tried', async () => {
    const { url } = await serve({ mode: 'none', roles: ['viewer'] });
    const browsing = browse(url);
    expect((await browsing.get('/books')).text).toContain('<button type="submit" disabled>Verify now</button>');
    const { status, text } = await browsing.submit('/books/verify', {}, { from: '/settings' });
    expect(status).toBe(403);
    expect(text).toContain('one needs to be operator or finance');
    expect(await lastEvent()).toMatchObject({ actor: 'local', action: 'verify the books', outcome: 'refused' });
    const { rows } = await database.pool.query('select from console.verifications');
    expect(rows).toEqual([]);
  });
});

describe('beyond this machine', () => {
  const start = (place: Place, auth: Auth) =>
    startConsole({ databaseUrl: database.url, place, auth, version: '', poolMax: 2, log: pino({ level: 'silent' }) });

  it.each([
    ['nobody is asked', { host: '0.0.0.0', port: 0, origin: undefined }, { mode: 'none', roles: ['viewer'] }],
    [
      'a proxy stands before what asks nobody',
      { host: '127.0.0.1', port: 0, origin: 'https://console.example' },
      { mode: 'none', roles: ['viewer'] },
    ],
    [
      'passwords cross the network',
      { host: '0.0.0.0', port: 0, origin: undefined },
      { mode: 'password', bounds: BOUNDS },
    ],
    [
      'the origin has no TLS',
      { host: '0.0.0.0', port: 0, origin: 'http://console.example' },
      { mode: 'password', bounds: BOUNDS },
    ],
  ] satisfies [string, Place, Auth][])('does not start where %s', async (_why, place, auth) => {
    await expect(start(place, auth)).rejects.toMatchObject({ code: 'CONSOLE_EXPOSED' });
  });

  it('is known by the name of its proxy, and gives cookies that only TLS carries and no other host sets', async () => {
    const { url: _, ...served } = await serve({ mode: 'password', bounds: BOUNDS }, 'https://console.example');
    expect(served).toBeDefined();
    const own = consoles.at(-1)?.listensAt ?? '';
    const browsing = browse(own);
    const page = await browsing.get('/sign-in', { host: 'console.example' });
    expect(page.status).toBe(200);
    expect(page.headers.get('strict-transport-security')).toContain('max-age=');
    expect(page.headers.getSetCookie().join()).toMatch(
      /^__Host-liventix-csrf=.*; Path=\/; HttpOnly; Secure; SameSite=Lax/,
    );
    expect((await browsing.get('/sign-in')).status).toBe(403);
  });
});

describe('signing in', () => {
  it('leads to the page that was asked for, and out again', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const browsing = browse(url);
    const asked = await browsing.get('/books/1?after=x');
    expect([asked.status, asked.headers.get('location')]).toEqual([303, '/sign-in?to=%2Fbooks%2F1%3Fafter%3Dx']);
    const entered = await browsing.submit('/sign-in', { name: 'ada', password: PASSWORD, to: '/books/1?after=x' });
    expect([entered.status, entered.headers.get('location')]).toEqual([303, '/books/1?after=x']);
    expect((await browsing.get('/books')).text).toContain('ada');
    expect(await lastEvent()).toMatchObject({ actor: 'ada', action: 'sign in', outcome: 'done' });
    expect((await browsing.submit('/sign-out', {}, { from: '/books' })).status).toBe(303);
    expect((await browsing.get('/books')).status).toBe(303);
  });

  it.each([
    'https://evil.example/',
    '//evil.example/',
    '/.//evil.example',
    '/%2e//evil.example',
    '/\\evil.example',
    'javascript:alert(1)',
    '\t//evil.example',
  ])('never leads to another site: %j', async (to) => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const { headers } = await browse(url).submit('/sign-in', { name: 'ada', password: PASSWORD, to });
    expect(headers.get('location')).toBe('/');
  });

  it('says of a wrong password and of an unknown user the same, and writes both down', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const wrong = await browse(url).submit('/sign-in', { name: 'ada', password: 'not the password' });
    const unknown = await browse(url).submit('/sign-in', { name: 'a password in the wrong field', password: PASSWORD });
    expect([wrong.status, unknown.status]).toEqual([401, 401]);
    const saidOf = (text: string) => /role="alert">([^<]*)/.exec(text)?.[1];
    expect(saidOf(unknown.text)).toBe(saidOf(wrong.text));
    // Who he says he is may be what nobody may know.
    expect(await lastEvent()).toMatchObject({ actor: 'nobody', action: 'sign in', outcome: 'refused' });
  });

  it('lets nobody try passwords without end', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const browsing = browse(url);
    const statuses: number[] = [];
    for (let nth = 0; nth < 11; nth += 1) {
      statuses.push((await browsing.submit('/sign-in', { name: 'ada', password: `guess ${nth}` })).status);
    }
    expect(statuses).toEqual([...Array(10).fill(401), 429]);
  });

  it('is over when the session has expired, was left alone, or its user is disabled: what was to be done is not', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    for (const over of [
      `update console.sessions set expires_at = now()`,
      `update console.sessions set seen_at = now() - interval '61 minutes'`,
      undefined,
    ]) {
      const browsing = await signedIn(url, 'ada');
      const page = await browsing.get('/books');
      if (over === undefined) await disableUser(database.pool, 'ada');
      else await database.pool.query(over);
      const { status, text } = await browsing.post('/books/verify', { _csrf: page.csrf });
      expect([status, text.includes('CONSOLE_SIGNED_OUT')]).toEqual([401, true]);
    }
    await setUser(database.pool, { name: 'ada', roles: ['finance'], password: PASSWORD });
    const { rows } = await database.pool.query('select from console.verifications');
    expect(rows).toEqual([]);
  });

  it('is not prolonged by a page that asks for itself again, which leads to the sign-in when it is over', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const browsing = await signedIn(url, 'vic');
    await database.pool.query(
      `update console.sessions set seen_at = now() - interval '50 minutes' where user_name = 'vic'`,
    );
    const minutesUnused = async () => {
      const { rows } = await database.pool.query<{ minutes: number }>(
        `select extract(epoch from now() - max(seen_at))::float8 / 60 as minutes from console.sessions where user_name = 'vic'`,
      );
      return rows[0]?.minutes;
    };
    expect((await browsing.get('/outbox', { 'hx-request': 'true' })).status).toBe(200);
    expect(await minutesUnused()).toBeGreaterThan(49);
    expect((await browsing.get('/outbox')).status).toBe(200);
    expect(await minutesUnused()).toBeLessThan(1);
    await database.pool.query(`delete from console.sessions where user_name = 'vic'`);
    const over = await browsing.get('/outbox', { 'hx-request': 'true' });
    expect([over.status, over.headers.get('hx-redirect'), over.text]).toEqual([200, '/sign-in?to=%2Foutbox', '']);
  });

  it('keeps of a session only its hash, and of a password too', async () => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const browsing = await signedIn(url, 'ada');
    const { rows } = await database.pool.query<{ all: string }>(
      `select (select string_agg(s::text, '') from console.sessions s) || (select string_agg(u::text, '') from console.users u)
         || (select string_agg(e::text, '') from console.events e) as all`,
    );
    expect(browsing.cookies.get('liventix')).toMatch(/^[\w-]{43}$/);
    expect(rows[0]?.all).not.toContain(browsing.cookies.get('liventix'));
    expect(rows[0]?.all).not.toContain(PASSWORD);
  });
});

describe('a form', () => {
  it.each([
    ['without its token', async (b: Browsing) => b.post('/books/verify', {})],
    [
      'with another token',
      async (b: Browsing) => b.post('/books/verify', { _csrf: 'AAAAAAAA-0123456789012345678901234567890123456789' }),
    ],
    [
      'with the token of somebody else',
      async (b: Browsing, other: Browsing) => b.post('/books/verify', { _csrf: (await other.get('/books')).csrf }),
    ],
    [
      'from another site',
      async (b: Browsing) =>
        b.post('/books/verify', { _csrf: (await b.get('/books')).csrf }, { origin: 'https://evil.example' }),
    ],
    [
      'from another site, says the browser',
      async (b: Browsing) =>
        b.post('/books/verify', { _csrf: (await b.get('/books')).csrf }, { 'sec-fetch-site': 'cross-site' }),
    ],
  ])('%s does nothing', async (_how, submit) => {
    const { url } = await serve({ mode: 'password', bounds: BOUNDS });
    const answer = await submit(await signedIn(url, 'ada'), await signedIn(url, 'vic'));
    expect(answer.status).toBe(403);
    expect(answer.text).toContain('CONSOLE_FORGED');
    const { rows } = await database.pool.query('select from console.verifications');
    expect(rows).toEqual([]);
  });
});

describe('behind a proxy that says who asks', () => {
  const proxied = (peers: string[]): Auth => ({
    mode: 'proxy',
    proxy: {
      peers,
      userHeader: 'x-user',
      groupsHeader: 'x-groups',
      rolesOf: new Map([
        ['books', 'finance'],
        ['staff', 'viewer'],
      ]),
    },
  });

  it('believes the proxy, and nobody else', async () => {
    const headers = { 'x-user': 'eve@example.com', 'x-groups': 'staff, books' };
    const { url } = await serve(proxied(['127.0.0.0/8']));
    const page = await browse(url).get('/books', headers);
    expect(page.text).toContain('eve@example.com');
    expect(page.text).toContain('title="viewer, finance"');
    const other = await serve(proxied(['10.0.0.0/8']));
    const refused = await browse(other.url).get('/books', headers);
    expect([refused.status, refused.text.includes('CONSOLE_FORBIDDEN')]).toEqual([403, true]);
  });

  it.each([
    ['nobody', { 'x-groups': 'books' }],
    ['no group that may look', { 'x-user': 'eve', 'x-groups': 'others' }],
  ])('refuses where it names %s', async (_what, headers) => {
    const { url } = await serve(proxied(['127.0.0.0/8']));
    expect((await browse(url).get('/books', headers)).status).toBe(403);
  });
});

it('tells browsers to run nothing that is not ours, on every page and every refusal', async () => {
  const { url } = await serve({ mode: 'none', roles: ['viewer'] });
  for (const path of ['/books', '/nothing', '/books/0', '/sign-in']) {
    const { headers } = await browse(url).get(path);
    expect(headers.get('content-security-policy'), path).toBe(
      "default-src 'none';script-src 'self';style-src 'self';img-src 'self';connect-src 'self';form-action 'self';base-uri 'none';frame-ancestors 'none'",
    );
    expect(headers.get('x-content-type-options')).toBe('nosniff');
    expect(headers.get('x-frame-options')).toBe('DENY');
    expect(headers.get('cache-control')).toBe('no-store');
  }
});

it('reads as a role that can neither write nor read secrets', async () => {
  await serve({ mode: 'none', roles: ['viewer'] });
  const { rows } = await database.pool.query<{ relation: string }>(
    `select c.oid::regclass::text as relation from pg_class c
     where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
       and has_schema_privilege(console.reader(), c.relnamespace, 'usage')
       and (has_table_privilege(console.reader(), c.oid, 'insert, update, delete, truncate')
         or c.relname ~ 'secret|users|sessions' and has_table_privilege(console.reader(), c.oid, 'select'))`,
  );
  expect(rows).toEqual([]);
  const columns = await database.pool.query<{ name: string }>(
    `select a.attname as name from pg_attribute a where a.attrelid = 'outbox.endpoints'::regclass and a.attnum > 0
       and not has_column_privilege(console.reader(), a.attrelid, a.attnum, 'select') order by 1`,
  );
  expect(columns.rows.map(({ name }) => name)).toEqual(['headers', 'secret']);
  const others = await database.pool.query<{ function: string }>(
    `select n.nspname || '.' || p.proname as function from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname in ('payments', 'outbox', 'replay', 'states', 'console') and (p.provolatile = 'v' or p.prosecdef)
       and has_function_privilege(console.reader(), p.oid, 'execute') and p.prorettype <> 'trigger'::regtype order by 1`,
  );
  expect(others.rows.map((row) => row.function)).toEqual([
    // As the owner, what is in no schema of ours: rows by state, and legacy wallets. They change nothing.
    'console.count_legacy_rows',
    'console.count_states',
    'console.count_wallets',
    'console.legacy_wallets',
    'console.rows_in_state',
    'console.standing_rows',
    // The names of headers, whose values may be passwords.
    'outbox.header_names',
    // What the policies ask, which everybody may.
    'payments.books_of',
    // The errors of reads.
    'payments.raise_code',
    'payments.raise_period_code',
    'replay.raise_code',
  ]);
});

it('keeps what was done, whoever would rather not: the owner too', async () => {
  for (const change of [
    `update console.events set message = ''`,
    'delete from console.events',
    'truncate console.events cascade',
  ]) {
    await expect(database.pool.query(change)).rejects.toMatchObject({ code: 'LV009' });
  }
});
