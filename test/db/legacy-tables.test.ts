import { afterAll, beforeAll, expect, it } from 'vitest';
import { getLegacyTables } from '../../src/replay/legacy.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

it('says where a legacy table lies that is in none of the schemas looked in', async () => {
  // The role liventix creates its tables in the schema of its name.
  await database.pool.query('create table wallets (id int)');
  await expect(getLegacyTables(database.pool)).rejects.toMatchObject({
    code: 'LEGACY_TABLE_MISSING',
    message: expect.stringMatching(/tables wallets, .*Not looked in: liventix\.wallets; alter table … set schema/),
  });
  await database.pool.query('alter table wallets set schema public');
  await expect(getLegacyTables(database.pool)).rejects.toMatchObject({
    message: expect.stringMatching(/^The legacy tables wallet_transactions, (?!.*Not looked in)/),
  });
});
