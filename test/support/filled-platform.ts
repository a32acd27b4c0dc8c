import type { Pool } from '../../src/db/pool.ts';
import { fillLegacyDatabase } from '../../src/demo/legacy-database.ts';
import { fillPlatform } from '../../src/demo/platform/filling/fill.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';

const ECONOMY = { wallets: 200, orgWallets: 20, transactions: 2_000, seed: 5 };
const ON_SALE = 1_000_000;

/** Makes the whole legacy database in an empty one and fills each of its tables. */
export async function createFilledPlatform(pool: Pool, { rows }: { rows: number }): Promise<void> {
  await createPlatform(pool);
  await fillLegacyDatabase(pool, ECONOMY);
  await fillPlatform(pool, { rows });
  // Whoever buys for minutes on end buys more than was on sale.
  await pool.query(`update public.ticket_tiers set quantity = ${ON_SALE}, total_quantity = ${ON_SALE}`);
  await pool.query('analyze');
}
