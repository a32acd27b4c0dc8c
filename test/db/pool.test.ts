import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { connectionConfig, createPool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: EMPTY });
});
afterAll(() => database.drop());

it('a query whose connection the server ends is told DB_UNREACHABLE', async () => {
  const client = await database.pool.connect();
  const failure = client.query('select pg_sleep(60)').then(() => undefined, toAppError);
  await eventually('it is ended in the middle', async () => {
    const { rowCount } = await database.pool.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and query = 'select pg_sleep(60)'`,
    );
    return rowCount === 1;
  });
  expect(await failure).toMatchObject({ code: 'DB_UNREACHABLE', details: { sqlstate: '57P01' } });
  client.release(true);
});

it('a connection of ours keeps to no timeout that the database has for requests', async () => {
  await database.pool.query(
    `alter database ${database.name} set statement_timeout = '20ms'; alter database ${database.name} set idle_session_timeout = '20ms'`,
  );
  const client = new pg.Client(connectionConfig({ databaseUrl: database.url }));
  await client.connect();
  await client.query('select pg_sleep(0.1)');
  const { rows } = await client.query(
    `select current_setting('statement_timeout') as statements, current_setting('idle_session_timeout') as idle`,
  );
  expect(rows).toEqual([{ statements: '0', idle: '0' }]);
  await client.end();
});

it('a pool that stays full is told apart from a database that does not answer', async () => {
  const pool = createPool({ databaseUrl: database.url, max: 1 }, { connectionTimeoutMillis: 500 });
  const holder = await pool.connect();
  try {
    expect(await pool.query('select 1').then(() => undefined, toAppError)).toMatchObject({
      code: 'DB_UNREACHABLE',
      message: expect.stringMatching(/No connection of the pool became free in time.*raise LIVENTIX_POOL_MAX/),
    });
  } finally {
    holder.release();
    await pool.end();
  }
});
