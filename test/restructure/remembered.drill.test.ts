import { afterAll, beforeAll, expect, it } from 'vitest';
import { parseMapping } from '../../src/restructure/mapping.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import { type CrashingServer, startCrashingServer } from '../support/crashing-server.ts';
import { asSuperuser, createDatabase, type TestDatabase } from '../support/database.ts';
import { planned, planOf } from '../support/moves.ts';

// What only a server has that was started for it: remembered statements, prepared transactions.

let server: CrashingServer;
let database: TestDatabase;
beforeAll(async () => {
  server = await startCrashingServer([
    'shared_preload_libraries=pg_stat_statements',
    'max_prepared_transactions=2',
    'fsync=off',
  ]);
  database = await createDatabase({ server });
  await database.pool.query(`
    create table public.orders (id int primary key);
    create table public.quiet (id int primary key)`);
  await asSuperuser(database, 'create extension pg_stat_statements');
});
afterAll(async () => {
  await database.drop();
  await server.stop();
});

const mapping = parseMapping(
  JSON.stringify({ name: 'shop', from: 'public', schemas: [{ name: 'sales', tables: ['orders', 'quiet'] }] }),
  'shop.json',
);

it('what somebody ran once warns, with who it was and how often; what changed tables, and what pg_dump reads, is nothing', async () => {
  await database.pool.query('truncate public.orders');
  await database.pool.query('truncate public.orders');
  await database.pool.query('create table public.lines (order_id int references public.orders)');
  await database.pool.query('alter table public.quiet add column a int');
  await asSuperuser(database, 'begin; declare _pg_dump_cursor cursor for select * from only public.quiet; commit');
  await asSuperuser(database, `set pg_stat_statements.track = 'none'; select 1`);
  const plan = await planOf(database, mapping);
  expect(planned(plan, 'orders')).toMatchObject({
    readiness: 'warned',
    findings: [
      {
        finding: 'calls-truncate',
        severity: 'warns',
        text: 'a statement of liventix (2 calls), truncate public.orders: TRUNCATE takes no view',
      },
    ],
  });
  expect(planned(plan, 'quiet').findings).toEqual([]);
});

it('statements of others that may not be read are counted, until they may', async () => {
  await asSuperuser(database, 'truncate public.quiet');
  expect((await planOf(database, mapping)).notes).toEqual([
    expect.stringMatching(
      /^pg_stat_statements has \d+ statements whose text this role may not read: grant it pg_read_all_stats/,
    ),
  ]);
  await asSuperuser(database, 'grant pg_read_all_stats to liventix');
  const plan = await planOf(database, mapping);
  expect(plan.notes).toEqual([]);
  expect(planned(plan, 'quiet').findings[0]?.text).toMatch(
    /^a statement of postgres \(1 calls\), truncate public\.quiet: /,
  );
});

it('a table that a prepared transaction holds is warned of', async () => {
  const { pool } = database;
  await pool.query(`begin; lock table public.orders in share mode; prepare transaction 'forgotten'`);
  const plan = await makePlan(pool, mapping, { now: new Date(), longHeldMs: 0 });
  await pool.query(`rollback prepared 'forgotten'`);
  expect(planned(plan, 'orders').findings.find(({ finding }) => finding === 'held-now')?.text).toMatch(
    /^held by .*: for as long as that lasts, apply leaves/,
  );
  expect(planned(plan, 'quiet').findings.map(({ finding }) => finding)).not.toContain('held-now');
});
