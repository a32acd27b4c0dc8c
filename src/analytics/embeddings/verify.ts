import { randomUUID } from 'node:crypto';
import type { Queryable, Tx } from '../../db/pool.ts';
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
 * @param tx of one snapshot, as its owner sees everything
 * @param options.seed which subjects are searched for is made from it; random when left out
 * @throws AppError DB_*
 */
export async function verifyEmbeddings(
  tx: Tx,
  { seed = randomUUID(), onBegin }: { seed?: string; onBegin?: (check: string) => void } = {},
): Promise<readonly EmbeddingCheck[]> {
  const checks: EmbeddingCheck[] = [];
  for (const kind of KINDS) {
    onBegin?.(asDeclared(kind));
    checks.push(await checkDeclared(tx, kind));
  }
  checks.push(await checkGuards(tx));
  const { version } = await readExtension(tx);
  if (version === null) return checks;
  checks.push(await checkIndexes(tx));
  for (const kind of KINDS) {
    onBegin?.(sameBothWays(kind));
    const compared = await compareWays(tx, kind, seed);
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

interface Found {
  readonly id: string;
  readonly similarity: number;
}

interface Compared {
  /** Of those that should be found, how many are; another that is as near counts as well. */
  readonly found: number;
  readonly wanted: number;
  /** Between what pgvector says of one that should be found, and what its components say. */
  readonly difference: number;
}

/** Searches for what is like some subjects, by the index and past it; undefined where there is nothing to search in. */
async function compareWays(tx: Tx, kind: Kind, seed: string): Promise<EmbeddingCheck | undefined> {
  const { rows: subjects } = await tx.query<{ id: string }>(
    `select t.${subjectColumn(kind)} as id
     from ml.current_models c join ${tableOf(kind)} t on t.model_version_id = c.model_version_id
     where c.kind = $1 order by md5(t.${subjectColumn(kind)} || $2) limit $3`,
    [kind, seed, SAMPLE],
  );
  if (subjects.length === 0) return undefined;
  const compared: Compared[] = [];
  for (const { id } of subjects) compared.push(await compareSearch(tx, kind, id));
  const sum = (of: (each: Compared) => number) => compared.reduce((total, each) => total + of(each), 0);
  const recall = sum(({ found }) => found) / sum(({ wanted }) => wanted);
  const difference = Math.max(...compared.map((each) => each.difference));
  const faults = [
    ...(recall < LEAST_RECALL
      ? [`of the ${NEAREST} nearest it finds ${(100 * recall).toFixed(1)} %, not ${100 * LEAST_RECALL} %`]
      : []),
    ...(difference > TOLERANCE ? [`its similarities differ by ${difference} from what the components say`] : []),
  ];
  return {
    check: sameBothWays(kind),
    holds: faults.length === 0,
    examined: BigInt(compared.length),
    unit: 'searches',
    faults,
  };
}

async function compareSearch(tx: Tx, kind: Kind, id: string): Promise<Compared> {
  const search = async () => (await tx.query<Found>(SEARCH(kind), [kind, id, NEAREST])).rows;
  const fast = await search();
  await tx.query('set local enable_indexscan = off');
  const exact = await search();
  await tx.query('set local enable_indexscan to default');
  const { rows: said } = await tx.query<Found>(BY_COMPONENTS(kind), [kind, id, exact.map((each) => each.id)]);
  const byComponents = new Map(said.map((each) => [each.id, each.similarity]));
  const least = exact.at(-1)?.similarity ?? 1;
  return {
    found: Math.min(fast.filter(({ similarity }) => similarity >= least - TOLERANCE).length, exact.length),
    wanted: exact.length,
    difference: Math.max(
      0,
      ...exact.map((each) => Math.abs(each.similarity - (byComponents.get(each.id) ?? Number.POSITIVE_INFINITY))),
    ),
  };
}

const OF_SUBJECT = (kind: Kind): string => `
  from ml.current_models c join ${tableOf(kind)} s on s.model_version_id = c.model_version_id and s.${subjectColumn(kind)} = $2`;

const SEARCH = (kind: Kind): string => `
  select f.subject_id as id, f.similarity ${OF_SUBJECT(kind)}
  cross join lateral ml.similar($1, s.embedding, $3, -1, null) f
  where c.kind = $1 order by f.similarity desc, f.subject_id`;

const BY_COMPONENTS = (kind: Kind): string => `
  select t.${subjectColumn(kind)} as id, d.dot / (s.length * t.length) as similarity ${OF_SUBJECT(kind)}
  join ${tableOf(kind)} t on t.model_version_id = c.model_version_id and t.${subjectColumn(kind)} = any ($3)
  cross join lateral (select sum(x.a::float8 * x.b) as dot from unnest(s.embedding, t.embedding) x (a, b)) d
  where c.kind = $1`;
