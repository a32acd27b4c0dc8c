import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Console } from '../../src/console/console.ts';
import { openBook } from '../../src/ledger/books.ts';
import { browse } from '../support/browsing.ts';
import { startTestConsole } from '../support/console.ts';
import { type CrashingServer, startCrashingServer } from '../support/crashing-server.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { query } from '../support/query.ts';
import { type Replica, startReplica } from '../support/real-replica.ts';

let server: CrashingServer;
let replica: Replica;
let database: TestDatabase;
let served: Console;

beforeAll(async () => {
  server = await startCrashingServer([]);
  replica = await startReplica(server.adminUrl);
  database = await createDatabase({ server });
  const replicaUrl = Object.assign(new URL(database.url), { port: new URL(replica.adminUrl).port }).href;
  await eventually('the database is on the replica', () => query(replicaUrl, 'select').catch(() => undefined));
  served = await startTestConsole(database, { replicaUrl });
});
afterAll(async () => {
  await served?.stop();
  await database?.drop();
  await replica?.stop();
  await server?.stop();
});

it('reads its pages on the replica, and says so; what is done is done on the primary, and seen when the replica has it', async () => {
  const browsing = browse(served.url);
  await query(replica.adminUrl, 'select pg_wal_replay_pause()');
  await openBook(database.pool, 'later');
  const paused = await browsing.get('/books');
  expect(paused.text).toContain(`${database.name} (replica)`);
  expect(paused.text).not.toContain('later');

  const { status, headers } = await browsing.submit('/books/verify', {}, { from: '/books' });
  expect(status).toBe(303);
  await eventually('the primary has it', async () => {
    const { rows } = await database.pool.query(`select from console.verifications where state = 'balances'`);
    return rows.length === 1;
  });
  const unknown = await browsing.get(headers.get('location') ?? '');
  expect([unknown.status, unknown.text.includes('or not yet. This page follows.')]).toEqual([200, true]);

  await query(replica.adminUrl, 'select pg_wal_replay_resume()');
  await eventually('the replica has it', async () => {
    const { text } = await browsing.get('/books');
    return text.includes('Yes: the books balance.') && text.includes('later');
  });
});
