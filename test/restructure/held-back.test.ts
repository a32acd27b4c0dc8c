import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Pool } from '../../src/db/pool.ts';
import { rollBack } from '../../src/restructure/rollback.ts';
import { asCaller, callersPool } from '../support/callers.ts';
import { catalogOf, changesOf } from '../support/catalog.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { ANN, BOB, isolateTenants, moveTables, shop, shopMapping } from '../support/tenanted-shop.ts';

let database: TestDatabase;
let admin: Pool;
let before: readonly string[];

beforeEach(async () => {
  database = await createDatabase({ template: await shop() });
  admin = callersPool(database);
  before = await catalogOf(database);
  await moveTables(database.pool, shopMapping('held_back'));
  await isolateTenants(database.pool, shopMapping('held_back'));
});
afterEach(async () => {
  await admin.end();
  await database.drop();
});

/** How many orders each of two members of different organizations sees. */
async function ordersSeen(): Promise<readonly (string | number)[]> {
  const seen: (string | number)[] = [];
  for (const userId of [ANN, BOB]) {
    const outcome = await asCaller(admin, { role: 'authenticated', userId }, async (tx) => {
      const { rows } = await tx.query<{ n: number }>('select count(*)::int as n from public.orders');
      seen.push(...rows.map(({ n }) => n));
    });
    if (outcome !== 'ok') seen.push(outcome);
  }
  return seen;
}

const linesOf = ({ steps }: Awaited<ReturnType<typeof rollBack>>) =>
  steps.map(({ status, kind, object, reason = '' }) => `${status} ${kind} ${object}: ${reason}`);

it('a table that somebody reads keeps what it needs, the others go back, and run again all is as it was', async () => {
  const reader = await admin.connect();
  await reader.query('begin; select count(*) from public.orders');
  try {
    const lines = linesOf(await rollBack(database.pool, { tables: [], maxTries: 2 }));
    const matching = (pattern: RegExp) => lines.filter((line) => pattern.test(line));
    expect(matching(/^skipped policies public\.orders: .*in use.*held by process \d+/)).toHaveLength(1);
    expect(matching(/^undone policies public\.visits/)).toHaveLength(1);
    expect(matching(/^undone table public\.(?:visits|order_lines)/)).toHaveLength(2);
    expect(matching(/^skipped table public\.orders: policies public\.orders \(step \d+\) stands on it/)).toHaveLength(
      1,
    );
    expect(matching(/^skipped table public\.members: .*caller_org_ids\(\) names it where it is/)).toHaveLength(1);
    expect(matching(/^skipped tenant function "public"\."caller_org_ids"\(\): policies public\.orders/)).toHaveLength(
      1,
    );
    expect(matching(/^skipped schema sales: /)).toHaveLength(1);
  } finally {
    await reader.query('rollback');
    reader.release();
  }
  expect(await ordersSeen()).toEqual([200, 100]);
  expect(linesOf(await rollBack(database.pool, { tables: [] })).filter((line) => line.startsWith('skipped'))).toEqual(
    [],
  );
  expect(changesOf(before, await catalogOf(database))).toEqual([]);
});

it('a table whose tenants are kept apart does not go back alone', async () => {
  const [line, ...more] = linesOf(await rollBack(database.pool, { tables: ['members'] }));
  expect(line).toMatch(/^skipped table public\.members: policies public\.members \(step \d+\) stands on it/);
  expect(more).toEqual([]);
  expect(await ordersSeen()).toEqual([200, 100]);
});
