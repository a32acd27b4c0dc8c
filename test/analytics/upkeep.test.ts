import { afterAll, beforeAll, describe, expect, it } from 'vitest';
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

  it('gives months to rows that lay in none, and keeps others where they are', async () => {
    await impressions.pool.query(
      `insert into stats.impressions (show_id, seen_at) values (1, '2026-08-15'), (1, '2099-01-01'), (1, 'infinity'), (1, '2026-09-01')`,
    );
    await maintain('2026-06-10T00:00:00Z', { confirmed: true });
    expect(await months()).toEqual(['other', '202603', '202604', '202605', '202606', '202607', '202608', '202609']);
    const { rows } = await impressions.pool.query(`select seen_at::text as at from stats.impressions_other order by 1`);
    expect(rows).toEqual([{ at: '2099-01-01 00:00:00+00' }, { at: 'infinity' }]);
  });
});
