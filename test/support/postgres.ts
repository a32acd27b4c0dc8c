import { mkdir, readdir, rm, statfs } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/db/migrate.ts';
import { isAlive, startLocalServer, stopLocalServer } from '../../src/db/server.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** Connects as `liventix`, an owner who is no superuser, as on Supabase. */
    ownerUrl: string;
    /** Connects as the server's superuser: only for playing an attacker or an accident. */
    adminUrl: string;
    /** The major version of the server under test. */
    postgresMajor: number;
  }
}

/** Every migration applied, nothing else. Test files clone it. */
export const MIGRATED_TEMPLATE = 'template_migrated';
export const OWNER = 'liventix';
/** Debian's binaries of the oldest version that we support. */
export const POSTGRES_15 = '/usr/lib/postgresql/15/bin';

/** One real server per project, with a template database that every test file clones. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const testsDir = await placeOfServers(project.config.root);
  await removeLeftovers(testsDir);
  const stateDir = join(testsDir, `${project.name}-${process.pid}`);
  const server = await startLocalServer({
    stateDir,
    ...(project.name.startsWith('pg15') ? { binDir: POSTGRES_15 } : {}),
    // The tests kill processes, not machines: what reached the kernel is safe.
    settings: ['fsync=off', 'full_page_writes=off', 'max_connections=300', 'max_prepared_transactions=4'],
  });
  try {
    const ownerUrl = await prepareServer(server.adminUrl);
    project.provide('ownerUrl', ownerUrl);
    project.provide('adminUrl', server.adminUrl);
    project.provide('postgresMajor', await majorVersion(server.adminUrl));
  } catch (error) {
    await server.stop();
    throw error;
  }
  return async () => {
    await server.stop();
    await rm(stateDir, { recursive: true, force: true });
  };
}

const IN_MEMORY = '/dev/shm';
const MIN_FREE_BYTES = 6_000_000_000;

/** In memory where there is plenty: making and dropping some thousand databases is a third of the time on a disk. */
async function placeOfServers(root: string): Promise<string> {
  const memory = await statfs(IN_MEMORY).catch(() => undefined);
  if (memory === undefined || memory.bavail * memory.bsize < MIN_FREE_BYTES) return join(root, '.liventix', 'tests');
  const place = join(IN_MEMORY, `liventix-tests-${userInfo().uid}`);
  await mkdir(place, { recursive: true });
  return place;
}

// Named by the process that owns them, so that two runs side by side do not end each other's servers.
async function removeLeftovers(testsDir: string): Promise<void> {
  for (const name of await readdir(testsDir).catch(() => [])) {
    if (isAlive(Number(name.split('-').at(-1)))) continue;
    await stopLocalServer(join(testsDir, name));
    await rm(join(testsDir, name), { recursive: true, force: true });
  }
}

/** Makes the roles and the migrated template. Answers how the owner connects. */
export async function prepareServer(adminUrl: string): Promise<string> {
  const admin = new pg.Client({ connectionString: adminUrl });
  await admin.connect();
  await admin.query(`create role ${OWNER} login createdb createrole nosuperuser password 'owner'`);
  // The roles that Supabase has on every server.
  await admin.query('create role anon nologin; create role authenticated nologin; create role service_role nologin');
  // And what that last one is there: beside it, so that tests of grants have one whom policies hold.
  await admin.query('create role bypassing_service nologin bypassrls in role service_role');
  await admin.query(`create database ${MIGRATED_TEMPLATE} owner ${OWNER}`);
  await admin.end();
  const ownerUrl = Object.assign(new URL(adminUrl), { username: OWNER, password: 'owner' });
  ownerUrl.pathname = `/${MIGRATED_TEMPLATE}`;
  await migrate(ownerUrl.href);
  ownerUrl.pathname = '/postgres';
  return ownerUrl.href;
}

async function majorVersion(url: string): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<{ major: number }>(
    `select current_setting('server_version_num')::int / 10000 as major`,
  );
  await client.end();
  return rows[0]?.major ?? 0;
}
