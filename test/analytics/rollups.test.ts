import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { applyRollups } from '../../src/analytics/rollups/apply.ts';
import { buildRollup } from '../../src/analytics/rollups/build.ts';
import { removeRollups } from '../../src/analytics/rollups/remove.ts';
import { runRollups } from '../../src/analytics/rollups/run.ts';
import { judgeRollups, rollupStatus } from '../../src/analytics/rollups/status.ts';
import { verifyRollups } from '../../src/analytics/rollups/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';
import {
  applyVisits,
  counted,
  countedAndVerified,
  createVisits,
  declare,
  fileOf,
  horizonIsOurs,
  visitsDeclaration,
} from '../support/rollups.ts';

let database: TestDatabase;

beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  // Of a test that failed, which would have its database wait for ever.
  for (const client of left) client.release(true);
  left.clear();
  await database.drop();
});

const sql = (text: string) => database.pool.query(text);
const days = async () =>
  (
    await sql(
      `select page, day::text, visits::int, people::int, completions::int, ms_sum::int, avg_ms::float8, median_ms
       from site.visits_daily order by page nulls last, day nulls last`,
    )
  ).rows;
const visits = async () => (await days()).map(({ page, day, visits: count, people }) => [page, day, count, people]);

const VISIT = 'insert into site.visits (page, person, session, ms, done, price, at) values';
const ANN = `('a', 'ann', null, 100, true, 1.5, '2026-01-01 10:00Z')`;
const BOB = `('a', 'bob', null, 300, false, null, '2026-01-01 11:00Z')`;
const holds = { holds: true, faults: 0n, first: [] };

const left = new Set<pg.PoolClient>();

/** A transaction of somebody else, left open until `end`. */
async function open(text: string): Promise<{ end(how: 'commit' | 'rollback'): Promise<void> }> {
  const client = await database.pool.connect();
  left.add(client);
  await client.query(`begin; ${text}`);
  return {
    end: async (how) => {
      await client.query(how);
      left.delete(client);
      client.release();
    },
  };
}

describe('a rollup of a table', () => {
  beforeEach(() => createVisits(database.pool));

  it('has what was there before it, and counts what comes', async () => {
    await sql(
      `${VISIT} ${ANN}, ('a', 'ann', 's', 300, false, null, '2026-01-01 11:00Z'), ('b', null, 's', 50, true, 2, '2026-02-03 00:00Z')`,
    );
    await applyVisits(database.pool);
    const a = { page: 'a', day: '2026-01-01', visits: 2, people: 1, completions: 1, ms_sum: 400, avg_ms: 200 };
    expect(await days()).toEqual([
      { ...a, median_ms: expect.closeTo(200, -1) },
      {
        page: 'b',
        day: '2026-02-03',
        visits: 1,
        people: 1,
        completions: 1,
        ms_sum: 50,
        avg_ms: 50,
        median_ms: expect.closeTo(50, 0),
      },
    ]);
    await sql(`${VISIT} ('a', 'bob', null, 200, null, null, '2026-01-01 23:59:59.999999Z')`);
    expect(await counted(database.pool)).toEqual([{ rollup: 'visits_daily', status: 'counted', changes: 1n }]);
    expect((await days())[0]).toMatchObject({ visits: 3, people: 2, avg_ms: 200 });
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 2n, rows: 4n });
  });

  it('is analyzed when it is built, so that what reads it is planned by what there is', async () => {
    await sql(`${VISIT} ${ANN}, ${BOB}`);
    await applyVisits(database.pool);
    const { rows } = await sql(
      `select count(*) filter (where reltuples > 0)::int as analyzed from pg_class
       where oid in ('site.visits_daily'::regclass, 'rollups.visits_daily_viewers'::regclass, 'rollups.visits_daily_buckets'::regclass)`,
    );
    expect(rows).toEqual([{ analyzed: 3 }]);
  });

  it('answers what was seen most of all groups in some days from its index of days, without a look at its rows', async () => {
    await sql(
      `insert into site.visits (page, at) select 'p' || n % 50, '2026-01-01Z'::timestamptz + n / 50 * interval '1 day' from generate_series(0, 4999) n`,
    );
    await applyVisits(database.pool);
    const { rows } = await sql(
      `explain (analyze, format json) select page, sum(visits) from site.visits_daily where day >= '2026-04-01' group by 1 order by 2 desc limit 20`,
    );
    const plan = JSON.stringify(rows[0]['QUERY PLAN']);
    expect(plan).toContain('"Node Type":"Index Only Scan"');
    expect(plan).toContain('"Heap Fetches":0');
  });

  it('does not count what may still be rolled back, nor lose what commits late', async () => {
    await applyVisits(database.pool);
    const early = await open(`${VISIT} ${ANN}`);
    const never = await open(`${VISIT} ('c', null, null, null, null, null, null)`);
    await sql(`${VISIT} ${BOB}`);
    expect(await counted(database.pool)).toMatchObject([{ status: 'nothing' }]);
    await early.end('commit');
    expect(await counted(database.pool)).toMatchObject([{ status: 'counted', changes: 1n }]);
    await never.end('rollback');
    expect(await counted(database.pool)).toMatchObject([{ status: 'counted', changes: 1n }]);
    expect(await visits()).toEqual([['a', '2026-01-01', 2, 2]]);
  });

  it('counts a row of below the horizon that was deleted above it, so that it can be taken away', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}`);
    const holder = await open(`${VISIT} ('c', null, null, null, null, null, null)`);
    await sql(`delete from site.visits where page = 'a'`);
    expect(await counted(database.pool)).toMatchObject([{ status: 'counted', changes: 1n }]);
    expect(await visits()).toEqual([['a', '2026-01-01', 1, 1]]);
    await holder.end('rollback');
    await counted(database.pool);
    expect(await days()).toEqual([]);
  });

  it('follows rows that are deleted, that move to another day or group, and that come for days long gone', async () => {
    await sql(`${VISIT} ${ANN}, ${BOB}`);
    await applyVisits(database.pool);
    await sql(`${VISIT} ('a', 'cy', null, 7, true, 1, '2026-01-02 00:00Z')`);
    await counted(database.pool);
    await sql(
      `update site.visits set at = '2019-05-06 07:00Z' where person = 'ann'; update site.visits set page = 'b' where person = 'bob'`,
    );
    await sql(
      `delete from site.visits where person = 'cy'; ${VISIT} ('a', 'dee', null, 7, true, 1, '1999-12-31 23:59Z')`,
    );
    expect(await countedAndVerified(database.pool)).toMatchObject(holds);
    expect(await visits()).toEqual([
      ['a', '1999-12-31', 1, 1],
      ['a', '2019-05-06', 1, 1],
      ['b', '2026-01-01', 1, 1],
    ]);
  });

  it('has rows without a group, a viewer or a time, and of infinite times, each where it belongs', async () => {
    await sql(`${VISIT} (null, null, null, null, null, null, null), ('a', null, null, 0, null, 'NaN', 'infinity')`);
    await applyVisits(database.pool);
    await sql(
      `${VISIT} (null, 'ann', null, -5, true, 'Infinity', '-infinity'), (null, null, null, null, null, null, null)`,
    );
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 3n, rows: 4n });
    expect(await visits()).toEqual([
      ['a', 'infinity', 1, 0],
      [null, '-infinity', 1, 1],
      [null, null, 2, 0],
    ]);
    await sql('delete from site.visits');
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 0n });
    expect(
      (await sql('select from rollups.visits_daily_buckets union all select from rollups.visits_daily_viewers')).rows,
    ).toEqual([]);
  });

  it.each([
    [
      'Europe/Berlin',
      [
        '2026-03-28 23:00Z',
        '2026-03-29 21:59:59.999999Z',
        '2026-03-29 22:00Z',
        '2026-10-24 22:00Z',
        '2026-10-25 22:59:59Z',
        '2026-10-31 23:00Z',
        '2026-10-31 22:59Z',
      ],
    ],
    // There a day began at one o'clock, and another had its last hour twice.
    [
      'America/Sao_Paulo',
      [
        '2018-11-04 02:59:59Z',
        '2018-11-04 03:00Z',
        '2018-02-18 01:30Z',
        '2018-02-18 02:30Z',
        '2018-02-18 03:00Z',
        '2018-03-01 02:59Z',
        '2018-03-01 03:00Z',
      ],
    ],
    // There the first of a month had its first hour twice.
    [
      'America/Havana',
      ['2026-11-01 03:59:59Z', '2026-11-01 04:00Z', '2026-11-01 04:59Z', '2026-11-01 05:00Z', '2026-11-01 06:00Z'],
    ],
    ['Pacific/Apia', ['2011-12-30 09:59:59Z', '2011-12-30 10:00Z', '2012-01-01 09:59Z', '2012-01-01 10:00Z']],
  ])('has days of %s as its clocks had them', async (zone, instants) => {
    const rows = instants.map((at) => `('a', '${at}', null, 1, true, 1, '${at}')`).join(', ');
    await sql(`${VISIT} ${rows}`);
    await applyVisits(database.pool, { zone });
    await sql(`${VISIT} ${rows}`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: BigInt(2 * instants.length) });
    const { rows: told } = await sql(
      `select 'a' as page, (at at time zone '${zone}')::date::text as day, count(*)::int as visits, count(distinct person)::int as people
       from site.visits group by 2 order by 2`,
    );
    expect(await visits()).toEqual(told.map(Object.values));
    await database.pool.query(`select rollups.begin_build('visits_daily', true)`);
    await applyVisits(database.pool, { zone });
    expect(await visits()).toEqual(told.map(Object.values));
  });

  it('is counted by one run at a time', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}`);
    await horizonIsOurs(database.pool);
    const first = await open(`select rollups.run('visits_daily')`);
    expect(await counted(database.pool)).toEqual([{ rollup: 'visits_daily', status: 'under way', changes: 0n }]);
    await first.end('commit');
    expect(await counted(database.pool)).toMatchObject([{ status: 'nothing' }]);
    expect(await visits()).toEqual([['a', '2026-01-01', 1, 1]]);
  });

  it('counted nothing where its run was killed before its end', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}; ${VISIT} ${BOB}`);
    const victim = await database.pool.connect();
    victim.on('error', () => undefined);
    const { rows } = await victim.query(`select pg_backend_pid() as pid`);
    await horizonIsOurs(database.pool);
    await victim.query('begin');
    await victim.query(`select rollups.run('visits_daily', 1)`);
    await sql(`select pg_terminate_backend(${rows[0].pid}, 10000)`);
    victim.release(true);
    expect(await days()).toEqual([]);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 2n });
  });

  it('is built month by month, and goes on where it was stopped', async () => {
    await sql(
      `${VISIT} ${ANN}, ('b', null, 's', 5, true, 1, '2026-02-03Z'), ('c', null, 's', 5, true, 1, '2026-03-03Z')`,
    );
    const stop = new AbortController();
    const stopped = applyRollups(database.pool, declare([visitsDeclaration()]), {
      stop: stop.signal,
      onMonth: () => stop.abort('SIGINT'),
    });
    await expect(stopped).rejects.toMatchObject({ code: 'STOPPED' });
    expect(await visits()).toEqual([['a', '2026-01-01', 1, 1]]);
    // What happens meanwhile is counted once, when all is built.
    await sql(
      `${VISIT} ${BOB}; delete from site.visits where page = 'b'; update site.visits set page = 'd' where page = 'a' and person = 'ann'`,
    );
    expect(await counted(database.pool)).toMatchObject([{ status: 'building', changes: 0n }]);
    expect(await applyVisits(database.pool)).toMatchObject([{ status: 'finished' }]);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 3n });
    expect(await visits()).toEqual([
      ['a', '2026-01-01', 1, 1],
      ['c', '2026-03-03', 1, 1],
      ['d', '2026-01-01', 1, 1],
    ]);
  });

  it.each([
    [
      'a month is counted anew',
      'lock table site.visits_daily in exclusive mode',
      'rollups.build(',
      `select rollups.begin_build('visits_daily', true)`,
    ],
    ['a rebuild is begun', 'lock table site.visits_daily in access exclusive mode', 'rollups.begin_build(', `select 1`],
    ['its index is made', `${VISIT} ${BOB}`, 'create index concurrently', 'drop index site.visits_recorded_xid'],
  ])('is not waited for any longer where it is stopped while %s, and goes on', async (_, hold, statement, before) => {
    await sql(`${VISIT} ${ANN}`);
    await applyVisits(database.pool);
    await sql(before);
    const holder = await open(hold);
    const stop = new AbortController();
    const running = statement.startsWith('rollups.begin')
      ? buildRollup(database.pool, 'visits_daily', { stop: stop.signal }, { everything: true })
      : applyRollups(database.pool, declare([visitsDeclaration()]), { stop: stop.signal });
    const refused = expect(running).rejects.toMatchObject({ code: 'STOPPED' });
    await waitsForLock(database.pool, statement);
    stop.abort('SIGINT');
    await refused;
    await holder.end('rollback');
    await applyVisits(database.pool);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, missing: [], rows: 1n });
  });

  it('is counted by procedures that pg_cron can call, of which one that fails stops no other', async () => {
    const other = visitsDeclaration({ name: 'people_daily', group: ['person'] });
    await applyRollups(database.pool, declare([visitsDeclaration(), other]), {});
    for (let each = 0; each < 3; each += 1) await sql(`${VISIT} ${ANN}`);
    await sql(`update rollups.rollups set counted_below = '99999999999' where name = 'people_daily'`);
    await horizonIsOurs(database.pool);
    await sql('call rollups.run_all(1)');
    await sql('call rollups.refresh_due()');
    expect(await visits()).toEqual([['a', '2026-01-01', 3, 1]]);
  });

  it('is counted in transactions of so many rows, and those of one transaction together', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}, ${ANN}, ${ANN}`);
    for (let each = 0; each < 3; each += 1) await sql(`${VISIT} ${BOB}`);
    await horizonIsOurs(database.pool);
    const run = async () => (await sql(`select * from rollups.run('visits_daily', 2)`)).rows[0];
    expect(await run()).toEqual({ status: 'counted', changes: 3n, is_behind: true });
    expect(await run()).toEqual({ status: 'counted', changes: 2n, is_behind: true });
    expect(await run()).toEqual({ status: 'counted', changes: 1n, is_behind: false });
    expect(await run()).toEqual({ status: 'nothing', changes: 0n, is_behind: false });
  });

  it('counts as far as so many changes reach, too', async () => {
    await sql(`${VISIT} ${ANN}, ${ANN}, ${ANN}, ${BOB}`);
    await applyVisits(database.pool);
    for (let each = 0; each < 3; each += 1)
      await sql(`delete from site.visits where id = (select min(id) from site.visits)`);
    await horizonIsOurs(database.pool);
    const run = async () => (await sql(`select * from rollups.run('visits_daily', 2)`)).rows[0];
    expect(await run()).toEqual({ status: 'counted', changes: 2n, is_behind: true });
    expect(await run()).toEqual({ status: 'counted', changes: 1n, is_behind: false });
    expect(await visits()).toEqual([['a', '2026-01-01', 1, 1]]);
  });

  it.each([
    ['the procedure', () => sql('call rollups.run_all(1)')],
    ['a worker', () => runRollups(database.pool, { mostRows: 1 })],
  ])('does not wait until another is done that is far behind, counted by %s', async (_, runAll) => {
    const other = visitsDeclaration({ name: 'people_daily', group: ['person'] });
    await applyRollups(database.pool, declare([other, visitsDeclaration()]), {});
    for (let each = 0; each < 4; each += 1) await sql(`${VISIT} ${ANN}`);
    await horizonIsOurs(database.pool);
    await sql(`select rollups.run('visits_daily')`);
    await sql(`${VISIT} ${BOB}`);
    await horizonIsOurs(database.pool);
    await runAll();
    const { rows } = await sql('select name from rollups.rollups order by last_counted_at');
    expect(rows).toEqual([{ name: 'visits_daily' }, { name: 'people_daily' }]);
    expect(await visits()).toEqual([['a', '2026-01-01', 5, 2]]);
  });

  it('has what came since another rollup of its source was made, and verification says of how many rows it says nothing', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}`);
    await horizonIsOurs(database.pool);
    const other = visitsDeclaration({ name: 'people_daily', group: ['person'] });
    await applyRollups(database.pool, declare([visitsDeclaration(), other]), {});
    const people = async () => (await sql('select person, visits::int from site.people_daily order by 1')).rows;
    expect(await people()).toEqual([{ person: 'ann', visits: 1 }]);
    await sql(`${VISIT} ${BOB}`);
    expect(await verifyRollups(database.pool, { names: ['people_daily'] })).toMatchObject([
      { ...holds, rows: 1n, waiting: 1n },
    ]);
    await sql(`delete from site.visits where person = 'ann'`);
    await counted(database.pool);
    expect(await verifyRollups(database.pool)).toMatchObject([
      { ...holds, waiting: 0n },
      { ...holds, waiting: 0n },
    ]);
    expect(await people()).toEqual([{ person: 'bob', visits: 1 }]);
  });

  it('does not take away what it never counted: such rows are named, and it is to be rebuilt when they go', async () => {
    await applyVisits(database.pool);
    await sql(
      `insert into site.visits (page, person, at, recorded_xid) values ('a', 'ann', '2026-01-01Z', '1'), ('b', 'bob', '2026-01-01Z', null)`,
    );
    await counted(database.pool);
    expect((await verifyRollups(database.pool))[0]).toMatchObject({ holds: false, faults: 2n });
    await sql(`delete from site.visits where page = 'a'`);
    expect(await counted(database.pool)).toMatchObject([{ status: 'to be rebuilt' }]);
    expect(await days()).toEqual([]);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('is stopped by no row: not by a viewer too long for an index, nor by a number beyond double precision', async () => {
    const rollup = { ...visitsDeclaration(), median: { name: 'median_price', column: 'price' } };
    await applyRollups(database.pool, declare([rollup]), {});
    const long = (end: string) => `(select string_agg(md5(n::text), '') || '${end}' from generate_series(1, 500) n)`;
    const prices = ['1e400', '-1e400', '1e-400'];
    await sql(`${VISIT} ${prices.map((price) => `('a', ${long('x')}, null, 1, true, ${price}, '2026-01-01Z')`).join(', ')},
      ('b', ${long('x')}, null, 1, true, 1, '2026-01-01Z'), ('b', ${long('y')}, null, 1, true, 1, '2026-01-01Z')`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 5n });
    await sql(`update site.visits set price = -price where page = 'a'; delete from site.visits where price < -1`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 4n });
    const { rows } = await sql('select page, people::int from site.visits_daily order by 1');
    expect(rows).toEqual([
      { page: 'a', people: 1 },
      { page: 'b', people: 2 },
    ]);
  });

  it('has averages to the digits of the rows that there are', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ('a', 'ann', null, 1, true, 1, '2026-01-01Z'), ('a', 'ann', null, 1, true, 1, '2026-01-01Z'),
      ('a', 'ann', null, 1, true, 2, '2026-01-01Z'), ('a', 'bob', null, 1, true, 1.${'0'.repeat(30)}, '2026-01-01Z')`);
    await counted(database.pool);
    await sql(`delete from site.visits where person = 'bob'`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 3n });
  });

  it('refuses no writer for what its expression says of his row: the build that failed says so, and goes on when that is mended', async () => {
    const rollup = { ...visitsDeclaration(), distinct: { name: 'people', of: 'person || 100 / ms' } };
    const apply = () => applyRollups(database.pool, declare([rollup]), {});
    await sql(
      `${VISIT} ${ANN}, ('b', 'bob', null, 0, true, 1, '2026-01-01Z'), ('c', 'cy', null, 0, true, 1, '2026-01-01Z')`,
    );
    await expect(apply()).rejects.toMatchObject({
      code: 'DB_FAILED',
      message: expect.stringMatching(/^visits_daily cannot be counted: division by zero .*remove --name visits_daily/),
    });
    await sql(`update site.visits set ms = 1 where page = 'b'; delete from site.visits where page in ('a', 'c')`);
    expect(await apply()).toMatchObject([{ status: 'finished' }]);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: 'visits_daily does not follow its source: of a row that went nothing could be counted: division by zero',
    });
    await buildRollup(database.pool, 'visits_daily', {}, { everything: false });
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('is of a source whose columns are called as a trigger calls its own', async () => {
    await sql(`alter table site.visits add found text; ${VISIT} ${ANN}; update site.visits set found = 'x'`);
    const rollup = { ...visitsDeclaration(), distinct: { name: 'people', of: 'coalesce(found, person)' } };
    await applyRollups(database.pool, declare([rollup]), {});
    await sql(`update site.visits set found = null`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('is of columns with any name, and read by as many kinds of readers of one column as there are', async () => {
    await sql(
      `alter table site.visits add "Page's Id" integer; ${VISIT} ${ANN}; update site.visits set "Page's Id" = 7`,
    );
    const some = { roles: ['service_role'], column: "Page's Id", among: ['select 7'] };
    const rollup = { ...visitsDeclaration({ group: ["Page's Id"] }), readers: { some: [some, some] } };
    await applyRollups(database.pool, declare([rollup]), {});
    const { rows } = await sql(
      `select visits::int from site.visits_daily_between(array[7], '2026-01-01', '2026-01-31')`,
    );
    expect(rows).toEqual([{ visits: 1 }]);
  });

  it('says that it is to be rebuilt when its source was truncated, and is, by a rebuild', async () => {
    await sql(`${VISIT} ${ANN}`);
    await applyVisits(database.pool);
    await sql('truncate site.visits');
    expect(await counted(database.pool)).toMatchObject([{ status: 'to be rebuilt' }]);
    await expect(verifyRollups(database.pool)).rejects.toMatchObject({
      code: 'ROLLUP_TO_BE_REBUILT',
      message: expect.stringContaining('was truncated'),
    });
    expect(await judgeRollups(database.pool)).toMatchObject({
      todo: 'Run: liventix rollups rebuild visits_daily, or, while the table has no rows, liventix rollups rebuild visits_daily --everything.',
    });
    await expect(sql(`select rollups.begin_build('visits_daily', false)`)).rejects.toMatchObject({ code: 'LV113' });
    await sql(`select rollups.begin_build('visits_daily', true)`);
    await applyVisits(database.pool);
    expect(await days()).toEqual([]);
    await sql(`${VISIT} ${BOB}`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('is gone on with by its own file, of which every advice speaks, and the refusal of another', async () => {
    await sql(`${VISIT} ${ANN}`);
    const file = await fileOf({ tables: { visits: ['site.visits'] }, rollups: [visitsDeclaration()] });
    const apply = (...more: string[]) => liventix(['rollups', 'apply', ...more], { DATABASE_URL: database.url });
    expect(await apply('--mapping', file)).toMatchObject({ exitCode: 0 });
    await sql(`select rollups.begin_build('visits_daily', false)`);
    expect(await judgeRollups(database.pool)).toMatchObject({
      found: 'visits_daily is not built yet',
      todo: 'Run: liventix rollups apply, with its --mapping where that is one of your own.',
    });
    await expect(verifyRollups(database.pool)).rejects.toMatchObject({ message: expect.stringContaining('--mapping') });
    expect(await apply()).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(/ROLLUP_DECLARATION_INVALID: .* one of your own is named with --mapping\.\n$/),
    });
    expect((await liventix(['rollups', 'status'], { DATABASE_URL: database.url })).stdout).toContain(' 1 month left,');
    expect(await apply('--mapping', file)).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^finished/) });
    expect(await judgeRollups(database.pool)).toMatchObject({
      found: '1 rollup is up to date, and 0 views refreshed',
    });
  });

  it('says that its source is gone', async () => {
    await applyVisits(database.pool);
    await sql('alter table site.visits rename to elsewhere');
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: 'the source of visits_daily is gone',
    });
    await expect(counted(database.pool)).rejects.toMatchObject({ code: 'ROLLUP_SOURCE_MISSING' });
  });

  it('has nothing of what was truncated after the rebuild that it asks for, though rows came since', async () => {
    await sql(`${VISIT} ${ANN}`);
    await applyVisits(database.pool);
    await sql(`truncate site.visits; ${VISIT} ('b', 'bob', null, 1, true, 1, '2026-02-03Z')`);
    await horizonIsOurs(database.pool);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await visits()).toEqual([['b', '2026-02-03', 1, 1]]);
    expect(await countedAndVerified(database.pool)).toMatchObject(holds);
  });

  it('refuses to count on another server, though that is further than it has counted', async () => {
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}`);
    await sql('update rollups.rollups set counted_on = 1');
    await expect(counted(database.pool)).rejects.toMatchObject({ code: 'ROLLUP_HORIZON_BEHIND' });
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: 'visits_daily counted on another server, from which this one was restored',
    });
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('refuses to count on a server whose transactions are not those it counted, and does so again after a rebuild', async () => {
    await sql(`${VISIT} ${ANN}`);
    await applyVisits(database.pool);
    await sql(`${VISIT} ${BOB}`);
    await counted(database.pool);
    // As a dump of a server that was at transaction 10 million has it.
    await sql(`alter table site.visits disable trigger user; update site.visits set recorded_xid = '9999999' where person = 'bob';
      alter table site.visits enable trigger user; update rollups.rollups set counted_below = '10000000'`);
    await expect(counted(database.pool)).rejects.toMatchObject({
      code: 'ROLLUP_HORIZON_BEHIND',
      message: expect.stringContaining('liventix rollups rebuild visits_daily'),
    });
    await sql(`${VISIT} ('b', null, null, null, null, null, null)`);
    await sql(
      `alter table site.visits enable always trigger zz_liventix_rollups_recorded; alter table site.visits enable always trigger zz_liventix_rollup_visits_daily;
       alter table site.visits enable always trigger zz_liventix_rollup_visits_daily_t`,
    );
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 3n });
    await sql(`delete from site.visits where person = 'bob'`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 2n });
  });

  it('needs nothing of those who write its source but what they have', async () => {
    await applyVisits(database.pool);
    await sql(`create role ${database.name}_web; grant ${database.name}_web to current_user; grant usage on schema site to ${database.name}_web;
      grant insert, select, update, delete on site.visits to ${database.name}_web; grant usage on sequence site.ids to ${database.name}_web`);
    await sql(`begin; set local role ${database.name}_web; ${VISIT} ${ANN}, ${BOB}; update site.visits set ms = 5 where person = 'ann';
      delete from site.visits where person = 'bob'; commit`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
    for (const table of [
      'site.visits_daily',
      'rollups.visits_daily_viewers',
      'rollups.visits_daily_buckets',
      'rollups.visits_daily_changes',
      'rollups.rollups',
    ])
      await expect(
        sql(`begin; set local role ${database.name}_web; select from ${table}`),
        table,
      ).rejects.toMatchObject({ code: '42501' });
    await sql(`rollback; drop owned by ${database.name}_web; drop role ${database.name}_web`);
  });

  it('does not wait for whoever holds its source, nor keep anybody waiting', async () => {
    const reader = await open('select from site.visits');
    const applying = applyRollups(database.pool, declare([visitsDeclaration()]), { maxTries: 2 });
    await expect(applying).rejects.toMatchObject({ code: 'ROLLUP_BUSY' });
    await reader.end('commit');
    expect((await sql(`select from rollups.rollups`)).rows).toEqual([]);
    await applyVisits(database.pool);
  });

  it('names every group and day that is not what the rows say', async () => {
    await sql(`${VISIT} ${ANN}`);
    await applyVisits(database.pool);
    await sql('update site.visits_daily set visits = 2, median_ms = 103');
    const [verified] = await verifyRollups(database.pool);
    expect(verified).toMatchObject({ holds: false, faults: 1n });
    expect(verified?.first).toEqual(['(a,2026-01-01): visits is 2, should be 1, the median is 103, should be 100']);
    await sql('update site.visits_daily set visits = 1, median_ms = 100.9; delete from rollups.visits_daily_viewers');
    expect((await verifyRollups(database.pool))[0]?.first).toEqual(['(a,2026-01-01): its viewers is 0, should be 1']);
  });

  it.each([
    [
      'a trigger that was dropped',
      'drop trigger zz_liventix_rollup_visits_daily on site.visits',
      'the trigger zz_liventix_rollup_visits_daily',
    ],
    [
      'a trigger that is disabled',
      'alter table site.visits disable trigger zz_liventix_rollups_recorded',
      'the trigger zz_liventix_rollups_recorded',
    ],
    [
      'a default that was dropped',
      'alter table site.visits alter column recorded_xid drop default',
      'the default of recorded_xid',
    ],
  ])('says that it lacks %s, has it put back by apply, and is then to be rebuilt', async (_, lose, what) => {
    await applyVisits(database.pool);
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'ok' });
    await sql(`${lose}; ${VISIT} ${ANN}; update site.visits set ms = 7`);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: `visits_daily lacks ${what} of site.visits`,
    });
    expect((await verifyRollups(database.pool))[0]).toMatchObject({
      holds: false,
      missing: [`${what} of site.visits`],
    });
    expect(await applyVisits(database.pool)).toMatchObject([{ status: 'mended' }]);
    expect(await counted(database.pool)).toMatchObject([{ status: 'to be rebuilt' }]);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, missing: [], rows: 1n });
    await sql(`delete from site.visits; ${VISIT} ${BOB}`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('has its index made anew where that is gone, which loses nothing', async () => {
    await applyVisits(database.pool);
    await sql(`drop index site.visits_recorded_xid; ${VISIT} ${ANN}`);
    expect((await rollupStatus(database.pool)).rollups[0]?.missing).toEqual([
      'the index on recorded_xid of site.visits',
    ]);
    expect(await applyVisits(database.pool)).toMatchObject([{ status: 'mended' }]);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('leaves nothing behind when it is removed, and the column stays for another of the source', async () => {
    const facts = async () =>
      (
        await sql(
          `select array_agg(a.attname order by a.attname) as columns, (select count(*)::int from pg_trigger where tgrelid = c.oid) as triggers,
             (select count(*)::int from pg_index where indrelid = c.oid) as indexes,
             (select count(*)::int from pg_class r where r.relnamespace = 'rollups'::regnamespace) as inner,
             (select count(*)::int from pg_proc p where p.pronamespace = 'rollups'::regnamespace) as functions
           from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           where c.oid = 'site.visits'::regclass group by c.oid`,
        )
      ).rows[0];
    const before = await facts();
    const other = visitsDeclaration({ name: 'people_daily', group: ['person'] });
    await applyRollups(database.pool, declare([visitsDeclaration(), other]), {});
    await sql(`${VISIT} ${ANN}`);
    expect(await counted(database.pool)).toMatchObject([{ changes: 1n }, { changes: 1n }]);
    await removeRollups(database.pool, ['visits_daily']);
    await sql(`${VISIT} ${BOB}; delete from site.visits where person = 'ann'`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rollup: 'people_daily', rows: 1n });
    await removeRollups(database.pool, undefined);
    expect(await facts()).toEqual(before);
  });

  it('tells of a range of days: distinct viewers once, medians to 1 %', async () => {
    await applyVisits(database.pool);
    await sql(`insert into site.visits (page, person, ms, done, at)
      select 'a', 'p' || n % 40, n * n % 3001, n % 3 = 0, '2026-01-01Z'::timestamptz + n * interval '1 hour' from generate_series(1, 400) n`);
    await counted(database.pool);
    const range = `between '2026-01-03' and '2026-01-11'`;
    const { rows: told } = await sql(
      `select count(*) as visits, count(distinct person) as people, count(*) filter (where done) as completions, avg(ms)::text as avg,
         percentile_cont(0.5) within group (order by ms) as median from site.visits where (at at time zone 'UTC')::date ${range}`,
    );
    const { rows: kept } = await sql(
      `select visits, people, completions, avg_ms::text as avg, median_ms as median from site.visits_daily_between(array['a', 'z'], '2026-01-03', '2026-01-11')`,
    );
    const { median, ...exact } = told[0];
    expect(kept).toEqual([{ ...exact, median: expect.any(Number) }]);
    expect(Math.abs(kept[0].median - median)).toBeLessThanOrEqual(median * 0.01);
  });

  it('reads of its source what is new, however much there is', async () => {
    const fill = (from: number, to: number) =>
      sql(`insert into site.visits (page, person, ms, done, at)
        select 'p' || n % 7, 'v' || n % 50, n % 1000, true, '2026-01-01Z'::timestamptz + n % 60 * interval '1 day' from generate_series(${from}, ${to}) n`);
    // A new session, or one that autovacuum has told of new statistics, reads the catalog once more: noise that only adds, so
    // that the least of three is the run itself.
    const pagesOfRun = async () => {
      const pages: number[] = [];
      for (let run = 0; run < 3; run++) {
        await fill(1, 100);
        await horizonIsOurs(database.pool);
        const { rows } = await sql(`explain (analyze, buffers, format json) select rollups.run('visits_daily')`);
        const plan = rows[0]['QUERY PLAN'][0].Plan;
        pages.push(plan['Shared Hit Blocks'] + plan['Shared Read Blocks']);
      }
      return Math.min(...pages);
    };
    await applyVisits(database.pool);
    const costs: number[] = [];
    for (const size of [2_000, 200_000]) {
      await fill(1, size);
      await counted(database.pool);
      await sql('vacuum (analyze) site.visits');
      costs.push(await pagesOfRun());
    }
    const [small = 0, large = 0] = costs;
    expect(large).toBeLessThan(1.25 * small);
  });
});

describe('a rollup of a partitioned table', () => {
  const JANUARY = `for values from ('2026-01-01Z') to ('2026-02-01Z')`;
  const FEBRUARY = `for values from ('2026-02-01Z') to ('2026-03-01Z')`;
  beforeEach(async () => {
    await createVisits(database.pool, 'partition by range (at)');
    await sql(
      `create table site.january partition of site.visits ${JANUARY}; create table site.february partition of site.visits ${FEBRUARY}`,
    );
  });

  it('follows what is done to a partition itself, rows that move to another, and new partitions', async () => {
    await sql(`${VISIT} ${ANN}, ${BOB}`);
    await applyVisits(database.pool);
    await sql(`create table site.march partition of site.visits for values from ('2026-03-01Z') to ('2026-04-01Z')`);
    await sql(
      `delete from site.january where person = 'ann'; update site.visits set at = '2026-03-05Z' where person = 'bob'`,
    );
    expect(await countedAndVerified(database.pool)).toMatchObject(holds);
    expect(await visits()).toEqual([['a', '2026-03-05', 1, 1]]);
    await sql(`delete from site.march`);
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 0n });
    const { rows } = await sql(`select tgenabled::text as enabled, count(*)::int from pg_trigger
      where tgrelid in ('site.january'::regclass, 'site.march'::regclass) and tgname like 'zz_liventix%' and tgparentid <> 0 group by 1`);
    expect(rows).toEqual([{ enabled: 'A', count: 4 }]);
  });

  it('says where a partition alone does not count', async () => {
    await applyVisits(database.pool);
    await sql(`alter table site.january disable trigger zz_liventix_rollup_visits_daily;
      alter table site.february alter column recorded_xid drop default`);
    const missing = async () => (await verifyRollups(database.pool))[0]?.missing;
    expect(await missing()).toEqual([
      'the default of recorded_xid of site.february',
      'the trigger zz_liventix_rollup_visits_daily of site.january',
    ]);
    expect(await applyVisits(database.pool)).toMatchObject([{ status: 'mended' }]);
    expect((await rollupStatus(database.pool)).rollups[0]?.missing).toEqual([]);
  });

  it('has an index of each partition, attached to that of the table', async () => {
    await applyVisits(database.pool);
    const { rows } = await sql(
      `select x.indrelid::regclass::text as of, x.indisvalid as valid, exists (select from pg_inherits h where h.inhrelid = x.indexrelid) as attached
       from pg_index x where pg_get_indexdef(x.indexrelid) like '%site.%recorded_xid%' order by 1`,
    );
    expect(rows).toEqual([
      { of: 'site.february', valid: true, attached: true },
      { of: 'site.january', valid: true, attached: true },
      { of: 'site.visits', valid: true, attached: false },
    ]);
  });

  it('keeps the days of a partition that is detached, and a rebuild does too', async () => {
    await sql(`${VISIT} ${ANN}, ('b', null, 's', 5, true, 1, '2026-02-03Z')`);
    await applyVisits(database.pool);
    await sql('alter table site.visits detach partition site.january');
    const both = [
      ['a', '2026-01-01', 1, 1],
      ['b', '2026-02-03', 1, 1],
    ];
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 1n, kept: 1n });
    expect(await visits()).toEqual(both);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool);
    expect(await visits()).toEqual(both);
    await sql(`select rollups.begin_build('visits_daily', true)`);
    await applyVisits(database.pool);
    expect(await visits()).toEqual([['b', '2026-02-03', 1, 1]]);
  });

  describe('with a month that is gone, and the next', () => {
    const JANUARY_KEPT = ['a', '2026-01-01', 1, 1];
    const IN_FEBRUARY = ['b', '2026-02-03', 1, 1];
    const LATE = `('a', 'bob', null, 5, true, 1, '2026-01-01 12:00Z')`;
    const rebuild = async () => {
      await horizonIsOurs(database.pool);
      await sql(`select rollups.begin_build('visits_daily', false)`);
      await applyVisits(database.pool);
    };
    beforeEach(async () => {
      await sql(
        `${VISIT} ${ANN}, ('b', null, 's', 5, true, 1, '2026-02-03Z'); create table site.rest partition of site.visits default`,
      );
      await applyVisits(database.pool);
      await sql('alter table site.visits detach partition site.january');
    });

    it('keeps it and what comes late for it, whether that was counted or not, and holds', async () => {
      await sql(`${VISIT} ${LATE}`);
      expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 1n, kept: 1n });
      await rebuild();
      await sql(`${VISIT} ${LATE}`);
      await rebuild();
      expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 1n, kept: 1n });
      expect(await visits()).toEqual([['a', '2026-01-01', 3, 2], IN_FEBRUARY]);
      await sql(`delete from site.visits where page = 'a'`);
      await counted(database.pool);
      expect(await visits()).toEqual([JANUARY_KEPT, IN_FEBRUARY]);
    });

    it('takes nothing from it for a row that came and went before it was counted, by a rebuild between', async () => {
      await sql(`${VISIT} ${LATE}`);
      await sql(`delete from site.visits where page = 'a'`);
      await rebuild();
      await counted(database.pool);
      expect(await visits()).toEqual([JANUARY_KEPT, IN_FEBRUARY]);
    });

    it('keeps one that goes while a rebuild stands', async () => {
      await sql(`select rollups.begin_build('visits_daily', false)`);
      await sql('alter table site.visits detach partition site.february');
      await applyVisits(database.pool);
      expect(await visits()).toEqual([JANUARY_KEPT, IN_FEBRUARY]);
    });

    it('has nothing of the months that are there and were truncated', async () => {
      await sql(`truncate site.visits; ${VISIT} ('c', null, 's', 5, true, 1, '2026-02-05Z')`);
      await rebuild();
      expect(await visits()).toEqual([JANUARY_KEPT, ['c', '2026-02-05', 1, 1]]);
    });
  });

  it('is not wronged by days of another zone than its months: the first of those that are left is kept', async () => {
    await sql(
      `${VISIT} ('a', 'ann', null, 5, true, 1, '2026-01-31 23:30Z'), ('a', 'bob', null, 5, true, 1, '2026-02-01 10:00Z')`,
    );
    await applyVisits(database.pool, { zone: 'Europe/Berlin' });
    await sql('drop table site.january');
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, kept: 1n });
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await applyVisits(database.pool, { zone: 'Europe/Berlin' });
    expect(await visits()).toEqual([['a', '2026-02-01', 2, 2]]);
  });

  it('has what the source has counted anew by a rebuild, on the first day of those that are left too, and keeps the rest of its month', async () => {
    const at = (page: string, when: string) => `('${page}', 'ann', null, 5, true, 1, '${when}')`;
    await sql(`${VISIT} ${at('a', '2026-01-31 23:30Z')}, ${at('a', '2026-02-01 10:00Z')}, ${at('b', '2026-02-01 11:00Z')},
      ${at('b', '2026-02-01 11:30Z')}, ${at('c', '2026-02-02 10:00Z')}`);
    await applyVisits(database.pool, { zone: 'Europe/Berlin' });
    await sql('drop table site.january');
    await sql(`update site.visits_daily set visits = visits - 1, people = 9 where page in ('b', 'c')`);
    const faults = ['b', 'c'].map((page) => expect.stringMatching(`^\\(${page},.*visits is`));
    expect(await countedAndVerified(database.pool)).toMatchObject({ holds: false, first: faults, kept: 1n });
    const verified = await liventix(['rollups', 'verify'], { DATABASE_URL: database.url });
    expect(verified.stdout).toMatch(/^ +To count anew what the source has: liventix rollups rebuild visits_daily$/m);
    await sql(`delete from site.visits where at = '2026-02-01 11:30Z'`);
    expect(
      (await liventix(['rollups', 'rebuild', 'visits_daily', '--dry-run'], { DATABASE_URL: database.url })).stdout,
    ).toBe(
      'would count 0 months of visits_daily anew as a whole, and 1 in part: what the source has less of in 2026-02-01 00:00:00 is kept\n',
    );
    const rebuilt = await liventix(['rollups', 'rebuild', 'visits_daily'], { DATABASE_URL: database.url });
    expect(rebuilt.stdout).toBe(
      'rebuilt visits_daily of 2 rows\n1 month kept in part: groups and days that the source has less of, as partitions of it are gone\n',
    );
    // What goes while a rebuild stands is taken from what is kept afterwards, and of the rest is not counted.
    await sql(`select rollups.begin_build('visits_daily', false)`);
    await sql(`delete from site.visits where page in ('a', 'c')`);
    await applyVisits(database.pool, { zone: 'Europe/Berlin' });
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, kept: 1n });
    expect(await visits()).toEqual([
      ['a', '2026-02-01', 1, 1],
      ['b', '2026-02-01', 1, 1],
    ]);
  });

  it('says of a partition that it must not go before its rows are counted, nor while it is rebuilt', async () => {
    const mayLose = async (of = 'site.visits') =>
      (await sql(`select rollups.may_lose('${of}', 'site.january') as may`)).rows[0].may;
    expect(await mayLose()).toBe(true);
    await applyVisits(database.pool);
    await sql(`${VISIT} ${ANN}`);
    expect(await mayLose()).toBe(false);
    expect(await mayLose('site.january')).toBe(true);
    await counted(database.pool);
    expect(await mayLose()).toBe(true);
    await horizonIsOurs(database.pool);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    expect(await mayLose()).toBe(false);
    await applyVisits(database.pool);
    expect(await mayLose()).toBe(true);
    await sql('truncate site.visits');
    expect(await mayLose()).toBe(false);
  });
});

it('goes on when its source becomes a partitioned table under its name', async () => {
  await createVisits(database.pool);
  await sql(`${VISIT} ${ANN}`);
  await applyVisits(database.pool);
  await sql(`${VISIT} ${BOB}`);
  const { rows: triggers } = await sql(
    `select pg_get_triggerdef(oid) as definition from pg_trigger where tgrelid = 'site.visits'::regclass and not tgisinternal`,
  );
  await sql(`begin; alter table site.visits rename to visits_past; create table site.visits (like site.visits_past including all) partition by range (at);
    ${triggers.map(({ definition }) => definition).join(';')};
    ${triggers.map(({ definition }) => `alter table site.visits enable always trigger ${definition.split(' ')[2]}`).join(';')};
    ${triggers.map(({ definition }) => `drop trigger ${definition.split(' ')[2]} on site.visits_past`).join(';')};
    alter table site.visits attach partition site.visits_past default; commit`);
  await sql(`${VISIT} ('b', null, 's', 5, true, 1, '2026-02-03Z'); delete from site.visits where person = 'ann'`);
  expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, rows: 2n });
});
