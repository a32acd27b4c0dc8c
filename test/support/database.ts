import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';
import { dropDatabase } from '../../src/db/databases.ts';
import { createPool, type Pool } from '../../src/db/pool.ts';
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

/**
 * A database of the test's own: a clone of the migrated template, or an empty one.
 * Drop it in `afterAll`; it closes the pool too.
 */
export async function createDatabase(
  options: { from?: 'migrated' | 'empty'; poolMax?: number } = {},
): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  const template = options.from === 'empty' ? 'template0' : MIGRATED_TEMPLATE;
  await maintenance((client) => client.query(`create database ${name} template ${template}`));
  const url = onDatabase(inject('ownerUrl'), name);
  const pool = createPool({ databaseUrl: url, max: options.poolMax ?? 10 });
  return {
    name,
    url,
    adminUrl: onDatabase(inject('adminUrl'), name),
    pool,
    drop: async () => {
      await pool.end();
      await maintenance((client) => dropDatabase(client, name));
    },
  };
}

async function maintenance(work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: inject('ownerUrl') });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

function onDatabase(url: string, database: string): string {
  const result = new URL(url);
  result.pathname = `/${database}`;
  return result.href;
}
