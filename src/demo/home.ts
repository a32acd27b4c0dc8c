import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { dropDatabase } from '../db/databases.ts';
import { connectionConfig } from '../db/pool.ts';
import { isAlive, startLocalServer, stopLocalServer } from '../db/server.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';

/** Where a demo runs: a database of its own, on the embedded server or on the user's. */
export interface DemoHome {
  readonly databaseUrl: string;
  readonly server: 'embedded' | 'given';
  /** Ends what `openDemoHome` began: removes the database and stops the server, or leaves both. */
  close(options: { keep: boolean }): Promise<void>;
}

const DATABASE = 'liventix_demo';
const MARK = 'made by liventix demo; the next run removes it';
const MARK_IT = `comment on database ${DATABASE} is '${MARK}'`;
const ROLE = 'liventix';
/** For our own server, on loopback: a PGSSLMODE of the user's is for servers elsewhere. */
const WITHOUT_SSL = '?sslmode=disable';
/** Where to stand while the demo's own database is dropped; every server has it. */
const MAINTENANCE_DATABASE = 'postgres';

/**
 * Opens a new, empty database, removing the one an earlier run left.
 * @param options.stateDir where the embedded server lives when there is no `databaseUrl`
 * @param options.settings of the embedded server, as `startLocalServer` takes them
 * @throws AppError DEMO_RUNNING, DEMO_DATABASE_NOT_OURS, EMBEDDED_POSTGRES_*, DB_*
 */
export async function openDemoHome(options: {
  databaseUrl: string | undefined;
  stateDir: string;
  settings?: readonly string[];
}): Promise<DemoHome> {
  if (options.databaseUrl !== undefined) return openOnGivenServer(onMaintenanceDatabase(options.databaseUrl));
  const release = await takeFolderLock(options.stateDir);
  try {
    return await openOnEmbeddedServer({ ...options, release });
  } catch (error) {
    await release();
    throw error;
  }
}

/**
 * Stops the server that `--keep` left running. Answers whether there was one.
 * @throws AppError DEMO_RUNNING when the server is not a kept one but a running demo's
 */
export async function stopKeptDemo(stateDir: string): Promise<boolean> {
  if (!existsSync(stateDir)) return false;
  const release = await takeFolderLock(stateDir);
  try {
    return await stopLocalServer(join(stateDir, 'postgres'));
  } finally {
    await release();
  }
}

async function openOnEmbeddedServer(input: {
  stateDir: string;
  settings?: readonly string[];
  release: () => Promise<void>;
}): Promise<DemoHome> {
  const { stateDir, settings = [], release } = input;
  const server = await startLocalServer({ stateDir: join(stateDir, 'postgres'), settings });
  try {
    const password = new URL(server.adminUrl).password;
    // An ordinary owner, as on Supabase: the demo shows that nothing needs a superuser.
    await asAdmin(`${server.adminUrl}${WITHOUT_SSL}`, [
      `create role ${ROLE} login createdb createrole password '${password}'`,
      'create role anon nologin',
      'create role authenticated nologin',
      'create role service_role nologin',
      // As there, the owner may ask as they do; what they may he has no more for it.
      `grant anon, authenticated, service_role to ${ROLE} with inherit false, set true`,
      `create database ${DATABASE} owner ${ROLE}`,
      MARK_IT,
    ]);
    const databaseUrl = `postgresql://${ROLE}:${password}@127.0.0.1:${server.port}/${DATABASE}${WITHOUT_SSL}`;
    return {
      databaseUrl,
      server: 'embedded',
      close: async ({ keep }) => {
        if (keep) server.leaveRunning();
        else await server.stop();
        await release();
      },
    };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

async function openOnGivenServer(adminUrl: string): Promise<DemoHome> {
  const release = await takeServerLock(adminUrl);
  try {
    await removeMarkedDatabase(adminUrl);
    await asAdmin(adminUrl, [`create database ${DATABASE}`, MARK_IT]);
  } catch (error) {
    await release();
    throw error;
  }
  return {
    databaseUrl: onDatabase(adminUrl, DATABASE),
    server: 'given',
    close: async ({ keep }) => {
      try {
        if (!keep) await removeMarkedDatabase(adminUrl);
      } finally {
        await release();
      }
    },
  };
}

// What `--keep` printed may come back as DATABASE_URL, and a database cannot be dropped from within.
function onMaintenanceDatabase(databaseUrl: string): string {
  return new URL(databaseUrl).pathname === `/${DATABASE}` ? onDatabase(databaseUrl, MAINTENANCE_DATABASE) : databaseUrl;
}

function onDatabase(url: string, database: string): string {
  return Object.assign(new URL(url), { pathname: `/${database}` }).href;
}

// Only a database that says of itself that a demo made it is ever dropped.
async function removeMarkedDatabase(adminUrl: string): Promise<void> {
  const found = await asAdmin<{ mark: string | null }>(adminUrl, [
    `select shobj_description(oid, 'pg_database') as mark from pg_database where datname = '${DATABASE}'`,
  ]);
  if (found.length === 0) return;
  if (found[0]?.mark !== MARK) {
    throw new AppError(
      'DEMO_DATABASE_NOT_OURS',
      `The server has a database ${DATABASE} that no demo made. Rename or drop it, or point DATABASE_URL at another server.`,
    );
  }
  await withAdmin(adminUrl, (client) => dropDatabase(client, DATABASE));
}

async function asAdmin<Row extends object>(adminUrl: string, statements: readonly string[]): Promise<Row[]> {
  return withAdmin(adminUrl, async (client) => {
    let rows: Row[] = [];
    for (const statement of statements) rows = (await client.query<Row>(statement)).rows;
    return rows;
  });
}

async function withAdmin<T>(adminUrl: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = adminClient(adminUrl);
  try {
    await client.connect();
    return await work(client);
  } catch (error) {
    throw toAppError(error);
  } finally {
    await client.end();
  }
}

function adminClient(adminUrl: string): pg.Client {
  const client = new pg.Client(connectionConfig({ databaseUrl: adminUrl, applicationName: 'liventix-demo' }));
  // A lost connection is said by the next query; as an event it would end the process.
  client.on('error', () => undefined);
  return client;
}

// On a connection of its own for as long as the demo runs, so that a killed demo lets go of it by dying.
async function takeServerLock(adminUrl: string): Promise<() => Promise<void>> {
  const client = adminClient(adminUrl);
  try {
    await client.connect();
    const { rows } = await client.query<{ taken: boolean }>(
      `select pg_try_advisory_lock(hashtext('liventix.demo'), 0) as taken`,
    );
    if (rows[0]?.taken === true) return () => client.end();
    throw new AppError('DEMO_RUNNING', 'A demo is running on the server of DATABASE_URL. Wait for it, or end it.');
  } catch (error) {
    await client.end();
    throw toAppError(error);
  }
}

/** One demo at a time in one folder; a lock whose process is gone is taken over. */
async function takeFolderLock(stateDir: string): Promise<() => Promise<void>> {
  const file = join(stateDir, 'demo.lock');
  const own = `${file}.${randomUUID()}`;
  try {
    await mkdir(stateDir, { recursive: true });
    // Written before it gets its name: nobody ever sees a lock without its holder.
    await writeFile(own, String(process.pid));
    await removeStaleLock(file);
    if (!(await linkNew(own, file))) throw demoRunning(file, await holderOf(file));
    return () => rm(file, { force: true });
  } catch (error) {
    if (error instanceof AppError) throw error;
    const why = error instanceof Error ? error.message : String(error);
    throw new AppError(
      'EMBEDDED_POSTGRES_FAILED',
      `The folder of the embedded server cannot be written: ${why}. Run it as the owner of that folder, or set DATABASE_URL.`,
      { cause: error },
    );
  } finally {
    // Where it could not be written, it cannot be looked for either.
    await rm(own, { force: true }).catch(() => undefined);
  }
}

// Moved aside before it is removed: where two find the same stale lock, the slower one would else remove the lock that
// the faster one has taken meanwhile.
async function removeStaleLock(file: string): Promise<void> {
  const holder = await holderOf(file);
  if (holder === undefined || (await isRunningDemo(holder))) return;
  const aside = `${file}.${randomUUID()}`;
  try {
    await rename(file, aside);
  } catch (error) {
    if (isFileError(error, 'ENOENT')) return;
    throw error;
  }
  try {
    if ((await holderOf(aside)) !== holder) await linkNew(aside, file);
  } finally {
    await rm(aside, { force: true });
  }
}

/** Gives a file a second name, unless another file has that name: then false. */
async function linkNew(file: string, name: string): Promise<boolean> {
  try {
    await link(file, name);
    return true;
  } catch (error) {
    if (isFileError(error, 'EEXIST')) return false;
    throw error;
  }
}

async function holderOf(file: string): Promise<number | undefined> {
  try {
    return Number(await readFile(file, 'utf8'));
  } catch (error) {
    if (isFileError(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function demoRunning(file: string, holder: number | undefined): AppError {
  return new AppError(
    'DEMO_RUNNING',
    `A demo is running in this folder as process ${holder ?? 'unknown'}. Wait for it, or end it; if no such demo exists, delete ${file}`,
  );
}

// Process ids are reused, in containers at once: where the system lets us look, the process must be a demo.
async function isRunningDemo(pid: number): Promise<boolean> {
  if (pid === process.pid || !(pid > 0) || !isAlive(pid)) return false;
  if (!existsSync('/proc/self')) return true;
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return commandLine.includes('liventix') && commandLine.includes('demo');
}

function isFileError(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
