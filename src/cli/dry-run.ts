import type { Pool, Tx } from '../db/pool.ts';
import { withTransaction } from '../db/transaction.ts';

/** What `work` comes to, in a transaction of which nothing stays; numbers that it drew from sequences are used up. */
export const tryOut = <T>(pool: Pool, work: (tx: Tx) => Promise<T>): Promise<T> =>
  withTransaction(pool, (tx) => tryOutIn(tx, () => work(tx)));

/** The same inside a transaction, of which what was done before stays. */
export async function tryOutIn<T>(tx: Tx, work: () => Promise<T>): Promise<T> {
  await tx.query('savepoint untried');
  const found = await work();
  await tx.query('rollback to savepoint untried');
  return found;
}
