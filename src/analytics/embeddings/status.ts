import type { Queryable } from '../../db/pool.ts';
import { type Extension, readExtension } from './extension.ts';
import { type EmbeddingIndex, listIndexes } from './indexes.ts';
import { KINDS, type Kind, subjectColumn, tableOf } from './kinds.ts';
import { listModels, type ModelVersion } from './models.ts';

export interface EmbeddingStatus {
  readonly extension: Extension;
  /** How a search is answered: exactly over arrays, exactly by pgvector, or by its indexes, where they are. */
  readonly search: 'arrays' | 'vector';
  readonly kinds: readonly KindStatus[];
  readonly models: readonly ModelVersion[];
  readonly indexes: readonly EmbeddingIndex[];
}

export interface KindStatus {
  readonly kind: Kind;
  /** What it is searched by; null where nothing is. */
  readonly current: string | null;
  readonly embeddings: bigint;
  /** Whose rows say who sees what; null until it is attached: nobody but writers sees anything. */
  readonly table: string | null;
  /** How many of that table have no embedding by the current version; null where it is not known. */
  readonly without: bigint | null;
}

/** What there is of embeddings, and what is missing. Counts rows, as the role of the connection sees them. @throws AppError DB_* */
export async function embeddingStatus(db: Queryable): Promise<EmbeddingStatus> {
  const extension = await readExtension(db);
  const models = await listModels(db);
  const kinds: KindStatus[] = [];
  for (const kind of KINDS) kinds.push(await statusOf(db, kind, models));
  return {
    extension,
    search: extension.version === null ? 'arrays' : 'vector',
    kinds,
    models,
    indexes: await listIndexes(db),
  };
}

async function statusOf(db: Queryable, kind: Kind, models: readonly ModelVersion[]): Promise<KindStatus> {
  const current = models.find(({ kinds }) => kinds.some((each) => each.kind === kind && each.isCurrent));
  const table = await attachedTable(db, kind);
  const embeddings = current?.kinds.find((each) => each.kind === kind)?.embeddings ?? 0n;
  const without =
    table === null || current === undefined ? null : await countWithout(db, { kind, table, version: current.id });
  return { kind, current: current?.name ?? null, embeddings, table, without };
}

/** The table that a kind was attached to. */
export async function attachedTable(db: Queryable, kind: Kind): Promise<string | null> {
  const { rows } = await db.query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name
     from pg_constraint k join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace
     where k.conrelid = $1::regclass and k.conname = $2`,
    [tableOf(kind), `${kind}_embeddings_subject`],
  );
  return rows[0]?.name ?? null;
}

async function countWithout(
  db: Queryable,
  { kind, table, version }: { kind: Kind; table: string; version: bigint },
): Promise<bigint> {
  const { rows } = await db.query<{ without: bigint }>(
    `select count(*) as without from ${table} s
     where not exists (select from ${tableOf(kind)} t where t.model_version_id = $1 and t.${subjectColumn(kind)} = s.id)`,
    [version],
  );
  return rows[0]?.without ?? 0n;
}
