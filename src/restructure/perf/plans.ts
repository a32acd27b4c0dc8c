import { z } from 'zod';
import type { Queryable, Tx } from '../../db/pool.ts';
import { failureOf, reading } from './session.ts';
import type { Subject } from './subjects.ts';

/** A step of a plan, as far as it is told. */
export interface PlanNode {
  readonly node: string;
  /** With its schema. */
  readonly relation: string | null;
  /** The same, or the partitioned table that it is a part of. */
  readonly table: string | null;
  readonly index: string | null;
  readonly rows: number;
  readonly isRun: boolean;
  readonly children: readonly PlanNode[];
}

export interface Plan {
  readonly root: PlanNode;
  /** Pages of 8 kB: found in shared buffers, or read from outside of them. */
  readonly hit: number;
  readonly read: number;
  readonly indexes: readonly string[];
  /** Read from end to end, the big ones; a partitioned one where none of its partitions was left out. */
  readonly scanned: readonly string[];
  /** Of each partitioned table, how many partitions were looked at, and how many there are. */
  readonly partitions: readonly { readonly table: string; readonly looked: number; readonly of: number }[];
}

/** What plans speak of. */
export interface Relations {
  /** By name with schema. */
  readonly tables: ReadonlyMap<string, { readonly root: string; readonly leaves: number; readonly rows: number }>;
  /** By the name of a partition's index, which a plan has without a schema, that of the partitioned table's. */
  readonly indexes: ReadonlyMap<string, string>;
}

/** To read more rows than these from end to end is worth a line. */
const BIG_ROWS = 10_000;

const explained: z.ZodType<Explained> = z.lazy(() =>
  z.looseObject({
    'Node Type': z.string(),
    Schema: z.string().optional(),
    'Relation Name': z.string().optional(),
    'Index Name': z.string().optional(),
    'Actual Rows': z.number().optional(),
    'Actual Loops': z.number().optional(),
    'Shared Hit Blocks': z.number().optional(),
    'Shared Read Blocks': z.number().optional(),
    Plans: z.array(explained).optional(),
  }),
);
interface Explained {
  readonly [key: string]: unknown;
  readonly 'Node Type': string;
  readonly Schema?: string | undefined;
  readonly 'Relation Name'?: string | undefined;
  readonly 'Index Name'?: string | undefined;
  readonly 'Actual Rows'?: number | undefined;
  readonly 'Actual Loops'?: number | undefined;
  readonly 'Shared Hit Blocks'?: number | undefined;
  readonly 'Shared Read Blocks'?: number | undefined;
  readonly Plans?: readonly Explained[] | undefined;
}

const documents = z.tuple([z.looseObject({ Plan: explained })]);

export interface PlanOptions {
  readonly relations: Relations;
  readonly timeoutMs: number;
  /** Whether the query is run for it, so that rows and pages are counted. */
  readonly isRun: boolean;
}

/** How the server answers a subject's first statement; null where it would not say. @throws AppError DB_* where the connection is gone */
export async function readPlan(
  client: Tx,
  subject: Subject,
  { relations, timeoutMs, isRun }: PlanOptions,
): Promise<Plan | null> {
  const statement = subject.sets[0]?.[0];
  if (statement === undefined) return null;
  try {
    const { rows } = await reading(client, { ...subject, timeoutMs }, () =>
      client.query<{ 'QUERY PLAN': unknown }>(
        `explain (${isRun ? 'analyze, buffers, ' : ''}verbose, format json) ${statement.text}`,
        [...statement.parameters],
      ),
    );
    return planOf(documents.parse(rows[0]?.['QUERY PLAN']), relations);
  } catch (error) {
    if (error instanceof z.ZodError) return null;
    failureOf(error);
    return null;
  }
}

/** @throws AppError DB_* */
export async function readRelations(db: Queryable): Promise<Relations> {
  const { rows: tables } = await db.query<{ name: string; root: string; leaves: number; rows: number }>(TABLES);
  const { rows: indexes } = await db.query<{ name: string; root: string }>(PARTITION_INDEXES);
  return {
    tables: new Map(tables.map(({ name, ...about }) => [name, about])),
    indexes: new Map(indexes.map(({ name, root }) => [name, root])),
  };
}

const PARTITION_INDEXES = `
  select c.relname as name, r.relname as root from pg_class c join pg_class r on r.oid = pg_partition_root(c.oid)
  where c.relkind = 'i' and c.relispartition`;

const TABLES = `
  with leaves as (
    select c.oid, coalesce(pg_partition_root(c.oid)::oid, c.oid) as root, c.reltuples
    from pg_class c where c.relkind in ('r', 'm')
  )
  select n.nspname || '.' || c.relname as name, m.nspname || '.' || r.relname as root,
    count(*) over (partition by l.root)::int4 as leaves, greatest(l.reltuples, 0)::float8 as rows
  from leaves l
    join pg_class c on c.oid = l.oid join pg_namespace n on n.oid = c.relnamespace
    join pg_class r on r.oid = l.root join pg_namespace m on m.oid = r.relnamespace
  where n.nspname not in ('pg_catalog', 'information_schema')`;

function planOf([{ Plan: top }]: z.infer<typeof documents>, relations: Relations): Plan {
  const root = nodeOf(top, relations);
  const run = allOf(root).filter(({ isRun }) => isRun);
  return {
    root,
    hit: top['Shared Hit Blocks'] ?? 0,
    read: top['Shared Read Blocks'] ?? 0,
    indexes: distinct(run.flatMap(({ index }) => index ?? [])),
    scanned: scannedIn(run, relations),
    partitions: partitionsOf(run, relations),
  };
}

function scannedIn(run: readonly PlanNode[], { tables }: Relations): readonly string[] {
  const full = distinct(run.filter(({ node }) => node.endsWith('Seq Scan')).flatMap(({ relation }) => relation ?? []));
  const parts = full.flatMap((name) => tables.get(name) ?? []);
  return distinct(parts.map(({ root }) => root)).filter((root) => {
    const scanned = parts.filter((part) => part.root === root);
    const rows = scanned.reduce((sum, part) => sum + part.rows, 0);
    return scanned.length === scanned[0]?.leaves && rows > BIG_ROWS;
  });
}

const distinct = (names: readonly string[]): readonly string[] => [...new Set(names)].toSorted();

function nodeOf(explained: Explained, relations: Relations): PlanNode {
  const loops = explained['Actual Loops'] ?? 1;
  const { 'Relation Name': name, 'Index Name': index } = explained;
  const relation = name === undefined ? null : `${explained.Schema ?? ''}.${name}`;
  return {
    node: explained['Node Type'],
    relation,
    table: relation === null ? null : (relations.tables.get(relation)?.root ?? relation),
    index: index === undefined ? null : (relations.indexes.get(index) ?? index),
    rows: Math.round((explained['Actual Rows'] ?? 0) * loops),
    isRun: loops > 0,
    children: (explained.Plans ?? []).map((each) => nodeOf(each, relations)),
  };
}

const allOf = (node: PlanNode): readonly PlanNode[] => [node, ...node.children.flatMap(allOf)];

function partitionsOf(run: readonly PlanNode[], { tables }: Relations): Plan['partitions'] {
  const looked = new Map<string, Set<string>>();
  for (const { relation } of run) {
    const root = relation === null ? undefined : tables.get(relation)?.root;
    if (relation === null || root === undefined || root === relation) continue;
    looked.set(root, (looked.get(root) ?? new Set()).add(relation));
  }
  return [...looked].map(([table, leaves]) => {
    const [leaf = ''] = leaves;
    return { table, looked: leaves.size, of: tables.get(leaf)?.leaves ?? leaves.size };
  });
}

/** A plan, a step a line: what tells two apart, and nothing that is other each time. Partitions that are read alike are one line. */
export function shapeOf(root: PlanNode, depth = 0): readonly string[] {
  const groups = new Map<string, readonly PlanNode[]>();
  for (const child of root.children) groups.set(likeness(child), [...(groups.get(likeness(child)) ?? []), child]);
  const below = [...groups.values()].flatMap(([first, ...others]) => {
    if (first === undefined) return [];
    const [line = '', ...rest] = shapeOf(first, depth + 1);
    return [others.length === 0 ? line : `${line} (and ${others.length} like it)`, ...rest];
  });
  return [`${'  '.repeat(depth)}${stepText(root)}`, ...below];
}

const likeness = ({ node, table, children }: PlanNode): string => JSON.stringify([node, table, children.map(likeness)]);

const stepText = ({ node, table, index }: PlanNode): string =>
  [node, ...(table === null ? [] : [`on ${withoutSchema(table)}`]), ...(index === null ? [] : [`by ${index}`])].join(
    ' ',
  );

/** A table is the same one in another schema. */
export const withoutSchema = (name: string): string => name.slice(name.indexOf('.') + 1);
