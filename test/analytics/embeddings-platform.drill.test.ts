import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { attachSubjects } from '../../src/analytics/embeddings/attach.ts';
import { findMatching, findSimilar } from '../../src/analytics/embeddings/search.ts';
import { embeddingStatus } from '../../src/analytics/embeddings/status.ts';
import { putEmbeddings } from '../../src/analytics/embeddings/write.ts';
import { migrate } from '../../src/db/migrate.ts';
import type { Pool } from '../../src/db/pool.ts';
import { ONE_SNAPSHOT, withTransaction } from '../../src/db/transaction.ts';
import { createPlatform } from '../../src/demo/platform/platform.ts';
import { checkRestructuring } from '../../src/restructure/verify/checks.ts';
import { type Caller, callersPool } from '../support/callers.ts';
import { createDatabase, EMPTY, type TestDatabase } from '../support/database.ts';
import { searchBy, seenBy } from '../support/embeddings.ts';
import { migrateUntil } from '../support/migrate-until.ts';
import { notUndone, putBack } from '../support/moves.ts';
import { moveTables } from '../support/platform.ts';
import { findPeople, type People } from '../support/tenancy/people.ts';
import { isolatedPlatform } from '../support/tenancy/platform.ts';

const MINUTES = 60_000;

describe('on the platform, moved and with its tenants apart', () => {
  let database: TestDatabase;
  let anybody: Pool;
  let people: People;
  beforeAll(async () => {
    database = await createDatabase({ template: await isolatedPlatform() });
    anybody = callersPool(database);
    people = await findPeople(anybody);
    await searchBy(database.pool, 'platform@1', 3);
    await attachSubjects(database.pool);
    for (const [kind, table] of [
      ['event', 'events'],
      ['sponsor', 'sponsors'],
      ['package', 'sponsorship_packages'],
    ] as const) {
      const { rows } = await anybody.query<{ id: string }>(`select id from public.${table} order by id limit 300`);
      const embeddings = rows.map(({ id }, at) => ({ id, embedding: [1, at / 300, 0.5], content: '' }));
      await putEmbeddings(database.pool, { kind, embeddings });
    }
  }, 10 * MINUTES);
  afterAll(async () => {
    await anybody.end();
    await database.drop();
  });

  /** Ids that a caller sees of a table, of those that have embeddings, and those that a search finds. */
  async function bothWays(caller: Caller, kind: 'event' | 'sponsor' | 'package', table: string) {
    const seen = await seenBy(
      anybody,
      caller,
      async (db) => (await db.query<{ id: string }>(`select id from public.${table}`)).rows,
    );
    const found = await seenBy(anybody, caller, (db) =>
      findSimilar(db, { kind, embedding: [1, 0, 0.5], limit: 1_000, threshold: -1 }),
    );
    const { rows: embedded } = await database.pool.query<{ id: string }>(
      `select ${kind}_id as id from ml.${kind}_embeddings`,
    );
    const embeddedIds = new Set(embedded.map(({ id }) => id));
    const ids = (rows: readonly { id: string }[]) => rows.map(({ id }) => id).sort();
    return { seen: ids(seen.filter(({ id }) => embeddedIds.has(id))), found: ids(found) };
  }

  it('finds for each caller what he sees of events, sponsors and packages, and nothing else', async () => {
    const counts: Record<string, number> = {};
    const { nobody, inA, inB, attendee, host, sponsor, service } = people;
    for (const person of [nobody, inA, inB, attendee, host, sponsor, service]) {
      const { name: _name, ...caller } = person;
      for (const [kind, table] of [
        ['event', 'events'],
        ['package', 'sponsorship_packages'],
        ['sponsor', 'sponsors'],
      ] as const) {
        const { seen, found } = await bothWays(caller, kind, table);
        expect(found, `${person.name}: ${kind}s`).toEqual(seen);
        counts[`${person.name} ${kind}`] = found.length;
      }
    }
    expect(counts['service event']).toBeGreaterThan(counts['member of A event'] ?? 0);
    expect(counts['member of A event']).toBeGreaterThan(0);
    expect(counts['nobody event']).toBeGreaterThan(0);
    expect(counts['nobody sponsor']).toBe(0);
    expect(counts['service sponsor']).toBeGreaterThan(0);
  });

  it('matches for the service, beside the functions of the old platform', async () => {
    const { rows } = await database.pool.query<{ id: string; sponsors: number }>(
      `select (array_agg(event_id))[1] as id, (select count(*)::integer from ml.sponsor_embeddings) as sponsors from ml.event_embeddings`,
    );
    const [{ id, sponsors } = { id: '', sponsors: 0 }] = rows;
    const found = await seenBy(anybody, { role: 'bypassing_service' }, (db) =>
      findMatching(db, { of: 'event', id, kind: 'sponsor', threshold: -1 }),
    );
    expect(found).toHaveLength(Math.min(sponsors, 10));
    await anybody.query('select * from public.find_similar_events(array[1, 2, 3]::real[]::public.vector)');
  });
});

it(
  'goes by tables that were moved before there were embeddings, and stays where it is when they go back',
  async () => {
    const database = await createDatabase({ template: EMPTY });
    try {
      await migrateUntil(database, '0060_embeddings');
      await createPlatform(database.pool);
      await moveTables(database);
      const { rows: moved } = await database.pool.query(`select to_regclass('ml.user_embeddings')::text as table`);
      expect(moved).toEqual([{ table: 'ml.user_embeddings' }]);
      await migrate(database.url);
      const { rows: rights } = await database.pool.query(
        `select c.relname, g.grantee::regrole::text from pg_class c, aclexplode(c.relacl) g
       where c.relnamespace = 'ml'::regnamespace and c.relname <> 'user_embeddings' and g.grantee <> c.relowner`,
      );
      expect(rights).toEqual([]);
      const checks = await withTransaction(database.pool, (tx) => checkRestructuring(tx, {}), ONE_SNAPSHOT);
      expect(checks.filter(({ holds }) => !holds)).toEqual([]);
      const attached = await attachSubjects(database.pool);
      expect(attached.map(({ table }) => table)).toEqual([
        'events.events',
        'sponsorship.sponsors',
        'sponsorship.sponsorship_packages',
      ]);
      expect(notUndone(await putBack(database))).toEqual([]);
      const { kinds } = await embeddingStatus(database.pool);
      expect(kinds.map(({ table }) => table)).toEqual([
        'public.events',
        'public.sponsors',
        'public.sponsorship_packages',
      ]);

      const { rows: back } = await database.pool.query(
        `select to_regclass('public.user_embeddings')::text as back, to_regclass('ml.event_embeddings')::text as stays`,
      );
      expect(back).toEqual([{ back: 'user_embeddings', stays: 'ml.event_embeddings' }]);
    } finally {
      await database.drop();
    }
  },
  10 * MINUTES,
);
