import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import type { Mapping } from '../../src/restructure/mapping.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { ANN, isolateTenants, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

const NAMES = ['sales.visits', 'public.visits', 'sales.visits_2025', 'public.visits_2025'];

/** The shop's, where not even the owner sees everybody's visits. */
function forcing(): Mapping {
  const mapping = shopMapping('force');
  if (mapping.tenancy === undefined) throw new Error('the shop keeps nobody apart');
  const tables = mapping.tenancy.tables.map((each) => ({ ...each, force: each.table === 'visits' }));
  return { ...mapping, tenancy: { ...mapping.tenancy, tables } };
}

const refusal = (refused: Promise<unknown>) =>
  refused.then(
    () => 'ok',
    (error: Error) => error.message,
  );

const countsOf = async (db: Queryable): Promise<readonly number[]> => {
  const { rows } = await db.query<{ n: number }>(
    `${NAMES.map((name, at) => `select ${at} as at, count(*)::int as n from ${name}`).join(' union all ')} order by at`,
  );
  return rows.map(({ n }) => n);
};

let database: TestDatabase;
let admin: Pool;

beforeAll(async () => {
  database = await createDatabase({ template: await shop() });
  admin = callersPool(database);
  await moveTables(database.pool, forcing());
});
afterAll(async () => {
  await admin.end();
  await database.drop();
});

const verify = (pool: Pool) => withTransaction(pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);

it('the owner of a table that forces row security does not pass, by any name, and its callers see their own', async () => {
  const before = await countsOf(database.pool);
  await isolateTenants(database.pool, forcing());
  expect(await countsOf(admin)).toEqual(before);
  expect(await countsOf(database.pool)).toEqual([0, 0, 0, 0]);
  expect(
    await refusal(
      database.pool.query(`insert into sales.visits select org_id, now(), 'x' from people.members limit 1`),
    ),
  ).toMatch(/row-level security/);
  const seen: number[] = [];
  expect(
    await asCaller(admin, { role: 'authenticated', userId: ANN }, async (tx) => seen.push(...(await countsOf(tx)))),
  ).toBe('ok');
  expect(seen.map((n, at) => n > 0 && n < (before[at] ?? 0))).toEqual([true, true, true, true]);

  expect(await refusal(verify(database.pool))).toMatch(
    /^Not every row may be read: .*visits.*Run it as a role that may read it whole, and that row security does not concern\.$/,
  );
  const checks = await verify(admin);
  expect(checks.filter(({ holds }) => !holds)).toEqual([]);

  await rollBack(database.pool, { tables: [] });
  const { rows } = await database.pool.query(
    `select relname, relrowsecurity, relforcerowsecurity from pg_class where relname like 'visits%' and (relrowsecurity or relforcerowsecurity)`,
  );
  expect(rows).toEqual([]);
});
