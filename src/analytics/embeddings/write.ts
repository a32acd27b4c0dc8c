import type { Queryable } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { accepted, contents, hashOf, newEmbeddings } from './input.ts';
import { type Kind, subjectColumn, tableOf } from './kinds.ts';

export interface NewEmbeddings {
  readonly kind: Kind;
  /** `model@version`; the current one of the kind when left out. */
  readonly model?: string | undefined;
  /** At most 1,000, each subject once. */
  readonly embeddings: readonly {
    readonly id: string;
    readonly embedding: readonly number[];
    /** What it was made from: where that is what it was made from before, nothing is written. */
    readonly content: string;
  }[];
}

export interface Contents {
  readonly kind: Kind;
  readonly model?: string | undefined;
  /** At most 1,000. */
  readonly contents: readonly { readonly id: string; readonly content: string }[];
}

/**
 * Writes embeddings, in one statement: all of them or none. Of what was made from the same content by the same model version before,
 * nothing is written.
 * @param db as whoever may write them: the service, or the owner
 * @returns the ids of those that were written
 * @throws AppError EMBEDDING_INVALID, EMBEDDING_DIMENSIONS, EMBEDDING_MODEL_UNKNOWN, EMBEDDING_MODEL_RETIRED; DB_*
 */
export async function putEmbeddings(db: Queryable, given: NewEmbeddings): Promise<readonly string[]> {
  const { kind, model, embeddings } = accepted(newEmbeddings, given, 'EMBEDDING_INVALID');
  if (embeddings.length === 0) return [];
  // In id order: two that write the same subjects would otherwise deadlock.
  const inOrder = embeddings.toSorted((a, b) => (a.id.toLowerCase() < b.id.toLowerCase() ? -1 : 1));
  const subject = subjectColumn(kind);
  return asked(
    db,
    `insert into ${tableOf(kind)} as t (${subject}, model_version_id, embedding, length, content_hash)
     select g.id, (select m.id from ml.find_model($1, $2) m), g.embedding::real[], 0, g.hash
     from unnest($3::uuid[], $4::text[], $5::bytea[]) with ordinality g (id, embedding, hash, at)
     order by g.at
     on conflict (model_version_id, ${subject}) do update
     set embedding = excluded.embedding, content_hash = excluded.content_hash, made_at = clock_timestamp()
     where t.content_hash <> excluded.content_hash
     returning ${subject} as id`,
    [
      kind,
      model ?? null,
      inOrder.map(({ id }) => id),
      inOrder.map(({ embedding }) => `{${embedding.join(',')}}`),
      inOrder.map(({ content }) => hashOf(content)),
    ],
  );
}

/**
 * Which subjects have no embedding of their present content by a model version: those that are worth asking the model for.
 * @throws AppError EMBEDDING_INVALID, EMBEDDING_MODEL_UNKNOWN, EMBEDDING_MODEL_RETIRED; DB_*
 */
export async function findStale(db: Queryable, given: Contents): Promise<readonly string[]> {
  const { kind, model, contents: all } = accepted(contents, given, 'EMBEDDING_INVALID');
  return asked(
    db,
    `select g.id from unnest($3::uuid[], $4::bytea[]) with ordinality g (id, hash, at)
     where not exists (
       select from ${tableOf(kind)} t
       where t.model_version_id = (select m.id from ml.find_model($1, $2) m) and t.${subjectColumn(kind)} = g.id and t.content_hash = g.hash)
     order by g.at`,
    [kind, model ?? null, all.map(({ id }) => id), all.map(({ content }) => hashOf(content))],
  );
}

async function asked(db: Queryable, sql: string, values: unknown[]): Promise<readonly string[]> {
  try {
    return (await db.query<{ id: string }>(sql, values)).rows.map(({ id }) => id);
  } catch (error) {
    throw toAppError(error);
  }
}
