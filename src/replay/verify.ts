import type { Pool, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { type CheckResult, ONE_SNAPSHOT, runChecks } from '../ledger/verify.ts';
import { compareWallets } from './report.ts';

export interface Verification {
  readonly balance: boolean;
  readonly checks: readonly CheckResult[];
}

/** The ledger's own checks, and where a backfill has finished, that every legacy wallet equals its account. */
export async function verifyBooksAndWallets(
  pool: Pool,
  onCheck: (result: CheckResult) => void = () => undefined,
): Promise<Verification> {
  const checks = await withTransaction(
    pool,
    async (tx) => {
      const results = await runChecks(tx, onCheck);
      const wallets = await checkWallets(tx);
      if (wallets === undefined) return results;
      onCheck(wallets);
      return [...results, wallets];
    },
    ONE_SNAPSHOT,
  );
  return { balance: checks.every((check) => check.holds), checks };
}

async function checkWallets(tx: Tx): Promise<CheckResult | undefined> {
  const startedAt = performance.now();
  const comparison = await compareWallets(tx);
  if (comparison === undefined) return undefined;
  return {
    check: 'every legacy wallet equals its account',
    holds: comparison.differing === 0n,
    examined: comparison.compared,
    unit: 'wallets',
    faults: comparison.differing,
    first: comparison.first,
    seconds: (performance.now() - startedAt) / 1_000,
  };
}
