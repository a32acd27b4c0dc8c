import { afterAll, beforeAll, describe, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { SLOT_TAMPERINGS } from '../support/tamperings/slots.ts';
import { fillStateBooks, STATE_TAMPERINGS, type StateBooks } from '../support/tamperings/state.ts';
import { expectFound, expectSound } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let books: StateBooks;
beforeAll(async () => {
  database = await createDatabase();
  books = await fillStateBooks(database.pool);
});
afterAll(() => database.drop());

describe('books verify, and the independent verification too,', () => {
  it('find nothing where nothing was tampered with', () => expectSound(database.pool));

  it.each([...STATE_TAMPERINGS, ...SLOT_TAMPERINGS])('find %s, and say where', (...tampering) =>
    expectFound(database.pool, books, tampering),
  );
});
