import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError, type ErrorCode } from '../errors.ts';

/** A wallet of one book; its source tells its table. */
export interface Wallet {
  readonly bookId: number;
  readonly source: string;
  readonly id: string;
}

/** What the ledger says of an account that it does not post to as it stands; finance decides whether that stays. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set([
  'LEDGER_ACCOUNT_FROZEN',
  'LEDGER_ACCOUNT_CLOSED',
  'LEDGER_FLOOR_PASSED',
  'LEDGER_CEILING_PASSED',
] as const);

/** Why the ledger does not post to an account as it stands; undefined where that is not what went wrong. */
export function refusalOf(error: unknown): string | undefined {
  return error instanceof AppError && REFUSALS.has(error.code) ? error.message : undefined;
}

/**
 * Does something for each of some wallets in a transaction of its own. One whose account the ledger refuses to post to is held back:
 * a frozen account stops nobody else.
 * @returns what it answered for those that it was done for
 */
export async function doOneByOne<T>(
  pool: Pool,
  wallets: readonly Wallet[],
  work: (tx: Tx, wallet: Wallet) => Promise<T>,
): Promise<T[]> {
  const answers: T[] = [];
  for (const wallet of wallets) {
    try {
      answers.push(await withTransaction(pool, (tx) => work(tx, wallet)));
    } catch (error) {
      const reason = refusalOf(error);
      if (reason === undefined) throw error;
      await holdBack(pool, wallet, reason);
    }
  }
  return answers;
}

async function holdBack(db: Queryable, { bookId, source, id }: Wallet, reason: string): Promise<void> {
  await db.query('update replay.wallets set held_back = $4 where wallet_id = $1 and source = $2 and book_id = $3', [
    id,
    source,
    bookId,
    reason,
  ]);
}

/** Wallets that were held back are tried again. */
export async function letGoAll(db: Queryable, bookId: number): Promise<void> {
  await db.query('update replay.wallets set held_back = null where book_id = $1 and held_back is not null', [bookId]);
}

/** How many wallets are held back, and the first of them with what the ledger said. */
export interface HeldBack {
  readonly wallets: bigint;
  readonly first: string | null;
}

export async function findHeldBack(db: Queryable, bookId: number): Promise<HeldBack> {
  const { rows } = await db.query<HeldBack>(
    `select count(*) as wallets, min(format('wallet %s: %s', wallet_id, held_back)) as first
     from replay.wallets where book_id = $1 and held_back is not null`,
    [bookId],
  );
  return rows[0] ?? { wallets: 0n, first: null };
}
