import type { Pool } from '../../src/db/pool.ts';
import { sealBook } from '../../src/ledger/seals.ts';
import { treeHash } from './merkle.ts';

/** Every sealed event of a book with the number of its seal, in the order of the leaves. */
export async function sealedPositions(pool: Pool, bookId = 1): Promise<{ seal: bigint; position: bigint }[]> {
  const { rows } = await pool.query<{ seal: bigint; position: bigint }>(
    `select s.seal_number as seal, p as position
     from payments.seals s
     cross join lateral unnest(s.positions) as r
     cross join lateral generate_series(lower(r), upper(r) - 1) as p
     where s.book_id = $1
     order by s.seal_number, p`,
    [bookId],
  );
  return rows;
}

/** The positions of a book's log, in order. */
export async function logPositions(pool: Pool, bookId = 1): Promise<bigint[]> {
  const { rows } = await pool.query<{ position: bigint }>(
    'select position from payments.events where book_id = $1 order by position',
    [bookId],
  );
  return rows.map(({ position }) => position);
}

/** The root of the first so many leaves, computed by the tests' own implementation. */
export async function rootOfLeaves(pool: Pool, treeSize: bigint, bookId = 1): Promise<string> {
  const positions = (await sealedPositions(pool, bookId)).map(({ position }) => position);
  const { rows } = await pool.query<{ position: bigint; hash: Buffer }>(
    'select position, leaf_hash as hash from payments.events where book_id = $1',
    [bookId],
  );
  const hashes = new Map(rows.map(({ position, hash }) => [position, hash]));
  const leaves = positions.slice(0, Number(treeSize)).map((position) => hashes.get(position) ?? Buffer.alloc(0));
  return treeHash(leaves).toString('hex');
}

/** Seals what is new, and answers the positions that this sealed. */
export async function seal(pool: Pool, options: { bookId?: number; batchEvents?: number } = {}): Promise<bigint[]> {
  const { bookId = 1, ...rest } = options;
  const numbers = new Set((await sealBook(pool, bookId, rest)).map(({ sealNumber }) => sealNumber));
  return (await sealedPositions(pool, bookId)).filter((one) => numbers.has(one.seal)).map(({ position }) => position);
}
