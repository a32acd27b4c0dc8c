import type { Pool } from '../db/pool.ts';
import { type CheckResult, verifyBooks } from '../ledger/verify.ts';
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
  const checks = await verifyBooks(pool, onCheck);
  const wallets = await checkWallets(pool);
  if (wallets !== undefined) {
    onCheck(wallets);
    checks.push(wallets);
  }
  return { balance: checks.every((check) => check.holds), checks };
}

async function checkWallets(pool: Pool): Promise<CheckResult | undefined> {
  const startedAt = performance.now();
  const comparison = await compareWallets(pool);
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
