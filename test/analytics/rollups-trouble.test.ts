import { readFile } from 'node:fs/promises';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { applyRollups } from '../../src/analytics/rollups/apply.ts';
import { buildRollup } from '../../src/analytics/rollups/build.ts';
import { runRollups } from '../../src/analytics/rollups/run.ts';
import { judgeRollups } from '../../src/analytics/rollups/status.ts';
import { verifyRollups } from '../../src/analytics/rollups/verify.ts';
import type { Pool } from '../../src/db/pool.ts';
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
let pool: Pool;

beforeEach(async () => {
  database = await createDatabase();
  pool = database.pool;
});
afterEach(async () => {
  // Of a test that failed, which would have its database wait for ever.
  for (const client of held) client.release(true);
  held.clear();
  await database.drop();
});

const held = new Set<pg.PoolClient>();

/** What somebody else has begun, and holds until it is let go. */
async function hold(text: string): Promise<() => Promise<void>> {
  const client = await pool.connect();
  held.add(client);
  await client.query(`begin; ${text}`);
  return async () => {
    await client.query('rollback');
    held.delete(client);
    client.release();
  };
}

const sql = (text: string) => pool.query(text);
const visits = async () =>
  (
    await sql(
      'select page, day::text, visits::int, people::int from site.visits_daily order by page nulls last, day nulls last',
    )
  ).rows.map(Object.values);
const rebuild = async () => {
  await horizonIsOurs(pool);
  return buildRollup(pool, 'visits_daily', {}, { everything: false });
};

const VISIT = 'insert into site.visits (page, person, at) values';
const holds = { holds: true, faults: 0n, first: [] };

const JANUARY = `create table site.january partition of site.visits for values from ('2026-01-01Z') to ('2026-02-01Z')`;
const FEBRUARY = `create table site.february partition of site.visits for values from ('2026-02-01Z') to ('2026-03-01Z')`;
const createMonths = async () => {
  await createVisits(pool, 'partition by range (at)');
  await sql(`${JANUARY}; ${FEBRUARY}`);
};

describe('a rollup that was restored on another server, whose numbers are lower', () => {
  /** As a dump has it of a server that was at transaction 10 million when it had counted, and that has recorded more of some rows since. */
  const restore = async ({ uncounted = 'false' } = {}) => {
    await counted(pool);
    const { rows } = await sql(
      `select format('alter table site.visits enable always trigger %I', tgname) as enable from pg_trigger where tgrelid = 'site.visits'::regclass and tgenabled = 'A'`,
    );
    await sql(`alter table site.visits disable trigger user;
      update site.visits set recorded_xid = case when ${uncounted} then '10000001'::xid8 else '9999999' end where recorded_xid is not null;
      ${rows.map(({ enable }) => enable).join(';')}; update rollups.rollups set counted_below = '10000000', counted_on = 1`);
  };

  it('has rows of a day that is kept once after a rebuild, and once after the next run', async () => {
    const zone = 'America/New_York';
    await createMonths();
    await applyVisits(pool, { zone });
    await sql(`${VISIT} ('a', 'ann', '2026-01-31 20:00Z'), ('a', 'bob', '2026-02-01 01:00Z')`);
    await counted(pool);
    await sql('drop table site.january');
    await restore();
    await rebuild();
    expect(await countedAndVerified(pool)).toMatchObject({ ...holds, kept: 1n });
    expect(await visits()).toEqual([['a', '2026-01-31', 2, 2]]);
    await sql('delete from site.visits');
    await counted(pool);
    expect(await visits()).toEqual([['a', '2026-01-31', 1, 1]]);
  });

  it('lets no partition go before it is rebuilt: rows of here may not be counted, whatever their numbers', async () => {
    await createMonths();
    await applyVisits(pool);
    await restore();
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    const mayLose = async () =>
      (await sql(`select rollups.may_lose('site.visits', 'site.january') as may`)).rows[0].may;
    expect(await mayLose()).toBe(false);
    await rebuild();
    await counted(pool);
    expect(await mayLose()).toBe(true);
  });

  it('has what came for a kept day and was not counted there counted by the next run', async () => {
    await createMonths();
    await sql('create table site.rest partition of site.visits default');
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    await counted(pool);
    await sql(`drop table site.january; ${VISIT} ('a', 'bob', '2026-01-03Z'), ('a', 'cy', '2026-01-03Z')`);
    await counted(pool);
    await sql(
      `update site.visits_daily set visits = 2, people = 2; delete from rollups.visits_daily_viewers where viewer = 'cy'`,
    );
    await restore({ uncounted: `person = 'cy'` });
    await rebuild();
    expect(await visits()).toEqual([['a', '2026-01-03', 2, 2]]);
    await counted(pool);
    expect(await visits()).toEqual([['a', '2026-01-03', 3, 3]]);
  });

  it('has taken from a kept day what was taken back here before the rebuild, or there and not yet counted', async () => {
    await createMonths();
    await sql('create table site.rest partition of site.visits default');
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    await counted(pool);
    await sql(`drop table site.january; ${VISIT} ('a', 'bob', '2026-01-03Z'), ('a', 'cy', '2026-01-03Z')`);
    await sql(`${VISIT} ('b', 'dee', '2026-02-03Z')`);
    await restore();
    await sql(`delete from site.visits where person = 'bob'`);
    await sql(`delete from site.visits where person = 'cy'`);
    await sql(`update rollups.visits_daily_changes set changed_xid = '10000002' where viewer = 'cy'`);
    await rebuild();
    await counted(pool);
    expect(await visits()).toEqual([
      ['a', '2026-01-03', 1, 1],
      ['b', '2026-02-03', 1, 1],
    ]);
  });

  it('has its numbers when the rebuild is done, not after the next run alone, and no change is left of it', async () => {
    await createVisits(pool);
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'bob', '2026-01-03Z')`);
    await restore();
    await rebuild();
    expect(await visits()).toEqual([['a', '2026-01-03', 2, 2]]);
    expect((await sql('select from rollups.visits_daily_changes')).rows).toEqual([]);
    expect(await counted(pool)).toMatchObject([{ status: 'nothing' }]);
    await sql(`delete from site.visits where person = 'bob'`);
    expect(await countedAndVerified(pool)).toMatchObject({ ...holds, rows: 1n });
  });

  it('leaves another of its source right, whichever is rebuilt first', async () => {
    await createVisits(pool);
    const declared = declare([visitsDeclaration(), visitsDeclaration({ name: 'other_daily' })]);
    await applyRollups(pool, declared, {});
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'bob', '2026-01-03Z')`);
    await restore();
    await rebuild();
    await rebuildOther();
    await sql(`delete from site.visits where person = 'bob'`);
    await counted(pool);
    expect(await verifyRollups(pool)).toMatchObject([
      { ...holds, rows: 1n },
      { ...holds, rows: 1n },
    ]);
  });

  /** Of what two rollups of a source count of a day that is kept: three, of which one is in the table no more. */
  const countKept = async () => {
    await createMonths();
    await sql('create table site.rest partition of site.visits default');
    await applyRollups(pool, declare([visitsDeclaration(), visitsDeclaration({ name: 'other_daily' })]), {});
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    await counted(pool);
    await sql(`drop table site.january; ${VISIT} ('a', 'bob', '2026-01-03Z'), ('a', 'cy', '2026-01-03Z')`);
    await counted(pool);
  };
  const rebuildOther = async () => {
    await horizonIsOurs(pool);
    await buildRollup(pool, 'other_daily', {}, { everything: false });
  };
  const both = async () =>
    (
      await sql(`select v.visits::int, v.people::int, o.visits::int as visits2, o.people::int as people2
        from site.visits_daily v join site.other_daily o using (page, day) where day = '2026-01-03'`)
    ).rows.map(Object.values);

  it('has what comes for a kept day since a worker found that out, and so has another of its source, be that rebuilt later', async () => {
    await countKept();
    await restore();
    expect(await runRollups(pool)).toMatchObject([{ status: 'failed' }, { status: 'failed' }]);
    await sql(`${VISIT} ('a', 'dee', '2026-01-03Z'), ('a', 'dan', '2026-01-03Z')`);
    await sql(`delete from site.visits where person in ('dan', 'cy')`);
    await rebuild();
    expect(await visits()).toEqual([['a', '2026-01-03', 3, 3]]);
    await sql(`${VISIT} ('a', 'eve', '2026-01-03Z')`);
    await rebuildOther();
    await counted(pool);
    expect(await both()).toEqual([[4, 4, 4, 4]]);
    expect((await sql('select from rollups.rollups where moved_at is not null')).rows).toEqual([]);
    await sql('delete from site.visits');
    await counted(pool);
    expect(await both()).toEqual([[1, 1, 1, 1]]);
  });

  it.each([
    ['a rebuild was refused', `insert into site.visits_daily (page, day, visits) values ('b', '2026-02-03', 1)`],
    [
      'it was to be rebuilt all the same',
      `insert into rollups.marks (rollup, why) values ('visits_daily', 'of a test')`,
    ],
  ])('has what comes for a kept day since that was found out, though %s', async (_what, sql_) => {
    await countKept();
    await restore();
    await sql(sql_);
    await horizonIsOurs(pool);
    await runRollups(pool);
    await rebuild().catch(() => undefined);
    await sql(`${VISIT} ('a', 'dee', '2026-01-03Z')`);
    await buildRollup(pool, 'visits_daily', {}, { everything: false, mayLose: true });
    await rebuildOther();
    await counted(pool);
    expect(await both()).toEqual([[4, 4, 4, 4]]);
  });

  it('is not compared with its rows before it is rebuilt: what was counted of them nobody knows', async () => {
    await countKept();
    await restore();
    await expect(verifyRollups(pool)).rejects.toMatchObject({
      code: 'ROLLUP_HORIZON_BEHIND',
      message: expect.stringContaining('liventix rollups rebuild other_daily'),
    });
  });

  it('has what waited for a kept day where the numbers are higher, as pg_upgrade has them', async () => {
    await countKept();
    await sql(`${VISIT} ('a', 'dee', '2026-01-03Z'), ('a', 'dan', '2026-01-03Z')`);
    await sql(`delete from site.visits where person in ('dan', 'cy')`);
    await sql('update rollups.rollups set counted_on = 1');
    await rebuild();
    await sql(`${VISIT} ('a', 'eve', '2026-01-03Z')`);
    await rebuildOther();
    await counted(pool);
    expect(await both()).toEqual([[4, 4, 4, 4]]);
  });

  it('has no row hidden from it by a writer who takes its number away, nor by its owner who takes away one of this server', async () => {
    await createVisits(pool);
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'bob', '2026-01-03Z')`);
    await restore();
    const role = `${database.name}_web`;
    await sql(`create role ${role}; grant ${role} to current_user; grant usage on schema site to ${role};
      grant select, update on site.visits to ${role}`);
    await sql(
      `begin; set local role ${role}; update site.visits set page = 'b', recorded_xid = null where person = 'ann'; commit`,
    );
    await sql(`${VISIT} ('a', 'cy', '2026-01-03Z'); update site.visits set recorded_xid = null where person = 'cy'`);
    const { rows } = await sql('select person from site.visits where recorded_xid is null');
    await sql(`drop owned by ${role}; drop role ${role}`);
    expect(rows).toEqual([]);
    expect((await sql('select viewer from rollups.visits_daily_changes')).rows).toEqual([
      { viewer: 'ann' },
      { viewer: 'cy' },
    ]);
  });
});

describe('rollups of one source that are declared in two files', () => {
  const a = visitsDeclaration({ name: 'visits_a' });
  const b = visitsDeclaration({ name: 'visits_b' });
  const marked = async () =>
    (await sql('select distinct rollup from rollups.marks order by 1')).rows.map(({ rollup }) => rollup);
  beforeEach(async () => {
    await createVisits(pool);
    await applyRollups(pool, declare([a]), {});
    await applyRollups(pool, declare([b]), {});
  });

  it('are both to be rebuilt when what they share is put back for one of them', async () => {
    for (const lose of [
      'alter table site.visits alter column recorded_xid drop default',
      'alter table site.visits disable trigger zz_liventix_rollups_recorded',
    ]) {
      await sql(`delete from rollups.marks; ${lose}`);
      await applyRollups(pool, declare([a]), {});
      expect(await marked(), lose).toEqual(['visits_a', 'visits_b']);
    }
    expect(await counted(pool)).toMatchObject([{ status: 'to be rebuilt' }, { status: 'to be rebuilt' }]);
  });

  it('are not, but for the one, when what is put back is its own, or an index', async () => {
    await sql('drop index site.visits_recorded_xid');
    await applyRollups(pool, declare([a]), {});
    expect(await marked()).toEqual([]);
    await sql('drop trigger zz_liventix_rollup_visits_a on site.visits');
    await applyRollups(pool, declare([a]), {});
    expect(await marked()).toEqual(['visits_a']);
  });
});

describe('a rebuild of a rollup whose source has lost a month', () => {
  beforeEach(createMonths);

  it('counts what came late for a day that is kept, though rows were taken back that had never been counted', async () => {
    await sql('create table site.rest partition of site.visits default');
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'bob', '2026-02-03Z'), ('a', 'bob', '2026-02-04Z')`);
    await counted(pool);
    await sql('drop table site.january');
    await sql(
      `insert into site.visits (page, at, recorded_xid) values ('hidden', '2026-02-05Z', '1'), ('hidden', '2026-01-05Z', '1')`,
    );
    await sql(`delete from site.visits where page = 'hidden'`);
    expect(await counted(pool)).toMatchObject([{ status: 'to be rebuilt' }]);
    await sql(`${VISIT} ('a', 'cy', '2026-01-03Z'); delete from site.visits where at = '2026-02-04Z'`);
    await rebuild();
    expect(await countedAndVerified(pool)).toMatchObject({ ...holds, kept: 1n });
    expect(await visits()).toEqual([
      ['a', '2026-01-03', 2, 2],
      ['a', '2026-02-03', 1, 1],
    ]);
  });

  const BOTH = `${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'ann', '2026-02-03Z')`;
  const BOTH_DAYS = [
    ['a', '2026-01-03', 1, 1],
    ['a', '2026-02-03', 1, 1],
  ];
  /** Ended while it waits for whoever holds the table, when queries see the partition no more. */
  const detachInPart = async () => {
    const detaching = await pool.connect();
    held.add(detaching);
    const { rows } = await detaching.query('select pg_backend_pid() as pid');
    const ended = expect(
      detaching.query('alter table site.visits detach partition site.january concurrently'),
    ).rejects.toMatchObject({ code: '57014' });
    await waitsForLock(pool, 'detach partition site.january concurrently');
    await sql(`select pg_cancel_backend(${rows[0].pid})`);
    await ended;
    held.delete(detaching);
    detaching.release();
  };

  it('keeps its days too where the detaching was broken off', async () => {
    await sql(BOTH);
    await applyVisits(pool);
    const letGo = await hold('select from site.visits');
    await detachInPart();
    await letGo();
    expect((await sql('select from site.visits')).rows).toHaveLength(1);
    expect(await verifyRollups(pool)).toMatchObject([{ ...holds, kept: 1n }]);
    await rebuild();
    expect(await visits()).toEqual(BOTH_DAYS);
  });

  it('keeps its days where it begins to be detached while they are counted', async () => {
    await sql(BOTH);
    await applyVisits(pool);
    await sql(`select rollups.begin_build('visits_daily', false)`);
    const letGo = await hold('lock table site.visits_daily in share mode');
    const rebuilt = buildRollup(pool, 'visits_daily', {});
    await waitsForLock(pool, 'rollups.build(');
    await detachInPart();
    await letGo();
    expect(await rebuilt).toMatchObject({ keptMonths: 1 });
    expect(await visits()).toEqual(BOTH_DAYS);
  });
});

describe('a rollup that cannot be counted', () => {
  const LONG = `(select string_agg(md5(n::text), '') from generate_series(1, 200) n)`;

  it.each([
    ['a worker', () => runRollups(pool)],
    ['pg_cron', () => sql('call rollups.run_all()')],
  ])('says so, since when and why, in doctor and status, until a run by %s works', async (_, run) => {
    await createVisits(pool);
    await applyVisits(pool);
    await sql(`insert into site.visits (page, at) select ${LONG}, '2026-01-03Z'`);
    await horizonIsOurs(pool);
    await run();
    const { rows } = await sql('select failing_since from rollups.rollups');
    await run();
    const since: Date = rows[0].failing_since;
    const why = /index row size \d+ exceeds btree version 4 maximum 2704/;
    expect(await judgeRollups(pool)).toMatchObject({
      result: 'failed',
      found: expect.stringContaining(`visits_daily cannot be counted since ${since.toISOString()}: `),
      todo: 'Remove the cause, such as rows that it cannot count; or change the file: liventix rollups remove --name visits_daily, then apply.',
    });
    expect((await judgeRollups(pool)).found).toMatch(why);
    const status = await liventix(['rollups', 'status'], { DATABASE_URL: database.url });
    expect(status.stdout).toContain(`cannot be counted since ${since.toISOString()}: `);
    expect(status.stdout).toMatch(why);
    await sql('delete from site.visits');
    await horizonIsOurs(pool);
    await run();
    expect(await judgeRollups(pool)).toMatchObject({ result: 'ok' });
  });

  it('is told of no more when it is rebuilt of rows that can be', async () => {
    await createVisits(pool);
    await applyRollups(
      pool,
      declare([{ ...visitsDeclaration(), distinct: { name: 'people', of: '(100 / ms)::text' } }]),
      {},
    );
    await sql(`insert into site.visits (page, ms, at) values ('a', 0, '2026-01-03Z')`);
    await horizonIsOurs(pool);
    expect(await runRollups(pool)).toMatchObject([{ status: 'failed' }]);
    expect(await judgeRollups(pool)).toMatchObject({ found: expect.stringContaining('division by zero') });
    await sql('update site.visits set ms = 1');
    await rebuild();
    expect(await judgeRollups(pool)).toMatchObject({ result: 'ok' });
  });

  it('is told of where rows wait that no worker counts, but not where they came just now', async () => {
    await createVisits(pool);
    await applyVisits(pool);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    await horizonIsOurs(pool);
    expect(await judgeRollups(pool)).toMatchObject({ result: 'ok' });
    const anHourAgo = `update rollups.rollups set last_run_at = last_run_at - interval '1 hour', last_counted_at = last_counted_at - interval '1 hour'`;
    await sql(anHourAgo);
    expect(await judgeRollups(pool)).toMatchObject({
      result: 'warning',
      found: 'rows that wait to be counted: visits_daily 1',
      todo: 'Let a worker run: liventix worker. Or at once: liventix rollups run.',
    });
    await counted(pool);
    await sql(anHourAgo);
    expect(await counted(pool)).toMatchObject([{ status: 'nothing' }]);
    await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
    await horizonIsOurs(pool);
    expect(await judgeRollups(pool)).toMatchObject({ result: 'ok' });
  });

  it('is told of as such when its rebuild begins with what came since', async () => {
    await createMonths();
    await applyRollups(
      pool,
      declare([{ ...visitsDeclaration(), distinct: { name: 'people', of: '(100 / ms)::text' } }]),
      {},
    );
    await sql(`insert into site.visits (page, ms, at) values ('a', 0, '2026-01-03Z')`);
    await expect(rebuild()).rejects.toMatchObject({
      code: 'DB_FAILED',
      message: expect.stringMatching(/^visits_daily cannot be counted: division by zero .*remove --name visits_daily/),
    });
  });
});

it.each(['Europe/Berlin', 'America/New_York'])(
  'a rollup has rows of the first and the last instants that there are, by days of %s',
  async (zone) => {
    await createVisits(pool, 'partition by range (at)');
    await sql(`${FEBRUARY}; create table site.rest partition of site.visits default`);
    const rows = [
      '4714-11-24 00:00Z BC',
      '4714-11-25 00:00Z BC',
      '4700-01-01 00:00Z BC',
      '4699-12-31 23:59Z BC',
      '2026-02-03Z',
      '289999-12-31 23:59:59Z',
      '290000-01-01 00:00Z',
      '294276-12-31 23:30Z',
      'infinity',
      '-infinity',
    ]
      .map((at) => `('a', 'ann', '${at}')`)
      .join(', ');
    await sql(`${VISIT} ${rows}`);
    await applyVisits(pool, { zone });
    await sql(`${VISIT} ${rows}`);
    expect(await countedAndVerified(pool)).toMatchObject({ ...holds, rows: 20n, kept: 0n });
    await rebuild();
    expect(await verifyRollups(pool)).toMatchObject([{ ...holds, rows: 20n, kept: 0n }]);
    await sql('delete from site.visits');
    await counted(pool);
    expect(await visits()).toEqual([]);
  },
);

describe('a rollup that counts more of a day than there is, though no partition of it is gone,', () => {
  const run = (...args: string[]) => liventix(['rollups', ...args], { DATABASE_URL: database.url });
  beforeEach(createMonths);
  const loseJanuary = async () => {
    await applyVisits(pool);
    await sql(
      `${VISIT} ('a', 'ann', '2026-01-03Z'), ('a', 'bob', '2026-01-04Z'), ('b', 'bob', '2026-01-04Z'), ('a', 'cy', '2026-02-03Z')`,
    );
    await counted(pool);
    await sql(`drop table site.january; ${JANUARY}`);
  };

  it('is not rebuilt before somebody said that those may go, which verify and a dry run name', async () => {
    await loseJanuary();
    const lost = { rows: 3n, days: '2026-01-03, 2026-01-04' };
    expect(await countedAndVerified(pool)).toMatchObject({ holds: false, faults: 3n, lost });
    expect((await run('verify')).stdout).toContain(
      `A rebuild would lose 3 rows of ${lost.days}, which the source has not. If they went with their month, leave it so: nothing counts them again
         If they are to go, or never were: liventix rollups rebuild visits_daily --yes\n`,
    );
    const told = `would lose 3 rows of ${lost.days}, which the source has not: but for --everything, --yes and after a TRUNCATE that is refused\n`;
    for (const everything of [[], ['--everything']])
      expect((await run('rebuild', 'visits_daily', '--dry-run', ...everything)).stdout).toContain(told);
    const before = await visits();
    expect(await run('rebuild', 'visits_daily')).toMatchObject({
      exitCode: 2,
      stderr: expect.stringMatching(
        /^liventix: ROLLUP_WOULD_LOSE: A rebuild of visits_daily would lose 3 rows of 2026-01-03, 2026-01-04, .* rebuild visits_daily --yes$/m,
      ),
    });
    expect(await visits()).toEqual(before);
    expect(await run('rebuild', 'visits_daily', '--yes')).toMatchObject({ exitCode: 0 });
    expect(await countedAndVerified(pool)).toMatchObject({ ...holds, rows: 1n, lost: null });
  });

  it('keeps the days of partitions that are gone where the others may go', async () => {
    await loseJanuary();
    await sql(`drop table site.february; ${VISIT} ('a', 'dee', '2026-01-10Z')`);
    await expect(rebuild()).rejects.toMatchObject({ code: 'ROLLUP_WOULD_LOSE' });
    await buildRollup(pool, 'visits_daily', {}, { everything: false, mayLose: true });
    await counted(pool);
    expect(await visits()).toEqual([
      ['a', '2026-01-10', 1, 1],
      ['a', '2026-02-03', 1, 1],
    ]);
  });

  it('is rebuilt where those are of another group by now, or wait to be taken away', async () => {
    await loseJanuary();
    await sql(`insert into site.visits (page, person, at, recorded_xid)
      values ('a', 'ann', '2026-01-03Z', '1'), ('a', 'bob', '2026-01-04Z', '1'), ('c', 'bob', '2026-01-04Z', '1')`);
    const uncounted = await hold('select pg_current_xact_id()');
    await sql(`delete from site.visits where person = 'cy'`);
    expect(await rebuild()).toMatchObject({ keptMonths: 0 });
    await uncounted();
  });
});

it('says of a rollup whose table somebody dropped that it is to be made anew, whatever is asked of it', async () => {
  await createVisits(pool);
  const file = await fileOf({ tables: { visits: ['site.visits'] }, rollups: [visitsDeclaration()] });
  const run = (...args: string[]) => liventix(['rollups', ...args], { DATABASE_URL: database.url });
  await run('apply', '--mapping', file);
  const todo = 'liventix rollups remove --name visits_daily, then apply';
  for (const table of ['rollups.visits_daily_changes', 'site.visits_daily']) {
    await sql(`drop table ${table} cascade`);
    const found = `${table}, of the rollup visits_daily, is gone`;
    expect(await judgeRollups(pool)).toEqual({ result: 'failed', found, todo: `Run: ${todo}.` });
    expect((await run('status')).stdout).toContain(
      `gone       rollup visits_daily of site.visits: ${table} is gone: ${todo},`,
    );
    for (const asked of [
      ['apply', '--mapping', file],
      ['plan', '--mapping', file],
      ['verify'],
      ['rebuild', 'visits_daily'],
      ['rebuild', 'visits_daily', '--dry-run'],
    ])
      expect(await run(...asked), asked[0]).toMatchObject({
        exitCode: 3,
        stderr: expect.stringContaining(`ROLLUP_TABLE_MISSING: ${found}. To make it anew: ${todo}.\n`),
      });
    expect(await run('run')).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining(`ROLLUP_TABLE_MISSING: ${found}.`),
    });
  }
  await run('remove', '--name', 'visits_daily');
  expect(await run('apply', '--mapping', file)).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^made/) });
});

it('is rebuilt though another of its source has lost its table', async () => {
  await createVisits(pool);
  await applyVisits(pool);
  await applyVisits(pool, { name: 'visits_again' });
  await sql(`${VISIT} ('a', 'ann', '2026-01-03Z'); drop table rollups.visits_again_changes`);
  await horizonIsOurs(pool);
  expect(await rebuild()).toMatchObject({ rows: 1n });
});

it('advises to rebuild everything where one of the reasons was a TRUNCATE, and where none was does not, in the log too', async () => {
  await createVisits(pool);
  await applyVisits(pool);
  const everything =
    'liventix rollups rebuild visits_daily, or, while the table has no rows, liventix rollups rebuild visits_daily --everything';
  await sql(`insert into rollups.marks (rollup, why) values ('visits_daily', 'a person said that it was truncated')`);
  expect(await judgeRollups(pool)).toMatchObject({ todo: 'Run: liventix rollups rebuild visits_daily.' });
  await sql('truncate site.visits');
  expect(await judgeRollups(pool)).toMatchObject({ todo: `Run: ${everything}.` });
  expect(await runRollups(pool)).toMatchObject([{ status: 'to be rebuilt', todo: everything }]);
  await expect(verifyRollups(pool)).rejects.toMatchObject({ message: expect.stringContaining(everything) });
});

it('is said to be ready where it is stopped while it is vacuumed after a rebuild', async () => {
  await createVisits(pool);
  await sql(`${VISIT} ('a', 'ann', '2026-01-03Z')`);
  await applyVisits(pool);
  const letGo = await hold('lock table site.visits_daily in share update exclusive mode');
  const stop = new AbortController();
  const stopped = expect(
    buildRollup(pool, 'visits_daily', { stop: stop.signal }, { everything: true }),
  ).rejects.toMatchObject({
    code: 'STOPPED',
    message: expect.stringMatching(/visits_daily is built, and not vacuumed yet: autovacuum does it\.$/),
  });
  await waitsForLock(pool, 'vacuum (analyze)');
  stop.abort('SIGINT');
  await stopped;
  await letGo();
});

it('a rollup of before 0063 has its days made as all that reads them does since', async () => {
  await createVisits(pool);
  await applyVisits(pool, { zone: 'Europe/Berlin' });
  const made = async () =>
    (
      await sql(
        `select read_sql, build_sql, pg_get_functiondef('rollups.visits_daily_changed'::regproc) as function from rollups.rollups`,
      )
    ).rows;
  const now = await made();
  const asBefore = (text: string) =>
    `replace(${text}, 'rollups.local_time(s."at", ''Europe/Berlin'')', '(s."at" at time zone ''Europe/Berlin'')')`;
  await sql(`update rollups.rollups set read_sql = ${asBefore('read_sql')}, build_sql = ${asBefore('build_sql')};
    do $$ begin execute ${asBefore(`pg_get_functiondef('rollups.visits_daily_changed'::regproc)`)}; end $$`);
  expect(JSON.stringify(await made())).not.toContain('local_time');
  const migration = await readFile('migrations/0065_rollups_after_a_restore.sql', 'utf8');
  await sql(/^do \$\$[\s\S]*?\$\$;$/m.exec(migration)?.[0] ?? '');
  expect(await made()).toEqual(now);
});
