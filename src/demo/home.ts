import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { connectionConfig } from '../db/pool.ts';
import { startLocalServer, stopLocalServer } from '../db/server.ts';
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
const ROLE = 'liventix';

/**
 * Opens a new, empty database, removing the one an earlier run left.
 * @param options.stateDir where the embedded server lives when there is no `databaseUrl`
 * @throws AppError DEMO_RUNNING, DEMO_DATABASE_NOT_OURS, EMBEDDED_POSTGRES_*, DB_*
 */
export async function openDemoHome(options: { databaseUrl: string | undefined; stateDir: string }): Promise<DemoHome> {
  if (options.databaseUrl !== undefined) return openOnGivenServer(options.databaseUrl);
  const release = await takeLock(options.stateDir);
  try {
    return await openOnEmbeddedServer(options.stateDir, release);
  } catch (error) {
    await release();
    throw error;
  }
}

/** Stops the server that `--keep` left running. Answers whether there was one. */
export function stopKeptDemo(stateDir: string): Promise<boolean> {
  return stopLocalServer(join(stateDir, 'postgres'));
}

async function openOnEmbeddedServer(stateDir: string, release: () => Promise<void>): Promise<DemoHome> {
  const server = await startLocalServer({ stateDir: join(stateDir, 'postgres') });
  try {
    const password = new URL(server.adminUrl).password;
    // An ordinary owner, as on Supabase: the demo shows that nothing needs a superuser.
    await asAdmin(server.adminUrl, [
      `create role ${ROLE} login createdb createrole password '${password}'`,
      'create role anon nologin',
      'create role authenticated nologin',
      'create role service_role nologin',
      `create database ${DATABASE} owner ${ROLE}`,
    ]);
    const databaseUrl = `postgresql://${ROLE}:${password}@127.0.0.1:${server.port}/${DATABASE}`;
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
  await removeMarkedDatabase(adminUrl);
  await asAdmin(adminUrl, [`create database ${DATABASE}`, `comment on database ${DATABASE} is '${MARK}'`]);
  const databaseUrl = Object.assign(new URL(adminUrl), { pathname: `/${DATABASE}` }).href;
  return {
    databaseUrl,
    server: 'given',
    close: async ({ keep }) => {
      if (!keep) await removeMarkedDatabase(adminUrl);
    },
  };
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
  await asAdmin(adminUrl, [`drop database if exists ${DATABASE} with (force)`]);
}

async function asAdmin<Row extends object>(adminUrl: string, statements: readonly string[]): Promise<Row[]> {
  const client = new pg.Client(connectionConfig({ databaseUrl: adminUrl, applicationName: 'liventix-demo' }));
  try {
    await client.connect();
    let rows: Row[] = [];
    for (const statement of statements) rows = (await client.query<Row>(statement)).rows;
    return rows;
  } catch (error) {
    throw toAppError(error);
  } finally {
    await client.end();
  }
}

/** One demo at a time in one folder; a lock whose process is gone is taken over. */
async function takeLock(stateDir: string): Promise<() => Promise<void>> {
  const file = join(stateDir, 'demo.lock');
  await mkdir(stateDir, { recursive: true });
  const holder = Number(await readFile(file, 'utf8').catch(() => ''));
  if (holder > 0 && isAlive(holder)) {
    throw new AppError(
      'DEMO_RUNNING',
      `A demo is running in this folder as process ${holder}. Wait for it, or end it; if no such demo exists, delete ${file}.`,
    );
  }
  await rm(file, { force: true });
  const handle = await open(file, 'wx').catch((cause: unknown) => {
    throw new AppError('DEMO_RUNNING', 'Another demo started in this folder at the same moment. Wait for it.', {
      cause,
    });
  });
  await handle.writeFile(String(process.pid));
  await handle.close();
  return () => rm(file, { force: true });
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
