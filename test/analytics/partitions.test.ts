import { afterAll, beforeAll, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { readFacts } from '../../src/analytics/partitions/facts.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { createImpressions, entryOf, type Impressions, NOW } from '../support/impressions.ts';

let impressions: Impressions;
beforeAll(async () => {
  impressions = await createImpressions();
});
afterAll(() => impressions.drop());

const contents = async () =>
  (
    await impressions.pool.query<{ sum: string }>(
      `select count(*) || ' ' || sum(hashtextextended(i::text, 0)::numeric) as sum from stats.impressions i`,
    )
  ).rows[0]?.sum;

const standing = async () => {
  const {
    oid: _oid,
    fingerprint: _fingerprint,
    sizeBytes: _size,
    rowsEstimated: _rows,
    ...facts
  } = (await readFacts(impressions.pool, 'stats.impressions', 'seen_at')) ?? expect.fail('no table');
  const { rows } = await impressions.pool.query(
    `select relname, relkind, relacl::text, reloptions, pg_get_userbyid(relowner) as owner, obj_description(oid) as comment from pg_class c
     where relnamespace in ('stats'::regnamespace, 'public'::regnamespace) and relkind in ('r', 'p', 'v', 'm', 'i', 'I') and relname not like 'outbox%' order by c.oid::regclass::text`,
  );
  return { facts, rows };
};

it('turns a table into months and back, with all that hangs on it', async () => {
  const [before, rows] = [await standing(), await contents()];
  const outcomes = await applyPartitions(impressions.pool, { entries: [entryOf()], now: NOW });
  expect(outcomes).toEqual([
    {
      table: 'stats.impressions',
      status: 'partitioned',
      copies: [],
      mended: [],
      expired: [],
      areSomeLeft: false,
      lockedMs: expect.any(Array),
    },
  ]);
  expect(await contents()).toBe(rows);
  expect(await rollBackPartitions(impressions.pool, { tables: [] })).toEqual([
    { table: 'stats.impressions', status: 'back', lockedMs: expect.any(Number) },
  ]);
  expect(await contents()).toBe(rows);
  expect(await standing()).toEqual(before);
});
