import { KINDS } from '../../src/analytics/embeddings/kinds.ts';
import { addModel, useModel } from '../../src/analytics/embeddings/models.ts';
import type { Similar } from '../../src/analytics/embeddings/search.ts';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { become, type Caller } from './callers.ts';

/** `00000000-0000-4000-8000-000000000007` for 7. */
export const uuidOf = (number: number): string => `00000000-0000-4000-8000-${number.toString().padStart(12, '0')}`;

/** Adds a version and has every kind searched by it, whatever was made by another. */
export async function searchBy(pool: Pool, model: string, dimensions: number): Promise<void> {
  await addModel(pool, { model, dimensions });
  for (const kind of KINDS) await useModel(pool, { kind, model, mayMiss: 1_000_000 });
}

/** By definition, in 64 bits. */
function cosine(a: readonly number[], b: readonly number[]): number {
  const dot = (x: readonly number[], y: readonly number[]) => x.reduce((sum, each, at) => sum + each * (y[at] ?? 0), 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

/** As PostgreSQL keeps it in a real. */
const inReal = (embedding: readonly number[]): readonly number[] => embedding.map(Math.fround);

/** What an exact search should find, the nearest first, equal ones by id. */
export function nearest(
  all: readonly { readonly id: string; readonly embedding: readonly number[] }[],
  { embedding, limit, threshold }: { embedding: readonly number[]; limit: number; threshold: number },
): readonly Similar[] {
  return all
    .map(({ id, embedding: each }) => ({ id, similarity: Number(cosine(inReal(each), inReal(embedding)).toFixed(6)) }))
    .filter(({ similarity }) => similarity >= threshold)
    .sort((a, b) => b.similarity - a.similarity || (a.id < b.id ? -1 : 1))
    .slice(0, limit);
}

/** What a caller gets to see. @param pool of a superuser, who may become anybody */
export async function seenBy<Row extends object>(
  pool: Pool,
  caller: Caller,
  ask: (db: Queryable) => Promise<readonly Row[]>,
): Promise<readonly Row[]> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await become(client, caller);
    return await ask(client);
  } finally {
    await client.query('rollback');
    client.release();
  }
}
