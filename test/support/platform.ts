import type { Pool } from '../../src/db/pool.ts';
import { fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { type ApiCaller, chooseCallers } from '../../src/restructure/accesses/api-callers.ts';
import { type Applied, applyPlan } from '../../src/restructure/apply.ts';
import { LIVENTIX_MAPPING, type Mapping, readMapping } from '../../src/restructure/mapping.ts';
import { makePlan } from '../../src/restructure/plan.ts';
import type { TestDatabase } from './database.ts';

/** The whole legacy platform, small, with rows in every table. */
export async function createSmallPlatform(pool: Pool): Promise<void> {
  await createPlatform(pool);
  await fillLegacyDatabase(pool, { wallets: 60, orgWallets: 5, transactions: 1_000 });
  await fillPlatform(pool, { rows: 3_000 });
}

/** Those as whom accesses are sent: the service as on Supabase, where policies do not hold for it. */
export const platformCallers = async (pool: Pool): Promise<readonly ApiCaller[]> =>
  (await chooseCallers(pool)).map((caller) =>
    caller.role === 'service_role' ? { ...caller, role: 'bypassing_service' } : caller,
  );

/** Liventix's own mapping, with groups of this database alone: other tests of the server move tables too. */
export async function mappingFor({ name }: TestDatabase): Promise<Mapping> {
  const { roles, ...mapping } = await readMapping(LIVENTIX_MAPPING);
  const groups = { read: `${name}_read`, write: `${name}_write` };
  return { ...mapping, roles: { readers: [], writers: [], ...roles, ...groups } };
}

export async function moveTables(database: TestDatabase): Promise<Applied> {
  const plan = await makePlan(database.pool, await mappingFor(database), { now: new Date() });
  return applyPlan(database.pool, plan, { schemas: [], tables: [] });
}
