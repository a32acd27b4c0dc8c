import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { createLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { runBackfill } from '../../src/replay/backfill.ts';
import { findCapture, turnCaptureOn } from '../../src/replay/capture.ts';
import { driftByCause } from '../../src/replay/report.ts';
import { booksHold } from '../support/backfill.ts';
import { type CrashingServer, startCrashingServer } from '../support/crashing-server.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { givenRow, givenWallet, type LegacyWallet, setBalance } from '../support/legacy.ts';

// A server of its own: prepared transactions are off by default.
let server: CrashingServer;
let database: TestDatabase;
beforeAll(async () => {
  server = await startCrashingServer(['fsync=off', 'max_prepared_transactions=5']);
  database = await createDatabase({ server });
  await createLegacyDatabase(database.pool);
});
afterAll(async () => {
  // Not dropped: where the test failed, a prepared transaction would keep it from that.
  await database.pool.end();
  await server.stop();
});

const prepare = async (gid: string, work: (client: Queryable) => Promise<unknown>) => {
  const client = await database.pool.connect();
  await client.query('begin');
  await work(client);
  await client.query(`prepare transaction '${gid}'`);
  client.release();
};
const writeRow = (wallet: LegacyWallet, balance: number) => async (client: Queryable) => {
  await givenRow(client, wallet, { type: 'adjustment', referenceType: 'system', delta: 5 });
  await setBalance(client, wallet, balance);
};

it('a prepared transaction is waited for, on either side of a crash, and nothing that old code wrote in one is lost', async () => {
  const { pool } = database;
  const wallet = await givenWallet(pool);
  const isBusy = { code: 'CAPTURE_BUSY' };
  await prepare('of a wallet', writeRow(wallet, 5));
  await expect(turnCaptureOn(pool, { stop: AbortSignal.abort() })).rejects.toMatchObject(isBusy);
  expect(await findCapture(pool)).toBeUndefined();
  await server.crash();
  await expect(turnCaptureOn(pool, { stop: AbortSignal.abort() })).rejects.toMatchObject(isBusy);
  await pool.query(`commit prepared 'of a wallet'`);

  await prepare('of others', (client) => client.query('create table of_others ()'));
  const isNamed = { ...isBusy, message: expect.stringContaining('prepared transaction of others of liventix') };
  await expect(turnCaptureOn(pool, { patienceMs: 0 })).rejects.toMatchObject(isNamed);
  await server.crash();
  await expect(runBackfill(pool, { stop: AbortSignal.abort() })).rejects.toMatchObject(isNamed);
  await pool.query(`rollback prepared 'of others'`);
  expect(await turnCaptureOn(pool)).toBe(false);
  expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 1n });

  // One that is captured is open across a whole run, and a crash.
  await prepare('captured', writeRow(wallet, 10));
  expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 0n });
  await server.crash();
  await pool.query(`commit prepared 'captured'`);
  expect(await runBackfill(pool, { settleMs: 0 })).toMatchObject({ finished: true, imported: 1n });
  expect(await driftByCause(pool)).toEqual([]);
  await booksHold(pool);
});
