import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { applyRollups } from '../../src/analytics/rollups/apply.ts';
import { judgeRollups, rollupStatus } from '../../src/analytics/rollups/status.ts';
import { refreshView, refreshViews } from '../../src/analytics/rollups/views.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { waitsForLock } from '../support/locks.ts';
import { createVisits, declare, fileOf } from '../support/rollups.ts';

let database: TestDatabase;

const VIEW = 'site.pages';
const declaration = {
  name: 'pages',
  schema: 'site',
  unique: ['page'],
  query: ['select v.page, count(*) as visits from {visits} v where site.pass(v.page) group by v.page'],
};

beforeEach(async () => {
  database = await createDatabase();
  await createVisits(database.pool);
  // So that a test can stop a refresh in its midst.
  await sql(`create function site.pass(page text) returns boolean language plpgsql as $$ begin
    perform pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1); return true; end $$`);
  await sql(`insert into site.visits (page) values ('a'), ('b')`);
  await applyRollups(database.pool, declare([], [declaration]), {});
});
afterEach(() => database.drop());

const sql = (text: string) => database.pool.query(text);
const pages = async () => (await sql(`select page, visits::int from ${VIEW} order by 1`)).rows;
const view = async () => (await rollupStatus(database.pool)).views[0];
const before = [
  { page: 'a', visits: 1 },
  { page: 'b', visits: 1 },
];

/** Somebody who lets no refresh go on until it is let. */
async function stopper(): Promise<() => Promise<void>> {
  const client = await database.pool.connect();
  await client.query('select pg_advisory_lock(1)');
  return async () => {
    await client.query('select pg_advisory_unlock(1)');
    client.release();
  };
}

describe('a refreshed view', () => {
  it('is made empty and then filled, and refreshed beside its readers from then on', async () => {
    expect(await pages()).toEqual(before);
    const reader = await database.pool.connect();
    await reader.query(`begin; select from ${VIEW}`);
    await sql(`insert into site.visits (page) values ('a')`);
    expect(await refreshView(database.pool, VIEW)).toMatchObject({ status: 'refreshed', rows: 2n, error: null });
    expect((await pages())[0]).toEqual({ page: 'a', visits: 2 });
    await reader.query('rollback');
    reader.release();
    const { rows } = await sql(
      'select beside_readers, rows::int, finished_at >= started_at as ended, error from rollups.refreshes order by id',
    );
    expect(rows).toEqual([
      { beside_readers: false, rows: 2, ended: true, error: null },
      { beside_readers: true, rows: 2, ended: true, error: null },
    ]);
  });

  it('keeps its rows where a refresh was killed midway, says so, and is refreshed by the next', async () => {
    await sql(`insert into site.visits (page) values ('c')`);
    const go = await stopper();
    const killed = refreshView(database.pool, VIEW);
    killed.catch(() => undefined);
    await waitsForLock(database.pool, 'rollups.refresh');
    // Readers see what there was meanwhile.
    expect(await pages()).toEqual(before);
    expect((await view())?.error).toBeNull();
    await sql(
      `select pg_terminate_backend(pid, 10000) from pg_stat_activity where query like 'call rollups.refresh%' and pid <> pg_backend_pid()`,
    );
    await expect(killed).rejects.toMatchObject({ code: 'DB_UNREACHABLE' });
    await go();
    expect(await pages()).toEqual(before);
    expect((await view())?.error).toMatch(/was ended from outside$/);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'warning',
      found: expect.stringContaining('was ended from outside'),
    });
    expect(await refreshView(database.pool, VIEW)).toMatchObject({ status: 'refreshed', rows: 3n });
    expect((await view())?.error).toBeNull();
  });

  it('is not filled any longer by an apply that is stopped', async () => {
    await sql(`refresh materialized view ${VIEW} with no data`);
    const go = await stopper();
    const stop = new AbortController();
    const applying = applyRollups(database.pool, declare([], [declaration]), { stop: stop.signal });
    const refused = expect(applying).rejects.toMatchObject({ code: 'STOPPED' });
    await waitsForLock(database.pool, 'rollups.refresh');
    stop.abort('SIGINT');
    await refused;
    await go();
    expect((await view())?.isFilled).toBe(false);
  });

  it('is left alone while somebody refreshes it', async () => {
    const go = await stopper();
    const first = refreshView(database.pool, VIEW);
    await waitsForLock(database.pool, 'rollups.refresh');
    expect(await refreshView(database.pool, VIEW)).toMatchObject({ status: 'under way' });
    await go();
    expect(await first).toMatchObject({ status: 'refreshed' });
    expect((await sql('select from rollups.refreshes')).rows).toHaveLength(2);
  });

  it('is due within its interval, and not tried again at once where that failed', async () => {
    expect(await refreshViews(database.pool)).toEqual([]);
    const anHourAgo = `update rollups.refreshes set started_at = started_at - interval '61 minutes', finished_at = finished_at - interval '61 minutes'`;
    await sql(anHourAgo);
    await sql(
      `create or replace function site.pass(page text) returns boolean language plpgsql as $$ begin raise 'no passing'; end $$`,
    );
    expect(await refreshViews(database.pool)).toMatchObject([{ view: VIEW, status: 'failed', error: 'no passing' }]);
    expect(await refreshViews(database.pool)).toEqual([]);
    expect(await liventix(['rollups', 'refresh'], { DATABASE_URL: database.url })).toMatchObject({
      exitCode: 1,
      stdout: 'failed     site.pages: no passing\n',
    });
    await sql(anHourAgo);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'warning',
      found: 'the view site.pages is stale: no passing',
    });
    await sql(`create or replace function site.pass(page text) returns boolean language sql as 'select true'`);
    expect(await refreshViews(database.pool)).toMatchObject([{ view: VIEW, status: 'refreshed' }]);
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'ok' });
    await sql(anHourAgo);
    await sql('call rollups.refresh_due()');
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'ok' });
    expect((await sql('select from rollups.refreshes')).rows).toHaveLength(5);
  });

  const setBack = (by: string) =>
    sql(
      `update rollups.refreshes set started_at = started_at - interval '${by}', finished_at = finished_at - interval '${by}'`,
    );

  it('is tried after a rest that is twice as long after each failure in a row, up to its interval', async () => {
    const due = async () => (await sql('select from rollups.due_views()')).rowCount === 1;
    const failAgain = `insert into rollups.refreshes (view, beside_readers, finished_at, error) values ('${VIEW}', true, clock_timestamp(), 'no passing')`;
    await setBack('61 minutes');
    for (const minutes of [1, 2, 4, 8, 16, 32, 60, 60]) {
      await sql(failAgain);
      await setBack(`${minutes * 60 - 1} seconds`);
      expect(await due(), `${minutes}`).toBe(false);
      await setBack('1 second');
      expect(await due(), `${minutes}`).toBe(true);
    }
    expect(await refreshViews(database.pool)).toMatchObject([{ status: 'refreshed' }]);
    await setBack('61 minutes');
    await sql(failAgain);
    await setBack('1 minute');
    expect(await due()).toBe(true);
  });

  it('is tried at its interval alone where its rows are not unique', async () => {
    const twice = { ...declaration, name: 'twice', query: ['select page from {visits}'] };
    await applyRollups(database.pool, declare([], [twice]), {});
    await setBack('61 minutes');
    await refreshView(database.pool, VIEW);
    await sql(`insert into site.visits (page) values ('a')`);
    expect(await refreshView(database.pool, 'site.twice')).toMatchObject({ isNotUnique: true });
    await setBack('59 minutes');
    expect(await refreshViews(database.pool)).toEqual([]);
    await setBack('1 minute');
    expect(await refreshViews(database.pool)).toMatchObject([
      { view: VIEW },
      { view: 'site.twice', isNotUnique: true },
    ]);
  });

  it('is due, and stale, where the clock was set back behind its last refresh', async () => {
    await sql(
      `update rollups.refreshes set started_at = started_at + interval '1 year', finished_at = finished_at + interval '1 year'`,
    );
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'warning',
      found: expect.stringContaining('is stale'),
    });
    expect(await refreshViews(database.pool)).toMatchObject([{ view: VIEW, status: 'refreshed' }]);
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'ok' });
  });

  it('is filled, not refreshed, where it has been emptied', async () => {
    await sql(`refresh materialized view ${VIEW} with no data`);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: 'the view site.pages is not filled',
    });
    expect(await refreshView(database.pool, VIEW)).toMatchObject({ status: 'refreshed', rows: 2n });
  });

  it('that its rows are not unique for is left without them, or with those of before, and what helps is said', async () => {
    const twice = { ...declaration, name: 'twice', query: ['select page from {visits}'] };
    await sql(`insert into site.visits (page) values ('a')`);
    const file = await fileOf({ tables: { visits: ['site.visits'] }, rollups: [], views: [declaration, twice] });
    const why = /: could not create unique index "twice_key" Key \(page\)=\(a\) is duplicated\./;
    const remedy = 'Change "unique" of twice in the file, then run: liventix rollups remove --name twice, and apply.';
    const applied = await liventix(['rollups', 'apply', '--mapping', file], { DATABASE_URL: database.url });
    expect(applied).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(why) });
    expect(applied.stdout).toMatch(/^left +view +site\.twice: /m);
    expect(applied.stdout).toContain(`; ${remedy}\n`);
    expect(await judgeRollups(database.pool)).toMatchObject({
      result: 'failed',
      found: expect.stringMatching(why),
      todo: remedy,
    });
    await sql(`delete from site.visits where id = (select max(id) from site.visits)`);
    await refreshView(database.pool, 'site.twice');
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'ok' });
    await sql(`insert into site.visits (page) values ('a')`);
    expect(await refreshView(database.pool, 'site.twice')).toMatchObject({ status: 'failed', isNotUnique: true });
    expect(await judgeRollups(database.pool)).toMatchObject({ result: 'warning', todo: remedy });
  });

  it('is refused by a name that nobody declared', async () => {
    await expect(refreshView(database.pool, 'site.others')).rejects.toMatchObject({ code: 'ROLLUP_UNKNOWN' });
  });
});
