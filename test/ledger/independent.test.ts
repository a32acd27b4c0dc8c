import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { withTransaction } from '../../src/db/transaction.ts';
import { verifyIndependently } from '../../src/ledger/independent/verify.ts';
import { ONE_SNAPSHOT } from '../../src/ledger/verify.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fillDiverseBook } from '../support/diverse-book.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const verify = (options: { bookId?: number } = {}) =>
  withTransaction(database.pool, (tx) => verifyIndependently(tx, options), ONE_SNAPSHOT);

describe('the independent verification', () => {
  it('holds on the empty', async () => {
    expect((await verify()).filter(({ holds }) => !holds)).toEqual([]);
  });
  it('holds on rich', async () => {
    await fillDiverseBook(database.pool, 1);
    expect((await verify()).filter(({ holds }) => !holds)).toEqual([]);
  });
});
