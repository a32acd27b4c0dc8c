import { expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { eventually } from '../support/eventually.ts';
import { createImpressions, entryOf, type Impressions, NOW } from '../support/impressions.ts';
import { startTraffic, type Traffic } from '../support/impressions-traffic.ts';

async function inTraffic(work: (impressions: Impressions, traffic: Traffic) => Promise<void>): Promise<void> {
  const impressions = await createImpressions({ rows: 20_000 });
  try {
    const { rowCount } = await impressions.pool.query(
      `update stats.impressions set note = 'fixed' where dwell_ms % 3 = 0`,
    );
    const traffic = startTraffic(impressions, { fixedRows: rowCount ?? 0 });
    await eventually('traffic is under way', async () => traffic.done.writes > 50 && traffic.done.reads > 5);
    await work(impressions, traffic);
    const expected = await traffic.stop();
    const { rows } = await impressions.pool.query<{ id: string; dwell: number; at: Date }>(
      `select id, dwell_ms as dwell, seen_at as at from stats.impressions where note is null and show_id = 1 and viewer_id is null`,
    );
    const found = new Map(rows.map(({ id, dwell, at }) => [id, `${dwell} ${at.toISOString()}`]));
    expect(traffic.errors).toEqual([]);
    expect([...expected].filter(([id, row]) => found.get(id) !== row)).toEqual([]);
    expect(found.size).toBeGreaterThanOrEqual(expected.size);
    expect(traffic.done.writes).toBeGreaterThan(100);
  } finally {
    await impressions.drop();
  }
}

it('loses no row, shows none twice, and lets nobody fail, there and back, while rows come, change, move to other months and go', async () => {
  await inTraffic(async ({ pool }, traffic) => {
    const there = await applyPartitions(pool, { entries: [entryOf()], now: NOW });
    expect(there).toEqual([expect.objectContaining({ status: 'partitioned' })]);
    const { writes } = traffic.done;
    await eventually('more is written by month', async () => traffic.done.writes > writes + 50);
    const back = await rollBackPartitions(pool, { tables: [] });
    expect(back).toEqual([expect.objectContaining({ status: 'back' })]);
  });
});
