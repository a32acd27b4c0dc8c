import type { Pool, Queryable, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';
import { AppError, type ErrorCode } from '../errors.ts';
import { MAIN_BOOK } from '../ledger/ledger.ts';

/** A wallet of one book; its source tells its table. */
export interface WalletKey {
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
  // And what an old wallet cannot hold.
  'MIRROR_OVERFLOW',
] as const);

/** Why the ledger does not post to an account as it stands; undefined where that is not what went wrong. */
export function refusalOf(error: unknown): string | undefined {
  return error instanceof AppError && REFUSALS.has(error.code) ? error.message : undefined;
}

/**
 * Does something for each of some wallets in a transaction of its own. One whose account the ledger refuses to post to is held back:
 * a frozen account stops nobody else.
 * @returns what it answered for those that it was done for, and how many are held back
 */
export async function doOneByOne<T>(
  pool: Pool,
  wallets: readonly WalletKey[],
  work: (tx: Tx, wallet: WalletKey) => Promise<T>,
): Promise<{ answers: T[]; heldBack: bigint }> {
  const answers: T[] = [];
  let heldBack = 0n;
  for (const wallet of wallets) {
    try {
      answers.push(await withTransaction(pool, (tx) => work(tx, wallet)));
    } catch (error) {
      const reason = refusalOf(error);
      if (reason === undefined) throw error;
      await holdBack(pool, wallet, reason);
      heldBack += 1n;
    }
  }
  return { answers, heldBack };
}

async function holdBack(db: Queryable, { bookId, source, id }: WalletKey, reason: string): Promise<void> {
  await db.query(
    `insert into replay.held_back (wallet_id, source, book_id, reason) values ($1, $2, $3, $4)
     on conflict (wallet_id, source, book_id) do update set reason = excluded.reason`,
    [id, source, bookId, reason],
  );
}

/** Wallets that were held back are tried again. */
export async function letGoAll(db: Queryable, bookId: number): Promise<void> {
  await db.query('delete from replay.held_back where book_id = $1', [bookId]);
}

/** How many wallets are held back, and the first of them with what the ledger said. */
export interface HeldBack {
  readonly wallets: bigint;
  readonly first: string | null;
}

export async function findHeldBack(db: Queryable, bookId = MAIN_BOOK): Promise<HeldBack> {
  const { rows } = await db.query<HeldBack>(
    `select count(*) as wallets, min(format('wallet %s: %s', wallet_id, reason)) as first
     from replay.held_back where book_id = $1`,
    [bookId],
  );
  return rows[0] ?? { wallets: 0n, first: null };
}
