import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { accepted, matching, search } from './input.ts';
import type { Kind } from './kinds.ts';

interface Bounds {
  /** From 1 to 1,000; 10 when left out. */
  readonly limit?: number | undefined;
  /** The least similarity, from -1 to 1; 0.7 when left out. */
  readonly threshold?: number | undefined;
  /** `model@version`; that which the kind is searched by when left out. */
  readonly model?: string | undefined;
}

export interface Search extends Bounds {
  readonly kind: Kind;
  /** Made by that model version. */
  readonly embedding: readonly number[];
}

export interface Matching extends Bounds {
  /** What is searched for. */
  readonly kind: Kind;
  /** What it should suit. */
  readonly of: Kind;
  readonly id: string;
}

export interface Similar {
  readonly id: string;
  /** The cosine of the angle between both, rounded to 6 decimal places: 1 is the same direction. */
  readonly similarity: number;
}

/**
 * What is nearest to an embedding, of what the role of the connection sees; equal ones by id. The same with and without pgvector, whose
 * index may miss one now and then.
 * @throws AppError EMBEDDING_SEARCH_INVALID, EMBEDDING_INVALID, EMBEDDING_DIMENSIONS, EMBEDDING_MODEL_UNKNOWN, EMBEDDING_MODEL_RETIRED; DB_*
 */
export async function findSimilar(db: Queryable, given: Search): Promise<readonly Similar[]> {
  const { kind, embedding, limit, threshold, model } = accepted(search, given, 'EMBEDDING_SEARCH_INVALID');
  return asked(db, 'select s.subject_id as id, s.similarity from ml.similar($1, $2, $3, $4, $5) s', [
    kind,
    `{${embedding.join(',')}}`,
    limit,
    threshold,
    model ?? null,
  ]);
}

/**
 * What of one kind suits a subject of another, such as sponsors an event, by embeddings of both by one model version.
 * @throws AppError EMBEDDING_MISSING where the role sees no embedding of the subject by it; and as `findSimilar`
 */
export async function findMatching(db: Queryable, given: Matching): Promise<readonly Similar[]> {
  const { of, id, kind, limit, threshold, model } = accepted(matching, given, 'EMBEDDING_SEARCH_INVALID');
  return asked(db, 'select s.subject_id as id, s.similarity from ml.matching($1, $2, $3, $4, $5, $6) s', [
    of,
    id,
    kind,
    limit,
    threshold,
    model ?? null,
  ]);
}

async function asked(db: Queryable, sql: string, values: unknown[]): Promise<readonly Similar[]> {
  try {
    return (await db.query<Similar>(sql, values)).rows;
  } catch (error) {
    throw toAppError(error);
  }
}
