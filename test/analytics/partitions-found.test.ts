import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import { asSuperuser } from '../support/database.ts';
import { convert, createImpressions, entryOf, type Impressions, inCloneOf, NOW } from '../support/impressions.ts';

// What was found wrong once.

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
});
afterAll(() => original.drop());

const inClone = (work: (impressions: Impressions) => Promise<void>) => inCloneOf(original, work);

const count = async ({ pool }: Impressions, from = 'stats.impressions') =>
  (await pool.query(`select from ${from}`)).rowCount;

/** Converts it, and does something once while a step of that name is under way. */
async function convertDuring(
  impressions: Impressions,
  step: string,
  work: () => Promise<unknown>,
  overrides = {},
): Promise<void> {
  let done: Promise<unknown> | undefined;
  const [outcome] = await applyPartitions(impressions.pool, {
    entries: [entryOf(overrides)],
    now: NOW,
    onStep: (what) => {
      if (what.startsWith(step)) done ??= work();
    },
  });
  expect(done).toBeDefined();
  await done;
  expect(outcome).toEqual(expect.objectContaining({ status: 'partitioned' }));
}

describe('no row is lost', () => {
  it('where policies hold for the owner too: such a table is left', () =>
    inClone(async (impressions) => {
      await impressions.pool.query('alter table stats.impressions force row level security');
      const [outcome] = await applyPartitions(impressions.pool, { entries: [entryOf()], now: NOW });
      expect(outcome).toMatchObject({
        status: 'skipped',
        reasons: ['Policies of stats.impressions hold for its owner too: run this as a role that passes by them'],
      });
    }));

  it('that comes as a replica writes, while rows are copied', () =>
    inClone(async (impressions) => {
      await convertDuring(impressions, 'comparing', () =>
        asSuperuser(
          impressions,
          `set session_replication_role = replica; insert into stats.impressions (show_id, note) values (1, 'replicated')`,
        ),
      );
      expect(await count(impressions, `stats.impressions where note = 'replicated'`)).toBe(1);
    }));

  it('that goes and comes again, or is older than all others, while rows are copied', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query('delete from stats.clicks');
      await convertDuring(impressions, 'copying', () =>
        pool.query(`
          create temp table again as select * from stats.impressions;
          delete from stats.impressions;
          insert into stats.impressions select * from again;
          insert into stats.impressions (show_id, seen_at) values (1, '2019-05-05')`),
      );
      expect(await count(impressions)).toBe(301);
    }));

  it('where no month has one when upkeep comes for the first time', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await applyPartitions(pool, { entries: [entryOf()], now: NOW, keepsPast: true });
      await pool.query(`call partitions.maintain('command', '2029-01-01', true)`);
      expect(await count(impressions)).toBe(300);
    }));

  it('of a table whose unique key may be null: it is left', () =>
    inClone(async ({ pool }) => {
      await pool.query('create table stats.loose (ext int unique, seen_at timestamptz not null)');
      const [outcome] = await applyPartitions(pool, {
        entries: [entryOf({ table: 'stats.loose', indexes: [] })],
        now: NOW,
      });
      expect(outcome).toMatchObject({ reasons: ['stats.loose has no primary key: its rows cannot be told apart'] });
    }));
});

describe('keys beside the table', () => {
  it('stay with a row that moves to another month, and so does what refers to it', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(`alter table stats.clicks drop constraint clicks_impression_id_fkey;
        alter table stats.clicks add constraint clicks_impression_id_fkey foreign key (impression_id) references stats.impressions on delete cascade`);
      await convert(impressions);
      const before = await count(impressions, 'stats.clicks');
      await pool.query(
        `update stats.impressions set seen_at = '2026-02-02' where id in (select impression_id from stats.clicks)`,
      );
      expect(await count(impressions, 'stats.clicks')).toBe(before);
      await pool.query(`delete from stats.impressions where id = (select impression_id from stats.clicks limit 1)`);
      expect(await count(impressions, 'stats.clicks')).toBeLessThan(before ?? 0);
      expect((await verifyPartitions(pool)).filter(({ holds }) => !holds)).toEqual([]);
      const { rows } = await pool.query<{ id: string }>('select id from stats.impressions limit 1');
      await expect(
        pool.query(`insert into stats.impressions (id, show_id, seen_at) values ($1, 1, '2026-01-01')`, [rows[0]?.id]),
      ).rejects.toMatchObject({ code: '23505' });
    }));

  it('are all there though rows were changed while they were written down', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convertDuring(impressions, 'keeping keys', () =>
        pool.query(`update stats.impressions set note = 'changed'; update stats.impressions set note = 'again'`),
      );
      expect((await verifyPartitions(pool)).filter(({ holds }) => !holds)).toEqual([]);
    }));

  it('go when the table is emptied, which what refers to it refuses', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      for (const truncate of ['truncate stats.impressions cascade', 'truncate stats.clicks, stats.impressions'])
        await expect(pool.query(truncate)).rejects.toMatchObject({ code: '0A000' });
      await pool.query(`alter table stats.impressions disable trigger liventix_keeps_key_0_emptied;
        truncate stats.impressions; truncate stats.clicks, stats.impressions_by_id;
        alter table stats.impressions enable trigger liventix_keeps_key_0_emptied`);
      expect((await verifyPartitions(pool)).filter(({ holds }) => !holds)).toEqual([]);
      await pool.query(`insert into stats.impressions (show_id) values (1); insert into stats.clicks (impression_id) select id from stats.impressions;
        truncate stats.clicks; delete from stats.impressions`);
      expect(await count(impressions, 'stats.impressions_by_id')).toBe(0);
      await pool.query('insert into stats.impressions (show_id) values (1)');
      await pool.query('drop table stats.clicks; truncate stats.impressions');
      expect(await count(impressions, 'stats.impressions_by_id')).toBe(0);
    }));
});

describe('a month, the past and a table of keys', () => {
  it('leave nobody but the owner a right, whatever default privileges give', () =>
    inClone(async ({ pool, roles }) => {
      await pool.query(`alter default privileges in schema stats grant all on tables to ${roles.reader}`);
      await applyPartitions(pool, { entries: [entryOf()], now: NOW, keepsPast: true });
      const { rows } = await pool.query(
        `select c.relname from pg_class c, aclexplode(c.relacl) g
         where c.relnamespace = 'stats'::regnamespace and c.relname like 'impressions\\_%' and c.relkind = 'r' and g.grantee <> c.relowner
         union select p.polrelid::regclass::text from pg_policy p join pg_class c on c.oid = p.polrelid where c.relispartition`,
      );
      expect(rows).toEqual([]);
      expect((await verifyPartitions(pool)).filter(({ holds }) => !holds)).toEqual([]);
    }));
});

it('a generated column is one in every month, and comes back', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await pool.query(
      'alter table stats.impressions add column seconds int generated always as (dwell_ms / 1000) stored',
    );
    await convert(impressions);
    await pool.query('insert into stats.impressions (show_id, dwell_ms) values (1, 5000)');
    expect(await count(impressions, 'stats.impressions where seconds = dwell_ms / 1000')).toBe(301);
    await pool.query(`insert into stats.impressions (show_id, dwell_ms, seen_at) values (1, 5000, '2026-09-09')`);
    await pool.query(`call partitions.maintain('command', '2026-09-10')`);
    expect(await count(impressions, 'stats.impressions_202609 where seconds = 5')).toBe(1);
    expect(await rollBackPartitions(pool, { tables: [] })).toEqual([expect.objectContaining({ status: 'back' })]);
    expect(await count(impressions, 'stats.impressions where seconds = dwell_ms / 1000')).toBe(302);
  }));

it('a try that failed leaves no check that would refuse rows later', () =>
  inClone(async ({ pool }) => {
    const reader = await pool.connect();
    try {
      await reader.query('begin; select from stats.impressions');
      const held: string[] = [];
      const outcomes = await applyPartitions(pool, {
        entries: [entryOf()],
        now: NOW,
        maxTries: 1,
        onStep: (what) => held.push(what),
      });
      expect(outcomes).toMatchObject([{ status: 'skipped' }]);
    } finally {
      await reader.query('rollback');
      reader.release();
    }
    const [outcome] = await applyPartitions(pool, { entries: [entryOf()], now: NOW });
    expect(outcome).toMatchObject({ status: 'partitioned' });
  }));

it('what the mapping says of how long months are kept holds at the next run, and what is set aside keeps a table from a second conversion', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await convert(impressions);
    await convert(impressions, { keepMonths: 60 });
    expect((await pool.query('select keep_months as keep from partitions.tables')).rows).toEqual([{ keep: 60 }]);
    await rollBackPartitions(pool, { tables: [] });
    await expect(convert(impressions)).rejects.toThrow(/is set aside still: liventix partitions clean --yes, first/);
  }));
