import type { Pool, Tx } from '../db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../db/transaction.ts';
import { type BookSummary, summarizeBooks } from '../ledger/book-summary.ts';
import { assertBook } from '../ledger/books.ts';
import { verifyIndependently } from '../ledger/independent/verify.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';
import { markOfSeal, type Scope } from '../ledger/scope.ts';
import { type CheckResult, runChecks, type VerificationWatch } from '../ledger/verify.ts';
import { compareWallets, findMissingWallets, findUnfinishedBackfill } from './report.ts';

export interface Verification {
  /** False when a check failed; null when none failed and one could not be made. */
  readonly balance: boolean | null;
  /** The seal whose events count as verified; null when everything was looked at. */
  readonly since: { readonly seal: bigint; readonly sealHash: string } | null;
  /** Whether this program made the ledger's checks alone, with none of the database's functions. */
  readonly independently: boolean;
  readonly checks: readonly CheckResult[];
  readonly skipped: readonly SkippedCheck[];
  /** Where they were asked for. */
  readonly books?: readonly BookSummary[];
  /** The instant of the snapshot. */
  readonly verifiedAt: Date;
}

/** A check that could not be made, and why. */
interface SkippedCheck {
  readonly check: string;
  readonly reason: string;
}

export interface VerificationRequest {
  /** One book; all of them, when left out. */
  readonly bookId?: number | undefined;
  /** Only what this seal of the book does not cover. Needs `bookId`. */
  readonly sinceSeal?: number | undefined;
  /** The ledger's own checks by this program alone, with none of the database's functions. Not with `sinceSeal`. */
  readonly independently?: boolean;
  /** Counts, seals and turnover of each book, too. */
  readonly summaries?: boolean;
  /** Further checks, in the same snapshot, where everything of the main book is looked at: what the ledger's neighbours promise of it. */
  readonly beside?: (tx: Tx, watch: VerificationWatch) => Promise<readonly CheckResult[]>;
}

/** A run that is at work takes seconds. */
const FORGOTTEN_AFTER = '1 minute';

const WALLET_CHECK = 'every legacy wallet equals its account';

/**
 * The ledger's own checks, and where a backfill has finished, that every legacy wallet equals its account. While one has
 * begun and not finished, that could not be found out. Since a seal, and in a book that no wallet was replayed into, wallets are
 * not compared, nor is what lies beside.
 * @throws AppError LEDGER_BOOK_UNKNOWN, SEAL_UNKNOWN
 */
export function verifyBooksAndWallets(
  pool: Pool,
  watch: VerificationWatch = {},
  request: VerificationRequest = {},
): Promise<Verification> {
  return withTransaction(pool, (tx) => verifyInSnapshot(tx, watch, request), ONE_SNAPSHOT);
}

/** The same in a transaction of the caller's, one of `ONE_SNAPSHOT`: of the instant of what else is read in it. */
export async function verifyInSnapshot(
  tx: Tx,
  watch: VerificationWatch,
  request: VerificationRequest,
): Promise<Verification> {
  const scope = await scopeOf(tx, request);
  const independently = request.independently === true;
  const checks = independently ? await verifyIndependently(tx, scope, watch) : await runChecks(tx, watch, scope);
  const skipped: SkippedCheck[] = [];
  if (scope.since === undefined && (scope.bookId ?? MAIN_BOOK) === MAIN_BOOK) {
    watch.onBegin?.(WALLET_CHECK);
    const wallets = await checkWallets(tx);
    if (wallets !== undefined) {
      watch.onEnd?.(wallets);
      checks.push(wallets);
    }
    skipped.push(...(await findSkipped(tx)));
    checks.push(...((await request.beside?.(tx, watch)) ?? []));
  }
  const holds = checks.every((check) => check.holds);
  const since = scope.since === undefined ? null : { seal: scope.since.sealNumber, sealHash: scope.since.sealHash };
  const books = request.summaries === true ? { books: await summarizeBooks(tx, scope) } : {};
  const balance = holds && skipped.length > 0 ? null : holds;
  return { balance, since, independently, checks, skipped, ...books, verifiedAt: await instantOf(tx) };
}

async function scopeOf(tx: Tx, { bookId, sinceSeal }: VerificationRequest): Promise<Scope> {
  if (bookId === undefined) return {};
  if (sinceSeal !== undefined) return { bookId, since: await markOfSeal(tx, bookId, sinceSeal) };
  await assertBook(tx, bookId);
  return { bookId };
}

async function instantOf(tx: Tx): Promise<Date> {
  const { rows } = await tx.query<{ at: Date }>('select now() as at');
  return rows[0]?.at ?? new Date();
}

async function findSkipped(tx: Tx): Promise<SkippedCheck[]> {
  const missing = await findMissingWallets(tx);
  if (missing.length > 0) {
    return [{ check: WALLET_CHECK, reason: `not compared, the legacy table ${missing.join(', ')} cannot be found` }];
  }
  const unfinished = await findUnfinishedBackfill(tx);
  if (unfinished === undefined) return findForgotten(tx);
  const [rows, total] = [unfinished.rows, unfinished.total].map((count) => count.toLocaleString('en-US'));
  return [{ check: WALLET_CHECK, reason: `not compared, the backfill has not finished (${rows} of ${total} rows)` }];
}

/** Wallets that changed so long ago that nobody can be at work on them. */
async function findForgotten(tx: Tx): Promise<SkippedCheck[]> {
  const { rows } = await tx.query<{ wallets: bigint; since: Date }>(
    `select count(distinct wallet_id) as wallets, min(changed_at) as since
     from replay.changing
     having min(changed_at) < now() - interval '${FORGOTTEN_AFTER}'`,
  );
  return rows.map(({ wallets, since }) => ({
    check: WALLET_CHECK,
    reason: `${wallets} changed since ${since.toISOString()} and nobody brought that in: liventix backfill run`,
  }));
}

async function checkWallets(tx: Tx): Promise<CheckResult | undefined> {
  const startedAt = performance.now();
  const comparison = await compareWallets(tx);
  if (comparison === undefined) return undefined;
  return {
    check: WALLET_CHECK,
    holds: comparison.differing === 0n,
    examined: comparison.compared,
    unit: 'wallets',
    faults: comparison.differing,
    first: comparison.first,
    seconds: (performance.now() - startedAt) / 1_000,
  };
}
