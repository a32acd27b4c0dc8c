import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool, Tx } from '../../src/db/pool.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type Belongings, type Breach, belongingsOf } from '../support/tenancy/attacks.ts';
import { insertAttacks, moveAttacks } from '../support/tenancy/forgeries.ts';
import { findPeople, type People, type Person } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';
import { type Legacy, legacyTables } from '../support/tenancy/rows.ts';

let database: TestDatabase;
let pool: Pool;
let people: People;
let tables: readonly Legacy[];

beforeAll(async () => {
  database = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  pool = callersPool(database);
  people = await findPeople(pool);
  tables = await legacyTables(pool);
});
afterAll(async () => {
  await pool.end();
  await database.drop();
});

/** Tries something on every table, in a transaction that is undone. */
async function onEveryTable(
  person: Person,
  attack: (tx: Tx, table: Legacy, person: Person, belongings: Belongings) => Promise<readonly Breach[]>,
): Promise<readonly Breach[]> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    const belongings = await belongingsOf(tx, person);
    const breaches = [];
    for (const table of tables) breaches.push(...(await attack(tx, table, person, belongings)));
    return breaches;
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

describe.each(['nobody', 'inA', 'attendee', 'host', 'sponsor'] as const)('rows of others: %s', (name) => {
  it('inserts none, as an upsert neither', async () => {
    expect(await onEveryTable(people[name], insertAttacks)).toEqual([]);
  });

  it('makes none of his own', async () => {
    expect(await onEveryTable(people[name], moveAttacks)).toEqual([]);
  });
});
