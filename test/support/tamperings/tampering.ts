import { expect } from 'vitest';
import type { Pool, Tx } from '../../../src/db/pool.ts';
import { GUARDS } from '../../../src/ledger/guards.ts';
import { verifyIndependently } from '../../../src/ledger/independent/verify.ts';
import { type CheckResult, runChecks } from '../../../src/ledger/verify.ts';

/** One kind of tampering with books of a known shape: what an owner does who disables the triggers, and covers that up. */
export type Tampering<Books> = readonly [
  what: string,
  sql: (books: Books) => string,
  /** What the first faults of the check say: where. */
  says: (books: Books) => string | RegExp,
  /** The check that names the cause: the first that fails. */
  check: string,
];

/** All of a book is new since then: the queries for what is new must find whatever those for everything find. */
export const SEAL_OF_NOTHING = {
  sealNumber: 0n,
  sealHash: '00'.repeat(32),
  treeSize: 0n,
  openPositions: '{[1,)}',
};

/** All verifications: what one finds, the other must find. */
export const VERIFICATIONS: readonly { by: string; verify: (tx: Tx, bookId: number) => Promise<CheckResult[]> }[] = [
  { by: 'books verify', verify: (tx) => runChecks(tx) },
  {
    by: 'books verify --since a seal of nothing',
    verify: (tx, bookId) => runChecks(tx, {}, { bookId, since: { ...SEAL_OF_NOTHING, bookId } }),
  },
  { by: 'the independent verification', verify: (tx) => verifyIndependently(tx) },
];

const TABLES = [...new Set(GUARDS.map(({ table }) => table))];
const DISABLE = TABLES.map((table) => `alter table payments.${table} disable trigger user`).join('; ');
const ENABLE = GUARDS.map(
  ({ table, trigger }) => `alter table payments.${table} enable always trigger ${trigger}`,
).join('; ');

const WRITES = new Set(['INSERT', 'UPDATE', 'DELETE']);

/** The SQL with the triggers of all tables disabled for it, and put back afterwards. */
export const disguised = (sql: string): string => `${DISABLE}; ${sql}; ${ENABLE}`;

/** Does something in a database transaction that is undone again. */
export async function undone<T>(pool: Pool, work: (tx: Tx) => Promise<T>): Promise<T> {
  const tx = await pool.connect();
  try {
    await tx.query('begin');
    return await work(tx);
  } finally {
    await tx.query('rollback');
    tx.release();
  }
}

/** All verifications find the tampering, in the book, name its cause first, and say where. */
export function expectFound<Books>(
  pool: Pool,
  books: Books,
  [, sql, says, check]: Tampering<Books>,
  bookId = 1,
): Promise<void> {
  return undone(pool, async (tx) => {
    await tx.query(DISABLE);
    const written = [await tx.query(sql(books))].flat().filter(({ command }) => WRITES.has(command));
    if (written.length > 0)
      expect(Math.max(...written.map(({ rowCount }) => rowCount ?? 0)), 'rows tampered with').toBeGreaterThan(0);
    await tx.query(ENABLE);
    for (const { by, verify } of VERIFICATIONS) {
      const [failed] = (await verify(tx, bookId)).filter(({ holds }) => !holds);
      expect(failed?.check, by).toBe(check);
      const where = says(books);
      if (typeof where === 'string') expect(failed?.first.join('\n'), by).toContain(where);
      else expect(failed?.first[0], by).toMatch(where);
    }
  });
}

/** No verification finds anything. */
export function expectSound(pool: Pool): Promise<void> {
  return undone(pool, async (tx) => {
    for (const { by, verify } of VERIFICATIONS)
      expect(
        (await verify(tx, 1)).filter(({ holds }) => !holds),
        by,
      ).toEqual([]);
  });
}
