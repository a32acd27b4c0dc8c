import { randomUUID } from 'node:crypto';
import type { Queryable } from '../../db/pool.ts';
import { readExtension } from './extension.ts';
import { listIndexes } from './indexes.ts';
import { KINDS, type Kind, subjectColumn, tableOf } from './kinds.ts';

export interface EmbeddingCheck {
  readonly check: string;
  readonly holds: boolean;
  readonly examined: bigint;
  readonly unit: string;
  readonly faults: readonly string[];
}

/** How many subjects of a kind are searched for, both ways. */
const SAMPLE = 20;
const NEAREST = 10;
/** pgvector sums in 32 bits, the arrays are summed in 64. */
const TOLERANCE = 1e-5;
/** Of the nearest, those that an index must find on average: it promises none. */
const LEAST_RECALL = 0.95;

/**
 * Recomputes what is promised of embeddings. Changes nothing; reads every embedding.
 * @param options.newUuid where a sample begins; random when left out
 * @throws AppError DB_*
 */
export async function verifyEmbeddings(
  db: Queryable,
  { newUuid = randomUUID, onBegin }: { newUuid?: () => string; onBegin?: (check: string) => void } = {},
): Promise<readonly EmbeddingCheck[]> {
  const checks: EmbeddingCheck[] = [];
  for (const kind of KINDS) {
    onBegin?.(asDeclared(kind));
    checks.push(await checkDeclared(db, kind));
  }
  checks.push(await checkGuards(db));
  const { version } = await readExtension(db);
  if (version === null) return checks;
  checks.push(await checkIndexes(db));
  for (const kind of KINDS) {
    onBegin?.(sameBothWays(kind));
    const compared = await compareWays(db, kind, newUuid);
    if (compared !== undefined) checks.push(compared);
  }
  return checks;
}

const asDeclared = (kind: Kind): string => `every embedding of ${kind}s is what its model version makes`;
const sameBothWays = (kind: Kind): string => `pgvector finds the ${kind}s that are nearest`;

async function checkDeclared(db: Queryable, kind: Kind): Promise<EmbeddingCheck> {
  const { rows } = await db.query<{ examined: bigint; faults: string[] | null }>(
    `select count(*) as examined, (array_agg(t.id || ' by ' || t.name order by t.id) filter (where t.is_fault))[1:5] as faults
     from (
       select t.${subjectColumn(kind)}::text as id, m.name,
         array_ndims(t.embedding) <> 1 or cardinality(t.embedding) <> m.dimensions or array_position(t.embedding, null) is not null
           or not coalesce(t.length between 1e-9 and 1e9 and abs(t.length - l.length) <= 1e-9 * t.length, false) as is_fault
       from ${tableOf(kind)} t join ml.model_versions m on m.id = t.model_version_id
       cross join lateral (select sqrt(sum(c.value::float8 * c.value::float8)) as length from unnest(t.embedding) c (value)) l) t`,
  );
  const faults = rows[0]?.faults ?? [];
  return {
    check: asDeclared(kind),
    holds: faults.length === 0,
    examined: rows[0]?.examined ?? 0n,
    unit: 'embeddings',
    faults,
  };
}

const GUARDS: readonly (readonly [table: string, trigger: string])[] = [
  ...KINDS.map((kind) => [tableOf(kind), 'embeddings_as_declared'] as const),
  ['ml.model_versions', 'model_versions_fixed'],
  ['ml.model_versions', 'model_versions_kept'],
  ['ml.current_models', 'current_models_not_retired'],
];

/** Triggers that are not there or not enabled always, and tables that policies do not hold for. */
export async function findMissingGuards(db: Queryable): Promise<readonly string[]> {
  const { rows } = await db.query<{ fault: string }>(
    `select 'trigger ' || g.trigger || ' of ' || g.relation as fault
     from unnest($1::text[], $2::text[]) g (relation, trigger)
     where not exists (
       select from pg_trigger t where t.tgrelid = to_regclass(g.relation) and t.tgname = g.trigger and t.tgenabled = 'A')
     union all
     select 'row level security of ' || r.relation from (select distinct unnest($1::text[])) r (relation)
     where not exists (select from pg_class c where c.oid = to_regclass(r.relation) and c.relrowsecurity)
     order by 1`,
    [GUARDS.map(([table]) => table), GUARDS.map(([, trigger]) => trigger)],
  );
  return rows.map(({ fault }) => fault);
}

async function checkGuards(db: Queryable): Promise<EmbeddingCheck> {
  const faults = await findMissingGuards(db);
  return {
    check: 'the guards are in place',
    holds: faults.length === 0,
    examined: BigInt(GUARDS.length),
    unit: 'triggers',
    faults,
  };
}

async function checkIndexes(db: Queryable): Promise<EmbeddingCheck> {
  const indexes = await listIndexes(db);
  const faults = indexes
    .filter(({ state }) => state === 'absent' || state === 'invalid')
    .map(({ name, state }) => `${name} is ${state}`);
  return {
    check: 'every version that is searched by has its index',
    holds: faults.length === 0,
    examined: BigInt(indexes.length),
    unit: 'indexes',
    faults,
  };
}

interface Compared {
  readonly id: string;
  readonly found: number;
  readonly wanted: number;
  readonly difference: number;
}

/** Searches for what is like some subjects, by pgvector and over the arrays; undefined where there is nothing to search in. */
async function compareWays(db: Queryable, kind: Kind, newUuid: () => string): Promise<EmbeddingCheck | undefined> {
  const sampled = new Map<string, Compared>();
  for (let at = 0; at < SAMPLE; at += 1) {
    const { rows } = await db.query<Compared>(COMPARISON(kind), [newUuid(), NEAREST, TOLERANCE]);
    for (const row of rows) sampled.set(row.id, row);
  }
  if (sampled.size === 0) return undefined;
  const all = [...sampled.values()];
  const sum = (of: (each: Compared) => number) => all.reduce((total, each) => total + of(each), 0);
  const recall = sum(({ found }) => found) / sum(({ wanted }) => wanted);
  const differing = all.filter(({ difference }) => difference > TOLERANCE);
  const faults = [
    ...(recall < LEAST_RECALL
      ? [`of the ${NEAREST} nearest it finds ${(100 * recall).toFixed(1)} %, not ${100 * LEAST_RECALL} %`]
      : []),
    ...differing.slice(0, 5).map(({ id, difference }) => `what is like ${id} differs by ${difference}`),
  ];
  return {
    check: sameBothWays(kind),
    holds: faults.length === 0,
    examined: BigInt(all.length),
    unit: 'searches',
    faults,
  };
}

/** Of the subject that follows an id: how many of the nearest are found, another that is as near counting as well, and by how much similarities differ. */
const COMPARISON = (kind: Kind): string => `
  with subject as (
    select t.${subjectColumn(kind)} as id, t.embedding
    from ml.current_models c join ${tableOf(kind)} t on t.model_version_id = c.model_version_id
    where c.kind = '${kind}' and t.${subjectColumn(kind)} >= $1::uuid order by t.${subjectColumn(kind)} limit 1
  ),
  exact as materialized (select e.* from subject s, ml.similar('${kind}', s.embedding, $2, -1, null, true) e),
  fast as materialized (select f.* from subject s, ml.similar('${kind}', s.embedding, $2, -1, null) f)
  select s.id,
    (select count(*) from fast f where f.similarity >= (select min(e.similarity) from exact e) - $3)::integer as found,
    (select count(*) from exact)::integer as wanted,
    coalesce((select max(abs(e.similarity - f.similarity)) from exact e join fast f using (subject_id)), 0) as difference
  from subject s`;
