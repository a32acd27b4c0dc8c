import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { dropSetAside } from '../../src/analytics/partitions/clean.ts';
import { judgePartitions } from '../../src/analytics/partitions/diagnosis.ts';
import { addMonths, monthOf } from '../../src/analytics/partitions/months.ts';
import { makePlan } from '../../src/analytics/partitions/plan.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { readStatus } from '../../src/analytics/partitions/status.ts';
import { readTables } from '../../src/analytics/partitions/tables.ts';
import { migrate } from '../../src/db/migrate.ts';
import type { Pool } from '../../src/db/pool.ts';
import { parseMapping } from '../../src/restructure/mapping.ts';
import { breakOff, countRows, faultsOf, whileIndexesWait } from '../support/conversions.ts';
import { createDatabase, EMPTY } from '../support/database.ts';
import { convert, createImpressions, entryOf, type Impressions, inCloneOf, NOW } from '../support/impressions.ts';
import { waitsForLock } from '../support/locks.ts';
import { migrateUntil } from '../support/migrate-until.ts';
import { left, moveAll } from '../support/moves.ts';

// What somebody does by hand to a table that is kept by month, or is being converted.

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
});
afterAll(() => original.drop());

const LATER = new Date('2026-09-10T00:00:00Z');
const inClone = (work: (impressions: Impressions) => Promise<void>) => inCloneOf(original, work);
const conversion = { entries: [entryOf()], now: NOW };
const applyLater = (pool: Pool) => applyPartitions(pool, { ...conversion, now: LATER });
const rollBack = (pool: Pool) => rollBackPartitions(pool, { tables: [] });
const maintain = (pool: Pool, now = '2026-09-10') => pool.query(`call partitions.maintain('command', $1)`, [now]);
const stray = (pool: Pool, ...months: string[]) =>
  pool.query(
    `insert into stats.impressions (show_id, seen_at) select 1, m::timestamptz + n * interval '1 minute' from unnest($1::text[]) m, generate_series(1, 50) n`,
    [months],
  );

/** Converted, with rows in no month, whose sorting was broken off. */
async function breakOffSorting(impressions: Impressions, ...months: string[]): Promise<void> {
  await convert(impressions);
  await stray(impressions.pool, '2026-09-01', ...months);
  await breakOff(impressions.pool, 'copying', { now: LATER });
}

describe('a partition that is copied', () => {
  it('and written anew meanwhile is copied anew: nothing is undone', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      await pool.query('alter table stats.impressions add column cents int not null default 100');
      expect(
        await whileIndexesWait(
          impressions,
          () => applyPartitions(pool, conversion),
          () => pool.query('alter table stats.impressions alter column cents type int using cents * 2'),
        ),
      ).toMatchObject([
        { status: 'skipped', reasons: [expect.stringContaining('was changed while its rows were copied')] },
      ]);
      await convert(impressions);
      expect((await pool.query('select distinct cents from stats.impressions')).rows).toEqual([{ cents: 200 }]);
    }));

  it('and was packed by VACUUM FULL while the copy lay broken off is copied anew', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(`drop table stats.clicks; delete from stats.impressions where seen_at < '2026-01-01'`);
      await breakOff(pool, 'taking what changed');
      await pool.query('vacuum full stats.impressions_past');
      const before = await countRows(pool);
      await convert(impressions);
      expect(await countRows(pool)).toBe(before);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it.each([
    ['renamed', 'alter table stats.impressions_other rename to impressions_else', 100],
    ['dropped', 'drop table stats.impressions_other', 50],
  ])('and was %s leaves nothing that cannot be gone on with', (_what, sql, left) =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await breakOffSorting(impressions, '2026-10-01');
      await stray(pool, '2026-08-01');
      const before = (await countRows(pool)) ?? 0;
      await pool.query(sql);
      await applyLater(pool);
      await maintain(pool);
      // The keys of rows that went with it are gone too.
      expect(await faultsOf(pool)).toEqual([]);
      expect(await judgePartitions(pool)).not.toMatchObject({ found: expect.stringContaining('nobody is at it') });
      expect(await rollBack(pool)).toMatchObject([{ status: 'back' }]);
      expect(await countRows(pool)).toBe(left === 100 ? before : 300);
    }),
  );
});

describe('the months of what is sorted', () => {
  it('are made by nobody else meanwhile, and it is gone on with', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await breakOffSorting(impressions, '2026-10-01');
      await pool.query(`delete from stats.impressions where seen_at >= '2026-10-01'`);
      await maintain(pool);
      expect(await applyLater(pool)).toMatchObject([{ status: 'sorted' }]);
      expect(await countRows(pool)).toBe(350);
      await maintain(pool);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('are waited for where the upkeep is at them', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      const upkeep = await pool.connect();
      await upkeep.query(`begin; select pg_advisory_xact_lock(hashtext('liventix.partitions.upkeep'), 1)`);
      const splitting = convert(impressions);
      await waitsForLock(pool, 'pg_advisory_xact_lock');
      await upkeep.query('commit');
      upkeep.release();
      await splitting;
    }));

  it('where somebody made one all the same, are found anew by the next run', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await breakOffSorting(impressions, '2026-10-01');
      await pool.query(`delete from stats.impressions where seen_at >= '2026-10-01'`);
      await pool.query(`select partitions.make_month(1, 'stats.impressions'::regclass, '2026-10-01')`);
      expect(await applyLater(pool)).toMatchObject([
        { status: 'skipped', reasons: [expect.stringContaining('would overlap partition')] },
      ]);
      expect(await applyLater(pool)).toMatchObject([{ status: 'sorted' }]);
      expect(await countRows(pool)).toBe(350);
    }));

  it("are nobody's business after a way back that was broken off: nothing is sorted into nothing", () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      const stop = new AbortController();
      const onStep = (what: string) => what.startsWith('building') && stop.abort('SIGINT');
      await expect(rollBackPartitions(pool, { tables: [], stop: stop.signal, onStep })).rejects.toMatchObject({
        code: 'STOPPED',
      });
      expect(await applyPartitions(pool, conversion)).toMatchObject([{ status: 'already' }]);
    }));
});

describe('months that somebody took out', () => {
  it('are named by doctor, as is the partition for what lies in no month, and made again by the upkeep', () =>
    inClone(async ({ pool }) => {
      // By the clock of the server, as doctor goes.
      const now = new Date();
      await applyPartitions(pool, { ...conversion, entries: [entryOf({ keepMonths: null })], now });
      await pool.query('call partitions.maintain()');
      expect(await judgePartitions(pool)).toMatchObject({ result: 'ok' });
      const month = addMonths(monthOf(now), -1).slice(0, 7);
      await pool.query(
        `alter table stats.impressions detach partition stats.impressions_${month.replace('-', '')}; drop table stats.impressions_other`,
      );
      expect(await judgePartitions(pool)).toMatchObject({
        result: 'warning',
        found: `stats.impressions has no month ${month}, which somebody took out; stats.impressions refuses rows that lie in no month: the partition for them is gone`,
        todo: expect.stringContaining('liventix partitions maintain'),
      });
      await pool.query('call partitions.maintain()');
      expect(await judgePartitions(pool)).toMatchObject({ result: 'ok' });
    }));
});

describe('a default partition that somebody dropped', () => {
  it('is missed by verify, and made again by the upkeep: rows are not refused for long', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      await pool.query('drop table stats.impressions_other');
      expect(await faultsOf(pool)).toMatchObject([
        { check: 'every table has a partition for what lies in no month', faults: 1n },
      ]);
      await maintain(pool, '2026-03-21');
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2031-01-01')`);
      expect(await countRows(pool, 'stats.impressions_other')).toBe(1);
    }));
});

describe('a table by month that somebody dropped', () => {
  const GONE = expect.stringContaining('liventix partitions rollback --table stats.impressions');
  const again =
    'create table stats.impressions (id uuid primary key default gen_random_uuid(), show_id int, seen_at timestamptz not null)';

  it('is left by apply, and given up by the way back, which everybody names; another of its name is converted', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query('create table stats.after (id int primary key, seen_at timestamptz not null)');
      await applyPartitions(pool, { ...conversion, entries: [entryOf({ table: 'stats.after', indexes: [] })] });
      await convert(impressions, { uniqueOverAll: [['id']] });
      await pool.query('drop table stats.clicks; drop table stats.impressions cascade');
      const said = async () => [
        ...(await applyPartitions(pool, conversion)),
        (await makePlan(pool, conversion.entries, NOW))[0],
        (await faultsOf(pool))[0],
        await judgePartitions(pool),
      ];
      const gone = [
        { status: 'skipped', reasons: [GONE] },
        { status: 'blocked', findings: [{ finding: 'lost', text: GONE }] },
        { first: [GONE] },
        { found: expect.stringContaining('stats.impressions is gone'), todo: GONE },
      ];
      expect(await said()).toMatchObject(gone);
      await pool.query(again);
      expect(await said()).toMatchObject(gone);
      await pool.query('call partitions.maintain()');
      expect(await countRows(pool, `partitions.log where action = 'left'`)).toBe(0);
      expect(await rollBack(pool)).toMatchObject([
        { table: 'stats.after', status: 'back' },
        { status: 'given up', left: [] },
      ]);
      await dropSetAside(pool, {});
      await convert(impressions, { uniqueOverAll: [['id']] });
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it.each([
    ['dropped', 'drop table stats.impressions cascade', 'constraint clicks_impression_id_fkey on table stats.clicks'],
    [
      'renamed',
      'drop table stats.clicks; alter table stats.impressions rename to seen',
      'trigger liventix_keeps_key_0 on table stats.seen',
    ],
  ])('keeps its keys where something needs them: where it was %s', (_what, sql, user) =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions, { uniqueOverAll: [['id']] });
      await pool.query(sql);
      expect(await rollBack(pool)).toMatchObject([
        { status: 'given up', left: [`stats.impressions_by_id stays, for ${user}`] },
      ]);
      expect(await countRows(pool, 'stats.impressions_by_id')).toBe(300);
      expect(await countRows(pool, 'partitions.tables')).toBe(0);
    }),
  );

  it('and left its keys behind leaves its name to another, whose keys are kept in a table of their own', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions, { uniqueOverAll: [['id']] });
      await pool.query('drop table stats.impressions cascade');
      await rollBack(pool);
      await dropSetAside(pool, {});
      await pool.query(again);
      await convert(impressions, { uniqueOverAll: [['id']] });
      await pool.query('insert into stats.impressions (seen_at) values ($1)', [NOW]);
      expect(await countRows(pool, 'stats.impressions_by_id')).toBe(300);
      expect(await countRows(pool, 'stats.impressions_by_id_2')).toBe(1);
      expect(await faultsOf(pool)).toEqual([]);
      expect(await rollBack(pool)).toMatchObject([{ status: 'back' }]);
      expect(await countRows(pool, 'stats.impressions_by_id')).toBe(300);
    }));
});

describe('another table by month that has got the name of one', () => {
  const STRANGER = `
    create table stats.impressions (id int, seen_at timestamptz not null) partition by range (seen_at);
    create table stats.y2020 partition of stats.impressions for values from ('2020-01-01') to ('2021-01-01');
    create table stats.y2026 partition of stats.impressions for values from ('2026-01-01') to ('2027-01-01');
    insert into stats.impressions select n, timestamptz '2020-06-01' from generate_series(1, 600) n union all select 601, '2026-03-01'`;
  /** What the catalog says of it, and how many rows it has. */
  const stranger = async (pool: Pool) => {
    const { rows } = await pool.query(
      `select restructure.fingerprint(restructure.facts_of(array['stats.impressions'::regclass::oid])) as facts,
         (select count(*)::int from stats.impressions) as rows, (select count(*)::int from pg_inherits where inhparent = 'stats.impressions'::regclass) as parts`,
    );
    return rows;
  };

  it('is touched by nobody: it is said that ours is lost, and given up; one that has its name again is kept again', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(
        'drop view public.impressions cascade; drop materialized view stats.impressions_daily cascade; drop table stats.clicks',
      );
      await convert(impressions, { keepMonths: 2 });
      await pool.query('alter table stats.impressions rename to seen');
      await pool.query(STRANGER);
      const before = await stranger(pool);
      const lost = expect.stringContaining('nothing that bears its name is any more');
      await maintain(pool, '2026-06-10');
      expect(await applyPartitions(pool, conversion)).toMatchObject([{ status: 'skipped', reasons: [lost] }]);
      expect((await faultsOf(pool)).map(({ first }) => first)).toEqual([[lost]]);
      expect(await judgePartitions(pool)).toMatchObject({
        result: 'warning',
        found: 'stats.impressions is gone, which was kept by month',
        todo: lost,
      });
      expect((await readStatus(pool)).tables).toMatchObject([
        { isLost: true, months: [], runwayDays: null, hasStrays: false },
      ]);
      expect(await countRows(pool, `partitions.log where action = 'left'`)).toBe(0);
      await pool.query('alter table stats.impressions rename to theirs; alter table stats.seen rename to impressions');
      expect(await faultsOf(pool)).toEqual([]);
      await pool.query('alter table stats.impressions rename to seen; alter table stats.theirs rename to impressions');
      expect(await rollBack(pool)).toMatchObject([{ status: 'given up' }]);
      expect(await stranger(pool)).toEqual(before);
      expect(await countRows(pool, 'stats.seen')).toBe(300);
    }));

  it('is none where the catalog of ours was written anew by name, as a dump that is restored has it', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(
        'drop view public.impressions cascade; drop materialized view stats.impressions_daily cascade; drop table stats.clicks',
      );
      await convert(impressions);
      const { rows } = await pool.query<{ dumped: string }>('select relation::text as dumped from partitions.tables');
      await pool.query(`drop table stats.impressions; ${STRANGER}`);
      expect((await readStatus(pool)).tables).toMatchObject([{ isLost: true }]);
      await pool.query('update partitions.tables set relation = $1::text::regclass', [rows[0]?.dumped]);
      expect((await readStatus(pool)).tables).toMatchObject([{ isLost: false }]);
    }));

  it('is none that a restructuring moved: that leaves a table where it is which is kept by month', () =>
    inClone(async (impressions) => {
      const mapping = { from: 'stats', schemas: [{ name: 'metrics', tables: ['impressions'] }] };
      await convert(impressions);
      const moved = await moveAll(impressions, parseMapping(JSON.stringify({ name: 'metrics', ...mapping }), 'test'));
      expect(left(moved)).toEqual({
        impressions: expect.stringContaining('liventix partitions rollback --table stats.impressions, first'),
      });
      expect(await faultsOf(impressions.pool)).toEqual([]);
    }));

  it('is told from ours that were converted before their relations were known: they are what bears their name', async () => {
    const database = await createDatabase({ template: EMPTY });
    try {
      await migrateUntil(database, '0064_partitions_once_more');
      const { pool } = database;
      await pool.query(`
        create table public.kept (at timestamptz) partition by range (at);
        create table public.plain (at timestamptz);
        insert into partitions.tables (schema_name, table_name, key_column, zone, expired, months_ahead, pair_columns, state)
        select 'public', n, 'at', 'UTC', 'drop', 3, '{at}', s
        from (values ('begun', 'preparing'), ('gone', 'attached'), ('kept', 'partitioned'), ('plain', 'partitioned')) t (n, s)`);
      await migrate(database.url);
      expect((await readTables(pool)).map(({ name, isLost }) => [name, isLost])).toEqual([
        ['begun', true],
        ['gone', true],
        ['kept', false],
        ['plain', true],
      ]);
    } finally {
      await database.drop();
    }
  });
});

describe('what was set aside and somebody dropped', () => {
  it('is listed no more, and neither waited for nor dropped a second time', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      await pool.query('drop table partitions_aside.impressions_past');
      expect((await readStatus(pool)).setAside).toEqual([]);
      expect(await dropSetAside(pool, {})).toEqual([]);
      expect(await countRows(pool, 'partitions.set_aside')).toBe(0);
    }));
});

describe('a past that somebody renamed', () => {
  it('is found by its bounds, and split', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { ...conversion, keepsPast: true });
      await pool.query('alter table stats.impressions_past rename to of_old');
      await convert(impressions);
      expect(await faultsOf(pool)).toEqual([]);
    }));
});

describe('checks of a conversion that was broken off', () => {
  it('go by their names alone: others stay, and a row without an instant is refused no more', () =>
    inClone(async ({ pool }) => {
      await pool.query(`alter table stats.impressions alter column seen_at drop not null,
        add constraint seen_in_the_past check (seen_at < '2030-01-01')`);
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past', {
        entries: [entryOf({ whenNull: 'now()' })],
      });
      const without = 'insert into stats.impressions (show_id, seen_at) values (1, null)';
      await expect(pool.query(without)).rejects.toMatchObject({ code: '23514' });
      await maintain(pool, '2026-03-20');
      await pool.query(without);
      await maintain(pool, '2026-03-30');
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2026-04-02')`);
      await expect(
        pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2031-01-01')`),
      ).rejects.toMatchObject({ constraint: 'seen_in_the_past' });
    }));

  it('are taken away when whoever keeps the table lets go of it, and one table keeps no other from its months', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await breakOff(pool, 'reading stats.impressions for impressions_in_the_past');
      await pool.query('create table stats.other (id int primary key, seen_at timestamptz not null)');
      const [outcome] = await applyPartitions(pool, {
        entries: [entryOf({ table: 'stats.other', indexes: [] })],
        now: NOW,
      });
      expect(outcome).toMatchObject({ status: 'partitioned' });
      const other = await pool.connect();
      await other.query('begin; select from stats.impressions');
      await maintain(pool, '2026-05-01');
      await other.query('rollback');
      other.release();
      const { rows } = await pool.query(
        `select action, detail from partitions.log where table_name = 'stats.impressions'`,
      );
      expect(rows).toEqual([{ action: 'left', detail: 'it was in use each time' }]);
      expect(
        (
          await pool.query('select partitions.missing_months(t.id, $1) from partitions.tables t where state <> $2', [
            '2026-05-01',
            'preparing',
          ])
        ).rows,
      ).toEqual([]);
      await maintain(pool, '2026-05-01');
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2026-05-02')`);
    }));
});

describe('rows that came from a table of copies', () => {
  const TAKEN = { copies: [{ table: 'stats.impressions_p', rows: 'take' as const }] };

  it('and were changed, or are referred to by now, stay when the table goes back', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(`create table stats.impressions_p (id uuid, show_id int, dwell_ms int, seen_at timestamptz);
        insert into stats.impressions_p select gen_random_uuid(), n, 0, '2026-01-01' from generate_series(1, 4) n`);
      await convert(impressions, TAKEN);
      const nth = (n: number) => `(select id from stats.impressions_p where show_id = ${n})`;
      // In a column that the copies have not.
      await pool.query(`update stats.impressions set note = 'edited' where id = ${nth(2)};
        insert into stats.clicks (impression_id) select ${nth(3)}; delete from stats.impressions_p where show_id = 4`);
      expect(await rollBack(pool)).toMatchObject([{ status: 'back' }]);
      const { rows } = await pool.query(
        `select count(*) filter (where note = 'edited')::int as edited, count(*)::int - 300 as more from stats.impressions`,
      );
      expect(rows).toEqual([{ edited: 1, more: 3 }]);
      expect((await pool.query(`select detail from partitions.log where action = 'kept'`)).rows).toEqual([
        { detail: '3 rows that came from stats.impressions_p: changed since, gone by themselves, or referred to' },
      ]);
    }));
});

it('a table of a long name is sorted again and again, and goes back, though its indexes are called alike', () =>
  inClone(async ({ pool }) => {
    const name = 'impressions_of_everything_that_anybody_has_ever_seen_here_x';
    await pool.query(
      `create table stats.${name} (id uuid primary key default gen_random_uuid(), seen_at timestamptz not null, who int); create index on stats.${name} (who, seen_at)`,
    );
    const entries = [entryOf({ table: `stats.${name}`, indexes: [] })];
    expect(await applyPartitions(pool, { entries, now: NOW })).toMatchObject([{ status: 'partitioned' }]);
    for (const year of ['2026', '2027', '2028', '2029']) {
      await pool.query(`insert into stats.${name} (seen_at) values ('${year}-09-05')`);
      const now = new Date(`${year}-09-10T00:00:00Z`);
      expect(await applyPartitions(pool, { entries, now })).toMatchObject([{ status: 'sorted' }]);
    }
    expect(await rollBack(pool)).toMatchObject([{ status: 'back' }]);
    expect(await countRows(pool, `stats.${name}`)).toBe(4);
  }));

it('statistics of the table as a whole are due when its partitions are others', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await convert(impressions);
    const due = async () =>
      (await pool.query(`select action from partitions.due(1, $1, false) where action = 'analyze'`, [NOW])).rowCount;
    expect(await due()).toBe(0);
    await pool.query(`select partitions.make_month(1, 'stats.impressions'::regclass, '2027-01-01')`);
    expect(await due()).toBe(1);
    await maintain(pool, '2026-03-21');
    expect(await due()).toBe(0);
  }));
