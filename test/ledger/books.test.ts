import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addSlots } from '../../src/ledger/accounts.ts';
import { openAccounts, post } from '../../src/ledger/ledger.ts';
import { closePeriod } from '../../src/ledger/periods.ts';
import { openTestAccounts, type TestAccounts, transfer } from '../support/books.ts';
import { PROJECTIONS } from '../support/damage.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const TABLES = ['books', 'events', ...PROJECTIONS];
const ACME = 2;

let database: TestDatabase;
const suffix = randomBytes(4).toString('hex');
/** May post in the second book; may read the second book; was granted no book. Roles are of the whole server. */
const [poster, reader, nobody] = [`acme_poster_${suffix}`, `acme_reader_${suffix}`, `nobody_${suffix}`];
/** Was given nothing by hand. */
const granted = `granted_${suffix}`;
let main: TestAccounts;
let acme: string[];

beforeAll(async () => {
  database = await createDatabase();
  const { pool } = database;
  main = await openTestAccounts(pool);
  await post(pool, transfer(main.clearing, main.wallet));
  await pool.query(`insert into payments.books (book_id, name) values (${ACME}, 'acme')`);
  acme = await openAccounts(
    pool,
    [
      { type: 'receivable', currency: 'USD', name: 'clearing' },
      { type: 'payable', currency: 'USD', name: 'organiser', floorCents: 0n },
    ],
    { bookId: ACME },
  );
  await addSlots(pool, { accountId: main.revenue, slots: 2 });
  await addSlots(pool, { accountId: acme[0] ?? '', slots: 2, bookId: ACME });
  for (const bookId of [1, ACME]) await closePeriod(pool, { until: '2020-01-01T00:00:00Z', bookId });
  for (const role of [poster, reader, nobody]) {
    await pool.query(`create role ${role}; grant usage on schema payments to ${role}`);
    await pool.query(
      `grant select on ${TABLES.map((table) => `payments.${table}`).join(', ')}, payments.account_types, payments.account_balances to ${role}`,
    );
    await pool.query(
      `grant execute on function payments.books_of(name), payments.post_transactions(integer, jsonb) to ${role}`,
    );
  }
  await pool.query(`create role ${granted}`);
  await pool.query(
    `insert into payments.book_grants (book_id, grantee, may_post) values (${ACME}, '${poster}', true), (${ACME}, '${reader}', false)`,
  );
});
afterAll(async () => {
  const admin = new pg.Client({ connectionString: database.adminUrl });
  await admin.connect();
  for (const role of [poster, reader, nobody, granted]) await admin.query(`drop owned by ${role}; drop role ${role}`);
  await admin.end();
  await database.drop();
});

async function as(role: string, sql: string, values: unknown[] = []) {
  const admin = new pg.Client({ connectionString: database.adminUrl });
  await admin.connect();
  try {
    await admin.query(`set role ${role}`);
    return (await admin.query(sql, values)).rows;
  } finally {
    await admin.end();
  }
}

const request = () =>
  JSON.stringify([
    {
      entries: acme.map((account, leg) => ({ account_id: account, amount_cents: leg === 0 ? 5 : -5, currency: 'USD' })),
    },
  ]);

describe('several books in one database', () => {
  it.each(TABLES)(
    'shows a role of payments.%s the rows of the books that it was granted, and no others',
    async (table) => {
      const count = `select count(*)::int as n from payments.${table}`;
      const [owned] = (await database.pool.query(`${count} where book_id = ${ACME}`)).rows;
      expect(await as(reader, `${count} where book_id <> ${ACME}`)).toEqual([{ n: 0 }]);
      expect(await as(reader, count)).toEqual([owned]);
      expect(await as(nobody, count)).toEqual([{ n: 0 }]);
    },
  );

  it('shows balances of the granted books alone, through the view too', async () => {
    expect(await as(reader, 'select distinct book_id from payments.account_balances')).toEqual([{ book_id: ACME }]);
  });

  it('lets a role post in the books that it may post in, and refuses the others by name', async () => {
    const call = 'select status from payments.post_transactions($1, $2)';
    expect(await as(poster, call, [ACME, request()])).toEqual([{ status: 'posted' }]);
    for (const [role, book] of [
      [poster, 1],
      [reader, ACME],
      [nobody, ACME],
    ] as const) {
      await expect(as(role, call, [book, request()])).rejects.toMatchObject({
        code: 'LV026',
        message: `Role ${role} may not post in book ${book}: the owner grants it in payments.book_grants.`,
      });
    }
  });

  it('never lets a transaction cross books', async () => {
    const [first = ''] = acme;
    await expect(post(database.pool, transfer(first, acme[1] ?? ''))).rejects.toMatchObject({
      code: 'LEDGER_ACCOUNT_UNKNOWN',
    });
  });

  it('asks which books a role reads once a statement, not once a row', async () => {
    const plan = await as(reader, 'explain select * from payments.entries');
    expect(JSON.stringify(plan)).toMatch(/InitPlan/);
  });

  it('lets no role write a table or the grants, however it is granted a book', async () => {
    for (const table of [...TABLES, 'book_grants']) {
      await expect(as(poster, `delete from payments.${table}`)).rejects.toMatchObject({ code: '42501' });
    }
  });
});

describe('announcements', () => {
  const announce = (role: string, topic: string, payload: object) =>
    as(role, `insert into public.outbox (topic, payload) values ($1, $2) returning topic`, [
      topic,
      JSON.stringify(payload),
    ]);
  const topics = async (role: string) => {
    const rows = await as(role, `select topic from public.outbox where topic like 'seen.%' order by topic`);
    return (rows as { topic: string }[]).map(({ topic }) => topic);
  };

  it('of the ledger are shown to a role where they are of its books, the application’s own to all who read the outbox', async () => {
    await database.pool.query(`grant select, insert (topic, payload) on public.outbox to ${reader}, ${nobody}`);
    await post(database.pool, transfer(main.clearing, main.wallet, { announce: 'seen.main' }));
    await post(database.pool, transfer(acme[0] ?? '', acme[1] ?? '', { announce: 'seen.acme' }), { bookId: ACME });
    // What an application calls a book is no book of ours.
    expect(await announce(nobody, 'seen.own', { book_id: ACME })).toEqual([{ topic: 'seen.own' }]);
    expect(await announce('service_role', 'seen.own2', { book_id: 4711 })).toEqual([{ topic: 'seen.own2' }]);
    expect(await topics(reader)).toEqual(['seen.acme', 'seen.own', 'seen.own2']);
    expect(await topics(nobody)).toEqual(['seen.own', 'seen.own2']);
    expect(await topics('service_role')).toEqual(['seen.main', 'seen.own', 'seen.own2']);
  });

  it('are marked as of a book by the ledger alone', async () => {
    const insert = (book: string) =>
      `insert into public.outbox (ledger_book_id, topic, payload) values (${book}, 'a.b', '{}')`;
    await expect(as('service_role', insert('1'))).rejects.toMatchObject({ code: '42501' });
    // However much of the table a role is granted.
    await database.pool.query(`grant select, insert on public.outbox to ${nobody}`);
    await expect(as(nobody, insert('1'))).rejects.toMatchObject({
      code: '42501',
      message: expect.stringContaining('row-level security'),
    });
    await as(nobody, insert('null'));
  });
});

describe('granting a role a book', () => {
  /** What a role may do, beside what everybody may. */
  const privilegesOf = async (role: string) => {
    const { rows } = await database.pool.query<{ privilege: string }>(
      `select format('%s on schema %s', g.privilege_type, n.nspname) as privilege
       from pg_namespace n cross join lateral aclexplode(n.nspacl) g where g.grantee = $1::regrole
       union all
       select format('%s on %s', g.privilege_type, c.oid::regclass)
       from pg_class c cross join lateral aclexplode(c.relacl) g where g.grantee = $1::regrole
       union all
       select format('%s on %s', g.privilege_type, p.oid::regprocedure)
       from pg_proc p cross join lateral aclexplode(p.proacl) g where g.grantee = $1::regrole
       order by 1`,
      [role],
    );
    return rows.map(({ privilege }) => privilege);
  };
  const grant = (role: string | null, bookId: number, mayPost: boolean | null) =>
    database.pool.query('select payments.grant_book($1, $2, $3)', [role, bookId, mayPost]);
  const post = () => as(granted, 'select status from payments.post_transactions($1, $2)', [ACME, request()]);
  const booksSeen = () => as(granted, 'select distinct book_id from payments.account_balances');

  it('gives it what the server role has but for the outbox, and it reads that book alone', async () => {
    await grant(granted, ACME, false);
    // What the state machines let it do is no part of a book.
    const ofServer = (await privilegesOf('service_role')).filter(
      (privilege) => !/states|transition_state/.test(privilege),
    );
    const ofOutbox = ['SELECT on outbox', 'USAGE on schema outbox'];
    expect(await privilegesOf(granted)).toEqual(ofServer.filter((privilege) => !ofOutbox.includes(privilege)));
    await expect(as(granted, 'select from public.outbox')).rejects.toMatchObject({ code: '42501' });
    expect(await booksSeen()).toEqual([{ book_id: ACME }]);
    await expect(post()).rejects.toMatchObject({ code: 'LV026' });
  });

  it('lets it post from when it may, and takes that back', async () => {
    await grant(granted, ACME, true);
    expect(await post()).toEqual([{ status: 'posted' }]);
    await grant(granted, ACME, false);
    await expect(post()).rejects.toMatchObject({ code: 'LV026' });
  });

  it('is ended by revoking it: what the role may call shows it nothing', async () => {
    await grant(granted, ACME, true);
    await expect(
      database.pool.query('select payments.revoke_book($1, $2)', [`${granted}x`, ACME]),
    ).rejects.toMatchObject({
      code: 'LV001',
      message: expect.stringContaining(`There is no role ${granted}x, `),
    });
    await database.pool.query('select payments.revoke_book($1, $2)', [granted, ACME]);
    expect(await booksSeen()).toEqual([]);
    await expect(post()).rejects.toMatchObject({ code: 'LV026' });
    for (const table of TABLES) expect(await as(granted, `select from payments.${table}`)).toEqual([]);
  });

  it.each([
    ['a role that there is not', 'nobody at all', ACME, true, 'LV001', /There is no role nobody at all/],
    ['everybody', 'public', ACME, true, 'LV001', /There is no role public/],
    ['no role', null, ACME, true, 'LV001', /There is no role null/],
    ['a book that there is not', granted, 77, true, 'LV010', /Book 77 does not exist/],
    ['neither reading nor posting', granted, ACME, null, 'LV001', /p_may_post is null/],
  ])('is refused of %s', async (_what, role, bookId, mayPost, code, message) => {
    await expect(grant(role, bookId, mayPost)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });

  it.each(['service_role', poster])('is for the owner, not for %s', async (role) => {
    for (const call of [`grant_book('${role}', ${ACME}, true)`, `revoke_book('${role}', ${ACME})`]) {
      await expect(as(role, `select payments.${call}`)).rejects.toMatchObject({ code: '42501' });
    }
  });
});
