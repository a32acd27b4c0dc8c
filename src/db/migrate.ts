import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { AppError } from '../errors.ts';
import { interruptible } from './interrupt.ts';
import { assertSupportedServer, connectionConfig, type Queryable } from './pool.ts';
import { isLockTimeout, toAppError } from './sqlstate.ts';

const SCHEMA = 'liventix';
const TABLE = 'migrations';

/** `migrations/` lies at the root of the package, beside `src/` in a checkout and beside `dist/` in a build. */
const MIGRATIONS_DIR = fileURLToPath(new URL('../../migrations', import.meta.url));

export interface MigrationStatus {
  readonly applied: readonly string[];
  readonly pending: readonly string[];
  /** Applied by a newer version: this one does not have them. */
  readonly unknown: readonly string[];
}

export interface MigrateOptions {
  readonly stop?: AbortSignal;
  /** Told when a migration begins, the how manieth it is and of how many. */
  readonly onBegin?: (name: string, nth: number, of: number) => void;
}

/**
 * Applies what is pending, each migration in its own transaction, under an advisory lock: any number of migrators may
 * start at once, one works and the others wait for it and find nothing to do.
 * @returns the names that this call applied
 * @param options.stop ends the wait or the migration under way, which is rolled back
 * @throws AppError MIGRATION_FAILED, MIGRATION_DRIFT, STOPPED, DB_*
 */
export async function migrate(databaseUrl: string, options: MigrateOptions = {}): Promise<readonly string[]> {
  const client = new pg.Client(connectionConfig({ databaseUrl, applicationName: 'liventix-migrate' }));
  // A lost connection is said by the query; as an event it would end the process.
  client.on('error', () => undefined);
  const signal = options.stop ?? new AbortController().signal;
  return interruptible({ signal, databaseUrl, connections: () => [client] }, () => migrateBy(client, options));
}

async function migrateBy(client: pg.Client, { onBegin }: MigrateOptions): Promise<readonly string[]> {
  try {
    await client.connect();
    await assertSupportedServer(client);
    const status = await migrationStatus(client);
    assertNoDrift(status);
    let begun = 0;
    // The one way in which the library tells.
    const info = (text: string) => {
      const name = /^### MIGRATION (.*) \(UP\) ###$/.exec(text)?.[1];
      if (name !== undefined) onBegin?.(name, begun++, status.pending.length);
    };
    // Loaded by who migrates alone: every command asks for the status, and half of its start would be this.
    const { runner } = await import('node-pg-migrate');
    const applied = await runner({
      dbClient: client,
      dir: MIGRATIONS_DIR,
      direction: 'up',
      migrationsSchema: SCHEMA,
      createMigrationsSchema: true,
      migrationsTable: TABLE,
      advisoryLockMode: 'wait',
      logger: { debug: () => undefined, info, warn: () => undefined, error: () => undefined },
    });
    // Once more: a newer version may have migrated while this one waited for the lock.
    assertNoDrift(await migrationStatus(client));
    return applied.map((migration) => migration.name);
  } catch (error) {
    throw asMigrationFailure(error);
  } finally {
    await client.end();
  }
}

/** What is applied and what is pending, without changing anything, on an empty database too. */
export async function migrationStatus(db: Queryable): Promise<MigrationStatus> {
  const files = (await readdir(MIGRATIONS_DIR)).filter((file) => file.endsWith('.sql')).sort();
  const names = files.map((file) => file.slice(0, -'.sql'.length));
  const { rows: found } = await db.query<{ table: string | null }>('select to_regclass($1)::text as table', [
    `${SCHEMA}.${TABLE}`,
  ]);
  if (found[0]?.table == null) return { applied: [], pending: names, unknown: [] };
  const { rows } = await db.query<{ name: string }>(`select name from ${SCHEMA}.${TABLE} order by id`);
  const applied = rows.map((row) => row.name);
  return {
    applied,
    pending: names.filter((name) => !applied.includes(name)),
    unknown: applied.filter((name) => !names.includes(name)),
  };
}

/** Who owns what is recorded of migrations; undefined where there is nothing yet. Any role may ask. */
export async function findMigrationsOwner(db: Queryable): Promise<string | undefined> {
  const { rows } = await db.query<{ owner: string }>(
    `select pg_get_userbyid(c.relowner) as owner from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = $2`,
    [SCHEMA, TABLE],
  );
  return rows[0]?.owner;
}

/** @throws AppError MIGRATION_DRIFT when a newer version migrated the database */
export function assertNoDrift({ unknown }: MigrationStatus): void {
  if (unknown.length === 0) return;
  throw new AppError(
    'MIGRATION_DRIFT',
    `The database holds ${unknown.length} migration(s) that this version does not know, the first is ${unknown[0]}: another version of Liventix migrated it. Install that version or a newer one.`,
    { details: { unknown } },
  );
}

/** @throws AppError MIGRATIONS_PENDING, MIGRATION_DRIFT */
export async function assertMigrated(db: Queryable): Promise<void> {
  const status = await migrationStatus(db);
  assertNoDrift(status);
  assertNonePending(status);
}

/** @throws AppError MIGRATIONS_PENDING */
export function assertNonePending({ pending }: MigrationStatus): void {
  if (pending.length > 0) {
    throw new AppError(
      'MIGRATIONS_PENDING',
      `${pending.length} migration(s) are not applied, the first is ${pending[0]}. Run: liventix migrate`,
      { details: { pending } },
    );
  }
}

function asMigrationFailure(error: unknown): AppError {
  const mapped = toAppError(error);
  if (mapped.code === 'INTERNAL' && /preceding already run migration|have been deleted/.test(mapped.message)) {
    return new AppError(
      'MIGRATION_DRIFT',
      `${mapped.message}: the database was migrated by another version of Liventix. Install that version or a newer one.`,
      { cause: error },
    );
  }
  if (mapped.code !== 'INTERNAL' && mapped.code !== 'DB_FAILED' && !isLockTimeout(error)) return mapped;
  return new AppError(
    'MIGRATION_FAILED',
    `${mapped.message} Nothing of that migration was applied; correct the cause and run again.`,
    {
      details: mapped.details,
      cause: error,
    },
  );
}
