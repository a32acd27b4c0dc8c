import { runner } from 'node-pg-migrate';
import { migrationStatus } from '../../src/db/migrate.ts';
import type { TestDatabase } from './database.ts';

/** All that come before a migration. */
export async function migrateUntil(database: TestDatabase, name: string): Promise<void> {
  const { pending } = await migrationStatus(database.pool);
  await runner({
    databaseUrl: database.url,
    dir: 'migrations',
    direction: 'up',
    count: pending.indexOf(name),
    migrationsSchema: 'liventix',
    createMigrationsSchema: true,
    migrationsTable: 'migrations',
    log: () => undefined,
  });
}
