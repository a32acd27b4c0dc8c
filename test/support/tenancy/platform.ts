import type { Pool } from '../../../src/db/pool.ts';
import { fillLegacyDatabase } from '../../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../../src/demo/platform/platform.ts';
import { applyPlan } from '../../../src/restructure/apply.ts';
import { LIVENTIX_MAPPING, readMapping } from '../../../src/restructure/mapping.ts';
import { makePlan } from '../../../src/restructure/plan.ts';
import { isolate } from '../../../src/restructure/tenancy/isolate.ts';
import { type TestServer, templateOf } from '../database.ts';

const PEOPLE = { wallets: 120, orgWallets: 8, transactions: 400, seed: 1 };
const ROWS = 6_000;

/** The legacy platform with rows in every table, moved as the mapping says; its tenants are not kept apart yet. */
export const movedPlatform = (server?: TestServer): Promise<string> =>
  templateOf('template_platform_moved', fillAndMove, server);

/** The same rows, with tenants apart. */
export async function isolatedPlatform(server?: TestServer): Promise<string> {
  const from = await movedPlatform(server);
  return templateOf('template_platform_isolated', keepApart, server, from);
}

async function fillAndMove(pool: Pool): Promise<void> {
  await createPlatform(pool);
  await fillLegacyDatabase(pool, PEOPLE);
  await fillPlatform(pool, { rows: ROWS });
  const plan = await makePlan(pool, await readMapping(LIVENTIX_MAPPING), { now: new Date('2026-01-01T00:00:00Z') });
  const { outcomes } = await applyPlan(pool, plan, { schemas: [], tables: [] });
  assertNone(outcomes.filter(({ status }) => status !== 'moved'));
}

export async function keepApart(pool: Pool): Promise<void> {
  const { tables } = await isolate(pool, await readMapping(LIVENTIX_MAPPING));
  assertNone(tables.filter(({ status }) => status !== 'isolated'));
  await pool.query('vacuum analyze');
}

function assertNone(left: readonly unknown[]): void {
  if (left.length > 0)
    throw new Error(`left: ${JSON.stringify(left, (_, value) => (typeof value === 'bigint' ? `${value}` : value))}`);
}
