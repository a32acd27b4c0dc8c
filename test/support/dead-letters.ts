import { readFile } from 'node:fs/promises';
import type { Queryable } from '../../src/db/pool.ts';
import type { TestDatabase } from './database.ts';
import { createLegacyTestDatabase } from './legacy.ts';

const DEAD_LETTERS_SQL = new URL('../../fixtures/legacy/dead-letters.sql', import.meta.url);

/** A migrated database with the empty legacy tables, that of dead letters among them. */
export async function createDeadLetterDatabase(): Promise<TestDatabase> {
  const database = await createLegacyTestDatabase(undefined, { isCaptured: false });
  await database.pool.query(await readFile(DEAD_LETTERS_SQL, 'utf8'));
  return database;
}

export interface GivenDeliveries {
  readonly endpointId: string;
  readonly count?: number;
  readonly state?: 'pending' | 'delivered' | 'dead';
  readonly topic?: string;
  /** When their messages were announced; now when left out. */
  readonly at?: string;
  readonly dueAt?: string;
  readonly organizationId?: string;
}

/** Deliveries, each of a message of its own, dead after 3 attempts unless the test says otherwise. Returns their ids, in order. */
export async function givenDeliveries(db: Queryable, given: GivenDeliveries): Promise<bigint[]> {
  const { rows } = await db.query<{ id: bigint }>(
    `with messages as (
       insert into public.outbox (topic, payload, day, created_at, processed_at, organization_id)
       select $1, jsonb_build_object('n', n), (at at time zone 'UTC')::date, at, at, $2
       from generate_series(1, $3::integer) as n, (select coalesce($4::timestamptz, clock_timestamp()) as at) as moment
       returning id, day, seq
     )
     insert into outbox.deliveries (message_id, day, endpoint_id, state, attempt, due_at, finished_at, last_error)
     select id, day, $5, $6, 3, coalesce($7::timestamptz, clock_timestamp()),
       case when $6 <> 'pending' then clock_timestamp() end, case when $6 <> 'delivered' then 'answered 500' end
     from messages order by seq
     returning id`,
    [
      given.topic ?? 'test.happened',
      given.organizationId ?? null,
      given.count ?? 1,
      given.at ?? null,
      given.endpointId,
      given.state ?? 'dead',
      given.dueAt ?? null,
    ],
  );
  return rows.map(({ id }) => id).sort((one, other) => Number(one - other));
}
