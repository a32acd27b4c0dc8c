import type { Queryable } from '../db/pool.ts';
import { isRefusedValue, toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { acceptedSchema, type PayloadSchema } from './payload-schema.ts';
import { assertTopic } from './topics.ts';

export interface NewTopic {
  readonly topic: string;
  readonly schema: PayloadSchema;
  /** Left out: as it was. */
  readonly description?: string | undefined;
}

/** A topic whose payloads have a schema. */
export interface Topic {
  readonly topic: string;
  readonly description: string | null;
  /** Counts its changes. */
  readonly version: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

export interface RegisteredTopic {
  readonly topic: string;
  readonly version: number;
  readonly status: 'registered' | 'changed' | 'unchanged';
}

/** Workers and announcing processes remember them all. */
const MAX_TOPICS = 1_000;

/**
 * Gives a topic its schema, in place of the one that it had; as often as one likes, such as at each start of an application. It holds
 * for whatever is announced, or sent, from its commit on: what waits and does not fit becomes a dead letter, to be retried.
 * @param given.schema of zod 4, as what goes in, or JSON Schema of draft 2020-12. What JSON Schema cannot say, such as a refinement, is
 *   not judged
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_SCHEMA_INVALID, DB_*
 */
export async function registerTopic(db: Queryable, given: NewTopic): Promise<RegisteredTopic> {
  assertTopic((given as NewTopic | undefined)?.topic);
  const values = [given.topic, JSON.stringify(acceptedSchema(given.schema)), given.description ?? null, MAX_TOPICS];
  const register = async () => (await kindly(() => db.query<Omit<RegisteredTopic, 'topic'>>(REGISTER, values))).rows[0];
  // Nothing comes of it also where somebody else registers the same topic for the first time just then: again, he is seen.
  const registered = (await register()) ?? (await register());
  if (registered !== undefined) return { topic: given.topic, ...registered };
  throw schemaRefused(`${MAX_TOPICS} topics have a schema already, and more are not kept.`);
}

// The same again changes nothing, and so tells nobody.
const REGISTER = `
  with before as (
    select topic, version from outbox.topics where topic = $1
  ), written as (
    insert into outbox.topics (topic, schema, description)
    select $1, $2::jsonb, $3
    where exists (select from before) or (select count(*) from outbox.topics) < $4
    on conflict (topic) do update
    set schema = excluded.schema, description = coalesce(excluded.description, topics.description)
    where topics.schema <> excluded.schema or excluded.description <> coalesce(topics.description, '')
    returning version
  )
  select version, case when version = 1 then 'registered' else 'changed' end as status from written
  union all
  select version, 'unchanged' from before where not exists (select from written)`;

// What the database alone knows to refuse: U+0000, and a schema that is longer as jsonb.
async function kindly<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isRefusedValue(error)) throw schemaRefused(`The database refuses the topic: ${toAppError(error).message}`);
    throw toAppError(error);
  }
}

function schemaRefused(why: string): AppError {
  return new AppError('OUTBOX_SCHEMA_INVALID', `${why} Nothing was changed.`);
}

const COLUMNS = 'topic, description, version, created_at as "createdAt", updated_at as "updatedAt"';

export async function listTopics(db: Queryable): Promise<readonly Topic[]> {
  const { rows } = await db.query<Topic>(`select ${COLUMNS} from outbox.topics order by topic`);
  return rows;
}

/** @throws AppError OUTBOX_TOPIC_UNKNOWN */
export async function getTopic(db: Queryable, topic: string): Promise<Topic & { schema: Record<string, unknown> }> {
  const { rows } = await db.query<Topic & { schema: Record<string, unknown> }>(
    `select ${COLUMNS}, schema from outbox.topics where topic = $1`,
    [topic],
  );
  if (rows[0] === undefined) throw unknownTopic(topic);
  return rows[0];
}

/**
 * Takes a topic's schema away: its payloads are as they like.
 * @throws AppError OUTBOX_TOPIC_UNKNOWN
 */
export async function removeTopic(db: Queryable, topic: string): Promise<void> {
  const { rowCount } = await db.query('delete from outbox.topics where topic = $1', [topic]);
  if (rowCount === 0) throw unknownTopic(topic);
}

function unknownTopic(topic: string): AppError {
  return new AppError(
    'OUTBOX_TOPIC_UNKNOWN',
    `No schema is registered for the topic ${JSON.stringify(topic.slice(0, 128))}. liventix outbox topic list has those there are.`,
  );
}
