import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { LIVENTIX_MAPPING, type Mapping, readMapping } from '../../src/restructure/mapping.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { isolate } from '../../src/restructure/tenancy/isolate.ts';
import { callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { keepApart, movedPlatform } from '../support/tenancy/platform.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase({ template: await movedPlatform() });
});
afterAll(() => database.drop());

/** Everything that the catalog says of all relations, and who may call which function, in whatever order it was granted. */
async function catalogOf(db: Queryable) {
  const { rows: relations } = await db.query<{ name: string; facts: string }>(
    `select c.oid::regclass::text as name, restructure.fingerprint(restructure.facts_of(array[c.oid])) as facts
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') order by 1`,
  );
  const { rows: functions } = await db.query<{ name: string; facts: string }>(
    `select f.oid::regprocedure::text as name, md5(concat(
       restructure.grants_in_words(f.proacl, 'f', f.proowner), f.prosecdef, f.proconfig, f.prosrc, f.provolatile)) as facts
     from pg_proc f join pg_namespace n on n.oid = f.pronamespace where n.nspname not in ('pg_catalog', 'information_schema') order by 1`,
  );
  return new Map([...relations, ...functions].map(({ name, facts }) => [name, facts]));
}

const differences = (one: ReadonlyMap<string, string>, other: ReadonlyMap<string, string>) => [
  ...[...one].filter(([name, facts]) => other.get(name) !== facts).map(([name]) => `${name} is not what it was`),
  ...[...other.keys()].filter((name) => !one.has(name)).map((name) => `${name} is new`),
];

it('does not begin where policies would ask each other for ever', async () => {
  const mapping = await readMapping(LIVENTIX_MAPPING);
  const tables = mapping.tenancy?.tables.map((table) =>
    table.table === 'tickets'
      ? { ...table, parent: { of: 'events', by: 'event_id' }, reads: [...(table.reads ?? []), 'parent' as const] }
      : table,
  );
  const before = await catalogOf(database.pool);
  // The old policies of events read tickets.
  await expect(
    isolate(database.pool, { ...mapping, tenancy: { ...mapping.tenancy, tables } } as Mapping),
  ).rejects.toMatchObject({ code: 'RESTRUCTURE_MAPPING_INVALID', message: expect.stringContaining('tickets') });
  expect(differences(before, await catalogOf(database.pool))).toEqual([]);
});

it('takes back whatever keeps tenants apart, to the last privilege and function', async () => {
  const before = await catalogOf(database.pool);
  const { rows } = await database.pool.query<{ last: bigint }>('select max(id) as last from restructure.steps');
  await keepApart(database.pool);
  expect(differences(before, await catalogOf(database.pool)).length).toBeGreaterThan(200);
  const { steps } = await rollBack(database.pool, { to: rows[0]?.last, tables: [] });
  expect(steps.filter(({ status }) => status !== 'undone')).toEqual([]);
  expect(differences(before, await catalogOf(database.pool))).toEqual([]);
  // What anon could before, it can again: nothing of it is better known to the rollback than to the catalog.
  const admin = callersPool(database);
  const { rows: could } = await admin.query<{ truncates: boolean }>(
    `select has_table_privilege('anon', 'ticketing.orders', 'truncate') as truncates`,
  );
  await admin.end();
  expect(could).toEqual([{ truncates: true }]);
}, 180_000);
