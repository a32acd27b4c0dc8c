import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { FACTS } from '../support/tenancy/facts.ts';
import { findPeople, type People, type Person } from '../support/tenancy/people.ts';
import { isolatedPlatform, movedPlatform } from '../support/tenancy/platform.ts';
import {
  allowedRows,
  asPerson,
  type Legacy,
  legacyTables,
  newName,
  oldName,
  seenRows,
} from '../support/tenancy/rows.ts';

let before: TestDatabase;
let after: TestDatabase;
let pools: { before: Pool; after: Pool };
let people: People;
let tables: readonly Legacy[];

beforeAll(async () => {
  before = await createDatabase({ template: await movedPlatform(), poolMax: 1 });
  after = await createDatabase({ template: await isolatedPlatform(), poolMax: 1 });
  pools = { before: callersPool(before), after: callersPool(after) };
  people = await findPeople(pools.after);
  tables = await legacyTables(pools.after);
});
afterAll(async () => {
  await Promise.all([pools.before.end(), pools.after.end()]);
  await Promise.all([before.drop(), after.drop()]);
});

/** What a person sees of each table by a name of it. */
async function seenBy(pool: Pool, person: Person, nameOf: (table: Legacy) => string) {
  const tx = await pool.connect();
  try {
    return await asPerson(tx, person, async () => {
      const seen = new Map<string, readonly string[] | string>();
      for (const table of tables) seen.set(table.name, await seenRows(tx, nameOf(table), table));
      return seen;
    });
  } finally {
    tx.release();
  }
}

/** Of each table, what the facts allow a person of what he saw before. */
async function allowedTo(person: Person) {
  const seen = await seenBy(pools.before, person, oldName);
  const tx = await pools.after.connect();
  try {
    const allowed = new Map<string, readonly string[] | string>();
    for (const table of tables) {
      const may = await allowedRows(tx, table, person);
      const rows = seen.get(table.name) ?? [];
      allowed.set(table.name, typeof rows === 'string' ? rows : rows.filter((row) => may.has(row)));
    }
    return { seen, allowed };
  } finally {
    tx.release();
  }
}

const differences = (wanted: ReadonlyMap<string, unknown>, found: ReadonlyMap<string, unknown>) =>
  [...wanted]
    .filter(([table, rows]) => JSON.stringify(rows) !== JSON.stringify(found.get(table)))
    .map(([table, rows]) => `${table}: ${sizeOf(found.get(table))} rows, not ${sizeOf(rows)}`);
const sizeOf = (rows: unknown) => (Array.isArray(rows) ? rows.length : String(rows));
const total = (seen: ReadonlyMap<string, unknown>) =>
  [...seen.values()].reduce<number>((sum, rows) => sum + (Array.isArray(rows) ? rows.length : 0), 0);

describe('what somebody sees of every table and partition', () => {
  it('is asked of all of them, and of facts about each', () => {
    expect(tables).toHaveLength(148);
    const named = new Set(tables.map(({ name }) => name.replace(/_(?:\d{6}|default)$/u, '')));
    expect([...named].toSorted()).toEqual(Object.keys(FACTS).toSorted());
  });

  it.each(['nobody', 'inA', 'inB', 'attendee', 'host', 'sponsor', 'inSeveral', 'inSeveralFor'] as const)(
    'is what he saw before, of what is his: %s',
    async (name) => {
      const person = people[name];
      const { seen, allowed } = await allowedTo(person);
      expect(differences(allowed, await seenBy(pools.after, person, oldName))).toEqual([]);
      expect(differences(allowed, await seenBy(pools.after, person, newName))).toEqual([]);
      // Or it would have proved nothing: there was something to take away, and something is left.
      expect(total(allowed)).toBeLessThan(total(seen));
      expect(total(allowed)).toBeGreaterThan(100);
    },
  );

  it('is everything, for the service', async () => {
    const seen = await seenBy(pools.before, people.service, oldName);
    expect(differences(seen, await seenBy(pools.after, people.service, oldName))).toEqual([]);
    expect(differences(seen, await seenBy(pools.after, people.service, newName))).toEqual([]);
    expect(total(seen)).toBeGreaterThan(6_000);
  });
});

describe('the claim of an organization', () => {
  const organizationsOf = async (person: Person) => {
    const tx = await pools.after.connect();
    try {
      return await asPerson(tx, person, async () => {
        const { rows } = await tx.query<{ all: string[]; current: string | null; owners: string[] }>(
          `select public.caller_org_ids()::text[] as all, public.current_org_id()::text as current,
             array(select distinct org_id::text from campaigns.campaigns) as owners`,
        );
        return rows[0];
      });
    } finally {
      tx.release();
    }
  };

  it('gives nothing to whoever is no member', async () => {
    const stranger = { ...people.inA, claim: people.organizationB };
    expect(await organizationsOf(stranger)).toEqual({ all: [], current: null, owners: [] });
  });

  it('narrows several to one', async () => {
    const { claim } = people.inSeveralFor;
    const found = await organizationsOf(people.inSeveralFor);
    expect(found).toMatchObject({ all: [claim], current: claim });
    expect(found?.owners.filter((owner) => owner !== claim)).toEqual([]);
    expect((await organizationsOf(people.inSeveral))?.all.length).toBeGreaterThan(1);
  });

  it.each([[''], ['no uuid'], [17], [null], [true], [{}], [[]], ["'; drop table events; --"]])(
    'raises nothing, and gives nothing that is not his: %j',
    async (claim) => {
      const mine = (await organizationsOf(people.inA))?.all ?? [];
      const found = (await organizationsOf({ ...people.inA, claim }))?.all ?? [];
      expect(found.filter((each) => !mine.includes(each))).toEqual([]);
    },
  );
});
