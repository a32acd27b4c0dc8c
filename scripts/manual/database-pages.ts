import pg from 'pg';
import { sqlFunctionsPage } from './sql-functions-page.ts';
import { tablesPage } from './tables-page.ts';

/**
 * The pages of what is in a migrated database, by their names in docs/reference/. Leaves nothing behind in it.
 * @param databaseUrl of its owner, who may create roles
 * @param migrations the folder that it was migrated from
 */
export async function databasePages(databaseUrl: string, migrations: string): Promise<[string, string][]> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query('begin');
    return [
      ['tables', await tablesPage(client)],
      ['sql-functions', await sqlFunctionsPage(client, migrations)],
    ];
  } finally {
    await client.query('rollback').finally(() => client.end());
  }
}
