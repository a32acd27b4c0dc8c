import type { PoolClient } from 'pg';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { type ApplyOptions, applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { countRows, faultsOf } from '../support/conversions.ts';
import { eventually } from '../support/eventually.ts';
import {
  cloneImpressions,
  convert,
  createImpressions,
  entryOf,
  type Impressions,
  inCloneOf,
  NOW,
} from '../support/impressions.ts';
import { waitsForLock } from '../support/locks.ts';

// What was found wrong when all of it was read once more.

let original: Impressions;
let converted: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
  converted = await cloneImpressions(original);
  await convert(converted);
});
afterAll(async () => {
  await converted.drop();
  await original.drop();
});

const inPlainClone = (work: (pool: Pool) => Promise<void>) => inCloneOf(original, ({ pool }) => work(pool));
const inClone = (work: (pool: Pool) => Promise<void>) => inCloneOf(converted, ({ pool }) => work(pool));

/** Lets somebody else have a transaction open, which ends with the work at the latest. */
async function beside(pool: Pool, work: (other: PoolClient) => Promise<void>): Promise<void> {
  const other = await pool.connect();
  try {
    await other.query('begin');
    await work(other);
  } finally {
    await other.query('rollback');
    other.release();
  }
}

const maintain = (pool: Pool, now = '2026-03-21') => pool.query(`call partitions.maintain('command', $1)`, [now]);
const left = async (pool: Pool) =>
  (
    await pool.query<{ what: string | null }>(
      `select concat_ws(', ', partition, detail) as what from partitions.log where action = 'left' order by id`,
    )
  ).rows.map(({ what }) => what);

const ONE = '00000000-0000-4000-8000-000000000001';
const insertOne = (day: string) =>
  `insert into stats.impressions (id, show_id, seen_at) values ('${ONE}', 1, '${day}')`;

describe('a table that is truncated', () => {
  it('with what refers to it, or after that, has no keys any more', () =>
    inClone(async (pool) => {
      await pool.query('truncate stats.impressions, stats.clicks');
      expect(await faultsOf(pool)).toEqual([]);
      await pool.query(insertOne('2026-02-01'));
      await pool.query(`insert into stats.clicks (impression_id) values ('${ONE}')`);
      await pool.query('truncate stats.clicks');
      await pool.query('truncate stats.impressions');
      expect(await countRows(pool, 'stats.impressions_by_id')).toBe(0);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('is refused, as any other, while rows refer to it', () =>
    inClone(async (pool) => {
      const clicks = await countRows(pool, 'stats.clicks');
      await expect(pool.query('truncate stats.impressions cascade')).rejects.toMatchObject({
        code: '0A000',
        message: 'Rows of stats.clicks refer to stats.impressions, which is truncated',
        hint: expect.stringContaining('Truncate stats.clicks in the same statement'),
      });
      expect(await countRows(pool, 'stats.clicks')).toBe(clicks);
      expect(await faultsOf(pool)).toEqual([]);
    }));
});

describe('a key beside the table', () => {
  it('is one, though two sessions write it at once in two months', () =>
    inClone(async (pool) => {
      await beside(pool, async (first) => {
        await first.query(insertOne('2026-01-01'));
        const refused = expect(pool.query(insertOne('2026-02-02'))).rejects.toMatchObject({ code: '23505' });
        await waitsForLock(pool, '2026-02-02');
        await first.query('commit');
        await refused;
      });
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('is free again when who wrote it rolls back, or takes the row away, and stays with a row that comes back as it was', () =>
    inClone(async (pool) => {
      await beside(pool, async (first) => {
        await first.query(insertOne('2026-01-01'));
        const accepted = pool.query(insertOne('2026-02-02'));
        await waitsForLock(pool, '2026-02-02');
        await first.query('rollback');
        await accepted;
      });
      await pool.query(`
        begin;
        delete from stats.impressions where id = '${ONE}'; ${insertOne('2026-01-05')};
        savepoint one; delete from stats.impressions where id = '${ONE}'; ${insertOne('2026-03-05')}; rollback to one;
        with gone as (delete from stats.impressions where id = '${ONE}' returning *)
          insert into stats.impressions (id, show_id, seen_at) select id, show_id, '2026-02-05' from gone;
        commit`);
      // Its month went, the key is there still.
      await pool.query(`
        create table stats.kept as select id, show_id, seen_at from stats.impressions_202602;
        alter table stats.impressions detach partition stats.impressions_202602;
        select partitions.make_month(1, 'stats.impressions', '2026-02-01');
        insert into stats.impressions (id, show_id, seen_at) select * from stats.kept`);
      expect(await countRows(pool)).toBe(301);
      expect(await faultsOf(pool)).toEqual([]);
      await expect(pool.query(insertOne('2026-01-01'))).rejects.toMatchObject({ code: '23505' });
      await expect(
        pool.query(
          `update stats.impressions set id = '${ONE}' where id = (select id from stats.impressions_202601 limit 1)`,
        ),
      ).rejects.toMatchObject({ code: '23505' });
    }));

  it('has the instant that its row has, though that was changed while the key was being written down', () =>
    inClone(async (pool) => {
      await pool.query(insertOne('2026-02-02'));
      await pool.query(`delete from stats.impressions_by_id where id = '${ONE}'`);
      await beside(pool, async (filling) => {
        await filling.query(`insert into stats.impressions_by_id (id, seen_at) values ('${ONE}', '2026-02-02')`);
        const changed = pool.query(`update stats.impressions set seen_at = '2026-02-03' where id = '${ONE}'`);
        await waitsForLock(pool, '2026-02-03');
        await filling.query('commit');
        await changed;
      });
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('is found by verify where no row has it and nothing refers to it', () =>
    inClone(async (pool) => {
      await pool.query(`insert into stats.impressions_by_id (id, seen_at) values ('${ONE}', '2026-02-02')`);
      await expect(pool.query(insertOne('2026-01-01'))).rejects.toMatchObject({ code: '23505' });
      expect(await faultsOf(pool)).toMatchObject([
        {
          faults: 1n,
          first: [expect.stringContaining(`stats.impressions_by_id has (${ONE},"2026-02-02 00:00:00+00")`)],
        },
      ]);
      await pool.query(`insert into stats.clicks (impression_id) values ('${ONE}')`);
      expect(await faultsOf(pool)).toEqual([]);
    }));
});

const SMALL: Partial<ApplyOptions['entries'][number]> = { table: 'stats.small', indexes: [] };
const COPIES = [{ table: 'stats.copies', rows: 'take' as const }];
const LEFT = [{ table: 'stats.copies', rows: 'leave' as const }];

const apply = async (pool: Pool, overrides: Partial<ApplyOptions['entries'][number]>, now = NOW) =>
  (await applyPartitions(pool, { entries: [entryOf({ ...SMALL, ...overrides })], now }))[0];

describe('a table with a column named t', () => {
  it('is compared, and goes back, by all that a row says', () =>
    inPlainClone(async (pool) => {
      await pool.query(`
        create table stats.small (id int primary key, t timestamptz, v int);
        create table stats.copies (like stats.small);
        insert into stats.small values (1, '2026-01-01', 1), (2, null, 2);
        insert into stats.copies values (3, '2026-01-03', 3), (4, '2026-01-04', 4)`);
      expect(await apply(pool, { by: 't', copies: COPIES, whenNull: `timestamptz '2026-02-02'` })).toMatchObject({
        status: 'partitioned',
        copies: [{ missing: 2n }],
      });
      const sum = async () => {
        const { rows } = await pool.query<{ sql: string }>(`select partitions.sum_sql(1, 'stats.small') as sql`);
        return (await pool.query<{ hash: string }>(rows[0]?.sql ?? '')).rows[0]?.hash;
      };
      const before = await sum();
      await pool.query('update stats.small set v = 33 where id = 3');
      expect(await sum()).not.toBe(before);
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
      expect((await pool.query('select id, t is null as "isOpen" from stats.small order by id')).rows).toEqual([
        { id: 1, isOpen: false },
        { id: 2, isOpen: true },
        { id: 3, isOpen: false },
      ]);
    }));
});

describe('rows of a table of copies', () => {
  const makeSmall = (pool: Pool) =>
    pool.query(`
      create table stats.small (id int primary key, seen_at timestamptz not null, v int);
      create table stats.copies (like stats.small);
      insert into stats.small values (1, '2026-03-01', 1);
      insert into stats.copies select n, '2026-03-01', n from generate_series(2, 4) n`);

  it('that were taken once and are gone, or are older than is kept, are not taken again', () =>
    inPlainClone(async (pool) => {
      await makeSmall(pool);
      await pool.query(`insert into stats.copies values (5, '2020-01-01', 5)`);
      expect(await apply(pool, { copies: COPIES })).toMatchObject({
        copies: [{ alike: 0n, missing: 3n, gone: 0n, older: 1n, different: 0n }],
      });
      await pool.query(`delete from stats.small where id = 2; insert into stats.copies values (6, '2026-03-02', 6)`);
      expect(await apply(pool, { copies: COPIES })).toMatchObject({
        status: 'already',
        copies: [{ alike: 2n, missing: 1n, gone: 1n, older: 1n, different: 0n }],
      });
      expect((await pool.query('select id from stats.small order by id')).rows.map(({ id }) => id)).toEqual([
        1, 3, 4, 6,
      ]);
      expect(await faultsOf(pool)).toEqual([]);
      // Kept for longer, it is taken.
      expect(await apply(pool, { copies: COPIES, keepMonths: 120 })).toMatchObject({
        copies: [{ alike: 3n, missing: 1n, gone: 1n, older: 0n }],
      });
    }));

  it('that were left at first and taken later go with the way back', () =>
    inPlainClone(async (pool) => {
      await makeSmall(pool);
      expect(await apply(pool, { copies: LEFT })).toMatchObject({ copies: [{ missing: 3n, isTaken: false }] });
      expect(await apply(pool, { copies: COPIES })).toMatchObject({ copies: [{ missing: 3n, isTaken: true }] });
      await pool.query('update stats.small set v = 0 where id = 4');
      await rollBackPartitions(pool, { tables: [] });
      expect((await pool.query('select id from stats.small order by id')).rows).toEqual([{ id: 1 }, { id: 4 }]);
      expect(await countRows(pool, `partitions.log where action = 'kept' and detail like '1 rows%'`)).toBe(1);
    }));

  it('are told apart by a key that may not be null, whatever others are called', () =>
    inPlainClone(async (pool) => {
      await pool.query(`
        create table stats.small (id int not null, mail text, seen_at timestamptz, constraint a_mail unique (mail), constraint b_id unique (id));
        create table stats.copies (like stats.small);
        insert into stats.small values (1, null, '2026-03-01'), (2, null, null);
        insert into stats.copies select n, null, '2026-03-01' from generate_series(1, 4) n`);
      const overrides = { copies: COPIES, whenNull: `timestamptz '2026-03-01'` };
      expect(await apply(pool, overrides)).toMatchObject({
        status: 'partitioned',
        copies: [{ alike: 2n, missing: 2n, different: 0n }],
      });
      expect(await apply(pool, overrides)).toMatchObject({ status: 'already', copies: [{ alike: 4n, missing: 0n }] });
      await rollBackPartitions(pool, { tables: [] });
      expect((await pool.query('select id, seen_at is null as "isOpen" from stats.small order by id')).rows).toEqual([
        { id: 1, isOpen: false },
        { id: 2, isOpen: true },
      ]);
    }));
});

describe('the upkeep', () => {
  it('forgets no key that somebody is about to refer to, waits for nobody, and comes to the other tables', () =>
    inClone(async (pool) => {
      const old = `from stats.impressions_by_id k where seen_at < '2025-12-01' and not exists (select from stats.clicks c where c.impression_id = k.id)`;
      await pool.query('update partitions.tables set keep_months = 2');
      await beside(pool, async (other) => {
        await other.query(`insert into stats.clicks (impression_id) select id ${old} limit 1`);
        await maintain(pool);
        expect(await countRows(pool, `(select ${old}) k`)).toBe(1);
        expect(await left(pool)).toEqual(['forget, keys of rows that went with their month are held by somebody']);
        expect(await countRows(pool, `partitions.tables where maintained_at = '2026-03-21'`)).toBe(1);
        await other.query('commit');
      });
      await maintain(pool);
      expect(await left(pool)).toHaveLength(1);
      expect(await faultsOf(pool)).toEqual([]);
    }));

  it('notes what keeps it from saying what is held back, and goes on', () =>
    inClone(async (pool) => {
      await pool.query(`
        update partitions.tables set maintained_at = '2026-01-01', keep_months = 2;
        create or replace function partitions.may_go(p_table integer, p_partition regclass) returns boolean language plpgsql as
          $$ begin raise exception 'nobody can tell'; end $$`);
      await maintain(pool);
      expect(await left(pool)).toEqual(['nobody can tell (P0001)']);
    }));

  it('tries again where it could not find out what is due, as somebody held the partition of what lies in no month', () =>
    inClone(async (pool) => {
      await beside(pool, async (other) => {
        await other.query('lock table stats.impressions_other');
        const maintained = maintain(pool, '2026-05-05');
        await eventually(
          'it rests between two tries',
          async () => {
            const { rowCount } = await pool.query(
              `select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep' and query like 'call partitions.maintain%'`,
            );
            return rowCount === 1;
          },
          5_000,
        );
        await other.query('rollback');
        await maintained;
      });
      expect(await left(pool)).toEqual([]);
      expect((await pool.query(`select to_regclass('stats.impressions_202608') as made`)).rows).not.toEqual([
        { made: null },
      ]);
    }));
});

describe('statistics', () => {
  const analyzedLeaves = async (pool: Pool) =>
    (
      await pool.query<{ times: bigint }>(
        `select sum(s.analyze_count)::bigint as times from pg_stat_all_tables s join pg_inherits h on h.inhrelid = s.relid where h.inhparent = 'stats.impressions'::regclass`,
      )
    ).rows[0]?.times ?? 0n;

  it('are made by the upkeep of the whole alone, where the server can', () =>
    inClone(async (pool) => {
      const before = await analyzedLeaves(pool);
      await pool.query('update partitions.tables set analyzed = null');
      await maintain(pool);
      const leaves = (await countRows(pool, 'partitions.months_of(1)')) ?? 0;
      expect((await analyzedLeaves(pool)) - before).toBe(inject('postgresMajor') >= 18 ? 0n : BigInt(leaves));
      expect(await countRows(pool, 'partitions.tables where analyzed = partitions.partitions_digest(1)')).toBe(1);
    }));

  it('are made by a conversion in a transaction a partition, so that none holds the horizon for all of them', () =>
    inCloneOf(converted, async ({ adminUrl }) => {
      const admin = createPool({ databaseUrl: adminUrl, max: 1 });
      try {
        const { rowCount } = await admin.query(
          `select distinct s.xmin::text from pg_statistic s join pg_inherits h on h.inhrelid = s.starelid where h.inhparent = 'stats.impressions'::regclass`,
        );
        expect(rowCount).toBeGreaterThan(1);
      } finally {
        await admin.end();
      }
    }));
});

it('a key of any name is looked at by verify', () =>
  inPlainClone(async (pool) => {
    await pool.query(`create table stats.odd ("50% o'clock" int primary key, seen_at timestamptz not null)`);
    await applyPartitions(pool, { entries: [entryOf({ table: 'stats.odd', indexes: [] })], now: NOW });
    expect(await faultsOf(pool)).toEqual([]);
    await pool.query(`insert into stats.odd values (1, '2026-02-01'), (1, '2026-03-01')`);
    expect(await faultsOf(pool)).toMatchObject([{ first: [`stats.odd has 2 rows with ("50% o'clock") = (1)`] }]);
  }));
