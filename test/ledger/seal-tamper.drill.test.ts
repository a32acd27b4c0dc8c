import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { post } from '../../src/ledger/ledger.ts';
import { proveConsistency } from '../../src/ledger/proof.ts';
import { listSeals, sealBook } from '../../src/ledger/seals.ts';
import { openTestAccounts, transfer } from '../support/books.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { liventix } from '../support/liventix.ts';
import { logPositions } from '../support/seals.ts';
import {
  at,
  EVENTS,
  fillSealedBooks,
  missing,
  OTHER_SEAL_TAMPERINGS,
  removeFrom,
  SEAL_TAMPERINGS,
  SEALED_EVENT_TAMPERINGS,
  type SealedBooks,
} from '../support/tamperings/seals.ts';
import { disguised, expectFound, expectSound, undone, VERIFICATIONS } from '../support/tamperings/tampering.ts';

let database: TestDatabase;
let books: SealedBooks;
beforeAll(async () => {
  database = await createDatabase();
  books = await fillSealedBooks(database.pool);
});
afterAll(() => database.drop());

it('the books of these tests hold', async () => {
  expect(books.sealed.map(({ length }) => length)).toEqual([0, 7, 2, 1_100, 1]);
  await expectSound(database.pool);
});

describe('books verify, and the independent verification too, find and name first', () => {
  it.each(SEALED_EVENT_TAMPERINGS)('what was changed of the events: %s', (...tampering) =>
    expectFound(database.pool, books, tampering),
  );
  it.each(SEAL_TAMPERINGS)('what was changed of the seals: %s', (...tampering) =>
    expectFound(database.pool, books, tampering),
  );
  it.each(OTHER_SEAL_TAMPERINGS)('what was changed of the seals, in another book: %s', (...tampering) =>
    expectFound(database.pool, books, tampering, 2),
  );
});

describe('a seal whose events were changed', () => {
  it('is named alone, by both: those after it are as they were sealed', () =>
    undone(database.pool, async (tx) => {
      await tx.query(disguised(`update payments.events set created_by = 'x' where position = ${at(books, 2, 0)}`));
      await tx.query(
        disguised(
          `update payments.events set leaf_hash = payments.event_leaf_hash(book_id, position, event_id, effective_at, recorded_at, type,
             created_by, idempotency_scope, idempotency_key, request_hash, payload) where position = ${at(books, 2, 0)}`,
        ),
      );
      for (const { by, verify } of VERIFICATIONS) {
        expect(
          (await verify(tx, 1)).find(({ check }) => check === EVENTS),
          by,
        ).toMatchObject({ faults: 1n });
      }
    }));
});

describe('books verify', () => {
  it('says so on the command line, with the check, the seal and the position', async () => {
    const own = await createDatabase();
    const { wallet, clearing } = await openTestAccounts(own.pool);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    await own.pool.query(`begin; ${disguised(removeFrom(5n))}; commit`);
    for (const flags of [[], ['--independent']]) {
      const run = await liventix(['books', 'verify', ...flags], { DATABASE_URL: own.url });
      expect(run).toMatchObject({ exitCode: 1, stderr: '' });
      expect(run.stdout.match(/^FAILS .*\n.*$/gm)).toEqual([
        expect.stringMatching(
          new RegExp(`^FAILS  ${EVENTS} .*\n {9}seal 1 of book 1 covers event 5, which the log does not have$`),
        ),
      ]);
    }
    await own.drop();
  });
});

describe('what no verification inside the database can find', () => {
  it('is told by a root that was kept elsewhere: events and seals that were all made anew', async () => {
    const own = await createDatabase();
    const { wallet, clearing } = await openTestAccounts(own.pool);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    const [kept] = await listSeals(own.pool, { bookId: 1, limit: 1 });
    // The newest event is gone, and the seal that had it is made anew over another one.
    await own.pool.query(
      `begin; ${disguised(`${removeFrom(6n)}; delete from payments.seals where seal_number = 2`)}; commit`,
    );
    await post(own.pool, transfer(clearing, wallet));
    await sealBook(own.pool, 1);
    const [forged, first] = await listSeals(own.pool, { bookId: 1, limit: 2 });
    await expectSound(own.pool);
    await expect(proveConsistency(own.pool, 1, [first?.root ?? '', forged?.root ?? ''])).resolves.toBeDefined();
    await expect(proveConsistency(own.pool, 1, [kept?.root ?? '', forged?.root ?? ''])).rejects.toMatchObject({
      code: 'SEAL_ROOT_UNKNOWN',
    });
    await own.drop();
  });
});

describe('going on after a seal', () => {
  it('finds only what came after it, with the same words', async () => {
    await undone(database.pool, async (tx) => {
      const [first, third] = [at(books, 1, 0), at(books, 3, 0)];
      await tx.query(disguised(`delete from payments.events where position in (${first}, ${third})`));
      const faults = async (after: number) => {
        const { rows } = await tx.query<{ message: string }>(
          `select message from payments.check_sealed_events(1, $1)`,
          [after],
        );
        return rows.map(({ message }) => message);
      };
      expect(await faults(0)).toEqual([
        expect.stringMatching(missing(1, `event ${first}`)),
        expect.stringMatching(missing(3, `event ${third}`)),
      ]);
      expect(await faults(2)).toEqual([expect.stringMatching(missing(3, `event ${third}`))]);
      expect(await faults(3)).toEqual([]);
    });
  });
});

it('these tests left the log as it was', async () => {
  expect(await logPositions(database.pool)).toEqual(books.sealed.flat());
});
