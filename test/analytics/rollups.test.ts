import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { verifyRollups } from '../../src/analytics/rollups/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { applyVisits, counted, countedAndVerified, createVisits } from '../support/rollups.ts';

let database: TestDatabase;

beforeEach(async () => {
  database = await createDatabase();
  await createVisits(database.pool);
});
afterEach(() => database.drop());

const sql = (text: string) => database.pool.query(text);
const days = async () =>
  (
    await database.pool.query(
      `select page, day::text, visits::int, people::int, completions::int, ms_sum::int, avg_ms::float8, median_ms from site.visits_daily order by page nulls last, day nulls last`,
    )
  ).rows;

const VISIT = `insert into site.visits (page, person, session, ms, done, price, at) values`;
const holds = { holds: true, faults: 0n, first: [] };

describe('a rollup', () => {
  it('has what was there before it, and counts what comes', async () => {
    await sql(`${VISIT} ('a', 'ann', 's1', 100, true, 1.5, '2026-01-01 10:00Z'), ('a', 'ann', null, 300, false, null, '2026-01-01 11:00Z'),
      ('b', null, 's2', 50, true, 2, '2026-02-03 00:00Z')`);
    await applyVisits(database.pool);
    expect(await days()).toEqual([
      {
        page: 'a',
        day: '2026-01-01',
        visits: 2,
        people: 1,
        completions: 1,
        ms_sum: 400,
        avg_ms: 200,
        median_ms: expect.closeTo(200, -1),
      },
      {
        page: 'b',
        day: '2026-02-03',
        visits: 1,
        people: 1,
        completions: 1,
        ms_sum: 50,
        avg_ms: 50,
        median_ms: expect.closeTo(50, 0),
      },
    ]);
    await sql(`${VISIT} ('a', 'bob', null, 200, null, null, '2026-01-01 23:59:59.999999Z')`);
    expect(await counted(database.pool)).toEqual([{ rollup: 'visits_daily', status: 'counted', changes: 1n }]);
    expect((await days())[0]).toMatchObject({ visits: 3, people: 2, avg_ms: 200 });
    expect(await countedAndVerified(database.pool)).toMatchObject({ ...holds, cells: 2n, rows: 4n });
  });

  it('verifies nothing away: a count that somebody changed is named', async () => {
    await sql(`${VISIT} ('a', 'ann', 's1', 100, true, 1.5, '2026-01-01 10:00Z')`);
    await applyVisits(database.pool);
    await sql('update site.visits_daily set visits = 2, median_ms = 103');
    const [verified] = await verifyRollups(database.pool);
    expect(verified).toMatchObject({ holds: false, faults: 1n });
    expect(verified?.first).toEqual(['(a,2026-01-01): visits is 2, should be 1, the median is 103, should be 100']);
  });
});
