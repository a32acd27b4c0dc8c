import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import type { Outcome } from '../accesses/outcome.ts';
import type { Plan } from './plans.ts';
import type { Material } from './subjects.ts';

export const FORMAT = 'liventix restructure perf 2';

const count = z.number().int().nonnegative();
/** Of each round, how long it took with each set of values. */
const rounds = z.array(z.array(z.number().nonnegative()).min(1));

const outcome = z.discriminatedUnion('status', [
  z.strictObject({
    status: z.literal('refused'),
    by: z.enum(['api', 'database']),
    code: z.string(),
    message: z.string(),
  }),
  z.strictObject({
    status: z.literal('rows'),
    count: z.nullable(count),
    total: z.nullable(z.number()),
    effects: z.array(z.string()),
    digest: z.string(),
    places: z.record(z.string(), z.nullable(z.string())),
  }),
]) satisfies z.ZodType<Outcome>;

const planNode: z.ZodType<Plan['root']> = z.lazy(() =>
  z.strictObject({
    node: z.string(),
    relation: z.nullable(z.string()),
    table: z.nullable(z.string()),
    index: z.nullable(z.string()),
    rows: z.number(),
    isRun: z.boolean(),
    children: z.array(planNode),
  }),
);

const plan = z.strictObject({
  root: planNode,
  hit: z.number(),
  read: z.number(),
  indexes: z.array(z.string()),
  scanned: z.array(z.string()),
  partitions: z.array(z.strictObject({ table: z.string(), looked: count, of: count })),
}) satisfies z.ZodType<Plan>;

const identity = {
  id: z.string(),
  way: z.enum(['old', 'new']),
  kind: z.enum(['control', 'dashboard', 'access']),
  title: z.string(),
};

const result = z.discriminatedUnion('status', [
  z.strictObject({
    ...identity,
    status: z.literal('measured'),
    sql: z.string(),
    answers: z.array(outcome),
    rows: count,
    warmMs: rounds,
    /** Null where nothing was measured cold. */
    coldMs: z.nullable(rounds),
    /** How many rounds failed, and with what the first did; null where none did. */
    failed: z.nullable(z.strictObject({ count, code: z.string(), message: z.string() })),
    plan: z.nullable(plan),
  }),
  z.strictObject({ ...identity, status: z.literal('failed'), sql: z.string(), code: z.string(), message: z.string() }),
  z.strictObject({ ...identity, status: z.literal('left out'), reason: z.string() }),
]);

const indexUse = z.strictObject({
  table: z.string(),
  index: z.string(),
  scans: z.number(),
  scansEver: z.number(),
  bytes: z.number(),
  isUnique: z.boolean(),
});

const spread = z.strictObject({ p50: z.number(), p90: z.number(), p99: z.number(), max: z.number() });

const load = z.strictObject({
  way: z.enum(['direct', 'pooler']),
  clients: count,
  /** Connections to the server that the pool may have; of a pooler, what it says, or null. */
  poolSize: z.nullable(count),
  seconds: z.number(),
  transactions: count,
  /** From the wish for a connection until a transaction has begun on one. */
  waitMs: spread,
  /** Of a query, without that wait. */
  queryMs: spread,
  errors: z.array(z.strictObject({ code: z.string(), message: z.string(), count })),
  /** Server processes that were used. */
  connections: count,
  samples: z.array(
    z.strictObject({
      atMs: z.number(),
      open: count,
      active: count,
      idleInTransaction: count,
      /** Clients that wait for a connection: ours to our pool, or as the pooler says; null where it does not say. */
      waiting: z.nullable(count),
    }),
  ),
  afterwards: z.strictObject({ open: count, idleInTransaction: count }),
  checks: z.array(z.strictObject({ what: z.string(), holds: z.boolean(), detail: z.string() })),
  notes: z.array(z.string()),
});

const schema = z.strictObject({
  format: z.literal(FORMAT),
  program: z.string(),
  server: z.string(),
  recordedAt: z.string(),
  settings: z.record(z.string(), z.string()),
  /** Of the relations whose rows must be the same; null where they could not be counted. */
  rows: z.record(z.string(), z.nullable(count)),
  material: z.custom<Material>(isMaterial, 'is not what was measured'),
  cold: z.discriminatedUnion('status', [
    z.strictObject({ status: z.literal('measured'), how: z.string() }),
    z.strictObject({ status: z.literal('not measured'), why: z.string() }),
  ]),
  results: z.array(result),
  indexes: z.array(indexUse),
  load: z.array(load),
});

export type Recording = z.infer<typeof schema>;
export type Result = z.infer<typeof result>;
export type Measured = Extract<Result, { status: 'measured' }>;
export type Load = z.infer<typeof load>;
export type Spread = z.infer<typeof spread>;

function isMaterial(value: unknown): boolean {
  const lists = ['tables', 'queries', 'callers', 'accesses'];
  return (
    typeof value === 'object' &&
    value !== null &&
    lists.every((list) => Array.isArray((value as Record<string, unknown>)[list]))
  );
}

/**
 * Whether a query failed, or nothing at all was timed. What is left out for want of rows is no failure, nor that somebody may not ask for
 * something. Pure.
 */
export function isIncomplete({ results }: Recording): boolean {
  const asked = results.filter(({ kind }) => kind !== 'control');
  return (
    asked.some(({ kind, status }) => kind === 'dashboard' && status === 'failed') ||
    asked.every(({ status }) => status !== 'measured')
  );
}

/** One result a line, so that two recordings can be looked at side by side. */
export function textOfRecording({ results, ...head }: Recording): string {
  const fields = Object.entries(head).map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)},`);
  return `{\n${fields.join('\n')}\n"results": [\n${results.map((each) => JSON.stringify(each)).join(',\n')}\n]}\n`;
}

/** @throws AppError RESTRUCTURE_RECORDING_INVALID for a file that is no such recording */
export async function readPerfRecording(file: string): Promise<Recording> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw invalid(file, error.code === 'ENOENT' ? 'is not there' : `cannot be read: ${error.message}`);
  });
  const json = parsedJson(text);
  if (json === undefined) throw invalid(file, 'is cut off, or is no recording');
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [first] = parsed.error.issues;
  throw invalid(file, `is no recording of this command: ${first?.path.join('.')}: ${first?.message}`);
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const invalid = (file: string, fault: string): AppError =>
  new AppError(
    'RESTRUCTURE_RECORDING_INVALID',
    `The recording ${file} ${fault}. Make one: liventix restructure perf record --output ${file}`,
  );
