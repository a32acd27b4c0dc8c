import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { attachSubjects } from '../../src/analytics/embeddings/attach.ts';
import { createExtension } from '../../src/analytics/embeddings/extension.ts';
import { addModel, listModels, retireModel, useModel } from '../../src/analytics/embeddings/models.ts';
import { findMatching, findSimilar } from '../../src/analytics/embeddings/search.ts';
import { embeddingStatus } from '../../src/analytics/embeddings/status.ts';
import { verifyEmbeddings } from '../../src/analytics/embeddings/verify.ts';
import { findStale, putEmbeddings } from '../../src/analytics/embeddings/write.ts';
import type { Pool } from '../../src/db/pool.ts';
import { toAppError } from '../../src/db/sqlstate.ts';
import { withTransaction } from '../../src/db/transaction.ts';
import { type Caller, callersPool } from '../support/callers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { nearest, searchBy, seenBy, uuidOf } from '../support/embeddings.ts';
import { waitsForLock } from '../support/locks.ts';

/** Of a platform in small: who sees which event is what its policy says. */
const PLATFORM = `
create schema auth;
create function auth.uid() returns uuid language sql stable as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
create table public.events (id uuid primary key, visibility text not null, created_by uuid not null);
create table public.sponsors (id uuid primary key, created_by uuid not null);
create table public.sponsorship_packages (id uuid primary key);
alter table public.events enable row level security;
alter table public.sponsors enable row level security;
create policy seen on public.events using (visibility = 'public' or created_by = auth.uid());
create policy seen on public.sponsors using (created_by = auth.uid());
grant usage on schema public, auth to anon, authenticated, service_role;
grant select, update on public.events, public.sponsors to authenticated;
grant select on public.events to anon;
grant all on all tables in schema public to service_role`;

const [ANN, BOB] = [uuidOf(901), uuidOf(902)];

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const put = (
  id: string,
  embedding: readonly number[],
  given: { content?: string; model?: string; kind?: 'event' | 'sponsor' } = {},
) =>
  putEmbeddings(database.pool, {
    kind: given.kind ?? 'event',
    model: given.model,
    embeddings: [{ id, embedding, content: given.content ?? JSON.stringify(embedding) }],
  });

const codeOf = async (doing: Promise<unknown>): Promise<string> =>
  doing.then(
    () => 'done',
    (error: unknown) => toAppError(error).code,
  );

const similar = (embedding: readonly number[], given: { limit?: number; threshold?: number; model?: string } = {}) =>
  findSimilar(database.pool, { kind: 'event', embedding, ...given });

describe('what is written', () => {
  beforeAll(() => searchBy(database.pool, 'written@1', 3));

  it('is written once: not again where the content is the same, anew where it is another', async () => {
    const id = uuidOf(1);
    expect(await put(id, [1, 0, 0], { content: 'a concert' })).toEqual([id]);
    expect(await put(id, [0, 1, 0], { content: 'a concert' })).toEqual([]);
    expect(await put(id, [0, 1, 0], { content: 'another concert' })).toEqual([id]);
    const { rows } = await database.pool.query('select embedding from ml.event_embeddings where event_id = $1', [id]);
    expect(rows).toEqual([{ embedding: [0, 1, 0] }]);
  });

  it('says whose content the model should be asked about: the new and the changed', async () => {
    await put(uuidOf(2), [1, 1, 0], { content: 'known' });
    await put(uuidOf(3), [1, 1, 0], { content: 'as it was' });
    const contents = [
      { id: uuidOf(4), content: 'new' },
      { id: uuidOf(3), content: 'changed' },
      { id: uuidOf(2), content: 'known' },
    ];
    expect(await findStale(database.pool, { kind: 'event', contents })).toEqual([uuidOf(4), uuidOf(3)]);
    await addModel(database.pool, { model: 'written@2', dimensions: 3 });
    const byAnother = await findStale(database.pool, { kind: 'event', model: 'written@2', contents });
    expect(byAnother).toEqual(contents.map(({ id }) => id));
  });

  it('is all of a batch or nothing', async () => {
    const embeddings = [
      { id: uuidOf(10), embedding: [1, 0, 0], content: '' },
      { id: uuidOf(11), embedding: [1, 0], content: '' },
    ];
    expect(await codeOf(putEmbeddings(database.pool, { kind: 'event', embeddings }))).toBe('EMBEDDING_DIMENSIONS');
    const { rowCount } = await database.pool.query('select from ml.event_embeddings where event_id = $1', [uuidOf(10)]);
    expect(rowCount).toBe(0);
  });

  it.each<[string, string, string, RegExp]>([
    ['null', 'null', 'LV120', /^The embedding is null\.$/],
    ['no components', `'{}'`, 'LV121', /^The embedding has 0 components, and its model makes 3\./],
    ['too few', `'{1,2}'`, 'LV121', /^The embedding has 2 components, and its model makes 3\./],
    ['too many', `'{1,2,3,4}'`, 'LV121', /^The embedding has 4 components/],
    ['lists of numbers', `'{{1,2,3}}'`, 'LV120', /^The embedding is an array of arrays\./],
    ['a null component', `'{1,null,3}'`, 'LV120', /^Component 2 of the embedding is null\.$/],
    [
      'a component that is no number',
      `'{1,NaN,3}'`,
      'LV120',
      /^The embedding has a component that is no finite number\.$/,
    ],
    [
      'an infinite component',
      `'{1,-Infinity,3}'`,
      'LV120',
      /^The embedding has a component that is no finite number\.$/,
    ],
    ['zero', `'{0,-0,0}'`, 'LV120', /^The embedding is zero, which has no direction/],
    ['next to zero', `'{1e-30,0,0}'`, 'LV120', /^The embedding has length 1.*e-30\. Scale it/],
    ['what would overflow', `'{1e30,0,0}'`, 'LV120', /^The embedding has length 1.*e\+30\. Scale it/],
  ])('is refused of every writer, and as what is searched for: %s', async (_what, embedding, sqlstate, says) => {
    const version = `(select id from ml.model_versions where name = 'written@1')`;
    const writing = `insert into ml.event_embeddings (event_id, model_version_id, embedding, length, content_hash)
      values (gen_random_uuid(), ${version}, ${embedding}, 1, sha256(''))`;
    for (const sql of [writing, `select ml.similar_events(${embedding})`]) {
      const error = await database.pool.query(sql).catch((refused: unknown) => refused);
      expect(error).toMatchObject({ code: sqlstate, message: expect.stringMatching(says) });
    }
  });

  it.each<[string, object]>([
    [
      'a subject twice',
      { kind: 'event', embeddings: [1, 2].map(() => ({ id: uuidOf(1), embedding: [1, 0, 0], content: '' })) },
    ],
    ['what is no UUID', { kind: 'event', embeddings: [{ id: '7', embedding: [1, 0, 0], content: '' }] }],
    ['NaN', { kind: 'event', embeddings: [{ id: uuidOf(1), embedding: [Number.NaN, 0, 0], content: '' }] }],
    ['what is no real', { kind: 'event', embeddings: [{ id: uuidOf(1), embedding: [1e39, 0, 0], content: '' }] }],
    ['a kind that there is not', { kind: 'user', embeddings: [] }],
    ['a misspelt field', { kind: 'event', embeddings: [], modle: 'written@1' }],
  ])('is refused before the database is asked: %s', async (_what, given) => {
    expect(await codeOf(putEmbeddings(database.pool, given as never))).toBe('EMBEDDING_INVALID');
  });
});

describe('the search over arrays', () => {
  it('finds what is nearest by definition, equal ones by id, whatever the embeddings', async () => {
    await searchBy(database.pool, 'property@1', 4);
    const component = fc.double({ min: -100, max: 100, noNaN: true }).map((value) => Math.round(value * 8) / 8);
    const embedding = fc
      .array(component, { minLength: 4, maxLength: 4 })
      .filter((each) => each.some((value) => value !== 0));
    const property = fc.asyncProperty(
      fc.array(embedding, { maxLength: 30 }),
      embedding,
      fc.integer({ min: 1, max: 8 }),
      fc.constantFrom(-1, 0, 0.7, 1),
      async (embeddings, asked, limit, threshold) => {
        await database.pool.query(
          `delete from ml.event_embeddings where model_version_id = (select id from ml.model_versions where name = 'property@1')`,
        );
        const all = embeddings.map((each, at) => ({ id: uuidOf(at), embedding: each, content: `${at}` }));
        await putEmbeddings(database.pool, { kind: 'event', embeddings: all });
        const found = await similar(asked, { limit, threshold });
        expect(found).toEqual(nearest(all, { embedding: asked, limit, threshold }));
      },
    );
    await fc.assert(property, { numRuns: 40 });
  });

  it.each<[string, object]>([
    ['no limit', { limit: 0 }],
    ['a limit beyond its bound', { limit: 1_001 }],
    ['a threshold that no cosine reaches', { threshold: 1.5 }],
    ['a threshold that is no number', { threshold: Number.NaN }],
  ])('refuses %s, in TypeScript and in SQL', async (_what, given) => {
    await searchBy(database.pool, 'bounds@1', 3);
    expect(await codeOf(similar([1, 0, 0], given))).toBe('EMBEDDING_SEARCH_INVALID');
    const { limit = 10, threshold = 0.7 } = given as { limit?: number; threshold?: number };
    const asking = database.pool.query(`select ml.similar_events('{1,0,0}', $1, $2)`, [limit, threshold]);
    expect(await codeOf(asking)).toBe('EMBEDDING_SEARCH_INVALID');
  });

  it.each([
    `ml.similar('user', '{1}', 10, 0, null)`,
    `ml.matching('user', gen_random_uuid(), 'event', 10, 0, null)`,
    `ml.matching('event', gen_random_uuid(), null, 10, 0, null)`,
    `ml.missing(null, 'bounds@1')`,
    `ml.use_model('user', 'bounds@1')`,
    `ml.attach_subjects('user', 'pg_class', '{}', '{}')`,
  ])('refuses a kind that there is not: %s', async (call) => {
    expect(await codeOf(database.pool.query(`select ${call}`))).toBe('EMBEDDING_SEARCH_INVALID');
  });

  it('takes the number of a domain over arrays, which stands in for the type vector', async () => {
    await searchBy(database.pool, 'domain@1', 3);
    await put(uuidOf(1), [1, 0, 0]);
    await database.pool.query('create domain public.vector as real[]');
    const { rows } = await database.pool.query(
      `select * from ml.similar_events('{1,0,0}'::public.vector, 1, 0.7::numeric)`,
    );
    expect(rows).toEqual([{ event_id: uuidOf(1), similarity: 1 }]);
  });

  it('matches sponsors with events, and events with sponsors, by one version', async () => {
    await searchBy(database.pool, 'matching@1', 3);
    await put(uuidOf(1), [1, 0, 0]);
    await put(uuidOf(2), [0, 1, 0]);
    await put(uuidOf(51), [1, 0.1, 0], { kind: 'sponsor' });
    await put(uuidOf(52), [0, 1, 1], { kind: 'sponsor' });
    const suited = await findMatching(database.pool, { of: 'event', id: uuidOf(1), kind: 'sponsor' });
    expect(suited).toEqual([{ id: uuidOf(51), similarity: 0.995037 }]);
    const { rows } = await database.pool.query('select * from ml.matching_events($1)', [uuidOf(52)]);
    expect(rows).toEqual([{ event_id: uuidOf(2), similarity: Number(Math.SQRT1_2.toFixed(6)) }]);
    const none = findMatching(database.pool, { of: 'event', id: uuidOf(3), kind: 'sponsor' });
    expect(await codeOf(none)).toBe('EMBEDDING_MISSING');
  });
});

describe('a model version', () => {
  it('is what it was for ever: nobody changes or deletes it', async () => {
    await addModel(database.pool, { model: 'fixed@1', dimensions: 3 });
    for (const sql of [
      `update ml.model_versions set dimensions = 4 where name = 'fixed@1'`,
      `update ml.model_versions set version = '2', retired_at = now() where name = 'fixed@1'`,
      `delete from ml.model_versions where name = 'fixed@1'`,
      'truncate ml.model_versions cascade',
    ]) {
      expect(await codeOf(database.pool.query(sql))).toBe('EMBEDDING_MODEL_FIXED');
    }
  });

  it('is added once, and not with other dimensions', async () => {
    expect(await addModel(database.pool, { model: 'once@1', dimensions: 3 })).toBe(true);
    expect(await addModel(database.pool, { model: 'once@1', dimensions: 3 })).toBe(false);
    expect(await codeOf(addModel(database.pool, { model: 'once@1', dimensions: 4 }))).toBe('EMBEDDING_MODEL_FIXED');
    expect(await codeOf(addModel(database.pool, { model: 'no version', dimensions: 4 }))).toBe('EMBEDDING_INVALID');
  });

  it('follows another when it has all that the other has, and is searched by from then on', async () => {
    await searchBy(database.pool, 'follow@1', 3);
    await addModel(database.pool, { model: 'follow@2', dimensions: 2 });
    await put(uuidOf(1), [1, 0, 0]);
    await put(uuidOf(2), [1, 0, 1]);
    await put(uuidOf(1), [1, 0], { model: 'follow@2' });
    const using = () => useModel(database.pool, { kind: 'event', model: 'follow@2' });
    expect(await codeOf(using())).toBe('EMBEDDING_INCOMPLETE');
    const following = (await listModels(database.pool)).find(({ name }) => name === 'follow@2');
    expect(following?.kinds[0]).toEqual({ kind: 'event', isCurrent: false, embeddings: 1n, missing: 1n });
    expect(await similar([1, 0, 0])).toHaveLength(2);
    expect(await codeOf(similar([1, 0]))).toBe('EMBEDDING_DIMENSIONS');
    expect(await similar([1, 0], { model: 'follow@2' })).toHaveLength(1);

    expect(await useModel(database.pool, { kind: 'event', model: 'follow@2', dryRun: true })).toBe(1n);
    await put(uuidOf(2), [0, 1], { model: 'follow@2' });
    expect(await using()).toBe(0n);
    expect(await similar([0, 1])).toEqual([{ id: uuidOf(2), similarity: 1 }]);
  });

  it('follows another though some are missing, if so many may be', async () => {
    await searchBy(database.pool, 'lenient@1', 3);
    await put(uuidOf(1), [1, 0, 0]);
    await addModel(database.pool, { model: 'lenient@2', dimensions: 3 });
    expect(await useModel(database.pool, { kind: 'event', model: 'lenient@2', mayMiss: 1 })).toBe(1n);
  });

  it('does not follow past somebody who writes by the other meanwhile', async () => {
    await searchBy(database.pool, 'race@1', 3);
    await addModel(database.pool, { model: 'race@2', dimensions: 3 });
    const writer = await database.pool.connect();
    try {
      await writer.query('begin');
      await putEmbeddings(writer, {
        kind: 'event',
        embeddings: [{ id: uuidOf(1), embedding: [1, 0, 0], content: '' }],
      });
      const using = codeOf(database.pool.query(`select ml.use_model('event', 'race@2')`));
      await waitsForLock(database.pool, 'race@2');
      await writer.query('commit');
      expect(await using).toBe('EMBEDDING_INCOMPLETE');
    } finally {
      await writer.query('rollback');
      writer.release();
    }
  });

  it('is retired for good, but not while a kind is searched by it', async () => {
    await searchBy(database.pool, 'retired@1', 3);
    await put(uuidOf(1), [1, 0, 0]);
    expect(await codeOf(retireModel(database.pool, 'retired@1'))).toBe('EMBEDDING_MODEL_IN_USE');
    await searchBy(database.pool, 'retired@2', 3);
    expect(await retireModel(database.pool, 'retired@1')).toBe(true);
    expect(await retireModel(database.pool, 'retired@1')).toBe(false);
    expect(await codeOf(put(uuidOf(2), [1, 0, 0], { model: 'retired@1' }))).toBe('EMBEDDING_MODEL_RETIRED');
    expect(await codeOf(similar([1, 0, 0], { model: 'retired@1' }))).toBe('EMBEDDING_MODEL_RETIRED');
    expect(await codeOf(useModel(database.pool, { kind: 'event', model: 'retired@1', mayMiss: 9 }))).toBe(
      'EMBEDDING_MODEL_RETIRED',
    );
    const again = database.pool.query(`update ml.model_versions set retired_at = null where name = 'retired@1'`);
    expect(await codeOf(again)).toBe('EMBEDDING_MODEL_FIXED');
  });

  it('is not written by while it is being retired', async () => {
    await addModel(database.pool, { model: 'retiring@1', dimensions: 3 });
    const retiring = await database.pool.connect();
    try {
      await retiring.query(`begin; update ml.model_versions set retired_at = now() where name = 'retiring@1'`);
      const late = codeOf(put(uuidOf(1), [1, 0, 0], { model: 'retiring@1' }));
      await waitsForLock(database.pool, 'ml.');
      await retiring.query('commit');
      expect(await late).toBe('EMBEDDING_MODEL_RETIRED');
    } finally {
      retiring.release(true);
    }
  });

  it('that there is not, or that no kind is searched by, is named', async () => {
    expect(await codeOf(similar([1], { model: 'nobody@9' }))).toBe('EMBEDDING_MODEL_UNKNOWN');
    expect(await codeOf(retireModel(database.pool, 'nobody@9'))).toBe('EMBEDDING_MODEL_UNKNOWN');
  });
});

describe('without pgvector', () => {
  it('says what is missing, and goes on', async () => {
    expect(await codeOf(createExtension(database.pool))).toBe('EMBEDDING_EXTENSION_MISSING');
    const { extension, search } = await embeddingStatus(database.pool);
    expect({ version: extension.version, available: extension.available, search }).toEqual({
      version: null,
      available: null,
      search: 'arrays',
    });
    expect((await withTransaction(database.pool, (tx) => verifyEmbeddings(tx))).filter(({ holds }) => !holds)).toEqual(
      [],
    );
  });

  it('finds by verification what somebody wrote past the guards', async () => {
    await searchBy(database.pool, 'damaged@1', 3);
    await database.pool.query(`alter table ml.event_embeddings disable trigger embeddings_as_declared`);
    await database.pool.query(
      `insert into ml.event_embeddings (event_id, model_version_id, embedding, length, content_hash)
       select $1, id, '{1,2}', 1, sha256('') from ml.model_versions where name = 'damaged@1'`,
      [uuidOf(66)],
    );
    const failing = (await withTransaction(database.pool, (tx) => verifyEmbeddings(tx))).filter(({ holds }) => !holds);
    expect(failing.map(({ faults }) => faults)).toEqual([
      [`${uuidOf(66)} by damaged@1`],
      ['trigger embeddings_as_declared of ml.event_embeddings'],
    ]);
    await database.pool.query('delete from ml.event_embeddings where event_id = $1', [uuidOf(66)]);
    await database.pool.query('alter table ml.event_embeddings enable always trigger embeddings_as_declared');
  });
});

describe('who sees what', () => {
  const roles = ['anon', 'authenticated', 'service_role', 'bypassing_service'] as const;
  let platform: TestDatabase;
  let anybody: Pool;
  beforeAll(async () => {
    platform = await createDatabase();
    anybody = callersPool(platform);
    await platform.pool.query(PLATFORM);
    await platform.pool.query(
      `insert into events values ('${uuidOf(1)}', 'public', '${ANN}'), ('${uuidOf(2)}', 'private', '${ANN}'), ('${uuidOf(3)}', 'private', '${BOB}');
       insert into sponsors values ('${uuidOf(51)}', '${BOB}')`,
    );
    await searchBy(platform.pool, 'seen@1', 2);
    const events = [1, 2, 3].map((at) => ({ id: uuidOf(at), embedding: [1, at / 10], content: '' }));
    await putEmbeddings(platform.pool, { kind: 'event', embeddings: events });
    await putEmbeddings(platform.pool, {
      kind: 'sponsor',
      embeddings: [{ id: uuidOf(51), embedding: [1, 0], content: '' }],
    });
  });
  afterAll(async () => {
    await anybody.end();
    await platform.drop();
  });

  const eventsOf = async (role: Caller['role'], userId?: string): Promise<readonly number[]> => {
    const asked = { kind: 'event', embedding: [1, 0], threshold: -1 } as const;
    const found = await seenBy(anybody, { role, ...(userId === undefined ? {} : { userId }) }, (db) =>
      findSimilar(db, asked),
    );
    return found.map(({ id }) => Number(id.slice(-3)));
  };

  it('is nobody anything, until embeddings are tied to their tables', async () => {
    for (const role of roles) expect(await codeOf(eventsOf(role))).toBe('DB_PERMISSION_DENIED');
  });

  it('is what the policies of the tables say, and everything to the service', async () => {
    const attached = await attachSubjects(platform.pool);
    expect(attached.map(({ table }) => table)).toEqual([
      'public.events',
      'public.sponsors',
      'public.sponsorship_packages',
    ]);
    expect(await eventsOf('anon')).toEqual([1]);
    expect(await eventsOf('authenticated', ANN)).toEqual([1, 2]);
    expect(await eventsOf('authenticated', BOB)).toEqual([1, 3]);
    expect(await eventsOf('bypassing_service')).toEqual([1, 2, 3]);
    expect(await eventsOf('service_role')).toEqual([1, 2, 3]);
  });

  it('is the same by the tables as by the functions, and matches tell nobody of what he does not see', async () => {
    const ids = await seenBy(anybody, { role: 'authenticated', userId: ANN }, async (db) => {
      const { rows } = await db.query<{ event_id: string }>('select event_id from ml.event_embeddings order by 1');
      return rows;
    });
    expect(ids).toEqual([{ event_id: uuidOf(1) }, { event_id: uuidOf(2) }]);
    const matching = (userId: string, id: string) =>
      seenBy(anybody, { role: 'authenticated', userId }, (db) =>
        findMatching(db, { of: 'event', id, kind: 'sponsor' }),
      );
    expect(await matching(BOB, uuidOf(1))).toHaveLength(1);
    expect(await matching(ANN, uuidOf(1))).toEqual([]);
    expect(await codeOf(matching(ANN, uuidOf(3)))).toBe('EMBEDDING_MISSING');
    expect(await codeOf(matching(ANN, uuidOf(999)))).toBe('EMBEDDING_MISSING');
  });

  it('is written by the service alone, whatever default privileges give', async () => {
    await platform.pool.query('alter default privileges in schema ml grant all on tables to authenticated');
    await platform.pool.query('grant all on ml.event_embeddings, ml.model_versions to authenticated');
    await attachSubjects(platform.pool);
    const embeddings = [{ id: uuidOf(1), embedding: [0, 1], content: 'forged' }];
    const writing = (role: Caller['role']) =>
      seenBy(anybody, { role }, async (db) => [await putEmbeddings(db, { kind: 'event', embeddings })]);
    for (const role of ['anon', 'authenticated'] as const)
      expect(await codeOf(writing(role))).toBe('DB_PERMISSION_DENIED');
    expect(await writing('service_role')).toEqual([[uuidOf(1)]]);
    const adding = (role: Caller['role']) =>
      seenBy(anybody, { role }, async (db) => [{ isNew: await addModel(db, { model: 'forged@1', dimensions: 2 }) }]);
    expect(await codeOf(adding('authenticated'))).toBe('DB_PERMISSION_DENIED');
  });

  it('is read by those of one kind though another is tied to its table for nobody', async () => {
    await platform.pool.query(`select ml.attach_subjects('package', 'public.sponsorship_packages', '{}', '{}')`);
    expect(await eventsOf('authenticated', ANN)).toEqual([1, 2]);
    await attachSubjects(platform.pool);
  });

  it('goes with the subject: deleted, its embedding is', async () => {
    await platform.pool.query('delete from events where id = $1', [uuidOf(3)]);
    expect(await eventsOf('service_role')).toEqual([1, 2]);
  });

  it('names embeddings of what is not there, and refuses what is no table of subjects', async () => {
    await platform.pool.query('alter table ml.event_embeddings drop constraint event_embeddings_subject');
    await putEmbeddings(platform.pool, {
      kind: 'event',
      embeddings: [{ id: uuidOf(77), embedding: [1, 0], content: '' }],
    });
    await expect(attachSubjects(platform.pool)).rejects.toThrow(
      /^1 embeddings are of what public\.events does not have\./,
    );
    await platform.pool.query('delete from ml.event_embeddings where event_id = $1', [uuidOf(77)]);
    await attachSubjects(platform.pool);
    await platform.pool.query('create table public.keyless (id uuid)');
    for (const event of ['public.keyless', 'public.nothing']) {
      expect(await codeOf(attachSubjects(platform.pool, { tables: { event } }))).toBe('EMBEDDING_SUBJECTS_UNSUITABLE');
    }
    expect(await codeOf(platform.pool.query(`select ml.attach_subjects('event', 'public.keyless', '{}', '{}')`))).toBe(
      'EMBEDDING_SUBJECTS_UNSUITABLE',
    );
  });

  it('keeps nobody waiting who uses a table: it gives way, and is given up after so many tries', async () => {
    const user = await platform.pool.connect();
    try {
      await platform.pool.query('alter table ml.event_embeddings drop constraint event_embeddings_subject');
      await user.query('begin');
      await user.query('update events set visibility = visibility');
      expect(await codeOf(attachSubjects(platform.pool, { maxTries: 2 }))).toBe('EMBEDDING_BUSY');
    } finally {
      await user.query('rollback');
      user.release();
    }
    await attachSubjects(platform.pool);
    expect((await embeddingStatus(platform.pool)).kinds[0]).toMatchObject({ table: 'public.events', without: 0n });
  });
});
