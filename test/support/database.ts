import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { dropDatabase } from '../../src/db/databases.ts';
import { createPool, type Pool, type Queryable } from '../../src/db/pool.ts';
import { MIGRATED_TEMPLATE } from './postgres.ts';

export interface TestDatabase {
  readonly name: string;
  /** As the owner `liventix`. */
  readonly url: string;
  /** The same database as the superuser. */
  readonly adminUrl: string;
  readonly pool: Pool;
  drop(): Promise<void>;
}

/** Runs SQL in a test's database as the superuser. */
export async function asSuperuser(database: TestDatabase, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: database.adminUrl });
  await client.connect();
  await client.query(sql).finally(() => client.end());
}

/** What an empty database is a clone of. */
export const EMPTY = 'template0';

/** Where databases are made: the server of the project, unless a test has one of its own. */
export interface TestServer {
  readonly ownerUrl: string;
  readonly adminUrl: string;
}

const serverOfProject = (): TestServer => ({ ownerUrl: inject('ownerUrl'), adminUrl: inject('adminUrl') });

/**
 * A database of the test's own: a clone of the migrated template, unless told of what else.
 * Drop it in `afterAll`; it closes the pool too.
 */
export async function createDatabase(
  options: { template?: string; poolMax?: number; server?: TestServer } = {},
): Promise<TestDatabase> {
  const { server = serverOfProject() } = options;
  const name = `test_${randomBytes(6).toString('hex')}`;
  await cloneDatabase(maintenance(server), name, options.template ?? MIGRATED_TEMPLATE);
  const url = onDatabase(server.ownerUrl, name);
  const pool = createPool({ databaseUrl: url, max: options.poolMax ?? 10 });
  return {
    name,
    url,
    adminUrl: onDatabase(server.adminUrl, name),
    pool,
    drop: async () => {
      if (!pool.ended) await pool.end();
      await dropDatabase(maintenance(server), name);
    },
  };
}

/**
 * A template of a name, made by whoever asks for it first on this server; who asks meanwhile waits.
 * @param fill given a clone of the migrated template, or of the one that is named
 */
export async function templateOf(
  name: string,
  fill: (pool: Pool) => Promise<unknown>,
  server = serverOfProject(),
  from = MIGRATED_TEMPLATE,
): Promise<string> {
  const known = onDatabase(server.ownerUrl, name);
  if (templates.has(known)) return name;
  const client = new pg.Client({ connectionString: server.ownerUrl });
  await client.connect();
  try {
    // Held until the session ends.
    await client.query('select pg_advisory_lock(hashtext($1))', [name]);
    const { rowCount } = await client.query('select from pg_database where datname = $1', [name]);
    if (rowCount === 0) {
      const unfinished = `${name}_unfinished`;
      await dropDatabase(client, unfinished);
      await cloneDatabase(client, unfinished, from);
      const pool = createPool({ databaseUrl: onDatabase(server.ownerUrl, unfinished) });
      await fill(pool).finally(() => pool.end());
      await client.query(`alter database ${unfinished} rename to ${name}`);
    }
  } finally {
    await client.end();
  }
  templates.add(known);
  return name;
}

/** Those that this process has seen. */
const templates = new Set<string>();

/** By copying its files: logging every page of them, PostgreSQL's default, takes several times as long. */
const cloneDatabase = (db: Queryable, name: string, template: string) =>
  db.query(`create database ${name} template ${template} strategy file_copy`);

const MAINTENANCE = new Map<string, Pool>();

/** Kept open between databases: a connection takes as much of a processor as making a database. */
function maintenance({ ownerUrl }: TestServer): Pool {
  const kept = MAINTENANCE.get(ownerUrl) ?? createPool({ databaseUrl: ownerUrl, max: 2 });
  MAINTENANCE.set(ownerUrl, kept);
  return kept;
}

function onDatabase(url: string, database: string): string {
  const result = new URL(url);
  result.pathname = `/${database}`;
  return result.href;
}
