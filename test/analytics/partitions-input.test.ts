import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyPartitions, type Outcome } from '../../src/analytics/partitions/apply.ts';
import { parsePartitionsMapping } from '../../src/analytics/partitions/mapping.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createImpressions, entryOf, type Impressions, inCloneOf, NOW } from '../support/impressions.ts';

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
});
afterAll(() => original.drop());

const inClone = (work: (impressions: Impressions) => Promise<void>) => inCloneOf(original, work);

const apply = ({ pool }: TestDatabase, overrides = {}): Promise<readonly Outcome[]> =>
  applyPartitions(pool, { entries: [entryOf(overrides)], now: NOW });

const partitionsOf = async ({ pool }: TestDatabase, table = 'stats.impressions') =>
  Object.fromEntries(
    (
      await pool.query<{ name: string; n: number }>(
        `select replace(replace(i.tableoid::regclass::text, 'stats.', ''), 'impressions_', '') as name, count(*)::int as n from ${table} i group by 1 order by 1`,
      )
    ).rows.map(({ name, n }) => [name, n]),
  );

describe('rows', () => {
  it('without an instant are refused with one line, and nothing is changed, unless the mapping says what they get', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(
        `alter table stats.impressions alter column seen_at drop not null; insert into stats.impressions (show_id, seen_at) select 1, null from generate_series(1, 7)`,
      );
      expect(await apply(impressions)).toEqual([
        {
          table: 'stats.impressions',
          status: 'skipped',
          reasons: [
            'Rows of stats.impressions have no seen_at, and lie in no month. Say in the mapping what they get: "whenNull": "<expression over the row>".',
          ],
        },
      ]);
      expect(
        await apply(impressions, { whenNull: `timestamptz '2026-01-01' + t.show_id * interval '1 day'` }),
      ).toMatchObject([{ status: 'partitioned' }]);
      expect((await pool.query(`select from stats.impressions where seen_at = '2026-01-02'`)).rowCount).toBe(7);
      await expect(
        pool.query('insert into public.impressions (show_id, seen_at) values (1, null)'),
      ).rejects.toMatchObject({ code: '23502' });
      await rollBackPartitions(pool, { tables: [] });
      expect((await pool.query('select from stats.impressions where seen_at is null')).rowCount).toBe(7);
      await pool.query('insert into public.impressions (show_id, seen_at) values (1, null)');
    }));

  it('beyond every month are kept, wherever they lie, and come back', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      const far = ['-infinity', '0001-01-01 00:00:00+00 BC', '2031-05-05 00:00:00+00', 'infinity'];
      for (const at of far) await pool.query('insert into stats.impressions (show_id, seen_at) values (1, $1)', [at]);
      expect(await apply(impressions)).toMatchObject([{ status: 'partitioned', areSomeLeft: true }]);
      expect(await partitionsOf(impressions)).toMatchObject({ before: 2, other: 2 });
      await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2035-01-01')`);
      expect(await partitionsOf(impressions)).toMatchObject({ other: 3 });
      expect(await rollBackPartitions(pool, { tables: [] })).toEqual([expect.objectContaining({ status: 'back' })]);
      expect(
        (await pool.query(`select from stats.impressions where seen_at > '2030-01-01' or seen_at < '2000-01-01'`))
          .rowCount,
      ).toBe(5);
    }));

  it('at the edges of months lie where the months of their zone begin, though the clocks change', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query('delete from stats.clicks; delete from stats.impressions');
      // Berlin's April begins at 22:00 of UTC, its March at 23:00.
      const edges = [
        '2026-02-28 22:59:59.999999+00',
        '2026-02-28 23:00:00+00',
        '2026-03-31 21:59:59.999999+00',
        '2026-03-31 22:00:00+00',
      ];
      for (const at of edges) await pool.query('insert into stats.impressions (show_id, seen_at) values (1, $1)', [at]);
      expect(await apply(impressions, { zone: 'Europe/Berlin' })).toMatchObject([{ status: 'partitioned' }]);
      expect(await partitionsOf(impressions)).toEqual({ '202602': 1, '202603': 2, '202604': 1 });
      expect((await verifyPartitions(pool)).filter(({ holds }) => !holds)).toEqual([]);
    }));

  it.each(['timestamp', 'date'])('lie in months by a %s as well', (type) =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(`create table stats.days (id bigserial primary key, at ${type} not null, said text unique);
        insert into stats.days (at) select timestamp '2025-12-31' + n * interval '12 hours' from generate_series(0, 200) n`);
      const [outcome] = await applyPartitions(pool, {
        entries: [entryOf({ table: 'stats.days', by: 'at', indexes: [] })],
        now: NOW,
      });
      expect(outcome).toMatchObject({ status: 'partitioned' });
      expect(await partitionsOf(impressions, 'stats.days')).toMatchObject({ days_202512: 2, days_202601: 62 });
      // Its sequence goes on, and a key that cannot hold the instant is one over all months still.
      const { rows } = await pool.query(`insert into stats.days (at, said) values ('2026-05-05', 'once') returning id`);
      expect(rows).toEqual([{ id: 202n }]);
      await expect(pool.query(`insert into stats.days (at, said) values ('2026-01-05', 'once')`)).rejects.toMatchObject(
        { code: '23505' },
      );
      expect(await rollBackPartitions(pool, { tables: [] })).toEqual([expect.objectContaining({ status: 'back' })]);
      await expect(pool.query(`insert into stats.days (at, said) values ('2026-01-05', 'once')`)).rejects.toMatchObject(
        { code: '23505', constraint: 'days_said_key' },
      );
      expect((await pool.query(`select pg_get_serial_sequence('stats.days', 'id') as of`)).rows).toEqual([
        { of: 'stats.days_id_seq' },
      ]);
    }),
  );
});

describe('a table', () => {
  it('that cannot be converted is left, with every reason at once', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query(`
        create unlogged table stats.odd (id int generated always as identity, seen_at text);
        create unique index odd_key on stats.odd (id) where id > 3;
        create function public.odd(stats.odd) returns int language sql return 1`);
      const [outcome] = await applyPartitions(pool, {
        entries: [entryOf({ table: 'stats.odd', indexes: [] })],
        now: NOW,
      });
      expect(outcome).toEqual({
        table: 'stats.odd',
        status: 'skipped',
        reasons: [
          'stats.odd is unlogged or temporary',
          'seen_at is text: it has to be a timestamp or a date',
          'stats.odd has no primary key: its rows cannot be told apart',
          'id of stats.odd is an identity column: make it a default of a sequence first',
          'odd_key of stats.odd is unique by a condition or an expression, which no partition can hold',
          'function public.odd(stats.odd) depends on stats.odd, and cannot be carried over',
        ],
      });
      expect((await pool.query('select from partitions.tables')).rowCount).toBe(0);
    }));

  it.each([
    ['public.impressions', 'a view'],
    ['stats.impressions_daily', 'a materialized view'],
    ['stats.clicks_id_seq', 'a sequence'],
  ])('that is none is said to be what it is: %s is %s', (table, kind) =>
    inClone(async ({ pool }) => {
      const [outcome] = await applyPartitions(pool, { entries: [entryOf({ table })], now: NOW });
      expect(outcome).toMatchObject({ reasons: expect.arrayContaining([`${table} is ${kind}`]) });
    }),
  );

  it('that is not there is said to be missing', async () => {
    const database = await createDatabase();
    try {
      expect(await apply(database)).toEqual([
        {
          table: 'stats.impressions',
          status: 'skipped',
          reasons: [
            'There is no table stats.impressions: mind its spelling. Where it is to move there: liventix restructure apply, first',
          ],
        },
      ]);
    } finally {
      await database.drop();
    }
  });

  it('of the longest name and with quotes in it is converted and put back', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      const name = `a"b${'ä'.repeat(30)}`;
      const quoted = `"${name.replaceAll('"', '""')}"`;
      await pool.query(`create table stats.${quoted} (id uuid primary key default gen_random_uuid(), "at ""x" timestamptz not null);
        create index on stats.${quoted} ("at ""x"); insert into stats.${quoted} ("at ""x") values ('2026-01-01'), ('2026-02-01')`);
      const table = { table: `stats.${name}`, by: 'at "x', indexes: ['btree ("at ""x", id)'] };
      const { tables: entries } = parsePartitionsMapping(JSON.stringify({ version: 1, tables: [table] }), 'm.json');
      expect(await applyPartitions(pool, { entries, now: NOW })).toEqual([
        expect.objectContaining({ status: 'partitioned' }),
      ]);
      expect((await pool.query(`select from stats.${quoted}`)).rowCount).toBe(2);
      expect(await rollBackPartitions(pool, { tables: [] })).toEqual([expect.objectContaining({ status: 'back' })]);
      expect(
        (await pool.query(`select from pg_indexes where schemaname = 'stats' and tablename = $1`, [name])).rowCount,
      ).toBe(2);
    }));

  it('keeps keys by columns whose names are too long together for that of a table, each apart', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      const [account, campaign] = ['external_advertising_account_identifier', 'external_advertising_campaign_key'];
      await pool.query(`create table stats.sold (id int primary key, seen_at timestamptz not null, ${account} int, ${campaign} int, ${campaign}_2 int,
          unique (${account}, ${campaign}), unique (${account}, ${campaign}_2));
        insert into stats.sold values (1, '2026-01-01', 1, 1, 1)`);
      const entries = [entryOf({ table: 'stats.sold', indexes: [] })];
      expect(await applyPartitions(pool, { entries, now: NOW })).toMatchObject([{ status: 'partitioned' }]);
      for (const sold of ['1, 1, 2', '1, 2, 1'])
        await expect(pool.query(`insert into stats.sold values (2, '2026-02-01', ${sold})`)).rejects.toMatchObject({
          code: '23505',
          table: expect.stringMatching(/^sold_by_[0-9a-f]{12}_external_advertising$/),
        });
      expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
    }));

  it('is not emptied while it is copied', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await pool.query('drop table stats.clicks');
      const refusals: unknown[] = [];
      let asked: Promise<unknown> | undefined;
      await applyPartitions(pool, {
        entries: [entryOf()],
        now: NOW,
        onStep: (what) => {
          if (what.startsWith('copying'))
            asked ??= pool.query('truncate stats.impressions cascade').catch((error: unknown) => refusals.push(error));
        },
      });
      await asked;
      expect(refusals).toMatchObject([{ code: 'LV100' }]);
    }));
});

describe('a mapping', () => {
  it('says all of its faults at once', () => {
    expect(() =>
      parsePartitionsMapping(
        JSON.stringify({ version: 1, tables: [{ table: 'x', by: '', keepMonths: 0, spare: 1 }] }),
        'm.json',
      ),
    ).toThrow(
      /The mapping m.json: tables.0.table: give the schema too.*; tables.0.by: .*; tables.0.keepMonths: .*; tables.0: .*spare/s,
    );
    expect(() => parsePartitionsMapping('{', 'm.json')).toThrow(/it is no JSON/);
  });
});
