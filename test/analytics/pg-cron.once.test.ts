import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { chooseRunner, maintain } from '../../src/analytics/partitions/upkeep.ts';
import { createPool, type Pool } from '../../src/db/pool.ts';
import { type LocalServer, startLocalServer } from '../../src/db/server.ts';
import { eventually } from '../support/eventually.ts';
import { convertAt, impressionsSql } from '../support/impressions.ts';
import { MIGRATED_TEMPLATE, POSTGRES_15, prepareServer } from '../support/postgres.ts';
import { query } from '../support/query.ts';

// Debian's package postgresql-15-cron; `npm test` installs it beside Debian's PostgreSQL 15.
const DATABASE = 'months';
const SETTINGS = [
  'fsync=off',
  'shared_preload_libraries=pg_cron',
  `cron.database_name=${DATABASE}`,
  'cron.use_background_workers=on',
];

let stateDir: string;
let server: LocalServer;
let pool: Pool;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'liventix-cron-'));
  server = await startLocalServer({ stateDir, binDir: POSTGRES_15, settings: SETTINGS });
  const ownerUrl = await prepareServer(server.adminUrl);
  await query(server.adminUrl, `create database ${DATABASE} template ${MIGRATED_TEMPLATE} owner liventix`);
  const at = (url: string) => Object.assign(new URL(url), { pathname: `/${DATABASE}` }).href;
  await query(at(server.adminUrl), 'create extension pg_cron; grant usage on schema cron to liventix');
  pool = createPool({ databaseUrl: at(ownerUrl) });
  await pool.query(impressionsSql());
  // Long ago, so that months are missing by now.
  await convertAt(pool, new Date('2026-03-20T00:00:00Z'));
});
afterAll(async () => {
  await pool.end();
  await server.stop();
  await rm(stateDir, { recursive: true, force: true });
});

const missing = async () =>
  (await pool.query<{ n: number }>('select count(*)::int as n from partitions.missing_months(1, now())')).rows[0]?.n;

it('lets pg_cron see to the months where it is told to, and the worker no more, until it is told otherwise', async () => {
  const atFirst = await missing();
  expect(atFirst).toBeGreaterThan(3);
  await chooseRunner(pool, 'pg_cron');
  expect(await maintain(pool, 'worker')).toEqual([]);
  expect(await missing()).toBe(atFirst);
  const { rows: jobs } = await pool.query('select jobid, schedule, command from cron.job');
  expect(jobs).toEqual([{ jobid: 1n, schedule: '7 * * * *', command: `call partitions.maintain('pg_cron')` }]);
  // Each minute, so that nobody waits for an hour.
  await pool.query(`select cron.schedule('liventix partitions', '* * * * *', command) from cron.job`);
  await eventually('pg_cron has made the months', async () => (await missing()) === 0, 100_000);
  await eventually('its run has succeeded', async () =>
    (await pool.query<{ status: string }>('select status from cron.job_run_details')).rows.some(
      ({ status }) => status === 'succeeded',
    ),
  );
  await chooseRunner(pool, 'worker');
  expect((await pool.query('select from cron.job')).rowCount).toBe(0);
}, 150_000);
