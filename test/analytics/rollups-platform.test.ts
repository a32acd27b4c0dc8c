import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { createSmallPlatform } from '../support/platform.ts';

let database: TestDatabase;
let env: Record<string, string>;

beforeAll(async () => {
  database = await createDatabase();
  await createSmallPlatform(database.pool);
  env = { DATABASE_URL: database.url };
});
afterAll(() => database.drop());

describe('the old platform', () => {
  it('gets its rollups and views by one command, and they hold', async () => {
    expect(await liventix(['rollups', 'plan'], env)).toMatchObject({ exitCode: 0 });
    const applied = await liventix(['rollups', 'apply'], env);
    expect(applied).toMatchObject({ exitCode: 0 });
    console.log(applied.stdout);
    const verified = await liventix(['rollups', 'verify'], env);
    console.log(verified.stdout, (await liventix(['rollups', 'status'], env)).stdout, (await liventix(['doctor'], env)).stdout);
    expect(verified).toMatchObject({ exitCode: 0 });
  });
});
