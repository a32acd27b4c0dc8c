import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import { convert, createImpressions, type Impressions } from '../support/impressions.ts';

let impressions: Impressions;
beforeAll(async () => {
  impressions = await createImpressions();
  await convert(impressions, { keepMonths: 3 });
});
afterAll(() => impressions.drop());

const maintain = (now: string, { runner = 'command', confirmed = false } = {}) =>
  impressions.pool.query('call partitions.maintain($1, $2, $3)', [runner, now, confirmed]);
const months = async () => {
  const { rows } = await impressions.pool.query<{ partition: string }>(
    'select partition::text from partitions.months_of(1)',
  );
  return rows.map(({ partition }) => partition.replace('stats.impressions_', ''));
};
const missing = async (now: string) =>
  (await impressions.pool.query('select m::text from partitions.missing_months(1, $1) m', [now])).rows;
const log = async () =>
  (
    await impressions.pool.query<{ line: string }>(
      `select concat_ws(' ', action, partition, detail) as line from partitions.log where action <> 'compared' order by id`,
    )
  ).rows.map(({ line }) => line);

describe('upkeep', () => {
  it('makes months ahead and drops what is older than is kept', async () => {
    await maintain('2026-03-21T00:00:00Z');
    // What was older than is kept lay together.
    expect(await months()).toEqual(['other', '202512', '202601', '202602', '202603', '202604', '202605', '202606']);
    await maintain('2026-04-01T00:00:00Z');
    // The newest row is of March.
    expect(await months()).toEqual([
      'other',
      '202512',
      '202601',
      '202602',
      '202603',
      '202604',
      '202605',
      '202606',
      '202607',
    ]);
    expect(await log()).toEqual(['dropped stats.impressions_before', 'made stats.impressions_202607']);
  });

  it('has the table as a whole analyzed when its months have changed, as autovacuum does not', async () => {
    const analyzed = async () =>
      (
        await impressions.pool.query<{ at: Date }>(
          `select last_analyze as at from pg_stat_all_tables where relid = 'stats.impressions'::regclass`,
        )
      ).rows[0]?.at;
    const before = await analyzed();
    await maintain('2026-05-01T00:00:00Z');
    const then = await analyzed();
    expect(then?.getTime()).toBeGreaterThan(before?.getTime() ?? Number.POSITIVE_INFINITY);
    await maintain('2026-05-01T00:00:00Z');
    expect(await analyzed()).toEqual(then);
  });

  it('gives months to rows that lay in none, and keeps others where they are', async () => {
    await impressions.pool.query(
      `insert into stats.impressions (show_id, seen_at) values (1, '2026-08-15'), (1, '2099-01-01'), (1, 'infinity'), (1, '2026-09-01')`,
    );
    await maintain('2026-06-10T00:00:00Z', { confirmed: true });
    expect(await months()).toEqual(['other', '202603', '202604', '202605', '202606', '202607', '202608', '202609']);
    const { rows } = await impressions.pool.query(`select seen_at::text as at from stats.impressions_other order by 1`);
    expect(rows).toEqual([{ at: '2099-01-01 00:00:00+00' }, { at: 'infinity' }]);
  });

  it('takes nothing out by a clock that jumped ahead, nor makes anything of one that went back', async () => {
    const before = await months();
    await maintain('2027-09-01T00:00:00Z');
    const held = await months();
    expect(held).toEqual(expect.arrayContaining(before));
    expect(await log()).toContain(
      'held back more than 45 days since the last time: no month is taken out until somebody runs liventix partitions maintain --confirm',
    );
    await maintain('2025-06-15T00:00:00Z');
    expect(await months()).toEqual(expect.arrayContaining(before));
  });

  it('does each step once, though several run at the same time', async () => {
    await impressions.pool.query('truncate partitions.log');
    await Promise.all(Array.from({ length: 6 }, () => maintain('2027-10-15T00:00:00Z', { confirmed: true })));
    await maintain('2027-10-15T00:00:00Z', { confirmed: true });
    const lines = await log();
    expect(lines.filter((line) => line.startsWith('left'))).toEqual([]);
    expect(new Set(lines).size).toBe(lines.length);
    expect(await missing('2027-10-15T00:00:00Z')).toEqual([]);
  });

  it('is left to pg_cron where that is to do it, and to nobody twice', async () => {
    await impressions.pool.query(`update partitions.settings set runner = 'pg_cron'`);
    await maintain('2028-01-15T00:00:00Z', { runner: 'worker' });
    expect(await missing('2028-01-15T00:00:00Z')).not.toEqual([]);
    await maintain('2028-01-15T00:00:00Z', { runner: 'pg_cron' });
    expect(await missing('2028-01-15T00:00:00Z')).toEqual([]);
    await impressions.pool.query(`update partitions.settings set runner = 'worker'`);
  });

  it('knows months by their bounds: one that was renamed stays one, one that was dropped is made again for who comes for it, a name that is taken gets a number', async () => {
    const { pool } = impressions;
    await pool.query(`
      alter table stats.impressions_202711 rename to "Of November";
      drop table stats.impressions_202712;
      create table stats.impressions_202805 (what int)`);
    expect((await verifyPartitions(pool)).flatMap(({ first }) => first)).toContain(
      'stats.impressions: nothing holds 2027-12-01 to 2028-01-01 before stats.impressions_202801',
    );
    await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2027-12-24'), (1, '2027-11-24')`);
    await maintain('2028-02-15T00:00:00Z');
    expect(await months()).toEqual(expect.arrayContaining(['stats."Of November"', '202712', '202805_2']));
    expect((await pool.query(`select from stats.impressions_202712`)).rowCount).toBe(1);
    expect(
      (await verifyPartitions(pool)).filter(({ holds, check }) => !holds && check !== 'no row lies in no month'),
    ).toEqual([]);
  });

  it('gives way to who holds the table for long, says so, and does it the next time', async () => {
    const { pool } = impressions;
    const reader = await pool.connect();
    try {
      await reader.query('begin; select count(*) from stats.impressions');
      await maintain('2028-03-15T00:00:00Z', { confirmed: true });
      expect((await log()).at(-1)).toMatch(/^left .* it was in use each time$/);
      await pool.query('insert into stats.impressions (show_id, seen_at) values (1, now())');
    } finally {
      await reader.query('rollback');
      reader.release();
    }
    await pool.query(`update partitions.log set at = at - interval '1 hour'`);
    await maintain('2028-03-15T00:00:00Z', { confirmed: true });
    expect(await missing('2028-03-15T00:00:00Z')).toEqual([]);
  }, 90_000);

  it('puts months that are to be kept elsewhere into the archive, where they refer to nothing, and forgets keys that nobody refers to', async () => {
    const { pool } = impressions;
    const { rows: kept } = await pool.query<{ id: string }>(
      `insert into stats.impressions (show_id, seen_at) select 2, '2027-11-05' from generate_series(1, 3) returning id`,
    );
    await pool.query('insert into stats.clicks (impression_id) values ($1)', [kept[0]?.id]);
    await pool.query(`insert into stats.impressions (show_id, seen_at) values (1, '2028-03-01')`);
    await pool.query(`update partitions.tables set expired = 'archive'`);
    await maintain('2028-03-16T00:00:00Z', { confirmed: true });
    expect((await pool.query(`select from partitions_archive."Of November"`)).rowCount).toBe(4);
    const { rows: keys } = await pool.query(
      `select bool_and(exists (select from stats.clicks c where c.impression_id = k.id)) as referred, bool_or(k.id = $1) as kept
       from stats.impressions_by_id k where seen_at < '2027-12-01'`,
      [kept[0]?.id],
    );
    expect(keys).toEqual([{ referred: true, kept: true }]);
    await pool.query('delete from public.shows where id = 2');
    expect((await pool.query(`select from partitions_archive."Of November" where show_id = 2`)).rowCount).toBe(3);
  });
});
