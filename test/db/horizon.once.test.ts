import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeHolder, findHorizonHolders } from '../../src/db/horizon.ts';
import { type LocalServer, startLocalServer } from '../../src/db/server.ts';

// A server of its own: prepared transactions and logical slots are off by default, and hold back every database.
let stateDir: string;
let server: LocalServer;
let client: pg.Client;
beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'liventix-horizon-'));
  server = await startLocalServer({
    stateDir,
    settings: ['fsync=off', 'wal_level=logical', 'max_prepared_transactions=5'],
  });
  client = new pg.Client({ connectionString: server.adminUrl });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await server.stop();
  await rm(stateDir, { recursive: true, force: true });
});

it('finds nothing on a quiet server', async () => {
  expect(await findHorizonHolders(client, 0)).toEqual({ holders: [], hidden: [], role: 'postgres' });
});

it('finds a prepared transaction that nobody decided', async () => {
  await client.query(`begin; select pg_current_xact_id(); prepare transaction 'left''over'`);
  const { holders } = await findHorizonHolders(client, 0);
  expect(holders).toMatchObject([{ kind: 'prepared', gid: "left'over", user: 'postgres' }]);
  expect(holders.map(describeHolder)).toEqual(["prepared transaction left'over of postgres, open for 0 s"]);
  expect(holders[0]?.todo).toContain("commit prepared 'left''over'");
  expect((await findHorizonHolders(client, 3_600)).holders).toEqual([]);
  await client.query(`rollback prepared 'left''over'`);
});

it('finds a replication slot that nobody reads', async () => {
  await client.query(`select pg_create_logical_replication_slot('abandoned', 'pgoutput')`);
  const { holders } = await findHorizonHolders(client, 0);
  expect(holders).toMatchObject([{ kind: 'slot', name: 'abandoned' }]);
  expect(holders[0] && describeHolder(holders[0])).toMatch(
    /^replication slot abandoned, which nobody reads, \d+ transactions behind$/,
  );
  expect(holders[0]?.todo).toContain("pg_drop_replication_slot('abandoned')");
  await client.query(`select pg_drop_replication_slot('abandoned')`);
});

it('puts the oldest first', async () => {
  const early = new pg.Client({ connectionString: server.adminUrl });
  const late = new pg.Client({ connectionString: server.adminUrl });
  await early.connect();
  await late.connect();
  for (const session of [early, late]) await session.query('begin; select pg_current_xact_id()');
  const { holders } = await findHorizonHolders(client, 0);
  const pids = [early, late].map((session) => (session as pg.Client & { processID: number }).processID);
  expect(holders.map((holder) => holder.kind === 'transaction' && holder.pid)).toEqual(pids);
  await early.end();
  await late.end();
});
