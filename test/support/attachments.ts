import { readFile } from 'node:fs/promises';
import type { Pool, Queryable } from '../../src/db/pool.ts';
import { type Attached, attach } from '../../src/outbox/attachments/attach.ts';
import { parseColumns, parseCondition } from '../../src/outbox/attachments/condition.ts';
import { getTable } from '../../src/outbox/attachments/table.ts';

/** The tables that ship with attachments, as the old platform has them. */
export async function createAnnouncingTables(db: Queryable): Promise<void> {
  await db.query(await readFile(new URL('announcing-tables.sql', import.meta.url), 'utf8'));
}

export interface TestAttachment {
  readonly table: string;
  readonly when: string;
  readonly topic?: string;
  readonly payload?: string;
  readonly name?: string;
  readonly organizationColumn?: string;
  readonly orderingKeyColumn?: string;
  readonly withChange?: boolean;
}

/** As the command does, for a topic `test.changed` and the column `id`, unless told otherwise. */
export async function attachTable(pool: Pool, attachment: TestAttachment): Promise<Attached> {
  const { table: tableName, when, topic = 'test.changed', payload = 'id', ...further } = attachment;
  const table = await getTable(pool, tableName);
  return attach(pool, table, {
    name: `${table.bareName}:${topic}`,
    condition: parseCondition(when),
    topic,
    payload: parseColumns(payload),
    ...further,
  });
}

/** What was announced since it was asked last, in the order of insertion; payloads as PostgreSQL writes them, digit by digit. */
export async function takeMessages(db: Queryable): Promise<{ topic: string; payload: string }[]> {
  const { rows } = await db.query<{ topic: string; payload: string }>(
    `with taken as (delete from public.outbox returning seq, topic, payload::text as payload)
     select topic, payload from taken order by seq`,
  );
  return rows;
}

/** The payloads alone, read. */
export async function takePayloads(db: Queryable): Promise<Record<string, unknown>[]> {
  return (await takeMessages(db)).map(({ payload }) => JSON.parse(payload));
}
