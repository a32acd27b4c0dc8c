import type { Pool } from '../db/pool.ts';
import { acceptedSchema, checkOf, type Misfit } from './payload-schema.ts';
import type { NewTopic } from './topic-registry.ts';
import { assertTopic } from './topics.ts';

export interface Judged {
  /** How many were looked at: the last there are, and not all. */
  readonly messages: number;
  readonly misfits: number;
  /** The newest of them. */
  readonly examples: readonly (Misfit & { readonly id: string })[];
}

/** How far `judgeLast` looks. */
export const LOOKED_AT = { messages: 1_000, days: 31 };
const EXAMPLES = 5;
/** Payloads in memory at once, of a megabyte each at worst. */
const PAGE = 50;

const LAST_OF_DAY = `
  select id from public.outbox
  where day = (statement_timestamp() at time zone 'UTC')::date - $1::integer and topic = $2
  order by seq desc
  limit $3`;

const PAYLOADS = `
  select id, payload from unnest($1::uuid[]) with ordinality as wanted (id, ordinal)
  join lateral (
    select payload::text from public.outbox
    where outbox.day = (statement_timestamp() at time zone 'UTC')::date - $2::integer and outbox.id = wanted.id
  ) as message on true
  order by ordinal`;

/**
 * How many of a topic's last messages a schema would refuse. Reads the days one by one, from today back, and changes nothing.
 * @throws AppError OUTBOX_TOPIC_INVALID, OUTBOX_SCHEMA_INVALID
 */
export async function judgeLast(
  pool: Pool,
  { topic, schema }: Pick<NewTopic, 'topic' | 'schema'>,
  onDay: (days: number) => void = () => undefined,
): Promise<Judged> {
  assertTopic(topic);
  const check = checkOf(JSON.stringify(acceptedSchema(schema)));
  if (check instanceof Error) throw check;
  let [messages, misfits] = [0, 0];
  const examples: (Misfit & { id: string })[] = [];
  for (let day = 0; day < LOOKED_AT.days && messages < LOOKED_AT.messages; day += 1) {
    onDay(day + 1);
    for await (const { id, payload } of lastOf(pool, { day, topic, limit: LOOKED_AT.messages - messages })) {
      const misfit = check(JSON.parse(payload));
      messages += 1;
      misfits += misfit === undefined ? 0 : 1;
      if (misfit !== undefined && examples.length < EXAMPLES) examples.push({ id, ...misfit });
    }
  }
  return { messages, misfits, examples };
}

async function* lastOf(
  pool: Pool,
  { day, topic, limit }: { day: number; topic: string; limit: number },
): AsyncGenerator<{ id: string; payload: string }> {
  const { rows } = await pool.query<{ id: string }>(LAST_OF_DAY, [day, topic, limit]);
  for (let at = 0; at < rows.length; at += PAGE) {
    const ids = rows.slice(at, at + PAGE).map(({ id }) => id);
    yield* (await pool.query<{ id: string; payload: string }>(PAYLOADS, [ids, day])).rows;
  }
}
