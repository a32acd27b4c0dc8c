import type { Pool } from '../db/pool.ts';
import { cutOver } from '../replay/cut-over.ts';
import { replaceWalletFunctions } from '../replay/wallet-functions.ts';

/** For whom the ledger keeps the wallets now. */
export interface CutOverOwners {
  /** Organizations whose wallets the ledger keeps. */
  readonly organizations: number;
  /** Those that stay, since something of their wallets is unexplained and nobody has signed for it. */
  readonly refused: number;
}

/** One organization after the other, as a platform does that dares a little at a time. */
export async function cutOverOrganizations(
  pool: Pool,
  { most, onProgress }: { most: number; onProgress: (label: string, done: number, total: number) => void },
): Promise<CutOverOwners> {
  await replaceWalletFunctions(pool, {});
  const { rows } = await pool.query<{ id: string }>('select org_id as id from org_wallets order by org_id limit $1', [
    most,
  ]);
  let organizations = 0;
  for (const [at, { id }] of rows.entries()) {
    onProgress('cutting organizations over', at, rows.length);
    const { flipped } = await cutOver(pool, { owners: { kind: 'organization', id } });
    if (flipped > 0n) organizations += 1;
  }
  return { organizations, refused: rows.length - organizations };
}
