import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type LocalServer, startLocalServer } from '../../src/db/server.ts';
import { createLegacyDatabase, fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { liventix, TEST_ENCRYPTION_KEY } from '../support/liventix.ts';
import { POSTGRES_15, prepareServer } from '../support/postgres.ts';
import { readPage } from './pages.ts';
import { runSteps, shown, stepsOf, type Told } from './shell.ts';

// The embedded server comes without pg_dump; Debian's has one of its own version.
const BIN = fileURLToPath(new URL('../../bin', import.meta.url));
const steps = stepsOf(readPage('docs/how-to/restore-and-verify.md'));

let folder: string;
let server: LocalServer;
let databases: TestDatabase[];
let told: Told;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-restore-'));
  server = await startLocalServer({ stateDir: join(folder, 'server'), binDir: POSTGRES_15, settings: ['fsync=off'] });
  const ownerUrl = await prepareServer(server.adminUrl);
  const place = { template: EMPTY, server: { ownerUrl, adminUrl: server.adminUrl } };
  databases = [await createDatabase(place), await createDatabase(place)];
  const [platform, restored] = databases as [TestDatabase, TestDatabase];
  await createLegacyDatabase(platform.pool);
  await fillLegacyDatabase(platform.pool, { wallets: 40, orgWallets: 5, transactions: 600 });
  for (const line of [
    'migrate',
    'backfill capture on',
    'backfill run --full-speed',
    'backfill approve --all --reason tested',
    'backfill cutover --all',
    'outbox endpoint add --url https://example.com/hooks --topic *',
    'books close --until 2026-01-01',
    'books seal',
  ]) {
    expect(await liventix(line.split(' '), { DATABASE_URL: platform.url }), line).toMatchObject({ exitCode: 0 });
  }
  const path = [POSTGRES_15, BIN, dirname(process.execPath), process.env['PATH']].join(delimiter);
  told = await runSteps(steps, {
    cwd: folder,
    env: {
      PATH: path,
      HOME: folder,
      OUTBOX_ENCRYPTION_KEY: TEST_ENCRYPTION_KEY,
      DATABASE_URL: platform.url,
      RESTORED_URL: restored.url,
    },
  });
}, 300_000);
afterAll(async () => {
  for (const database of databases) await database.drop();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const [DUMP, RESTORE, VERIFY, AGAIN] = [0, 1, 2, 3];

it('goes through the whole page, command by command, and is well at its end', () => {
  expect(told).toMatchObject({ exitCode: 0, outputs: { length: steps.length } });
  expect(shown(told.outputs[AGAIN])).toMatch(/^Healthy/m);
});

it('restores a dump whose books balance, by the database and by the program, and whose projections are what the log gives', () => {
  expect(shown(told.outputs[RESTORE])).toBe('');
  expect(told.outputs[VERIFY]?.match(/^The books balance/gm)).toHaveLength(2);
  expect(told.outputs[VERIFY]).toContain('Every table is what the log gives.');
  expect(told.outputs[VERIFY]).not.toContain('FAILS');
});

it('has the root that was kept beside the dump', () => {
  const root = /[0-9a-f]{64}/.exec(told.outputs[DUMP] ?? '')?.[0] ?? 'none was kept';
  expect(told.outputs[VERIFY]).toContain(root);
});

it('says that a capture was made anew, which the page says what to do about', () => {
  expect(told.outputs[VERIFY]).toMatch(/^FAILED\s+replay/m);
});
