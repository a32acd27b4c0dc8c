import { givingWay } from '../../db/giving-way.ts';
import type { Pool, Queryable, Tx } from '../../db/pool.ts';
import { toAppError } from '../../db/sqlstate.ts';
import { AppError } from '../../errors.ts';
import { accepted, modelName, newModel } from './input.ts';
import { KINDS, type Kind, subjectColumn, tableOf } from './kinds.ts';

export interface ModelVersion {
  readonly id: bigint;
  /** `model@version`. */
  readonly name: string;
  readonly dimensions: number;
  readonly metric: 'cosine';
  readonly createdAt: Date;
  readonly retiredAt: Date | null;
  readonly kinds: readonly ModelOfKind[];
}

interface ModelOfKind {
  readonly kind: Kind;
  readonly isCurrent: boolean;
  readonly embeddings: bigint;
  /** How many subjects are found by the current version of the kind, and would not be by this one. */
  readonly missing: bigint;
}

const COUNTED = KINDS.map(
  (kind) => `
  select '${kind}' as kind, m.id,
    exists (select from ml.current_models c where c.kind = '${kind}' and c.model_version_id = m.id) as "isCurrent",
    (select count(*) from ${tableOf(kind)} t where t.model_version_id = m.id) as embeddings,
    (select count(*) from ml.current_models c join ${tableOf(kind)} t on t.model_version_id = c.model_version_id
     where c.kind = '${kind}' and not exists (
       select from ${tableOf(kind)} o where o.model_version_id = m.id and o.${subjectColumn(kind)} = t.${subjectColumn(kind)})) as missing
  from ml.model_versions m`,
).join('\n  union all');

/** All model versions, the oldest first, and what was made by them. Counts rows, as the role of the connection sees them. @throws AppError DB_* */
export async function listModels(db: Queryable): Promise<readonly ModelVersion[]> {
  const { rows: versions } = await db.query<Omit<ModelVersion, 'kinds'>>(
    `select id, name, dimensions, metric, created_at as "createdAt", retired_at as "retiredAt" from ml.model_versions order by id`,
  );
  const { rows: counted } = await db.query<ModelOfKind & { id: bigint }>(COUNTED);
  return versions.map((version) => ({
    ...version,
    kinds: counted.filter(({ id }) => id === version.id).map(({ id: _id, ...ofKind }) => ofKind),
  }));
}

/**
 * Adds a version of a model; nothing is searched by it until `useModel`.
 * @returns whether it was added: false where it is there, as it is given
 * @throws AppError EMBEDDING_INVALID; EMBEDDING_MODEL_FIXED where it is there with other dimensions; DB_*
 */
export async function addModel(db: Queryable, given: { model: string; dimensions: number }): Promise<boolean> {
  const { model: name, dimensions } = accepted(newModel, given, 'EMBEDDING_INVALID');
  try {
    const { rowCount } = await db.query(
      `insert into ml.model_versions (model, version, dimensions) values (split_part($1, '@', 1), split_part($1, '@', 2), $2)
       on conflict (name) do nothing returning id`,
      [name, dimensions],
    );
    if (rowCount === 1) return true;
  } catch (error) {
    throw toAppError(error);
  }
  const there = (await listModels(db)).find((each) => each.name === name);
  if (there?.dimensions === dimensions) return false;
  throw new AppError(
    'EMBEDDING_MODEL_FIXED',
    `${name} is there, and makes ${there?.dimensions} components, not ${dimensions}. Give what makes those another version.`,
  );
}

/**
 * Has a kind searched by a version, from the commit on; readers wait for nothing. What makes embeddings is kept waiting for as long as it takes
 * to count those that are missing.
 * @returns how many subjects are found no longer: `mayMiss` at most
 * @throws AppError EMBEDDING_INCOMPLETE where more are missing; EMBEDDING_MODEL_UNKNOWN, EMBEDDING_MODEL_RETIRED, EMBEDDING_BUSY; DB_*
 */
export async function useModel(
  pool: Pool,
  given: { kind: Kind; model: string; mayMiss?: number; stop?: AbortSignal; maxTries?: number; dryRun?: boolean },
): Promise<bigint> {
  const { kind, mayMiss = 0, dryRun = false, stop, maxTries } = given;
  const model = accepted(modelName, given.model, 'EMBEDDING_INVALID');
  const giving = { stop, maxTries, code: 'EMBEDDING_BUSY', what: tableOf(kind) } as const;
  return givingWay(pool, giving, (tx) => (dryRun ? missing(tx, kind, model) : use(tx, { kind, model, mayMiss })));
}

async function use(tx: Tx, { kind, model, mayMiss }: { kind: Kind; model: string; mayMiss: number }): Promise<bigint> {
  const { rows } = await tx.query<{ missing: bigint }>('select ml.use_model($1, $2, $3) as missing', [
    kind,
    model,
    mayMiss,
  ]);
  return rows[0]?.missing ?? 0n;
}

async function missing(tx: Tx, kind: Kind, model: string): Promise<bigint> {
  const { rows } = await tx.query<{ missing: bigint }>('select ml.missing($1, $2) as missing', [kind, model]);
  return rows[0]?.missing ?? 0n;
}

/**
 * Has a kind searched by nothing, from the commit on, until `useModel`. No embedding is touched.
 * @returns how many subjects are found no longer
 * @throws AppError EMBEDDING_BUSY; DB_*
 */
export async function useNoModel(
  pool: Pool,
  { kind, dryRun = false, ...giving }: { kind: Kind; stop?: AbortSignal; maxTries?: number; dryRun?: boolean },
): Promise<bigint> {
  return givingWay(pool, { ...giving, code: 'EMBEDDING_BUSY', what: 'ml.current_models' }, async (tx) => {
    const { rows } = await tx.query<{ found: bigint }>(
      `select count(*) as found from ml.current_models c join ${tableOf(kind)} t on t.model_version_id = c.model_version_id where c.kind = $1`,
      [kind],
    );
    if (!dryRun) await tx.query('delete from ml.current_models where kind = $1', [kind]);
    return rows[0]?.found ?? 0n;
  });
}

/**
 * Retires a version: nothing is made or searched by it from then on, for good. What was made by it stays.
 * @returns whether it was retired: false where it was before
 * @throws AppError EMBEDDING_MODEL_UNKNOWN, EMBEDDING_MODEL_IN_USE; DB_*
 */
export async function retireModel(db: Queryable, name: string): Promise<boolean> {
  try {
    const { rowCount } = await db.query(
      'update ml.model_versions set retired_at = clock_timestamp() where name = $1 and retired_at is null returning id',
      [name],
    );
    if (rowCount === 1) return true;
    const { rowCount: there } = await db.query('select from ml.model_versions where name = $1', [name]);
    if (there === 1) return false;
  } catch (error) {
    throw toAppError(error);
  }
  throw new AppError(
    'EMBEDDING_MODEL_UNKNOWN',
    `There is no model version ${name}. Which there are: liventix embeddings models list`,
  );
}
