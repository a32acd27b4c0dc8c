import { afterAll, beforeAll, expect, it } from 'vitest';
import { applyPartitions } from '../../src/analytics/partitions/apply.ts';
import { LIVENTIX_PARTITIONS, readPartitionsMapping } from '../../src/analytics/partitions/mapping.ts';
import { rollBackPartitions } from '../../src/analytics/partitions/rollback.ts';
import { verifyPartitions } from '../../src/analytics/partitions/verify.ts';
import type { Pool } from '../../src/db/pool.ts';
import { asCaller, type Caller, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { horizonIsOurs } from '../support/rollups.ts';
import { findPeople, type People } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';

// The tables of the old platform, moved and with their tenants apart, by month and back: who sees what, what is counted, and what the
// restructuring says of it.

const TABLES = [
  'analytics.event_impressions',
  'analytics.ticket_analytics',
  'analytics.post_impressions',
  'campaigns.ad_impressions',
];

let database: TestDatabase;
let pool: Pool;
let people: People;
let env: Record<string, string>;
beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform() });
  pool = callersPool(database);
  people = await findPeople(pool);
  env = { DATABASE_URL: database.url };
  expect(await liventix(['rollups', 'apply'], env)).toMatchObject({ exitCode: 0 });
}, 300_000);
afterAll(async () => {
  await pool.end();
  await database.drop();
});

const contents = async (table: string) =>
  (
    await database.pool.query<{ sum: string }>(
      `select count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) as sum from ${table} t`,
    )
  ).rows[0]?.sum;

/** What each caller sees of each table, by both names, and whether he may write. */
async function seen(): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for (const [who, caller] of Object.entries({
    inA: people.inA,
    inB: people.inB,
    host: people.host,
    attendee: people.attendee,
  } as Record<string, Caller>)) {
    for (const table of TABLES) {
      for (const name of [table, `public.${table.split('.')[1]}`]) {
        found[`${who} ${name}`] = await asCaller(pool, caller, async (tx) => {
          const { rows } = await tx.query(
            `select count(*) || ' ' || coalesce(sum(hashtextextended(t.id::text, 0)::numeric), 0) as sum from ${name} t`,
          );
          found[`${who} ${name} rows`] = rows[0];
          await tx.query(`delete from ${name}`);
        });
      }
    }
  }
  return found;
}

const verdicts = async () =>
  (await liventix(['restructure', 'verify'], env)).stdout
    .split('\n')
    .flatMap((line) => /^(?:holds|FAILS) .{72}/.exec(line) ?? []);

it('shows everybody what he saw, by both names, keeps the rollups right and the restructuring whole, by month and back', async () => {
  const entries = (await readPartitionsMapping(LIVENTIX_PARTITIONS)).tables;
  const before = { seen: await seen(), rows: await Promise.all(TABLES.map(contents)), verdicts: await verdicts() };
  const copied = await contents('analytics.event_impressions_p');

  const there = await applyPartitions(database.pool, { entries, now: new Date() });
  expect(there).toEqual(TABLES.map((table) => expect.objectContaining({ table, status: 'partitioned' })));
  expect({ seen: await seen(), rows: await Promise.all(TABLES.map(contents)), verdicts: await verdicts() }).toEqual(
    before,
  );
  expect((await verifyPartitions(database.pool)).filter(({ holds }) => !holds)).toEqual([]);
  await writeAndCount();

  expect(await liventix(['restructure', 'rollback', '--table', 'event_impressions'], env)).toMatchObject({
    exitCode: 1,
    stdout: expect.stringContaining(
      'analytics.event_impressions is kept by month: liventix partitions rollback --table analytics.event_impressions, first',
    ),
  });
  const back = await rollBackPartitions(database.pool, { tables: [] });
  expect(back).toEqual(
    expect.arrayContaining(TABLES.map((table) => expect.objectContaining({ table, status: 'back' }))),
  );
  expect(await verdicts()).toEqual(before.verdicts);
  await writeAndCount();
  expect(await contents('analytics.event_impressions_p')).toBe(copied);
}, 600_000);

/** Rows come, change and go by the old names; the rollups follow. */
async function writeAndCount(): Promise<void> {
  await database.pool.query(`
    insert into public.event_impressions (event_id, session_id, dwell_ms) select id, repeat('w', 20), 77 from public.events limit 3;
    update public.event_impressions set dwell_ms = dwell_ms / 2 where id in (select id from public.event_impressions order by id limit 20);
    delete from public.event_impressions where id in (select id from public.event_impressions order by id desc limit 7)`);
  await horizonIsOurs(database.pool);
  expect(await liventix(['rollups', 'run'], env)).toMatchObject({ exitCode: 0 });
  expect(await liventix(['rollups', 'verify'], env)).toMatchObject({ exitCode: 0, stderr: '' });
}
