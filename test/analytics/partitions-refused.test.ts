import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApplyOptions, applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { judgePartitions } from '../../src/analytics/partitions/diagnosis.ts';
import type { Entry } from '../../src/analytics/partitions/mapping.ts';
import { makePlan } from '../../src/analytics/partitions/plan.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { countRows, faultsOf, whileIndexesWait } from '../support/conversions.ts';
import { convert, createImpressions, entryOf, type Impressions, inCloneOf, NOW } from '../support/impressions.ts';

// What is refused, or said beforehand, rather than found out too late.

let original: Impressions;
beforeAll(async () => {
  original = await createImpressions({ rows: 300 });
});
afterAll(() => original.drop());

const inClone = (work: (impressions: Impressions) => Promise<void>) => inCloneOf(original, work);
const apply = (pool: Pool, overrides: Partial<Entry> = {}, options: Partial<ApplyOptions> = {}) =>
  applyPartitions(pool, { entries: [entryOf(overrides)], now: NOW, ...options });

describe('a mapping that the server does not take', () => {
  it('is refused by plan and apply, with every fault at once, and nothing is begun', () =>
    inClone(async ({ pool }) => {
      const overrides = {
        zone: 'Europe/Berlni',
        whenNull: 'nwo()',
        indexes: ['btre (show_id)', 'btree (shown_id)'],
        uniqueOverAll: [['idd']],
      };
      const faults = [
        expect.stringContaining('"zone": "Europe/Berlni" in the mapping: time zone "Europe/Berlni" not recognized'),
        expect.stringContaining('"whenNull": "nwo()" in the mapping: function nwo() does not exist'),
        expect.stringContaining('"indexes": "btre (show_id)" in the mapping: access method "btre" does not exist'),
        expect.stringContaining('"indexes": "btree (shown_id)" in the mapping: column "shown_id" does not exist'),
        'stats.impressions has no column idd, of "uniqueOverAll" in the mapping',
      ];
      const [planned] = await makePlan(pool, [entryOf(overrides)], NOW);
      expect(planned?.findings.filter(({ severity }) => severity === 'blocks').map(({ text }) => text)).toEqual(faults);
      expect(await apply(pool, overrides)).toMatchObject([{ status: 'skipped', reasons: faults }]);
      expect(await countRows(pool, 'partitions.tables')).toBe(0);
    }));

  it('is planned all the same where nothing can be written, as on a standby, and what was not tried is said', () =>
    inClone(async ({ pool, url }) => {
      await pool.query(`alter database ${new URL(url).pathname.slice(1)} set default_transaction_read_only = on`);
      const reading = createPool({ databaseUrl: url });
      const [planned] = await makePlan(reading, [entryOf({ zone: 'Europe/Berlni' })], NOW);
      await reading.end();
      expect(planned).toMatchObject({
        status: 'ready',
        findings: expect.arrayContaining([expect.objectContaining({ severity: 'note', finding: 'not-tried' })]),
      });
    }));

  it('does nothing that is written behind an expression', () =>
    inClone(async ({ pool }) => {
      const [planned] = await makePlan(pool, [entryOf({ whenNull: 'now(), 1); drop table stats.clicks; --' })], NOW);
      expect(planned?.status).toBe('blocked');
      expect(await countRows(pool, 'stats.clicks')).toBeGreaterThan(0);
    }));
});

it('an expression that gives no instant is refused after one look, and no row is written', () =>
  inClone(async ({ pool }) => {
    await pool.query(`alter table stats.impressions alter column seen_at drop not null;
      insert into stats.impressions (show_id, seen_at) values (1, null), (2, null)`);
    expect(await apply(pool, { whenNull: `case t.show_id when 1 then timestamptz '2026-01-01' end` })).toMatchObject([
      { status: 'skipped', reasons: [expect.stringContaining('gives no instant to 1 rows of stats.impressions')] },
    ]);
    expect(await countRows(pool, 'partitions.filled')).toBe(0);
    expect(await countRows(pool, 'stats.impressions where seen_at is null')).toBe(2);
  }));

it('a plan says how much WAL is written, where the server keeps less than that in store', () =>
  inClone(async ({ pool }) => {
    const said = async () =>
      (await makePlan(pool, [entryOf()], NOW))[0]?.findings.filter(({ finding }) => finding === 'wal');
    expect(await said()).toEqual([]);
    await pool.query(`alter table stats.impressions add column picture text;
      alter table stats.impressions alter column picture set storage external;
      insert into stats.impressions (show_id, seen_at, picture) select 1, '2026-01-01', repeat('x', 1e6::int) from generate_series(1, 90)`);
    expect(await said()).toMatchObject([
      {
        severity: 'note',
        text: expect.stringMatching(/^About 8\d MB of WAL are written, and min_wal_size keeps 80 MB in store/),
      },
    ]);
  }));

it('a key that is to be unique over all and is not is named, before anybody is refused by it', () =>
  inClone(async ({ pool }) => {
    await pool.query(`update stats.impressions set note = 'the same'`);
    expect(await apply(pool, { uniqueOverAll: [['note']] })).toMatchObject([
      { status: 'skipped', reasons: [expect.stringContaining('("the same") is there more than once')] },
    ]);
    await pool.query(`insert into stats.impressions (show_id, note) values (1, 'the same')`);
  }));

it('a plan says of each key that goes to a table of its own what becomes of it, and that TRUNCATE is refused', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await pool.query(`alter table stats.impressions add column ref text unique,
      add column code int unique deferrable initially deferred, add unique (seen_at, ref);
      create table stats.loose (id int primary key deferrable, seen_at timestamptz not null)`);
    const [planned] = await makePlan(pool, [entryOf()], NOW);
    expect(planned?.findings.filter(({ severity }) => severity === 'changes').map(({ text }) => text)).toEqual([
      '(id) is the primary key together with seen_at: on conflict (id) finds none any more',
      '(code) stays unique by a table of keys, which defers nothing: a second row is refused at once, also where rows swap their values',
      '(ref) stays unique by a table of keys: on conflict (ref) finds none any more, and on conflict do nothing is refused too',
      'clicks_impression_id_fkey of stats.clicks refers to a table of keys beside stats.impressions, kept by a trigger',
      'TRUNCATE of stats.impressions does not reach what refers to it by CASCADE: name both in one statement',
    ]);
    const [loose] = await makePlan(pool, [entryOf({ table: 'stats.loose', indexes: [] })], NOW);
    expect(loose?.findings[0]?.text).toMatch(/finds none any more, and it is deferrable no more$/);
    await convert(impressions);
    await pool.query(`insert into stats.impressions (show_id, ref, code) values (1, 'one', 1), (1, 'two', 2)`);
    const insert = `insert into stats.impressions (show_id, ref) values (1, 'one')`;
    await expect(pool.query(`${insert} on conflict (ref) do nothing`)).rejects.toMatchObject({ code: '42P10' });
    await expect(pool.query(`${insert} on conflict do nothing`)).rejects.toMatchObject({ code: '23505' });
    const swap = 'update stats.impressions set code = 3 - code where code is not null';
    await expect(pool.query(swap)).rejects.toMatchObject({ code: '23505' });
  }));

describe('months that a retention keeps no longer', () => {
  it('are named by plan and apply before they go', () =>
    inClone(async ({ pool }) => {
      const [planned] = await makePlan(pool, [entryOf({ keepMonths: 3 })], NOW);
      expect(planned?.findings).toContainEqual(
        expect.objectContaining({ text: expect.stringContaining('What is older than 3 months is dropped') }),
      );
      expect(await apply(pool, { keepMonths: 3 })).toMatchObject([
        { status: 'partitioned', expired: [{ partition: 'stats.impressions_before', rowsEstimated: 61 }] },
      ]);
    }));

  it('go by another mapping where somebody said that they may, and only there', () =>
    inClone(async (impressions) => {
      const { pool } = impressions;
      await convert(impressions);
      const [planned] = await makePlan(pool, [entryOf({ keepMonths: 1 })], NOW);
      expect(planned?.findings).toMatchObject([{ text: 'keepMonths: 1 from then on, 13 by now' }]);
      expect(await apply(pool, { keepMonths: 1 })).toMatchObject([
        {
          status: 'skipped',
          reasons: [expect.stringMatching(/for 1 months, not 13: .*impressions_202601 would go.*: --yes$/)],
        },
      ]);
      await pool.query(`call partitions.maintain('command', $1)`, [NOW]);
      expect(await countRows(pool)).toBe(300);
      expect(await apply(pool, { keepMonths: 1 }, { mayLose: true })).toMatchObject([{ status: 'already' }]);
      await pool.query(`call partitions.maintain('command', $1)`, [NOW]);
      expect(await countRows(pool)).toBeLessThan(300);
    }));
});

it('a way back is refused while rows refer to what went with its month, before anything is copied', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await pool.query(
      'insert into stats.clicks (impression_id) select id from stats.impressions order by seen_at limit 1',
    );
    await convert(impressions, { keepMonths: 3 });
    await pool.query(`call partitions.maintain('command', $1)`, [NOW]);
    const steps: string[] = [];
    expect(await rollBackPartitions(pool, { tables: [], onStep: (what) => steps.push(what) })).toMatchObject([
      {
        status: 'skipped',
        reasons: [
          expect.stringMatching(
            /^\d+ rows of stats\.clicks refer by clicks_impression_id_fkey to rows of stats\.impressions that went/,
          ),
        ],
      },
    ]);
    expect(steps.some((what) => what.startsWith('copying'))).toBe(false);
    await pool.query(
      'delete from stats.clicks c where not exists (select from stats.impressions i where i.id = c.impression_id)',
    );
    expect(await rollBackPartitions(pool, { tables: [] })).toMatchObject([{ status: 'back' }]);
  }));

it('rows of no month that is kept or ahead are said to stay, and what to do', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await convert(impressions);
    await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2099-01-01'), (1, '2026-09-01')`);
    const later = new Date('2026-09-10T00:00:00Z');
    expect(await apply(pool, {}, { now: later })).toMatchObject([{ status: 'sorted', areSomeLeft: true }]);
    expect(await judgePartitions(pool)).toMatchObject({
      todo: expect.stringMatching(/correct or delete them in stats\.impressions_other_2, or raise monthsAhead/),
    });
  }));

it('one fault of one table keeps no other from its months', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await pool.query('create table stats.after (id int primary key, seen_at timestamptz not null)');
    await convert(impressions);
    await applyPartitions(pool, { entries: [entryOf({ table: 'stats.after', indexes: [] })], now: NOW });
    await pool.query(`update partitions.tables set zone = 'Nowhere' where table_name = 'impressions'`);
    await pool.query(`call partitions.maintain('command', '2026-06-01')`);
    const { rows } = await pool.query(
      `select table_name, action from partitions.log where action <> 'compared' order by id`,
    );
    expect(rows).toEqual([
      { table_name: 'stats.impressions', action: 'left' },
      ...Array.from({ length: 3 }, () => ({ table_name: 'stats.after', action: 'made' })),
    ]);
  }));

it('after long without upkeep nobody is asked where nothing would go', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await convert(impressions);
    await pool.query(`call partitions.maintain('command', '2026-05-20')`);
    await pool.query(`call partitions.maintain('command', '2026-07-20')`);
    expect(await countRows(pool, `partitions.log where action = 'held back'`)).toBe(0);
    expect(await faultsOf(pool)).toEqual([]);
  }));

it('a change of the table that makes a step fail is told as that, in no words of ours', () =>
  inClone(async (impressions) => {
    const { pool } = impressions;
    await convert(impressions);
    // What changes after it has a column that its copy has not.
    const change = () =>
      pool.query(
        `alter table stats.impressions add column extra int; insert into stats.impressions (show_id, seen_at) values (1, '2026-03-01')`,
      );
    expect(await whileIndexesWait(impressions, () => rollBackPartitions(pool, { tables: [] }), change)).toMatchObject([
      { status: 'skipped', reasons: [expect.stringContaining('was changed while its rows were copied')] },
    ]);
  }));
