import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { findPeople, type People } from '../support/tenancy/people.ts';
import { isolatedPlatform, movedPlatform } from '../support/tenancy/platform.ts';
import { asPerson } from '../support/tenancy/rows.ts';
import { OTHERWISE, THINGS, type Things, type Use, usesOf } from '../support/tenancy/uses.ts';

let before: TestDatabase;
let after: TestDatabase;
let pools: { before: Pool; after: Pool };
let people: People;
let uses: readonly Use[];

beforeAll(async () => {
  before = await createDatabase({ template: await movedPlatform(), poolMax: 1 });
  after = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  pools = { before: callersPool(before), after: callersPool(after) };
  people = await findPeople(pools.after);
  const { rows } = await pools.after.query<Things>(THINGS, [
    people.organizationA,
    people.attendee.userId,
    people.host.userId,
    people.sponsor.userId,
  ]);
  const [things] = rows;
  if (things === undefined) throw new Error('nothing to do anything with');
  expect(Object.entries(things).filter(([, thing]) => thing === null)).toEqual([]);
  uses = usesOf(people, things);
});
afterAll(async () => {
  await Promise.all([pools.before.end(), pools.after.end()]);
  await Promise.all([before.drop(), after.drop()]);
});

/** How many rows the last statement gave or wrote, or why it did not. */
async function outcomeOf(pool: Pool, { who, statements }: Use): Promise<number | string> {
  const tx = await pool.connect();
  try {
    return await asPerson(tx, people[who], async () => {
      let rows = 0;
      for (const statement of statements) rows = (await tx.query(statement)).rowCount ?? 0;
      return rows;
    });
  } catch (error) {
    return (error as Error).message;
  } finally {
    tx.release();
  }
}

it('goes on as before for whoever has a right to it', async () => {
  const failed = [];
  for (const use of uses) {
    const [was, is] = [await outcomeOf(pools.before, use), await outcomeOf(pools.after, use)];
    if (typeof is !== 'number' || is === 0 || is !== was) failed.push(`${use.who} ${use.what}: ${was}, now ${is}`);
  }
  expect(failed).toEqual([]);
  expect(uses.length).toBeGreaterThan(45);
});

it.each(OTHERWISE.map((use) => [`${use.who} ${use.what}`, use] as const))('%s: no more', async (_, use) => {
  expect(await outcomeOf(pools.before, use)).toBeGreaterThan(0);
  expect(await outcomeOf(pools.after, use)).toBe(0);
});
