import { readFile } from 'node:fs/promises';
import type { Pool, Queryable } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError } from '../errors.ts';
import { CopyWriter } from './economy/copy-writer.ts';
import type { HazardCounts } from './economy/hazards.ts';
import { type FillProgress, History } from './economy/history.ts';
import { withoutKeys } from './economy/keys.ts';
import { COLUMNS, type Table } from './economy/rows.ts';

export { HAZARD_RATES } from './economy/hazards.ts';
export type { FillProgress } from './economy/history.ts';

/** `fixtures/` lies at the root of the package, beside `src/` in a checkout and beside `dist/` in a build. */
const WALLETS_SQL = new URL('../../fixtures/legacy/wallets.sql', import.meta.url);
const MACHINES_SQL = new URL('../../fixtures/legacy/machines.sql', import.meta.url);

const MOST_WALLETS = 1_000_000;
const MOST_TRANSACTIONS = 100_000_000;

export interface LegacySize {
  /** User wallets; 2,000 when left out. */
  readonly wallets?: number;
  /** Organization wallets; 50 when left out. */
  readonly orgWallets?: number;
  /** Rows of wallet_transactions and org_wallet_transactions together; 100,000 when left out. */
  readonly transactions?: number;
  /** Any safe integer; 1 when left out. */
  readonly seed?: number;
}

export interface LegacySummary {
  /** Rows at the end, by table name with its schema. */
  readonly rows: Readonly<Record<Table | 'public.user_profiles', number>>;
  /** How often each hazard was planted. */
  readonly hazards: HazardCounts;
  /** The sums of `balance_credits`; a credit is a US cent. */
  readonly balanceCredits: { readonly users: bigint; readonly organizations: bigint };
}

/**
 * Makes the legacy wallet tables in a database that has neither them nor a schema `auth`, all or none.
 * @throws AppError DB_*
 */
export async function createLegacyDatabase(db: Queryable): Promise<void> {
  await applyFile(db, WALLETS_SQL);
}

/**
 * Makes the legacy tables that have a lifecycle, and those that they hang on, beside the legacy wallet tables of a database that has
 * none of them yet, all or none.
 * @throws AppError DB_*
 */
export async function createMachineTables(db: Queryable): Promise<void> {
  await applyFile(db, MACHINES_SQL);
}

async function applyFile(db: Queryable, file: URL): Promise<void> {
  const sql = await readFile(file, 'utf8');
  try {
    // One message of several statements is one transaction.
    await db.query(sql);
  } catch (error) {
    throw toAppError(error);
  }
}

/**
 * Fills the empty legacy tables with the history of a plausible platform, in one transaction, hazards 1 to 13 included
 * at HAZARD_RATES. The same arguments give the same rows, byte for byte, on any server and at any time. Memory stays
 * flat: rows are made and written in batches.
 * @throws AppError USAGE for a size that makes no sense, DEMO_DATABASE_NOT_OURS when there are wallets already, DB_*
 */
export async function fillLegacyDatabase(
  pool: Pool,
  options: LegacySize & { onProgress?: (progress: FillProgress) => void } = {},
): Promise<LegacySummary> {
  const { onProgress = () => undefined, ...given } = options;
  const size = checkedSize(given);
  return withTransaction(pool, async (tx) => {
    await assertEmpty(tx);
    const writer = new CopyWriter(tx);
    const history = new History({ size, writer, onProgress });
    await history.foundAndPlan();
    const write = async () => {
      await history.liveOrganizations();
      await history.liveUsers();
    };
    await withoutKeys(tx, write, (made) => onProgress({ step: 'index', ...made }));
    await tx.query(`analyze ${Object.keys(COLUMNS).join(', ')}`);
    return { rows: rowsOf(writer), hazards: history.planted(), balanceCredits: history.balanceCredits };
  });
}

function rowsOf(writer: CopyWriter): LegacySummary['rows'] {
  const counted = (Object.keys(COLUMNS) as Table[]).map((table) => [table, writer.count(table)]);
  const rows = Object.fromEntries(counted) as Record<Table, number>;
  return { ...rows, 'public.user_profiles': rows['auth.users'] };
}

function checkedSize(given: LegacySize): Required<LegacySize> {
  const size = { wallets: 2_000, orgWallets: 50, transactions: 100_000, seed: 1, ...given };
  const bounds = [
    ['wallets', 0, MOST_WALLETS],
    ['orgWallets', 0, MOST_WALLETS],
    ['transactions', 0, MOST_TRANSACTIONS],
    ['seed', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ] as const;
  for (const [name, least, most] of bounds) {
    const value = size[name];
    if (Number.isInteger(value) && value >= least && value <= most) continue;
    throw new AppError('USAGE', `${name} is ${value}: give a whole number from ${least} to ${most}.`);
  }
  if (size.transactions > 0 && size.wallets + size.orgWallets === 0) {
    throw new AppError(
      'USAGE',
      `${size.transactions} transactions need a wallet to be in: give wallets or orgWallets.`,
    );
  }
  return size;
}

async function assertEmpty(db: Queryable): Promise<void> {
  const { rows } = await db.query<{ filled: boolean }>(
    'select exists (select from auth.users) or exists (select from public.org_wallets) as filled',
  );
  if (rows[0]?.filled === false) return;
  throw new AppError(
    'DEMO_DATABASE_NOT_OURS',
    'The legacy tables of this database already hold users or wallets. Fill an empty database.',
  );
}
