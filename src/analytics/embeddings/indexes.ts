import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';
import { type Extension, readExtension } from './extension.ts';
import { KINDS, type Kind, tableOf } from './kinds.ts';

const { escapeIdentifier: ident, escapeLiteral: literal } = pg;

/** More than that HNSW does not take of the type vector. */
const MOST_INDEXED_DIMENSIONS = 2_000;

/** The index of a kind's embeddings by a version: there, or wanted. */
export interface EmbeddingIndex {
  readonly kind: Kind;
  readonly model: string;
  readonly name: string;
  readonly dimensions: number;
  readonly state: 'valid' | 'invalid' | 'absent' | 'too many dimensions';
  /** How many bytes it takes; null where there is none. */
  readonly bytes: bigint | null;
  /** Null where it could not be built. */
  readonly statement: string | null;
}

const WANTED = KINDS.map(
  (kind) => `
  select '${kind}' as kind, m.id, m.name as model, m.dimensions
  from ml.model_versions m
  where m.retired_at is null and (
    exists (select from ml.current_models c where c.kind = '${kind}' and c.model_version_id = m.id)
    or exists (select from ${tableOf(kind)} t where t.model_version_id = m.id))`,
).join('\n  union all');

interface Found extends Pick<EmbeddingIndex, 'kind' | 'model' | 'name' | 'dimensions' | 'bytes'> {
  readonly id: bigint;
  readonly isValid: boolean | null;
}

/** Of every version that a kind is searched by, or that embeddings are made by to follow it: what there is of an index. @throws AppError DB_* */
export async function listIndexes(db: Queryable): Promise<readonly EmbeddingIndex[]> {
  const { schema } = await readExtension(db);
  const { rows } = await db.query<Found>(
    `select w.kind, w.id, w.model, w.dimensions, w.kind || '_embeddings_hnsw_' || w.id as name, x.indisvalid as "isValid",
       pg_relation_size(i.oid) as bytes
     from (${WANTED}) w
     left join pg_class i on i.relnamespace = 'ml'::regnamespace and i.relname = w.kind || '_embeddings_hnsw_' || w.id
     left join pg_index x on x.indexrelid = i.oid
     order by w.id, w.kind`,
  );
  return rows.map((found) => {
    const { kind, model, name, dimensions, bytes } = found;
    const state = stateOf(found);
    const isPossible = schema !== null && state !== 'too many dimensions';
    return { kind, model, name, dimensions, bytes, state, statement: isPossible ? creation(found, schema) : null };
  });
}

function stateOf({ isValid, dimensions }: Found): EmbeddingIndex['state'] {
  if (isValid !== null) return isValid ? 'valid' : 'invalid';
  return dimensions > MOST_INDEXED_DIMENSIONS ? 'too many dimensions' : 'absent';
}

/** HNSW, which can be built on an empty table and takes what comes later, not IVFFlat, whose lists are those of the rows of its day. */
function creation({ kind, id, name, dimensions }: Found, schema: string): string {
  const type = `${ident(schema)}.vector(${dimensions})`;
  return `create index concurrently ${ident(name)} on ${tableOf(kind)} using hnsw ((embedding::${type}) ${ident(schema)}.vector_cosine_ops) where model_version_id = ${id}`;
}

export interface Building {
  /** For the build alone, as PostgreSQL writes it: 2GB. A graph that does not fit in it is built several times more slowly. */
  readonly memory?: string | undefined;
  readonly onProgress?: ((index: string, done: bigint, total: bigint) => void) | undefined;
}

/**
 * Builds the indexes that are wanted and not there, one after the other, beside whoever reads and writes. What an interrupted run left
 * unfinished is built anew.
 * @returns those that were built
 * @throws AppError EMBEDDING_EXTENSION_MISSING, EMBEDDING_BUSY where somebody else builds them; DB_*
 */
export async function buildIndexes(
  pool: Pool,
  { memory, onProgress }: Building = {},
): Promise<readonly EmbeddingIndex[]> {
  assertThere(await readExtension(pool));
  return alone(pool, async (client) => {
    if (memory !== undefined) await client.query(`set maintenance_work_mem = ${literal(memory)}`);
    const wanted = (await listIndexes(client)).filter(({ state }) => state === 'absent' || state === 'invalid');
    for (const { name, state, statement } of wanted) {
      if (statement === null) continue;
      if (state === 'invalid') await client.query(`drop index concurrently ml.${ident(name)}`);
      await watched(pool, client.query(statement), (done, total) => onProgress?.(name, done, total));
    }
    return wanted;
  });
}

/**
 * Drops every index of pgvector on embeddings, beside whoever reads and writes: the search goes on without. The extension stays.
 * @returns their names
 * @throws AppError EMBEDDING_BUSY, DB_*
 */
export async function dropIndexes(pool: Pool): Promise<readonly string[]> {
  return alone(pool, async (client) => {
    const names = await findIndexes(client);
    for (const name of names) await client.query(`drop index concurrently ml.${ident(name)}`);
    return names;
  });
}

/** Those that there are, of retired versions too. */
export async function findIndexes(db: Queryable): Promise<readonly string[]> {
  const { rows } = await db.query<{ name: string }>(
    `select relname as name from pg_class
     where relnamespace = 'ml'::regnamespace and relkind = 'i' and relname ~ '^(${KINDS.join('|')})_embeddings_hnsw_[0-9]+$' order by 1`,
  );
  return rows.map(({ name }) => name);
}

function assertThere({ version, available }: Extension): void {
  if (version !== null) return;
  throw new AppError(
    'EMBEDDING_EXTENSION_MISSING',
    available === null
      ? 'This server has no pgvector. Install it there, then run liventix embeddings upgrade; until then the search is exact, and slower.'
      : `pgvector ${available} is not created in this database. Run: liventix embeddings upgrade`,
  );
}

const LOCK = `hashtext('liventix.embeddings')`;

/** On a connection of its own that is closed afterwards, with what was set on it. */
async function alone<T>(pool: Pool, work: (client: Tx) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    const { rows } = await client.query<{ taken: boolean }>(`select pg_try_advisory_lock(${LOCK}, 0) as taken`);
    if (rows[0]?.taken !== true) {
      throw new AppError(
        'EMBEDDING_BUSY',
        'Somebody else builds or drops indexes of embeddings in this database. Wait for it, or stop it.',
      );
    }
    return await work(client);
  } catch (error) {
    throw toAppError(error);
  } finally {
    client.release(true);
  }
}

const LOOK_EVERY_MS = 1_000;

async function watched(
  pool: Pool,
  running: Promise<unknown>,
  tell: (done: bigint, total: bigint) => void,
): Promise<void> {
  const ended = running.then(
    () => true,
    () => true,
  );
  while (!(await Promise.race([ended, pause(LOOK_EVERY_MS, false)]))) {
    const { rows } = await pool.query<{ done: bigint; total: bigint }>(
      `select tuples_done as done, tuples_total as total from pg_stat_progress_create_index
       where datname = current_database() and relid::regclass::text like 'ml.%'`,
    );
    for (const { done, total } of rows) tell(done, total);
  }
  await running;
}
