import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { compareWithRecording } from '../../src/restructure/verify/recording/compare.ts';
import type { Recording } from '../../src/restructure/verify/recording/file.ts';
import { takeRecording } from '../../src/restructure/verify/recording/record.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { moveTables } from '../support/tenanted-shop.ts';

const ROWS = 2_000;
const PEOPLE = { wallets: 60, orgWallets: 8, transactions: 200, seed: 1 };
const MINUTES = 60_000;

describe('the whole legacy platform, recorded before anything moves', () => {
  let database: TestDatabase;
  let admin: Pool;
  let recording: Recording;

  beforeAll(async () => {
    database = await createDatabase();
    admin = callersPool(database);
    await createPlatform(database.pool);
    await fillLegacyDatabase(database.pool, PEOPLE);
    await fillPlatform(database.pool, { rows: ROWS });
    recording = await takeRecording(admin, await readMapping(LIVENTIX_MAPPING), {
      now: new Date('2026-01-01T00:00:00Z'),
      program: 'test',
    });
  }, 5 * MINUTES);
  afterAll(async () => {
    await admin.end();
    await database.drop();
  });

  /** What does not hold, and the kinds of what is to be known. */
  const found = () =>
    withTransaction(
      admin,
      async (tx) => {
        const { checks, notes } = await compareWithRecording(tx, recording, {});
        const own = await checkRestructuring(tx, {});
        return {
          faults: [...checks, ...own].filter(({ holds }) => !holds).map(({ check, first }) => [check, first]),
          kinds: [...new Set(notes.map(({ kind }) => kind))],
        };
      },
      ONE_SNAPSHOT,
    );

  it(
    'shows the same once it is moved',
    async () => {
      expect(recording.relations.length).toBeGreaterThan(140);
      await moveTables(database.pool, await readMapping(LIVENTIX_MAPPING));
      expect(await found()).toEqual({ faults: [], kinds: [] });
    },
    5 * MINUTES,
  );

  it(
    'shows the same again once all is back',
    async () => {
      const { steps } = await rollBack(database.pool, { tables: [] });
      expect(steps.filter(({ status }) => status !== 'undone')).toEqual([]);
      expect(await found()).toEqual({ faults: [], kinds: [] });
    },
    5 * MINUTES,
  );
});
