import type { Queryable } from '../db/pool.ts';
import { checkOf, type PayloadCheck } from './payload-schema.ts';

interface Known {
  /** undefined: the topic has no schema, or none that this role may read. */
  readonly check: PayloadCheck | undefined;
  readonly askedAt: number;
}

/** After so long a connection asks again; what was refused by an older schema is asked for at once. */
const KNOWN_FOR_MS = 5_000;
const MAX_KNOWN = 1_000;

/** By connection, because a process may announce in many databases; gone with it. */
const knownBy = new WeakMap<object, Map<string, Known>>();

/**
 * What judges the payloads of topics, as of now or a few seconds ago.
 * @param topics each once
 * @param options.anew asks whatever is remembered
 */
export async function checksFor(
  tx: Queryable,
  topics: readonly string[],
  { anew = false }: { anew?: boolean } = {},
): Promise<ReadonlyMap<string, PayloadCheck>> {
  const now = performance.now();
  const known = knownBy.get(tx) ?? new Map<string, Known>();
  knownBy.set(tx, known);
  const isKnown = (topic: string) => now - (known.get(topic)?.askedAt ?? Number.NEGATIVE_INFINITY) < KNOWN_FOR_MS;
  const missing = topics.filter((topic) => anew || !isKnown(topic));
  const asked = missing.length === 0 ? new Map<string, PayloadCheck>() : await askFor(tx, missing);
  // Put together before anything is forgotten.
  const checks = new Map<string, PayloadCheck>();
  for (const topic of topics) {
    const check = missing.includes(topic) ? asked.get(topic) : known.get(topic)?.check;
    if (check !== undefined) checks.set(topic, check);
  }
  if (known.size + missing.length > MAX_KNOWN) known.clear();
  for (const topic of missing) known.set(topic, { check: asked.get(topic), askedAt: now });
  return checks;
}

async function askFor(tx: Queryable, topics: readonly string[]): Promise<ReadonlyMap<string, PayloadCheck>> {
  const checks = new Map<string, PayloadCheck>();
  if (!(await mayRead(tx))) return checks;
  const { rows } = await tx.query<{ topic: string; schemaJson: string }>(
    'select topic, schema::text as "schemaJson" from outbox.topics where topic = any ($1::text[])',
    [topics],
  );
  for (const { topic, schemaJson } of rows) {
    const check = checkOf(schemaJson);
    // One that cannot be read came by SQL, and is named by the worker: it is not the announcing transaction's fault.
    if (!(check instanceof Error)) checks.set(topic, check);
  }
  return checks;
}

// From the catalog, because to be refused would end the caller's transaction. Not there before migration 0045 either.
async function mayRead(tx: Queryable): Promise<boolean> {
  const { rows } = await tx.query(`
    select from pg_catalog.pg_class join pg_catalog.pg_namespace as space on space.oid = relnamespace
    where nspname = 'outbox' and relname = 'topics' and pg_catalog.has_schema_privilege(space.oid, 'usage')
      and pg_catalog.has_column_privilege(pg_class.oid, 'topic', 'select')
      and pg_catalog.has_column_privilege(pg_class.oid, 'schema', 'select')`);
  return rows.length === 1;
}
