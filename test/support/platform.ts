import type { Pool } from '../../src/db/pool.ts';
import { fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { type Applied, applyPlan } from '../../src/restructure/apply.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../src/restructure/mapping.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import type { TestDatabase } from './database.ts';

/** The whole legacy platform, small, with rows in every table. */
export async function createSmallPlatform(pool: Pool): Promise<void> {
  await createPlatform(pool);
  await fillLegacyDatabase(pool, { wallets: 60, orgWallets: 5, transactions: 1_000 });
  await fillPlatform(pool, { rows: 3_000 });
}

/** Moves what Liventix's own mapping moves, with groups of this database alone: other tests of the server move tables too. */
export async function moveTables(database: TestDatabase): Promise<Applied> {
  const { roles, ...mapping } = await readMapping(LIVENTIX_MAPPING);
  const groups = { read: `${database.name}_read`, write: `${database.name}_write` };
  const here = { ...mapping, roles: { readers: [], writers: [], ...roles, ...groups } };
  const plan = await makePlan(database.pool, here, { now: new Date() });
  return applyPlan(database.pool, plan, { schemas: [], tables: [] });
}
